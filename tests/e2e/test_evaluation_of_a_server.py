"""A running server is scored by the code that scores adapters, and draws what the engine draws."""

from pathlib import Path

import numpy as np
import pytest

from evaluated_here import evaluate_here
from nigaoe.eval.config import EvalConfig
from nigaoe.eval.findings.samples_file import read_samples
from served_here import RunningServer


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_has_the_figures_of_its_engine(server: RunningServer, tmp_path: Path) -> None:
    fields = {"base": "toy/photo", "adapter": "demo", "adapter_scale": 1.2, "steps": 4, "guidance_scale": 3.0}
    config = EvalConfig.model_validate(
        {
            "out": tmp_path / "out",
            "cache": tmp_path / "cache",
            "protocol": {"kind": "toy", "n": 6, "yardstick_n": 8, "obedience": False},
            "adapters": {"demo": "toy/adapter"},
            "servers": {"live": {"url": server.url, "like": "photo-adapter", "fields": fields}},
            "sampling": {"steps": 4, "guidance_scale": 3.0, "adapter_scale": 1.2, "precision": "float32"},
        }
    )
    report = evaluate_here(config)
    assert report.cell("live").failed == {}
    assert report.cell("live").target == "live"
    tables = read_samples(config.out / "samples.csv")
    ours, theirs = tables["photo-adapter"], tables["live"]
    assert ours.ids == theirs.ids
    # The same noise, adapter and words: the same pictures but for the server's precision.
    np.testing.assert_allclose(theirs.columns["clip_i"], ours.columns["clip_i"], atol=0.03)
    without = tables["photo-none"].columns["clip_i"]
    assert np.abs(theirs.columns["clip_i"] - without).mean() > 0.2, "or the reference is ignored"
    compared = {(c.cell, c.baseline) for c in report.comparisons}
    assert ("live", "photo-adapter") in compared
