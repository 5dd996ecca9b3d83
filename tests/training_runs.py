"""Training runs as a user starts them, for tests that watch, kill and compare them."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from nigaoe.core.adapters.files import load_adapter

TIMEOUT_S = 240


def write_config(dataset: Path, out: Path, steps: int, variant: str = "base", **changes: Any) -> Path:
    """A config of the toy world, in `out`."""
    config = {
        "name": "test",
        "out": str(out),
        "base": "toy/photo",
        "image_encoder": "toy/image_encoder",
        "data": {
            "source": str(dataset / "portraits" / "captions.csv"),
            "prepared": str(dataset / ("prepared" if variant == "base" else f"prepared-{variant}")),
            "shard_rows": 16,
            "reference": "other",
        },
        "adapter": {"variant": variant},
        "steps": steps,
        "batch_size": 8,
        "ema_decay": 0.9,
        "checkpoint_every": 10,
        "optimizer": {"lr": 1e-3},
        "tracking": {"mode": "disabled"},
        **changes,
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def start(verb: str, config: Path) -> subprocess.Popen[str]:
    """A `nigaoe` command in a session of its own."""
    command = [sys.executable, "-m", "nigaoe.core.cli", verb, str(config)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def run(verb: str, config: Path, timeout_s: float = TIMEOUT_S) -> str:
    """A `nigaoe` command to its good end; returns what it said."""
    process = start(verb, config)
    try:
        output, _ = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, output
    return output


def metrics(out: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics."""
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def starts(out: Path) -> list[dict[str, Any]]:
    """Each start and restart of the workers."""
    return [line for line in metrics(out) if line.get("event") == "start"]


def wait_for_step(
    out: Path, step: int, process: subprocess.Popen[str], starts_before: int = 0, *, relative: bool = False
) -> None:
    """Until so many steps are done, by workers that were started after so many others; `relative`: by them alone."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        lines = metrics(out)
        begun = [i for i, line in enumerate(lines) if line.get("event") == "start"]
        own = lines[begun[starts_before] :] if len(begun) > starts_before else []
        begin = own[0]["step"] if own and relative else 0
        if max((line["step"] - begin for line in own), default=0) >= step:
            return
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline, "training never got that far"
        time.sleep(0.1)


def same_weights(a: Path, b: Path) -> bool:
    """Whether two runs ended in the same adapter, bit for bit."""
    first, second = (load_adapter(path / "adapter.safetensors").state_dict() for path in (a, b))
    return all(torch.equal(value, second[key]) for key, value in first.items())
