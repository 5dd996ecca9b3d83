"""Runs that are killed, again and again: nothing changes but the time they take."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from nigaoe.core.adapters.files import load_adapter
from nigaoe.core.toy.portraits import write_portraits
from training_runs import TIMEOUT_S, run, same_weights, start, starts, wait_for_step, write_config

pytestmark = [pytest.mark.slow]

STEPS, KILLS, EVERY = 1000, 12, 5
"""Checkpoints every five steps, so that restarts begin at many places."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_portraits(folder / "portraits", people=16, scenes=2, split="train", seed=0)
    run("prepare", write_config(folder, folder / "unused", steps=1))
    return folder


@pytest.fixture(scope="module")
def uninterrupted(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run("train", write_config(dataset, out, steps=STEPS, precision="float32"), 4 * TIMEOUT_S)
    return out


def _descendants(process: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children(recursive=True) if name in child.name()]


def _end(process: subprocess.Popen[str]) -> None:
    """Wait until a command and all that it had started are gone, for a while of their own accord."""
    deadline = time.monotonic() + 60
    while _members(process.pid):
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.5)
    process.communicate()


def _members(group: int) -> list[int]:
    """Living processes of a group."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and os.getpgid(process.pid) == group:
                found.append(process.pid)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    return found


@pytest.mark.timeout(2400)
def test_a_run_that_is_killed_twelve_times_ends_with_the_same_weights(
    dataset: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """Workers, drivers and raylets, each four times, in a random order and at random steps."""
    rng = random.Random(0)
    kinds = ["worker", "driver", "raylet"] * (KILLS // 3)
    rng.shuffle(kinds)
    config = write_config(
        dataset, tmp_path, steps=STEPS, checkpoint_every=EVERY, precision="float32", cluster={"max_failures": -1}
    )
    process = start("train", config)
    try:
        for number, kind in enumerate(kinds):
            # Workers that lost their driver train on for some seconds: counted from where each start began.
            wait_for_step(tmp_path, rng.randint(5, 40), process, starts_before=number, relative=True)
            if kind == "worker":
                os.kill(int(starts(tmp_path)[-1]["pid"]), signal.SIGKILL)
                continue
            victims = [psutil.Process(process.pid)] if kind == "driver" else _descendants(process, "raylet")
            assert victims, "no raylet was found"
            for victim in victims:
                victim.kill()
            _end(process)
            process = start("train", config)
        output, _ = process.communicate(timeout=4 * TIMEOUT_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output
    begun = [line["step"] for line in starts(tmp_path)]
    assert len(begun) == KILLS + 1
    assert len(set(begun)) > KILLS // 2, f"restarts began only at {sorted(set(begun))}"
    assert same_weights(uninterrupted, tmp_path)


@pytest.mark.timeout(900)
def test_two_workers_then_one_then_two_learn_the_same(dataset: Path, tmp_path: Path) -> None:
    # Parts of other sizes round otherwise, in bfloat16 by far more than is to be shown.
    same: dict[str, Any] = {"precision": "float32", "optimizer": {"lr": 1e-4}}
    steps = 60
    whole, changed = tmp_path / "whole", tmp_path / "changed"
    run("train", write_config(dataset, whole, steps=steps, **same))
    for number, (workers, until) in enumerate(((2, 8), (1, 28), (2, steps))):
        config = write_config(
            dataset, changed, steps=steps, checkpoint_every=EVERY, cluster={"num_workers": workers}, **same
        )
        if until == steps:
            run("train", config)
            break
        process = start("train", config)
        try:
            # Of its own workers: those of the start before may have got as far before they were killed.
            wait_for_step(changed, until, process, starts_before=number)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            _end(process)
    assert [line["world_size"] for line in starts(changed)] == [2, 1, 2]
    assert all(line["step"] > 0 for line in starts(changed)[1:])
    ours, theirs = (load_adapter(out / "adapter.safetensors").state_dict() for out in (changed, whole))
    apart = {name: float((ours[name] - x).abs().max() / x.abs().max()) for name, x in theirs.items()}
    assert max(apart.values()) < 1e-5, apart
