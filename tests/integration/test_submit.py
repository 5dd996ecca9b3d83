"""Jobs of a cluster for real: packed, submitted, followed to their end, seen by `nigaoe status`; and one that fails."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from head_nodes import head_node
from nigaoe.core.adapters.files import load_adapter
from nigaoe.core.config import load_config
from nigaoe.core.toy.portraits import write_portraits
from nigaoe.train.config import TrainConfig
from nigaoe.train.jobs.results import MARK
from nigaoe.train.planning.plan import plan

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 600


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    with head_node() as address:
        yield address


def write_config(folder: Path) -> Path:
    write_portraits(folder / "portraits", people=8, scenes=1, split="train", seed=0)
    config = {
        "name": "job",
        "out": "out",
        "base": "toy/photo",
        "image_encoder": "toy/image_encoder",
        "data": {"source": "portraits/captions.csv", "prepared": "prepared", "shard_rows": 8},
        "steps": 3,
        "batch_size": 4,
        "ema_decay": 0.9,
        "publish_to": "registry",
        "cluster": {"num_workers": 1},
        "tracking": {"mode": "disabled"},
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def nigaoe(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nigaoe.core.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_is_submitted_followed_and_published(dashboard: str, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    submit = ("submit", str(path), "--address", dashboard)

    # Nothing is prepared yet: the job says so in its log, and the command ends as it did.
    failed = nigaoe(tmp_path, *submit, "--name", "too-early")
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert "run `nigaoe prepare` with this config first" in failed.stdout
    assert "job too-early failed with exit code 2" in failed.stdout

    # A tenth of a CPU for the command leaves room for a process that decodes and one that encodes.
    prepare = ("submit", "prepare", str(path), "--address", dashboard, "--fetch", str(tmp_path / "came"))
    prepared = nigaoe(tmp_path, *prepare, "--entrypoint-cpus", "0.1", "cluster.cpus_per_worker=0.9")
    assert prepared.returncode == 0, prepared.stdout + prepared.stderr
    assert (tmp_path / "came/manifest.json").read_bytes() == (tmp_path / "prepared/manifest.json").read_bytes()
    done = nigaoe(tmp_path, *submit, "--code", str(ROOT), "--fetch", str(tmp_path / "came"), "steps=4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trained 4 steps" in done.stdout
    assert MARK not in done.stdout
    assert "succeeded" in done.stdout.splitlines()[-1]
    for name in ("adapter.json", "adapter.safetensors", "report.html", "metrics.jsonl"):
        assert (tmp_path / "came" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()

    # The job ran in a folder of its own, with the code that it took along, and wrote where the config says.
    described = json.loads((tmp_path / "out" / "adapter.json").read_text())
    assert described["training"]["steps"] == 4
    assert described["training"]["recipe"]["cluster"]["address"] == "auto"
    if (ROOT / ".git").exists():
        assert "+g" in described["training"]["code_version"]
    load_adapter(tmp_path / "registry" / "job")

    state = json.loads(nigaoe(tmp_path, "status", "--json", "--address", dashboard).stdout)
    assert [(job["kind"], job["name"], job["state"]) for job in state["jobs"]] == [
        ("train", "job", "succeeded"),
        ("prepare", "job", "succeeded"),
        ("train", "job", "failed"),
    ]
    assert "run `nigaoe prepare` with this config first" in state["jobs"][2]["reason"]
    assert state["jobs"][1]["out"] == str(tmp_path / "prepared")
    assert [(node["state"], node["cpus"], node["gpus"]) for node in state["nodes"]] == [("alive", 2.0, 0.0)]
    assert state["deployments"] == []
    table = nigaoe(tmp_path, "status", "--address", dashboard)
    assert table.returncode == 0, table.stderr
    assert max(len(line) for line in table.stdout.splitlines() if not line.startswith("too-early: ")) <= 80

    # What a plan says of checkpoints is what they take.
    (checkpoint,) = (tmp_path / "out" / "checkpoints" / "job").glob("checkpoint_*/")
    written = sum(file.stat().st_size for file in checkpoint.iterdir())
    planned = plan(load_config(path, TrainConfig)).checkpoint
    assert written == pytest.approx(sum(planned.values()), rel=0.02)

    taken = nigaoe(tmp_path, *submit, "--name", "too-early", "--no-follow")
    assert taken.returncode == 2
    assert "did not take job 'too-early'" in taken.stderr
    assert "Traceback" not in taken.stderr
