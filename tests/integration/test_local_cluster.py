"""A head and two worker nodes on one machine: prepare, train, evaluate, promote and serve, with one node killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 1700


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_cluster_loses_a_node_and_nothing_else(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [str(ROOT / "infra/local-cluster/run.sh"), str(tmp_path / "run")]
    with (tmp_path / "log").open("w+") as log:
        done = subprocess.run(command, env=os.environ | {"PATH": path}, stdout=log, stderr=log, timeout=TIMEOUT_S)
    said = (tmp_path / "log").read_text(errors="replace")
    assert done.returncode == 0, said
    checked = said.partition("Checked on")[2].splitlines()[1:]
    assert len(checked) >= 15, said
    assert all(line.startswith("  ok  ") for line in checked), said
    assert (tmp_path / "run/answer.png").is_file()
