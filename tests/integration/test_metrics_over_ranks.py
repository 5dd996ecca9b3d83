"""torchmetrics' own way to gather: uneven ranks, one without samples of a side, and samples that two ranks saw."""

import json
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("metric_rank.py")


def _figures(world_size: int, folder: Path) -> list[dict[str, Any]]:
    meeting = folder / f"ranks-{world_size}"
    command = [sys.executable, str(SCRIPT)]
    ranks = [
        subprocess.Popen([*command, str(rank), str(world_size), str(meeting)], stdout=PIPE, stderr=PIPE, text=True)
        for rank in range(world_size)
    ]
    try:
        outputs = [rank.communicate(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * world_size, outputs
    return [json.loads(out) for out, _ in outputs]


@pytest.mark.slow
def test_two_ranks_have_the_figures_of_one(tmp_path: Path) -> None:
    (alone,) = _figures(1, tmp_path)
    for found in _figures(2, tmp_path):
        assert found["fd_toy"] == pytest.approx(alone["fd_toy"], rel=1e-10)
        assert found["kd_toy"] == alone["kd_toy"]
        assert found["repeated"] == alone["kd_toy"]
        assert "2 real samples were seen by more than one rank" in found["refused"]
    assert alone["refused"] == alone["fd_toy"], "one process leaves out what it has seen"
