"""The state of a run under every ZeRO stage: taken, given back, and taken over by another number of workers."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "state_worker.py"
TIMEOUT_S = 200


def _group(world_size: int, *arguments: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, str(WORKER)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(world_size), port, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(world_size)
    ]
    try:
        outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert all(process.returncode == 0 for process in processes), "\n".join(outputs)[-4000:]


@pytest.mark.timeout(2 * TIMEOUT_S + 20)
@pytest.mark.slow
@pytest.mark.parametrize("variant", ["base", "faceid"])
def test_the_state_is_whole_under_every_stage_and_for_any_number_of_workers(
    tiny_base: Callable[[str], Path], tmp_path: Path, variant: str
) -> None:
    for world_size, does in ((2, "leave"), (1, "take")):
        _group(world_size, str(tiny_base("sd")), str(tmp_path), variant, does)
        results = json.loads((tmp_path / f"results-{world_size}.json").read_text())
        assert sorted(results) == ["0", "1", "2", "3"]
        for stage, figures in results.items():
            assert figures["identical"] == 1, (world_size, stage, figures)
    # The last group was of another size than the one whose state it took over.
    assert all(figures["taken_over"] < 1e-5 for figures in results.values()), results
