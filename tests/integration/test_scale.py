"""Several nodes, simulated on this machine: more of them, fewer, and one that says that it will be taken away."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nigaoe.core.adapters.files import load_adapter
from nigaoe.core.manifests import read_prepared
from nigaoe.core.toy.portraits import write_portraits
from simulated_cluster import simulated_cluster
from training_runs import metrics, run, start, starts, wait_for_step, write_config

pytestmark = [pytest.mark.slow]

EVERY = 50
"""Steps from checkpoint to checkpoint where a machine is taken away, which is asked about every 32."""
PATIENCE_S = 400


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "portraits"
    write_portraits(folder, people=16, scenes=2, split="train", seed=0)
    return folder


def _config(pictures: Path, folder: Path, steps: int, **changes: Any) -> Path:
    """A run whose prepared shards are its own; shards are named by where their pictures are, too."""
    data = {
        "source": str(pictures / "captions.csv"),
        "prepared": str(folder / "prepared"),
        "shard_rows": 16,
        "reference": "other",
    }
    return write_config(folder, folder / "out", steps=steps, data=data, **changes)


def _saved_steps(out: Path) -> list[int]:
    notes = (out / "checkpoints" / "test").glob("checkpoint_*/nigaoe.json")
    return sorted(json.loads(path.read_text())["step"] for path in notes)


def _until(holds: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.2)


@pytest.mark.timeout(1800)
def test_two_nodes_and_four_prepare_and_learn_the_same(pictures: Path, tmp_path: Path) -> None:
    for nodes in (2, 4):
        with simulated_cluster(nodes) as cluster:
            told = {"address": cluster.address, "num_workers": nodes}
            # In bfloat16 a product of two rows is rounded otherwise than one of four.
            config = _config(
                pictures, tmp_path / str(nodes), steps=6, optimizer={"lr": 1e-4}, precision="float32", cluster=told
            )
            run("prepare", config)
            run("train", config)
        assert [line["world_size"] for line in starts(tmp_path / str(nodes) / "out")] == [nodes]
    two, four = (tmp_path / str(nodes) for nodes in (2, 4))
    assert read_prepared(two / "prepared") == read_prepared(four / "prepared")
    for shard in read_prepared(two / "prepared").shards:
        assert (two / "prepared" / shard.file).read_bytes() == (four / "prepared" / shard.file).read_bytes()
    theirs, ours = (load_adapter(one / "out" / "adapter.safetensors").state_dict() for one in (two, four))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=3e-5 * float(value.abs().max()), msg=name)


@pytest.mark.timeout(1800)
def test_a_node_that_gives_notice_costs_no_step_and_another_takes_its_place(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
    # Ray may ask for the lost node once more before it knows; it need not wait a minute for it.
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
    folder = tmp_path / "run"
    out = folder / "out"
    run("prepare", _config(pictures, folder, steps=1))
    with simulated_cluster(2) as cluster:
        told = {"address": cluster.address, "num_workers": 2, "min_workers": 1}
        # More steps than anybody waits for: what is asked is whether it goes on, and from where.
        config = _config(pictures, folder, steps=10**6, checkpoint_every=EVERY, keep_checkpoints=1000, cluster=told)
        process = start("train", config)
        try:
            wait_for_step(out, 1, process)
            cluster.drain(1, deadline_s=300)
            _until(lambda: any(step % EVERY for step in _saved_steps(out)), process)
            cluster.kill(1)
            _until(lambda: len(starts(out)) == 2, process)
            (noticed,) = (step for step in _saved_steps(out) if step % EVERY)
            assert starts(out)[1]["step"] >= noticed
            cluster.add()
            _until(lambda: len(starts(out)) == 3, process)
            _until(lambda: metrics(out)[-1].get("event") is None, process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert [line["world_size"] for line in starts(out)] == [2, 1, 2]
    first, second, third = (line["step"] for line in starts(out))
    assert first == 0 < second < third
    assert {second, third} <= set(_saved_steps(out))
