"""The rendered manifests of cpu-demo on this machine as they stand: its pods as namespaces, its jobs, its service."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from run_manifests import SIDE_PX, lacking

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 2300


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_manifests_run_as_they_stand(tmp_path: Path) -> None:
    if (why := lacking()) is not None:
        pytest.skip(why)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [str(ROOT / "infra/local-cluster/run_manifests.sh"), str(tmp_path / "run")]
    with (tmp_path / "log").open("w+") as log:
        done = subprocess.run(command, env=os.environ | {"PATH": path}, stdout=log, stderr=log, timeout=TIMEOUT_S)
    said = (tmp_path / "log").read_text(errors="replace")
    assert done.returncode == 0, said
    checked, _, _ = said.partition("Checked with pods")[2].partition("\nNot applied:")
    rows = checked.strip().splitlines()
    assert "the manifests as they stand" in rows[0], said
    assert len(rows) > 18, said
    assert all(row.startswith("  ok  ") for row in rows[1:]), said
    with Image.open(tmp_path / "run/answer.png") as drawn:
        assert drawn.size == (SIDE_PX, SIDE_PX)
