"""Jobs before they are submitted: what they take along, what they run, what they are not told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray.runtime_env import RuntimeEnv

from nigaoe.core.errors import ConfigError
from nigaoe.train.config import TrainConfig
from nigaoe.train.shipping import packing
from nigaoe.train.shipping.packing import pack
from nigaoe.train.shipping.submit import connect, plan_job

ROOT = Path(__file__).parents[3]


def make_config(mode: str = "offline") -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "name": "tiny",
            "out": "out",
            "base": "toy/photo",
            "image_encoder": "toy/image_encoder",
            "data": {"source": "s3://bucket/captions.csv", "prepared": "prepared"},
            "steps": 3,
            "tracking": {"mode": mode},
            "cluster": {"address": "10.0.0.1:6379"},
        }
    )


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_job_reads_the_config_as_the_cluster_sees_it(in_tmp: Path) -> None:
    Path("job").mkdir()
    job = plan_job(make_config(), "tiny-1", Path("job"), None, None)
    told = TrainConfig.model_validate(yaml.safe_load(Path("job/train.yaml").read_text()))
    assert told.cluster.address == "auto"
    assert told.out == in_tmp / "out"
    assert told.data.source == "s3://bucket/captions.csv"
    assert names_in(Path("job")) == {"train.yaml"}
    assert job.entrypoint == "nigaoe train train.yaml"
    RuntimeEnv(**job.runtime_env)


def test_an_image_gets_the_config_without_a_folder(in_tmp: Path) -> None:
    """The command is run by a shell, with a `nigaoe` that prints what it is given."""
    job = plan_job(make_config(), "tiny-1", in_tmp, None, "registry.example/nigaoe:1")
    RuntimeEnv(**job.runtime_env)
    assert names_in(in_tmp) == set()
    (in_tmp / "nigaoe").write_text('#!/bin/sh\necho "$1" && cat "$2"\n')
    (in_tmp / "nigaoe").chmod(0o755)
    variables = job.runtime_env["env_vars"] | {"TMPDIR": str(in_tmp), "PATH": f"{in_tmp}:{os.environ['PATH']}"}
    done = subprocess.run(job.entrypoint, shell=True, env=variables, capture_output=True, text=True, check=True)
    command, _, text = done.stdout.partition("\n")
    assert command == "train"
    assert TrainConfig.model_validate(yaml.safe_load(text)).name == "tiny"
    with pytest.raises(ConfigError, match="--code"):
        plan_job(make_config(), "tiny-1", in_tmp, ROOT, "registry.example/nigaoe:1")


@pytest.mark.parametrize(("mode", "is_told"), [("online", True), ("offline", False)])
def test_a_key_is_passed_on_only_where_it_is_needed(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, mode: str, is_told: bool
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "not a key")
    job = plan_job(make_config(mode), "tiny-1", in_tmp, None, None)
    assert ("WANDB_API_KEY" in job.runtime_env["env_vars"]) is is_told
    monkeypatch.delenv("WANDB_API_KEY")
    assert plan_job(make_config(mode), "tiny-1", in_tmp, None, None).runtime_env["env_vars"] == {}


def test_a_packed_checkout_comes_before_what_is_installed(tmp_path: Path) -> None:
    pack(tmp_path, "name: tiny\n", ROOT)
    packed = names_in(tmp_path)
    assert {"train.yaml", "nigaoe/core/cli.py", "nigaoe/train/shipping/packing.py", "nigaoe/serve/app.py"} <= packed
    assert not [name for name in packed if name.startswith(("tests/", "docs/", "packages/")) or "__pycache__" in name]
    code = (
        "from importlib.metadata import entry_points, version; import nigaoe.train.shipping.packing as found;"
        "print(found.__file__, version('nigaoe'), *sorted(entry_points(group='nigaoe.commands').names))"
    )
    # As Ray puts a job's folder on the path of every worker.
    variables = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    place, found, *commands = done.stdout.split()
    assert place == str(tmp_path / "nigaoe/train/shipping/packing.py")
    assert found.startswith("0.1.0")
    assert {"prepare", "train", "serve", "eval"} <= set(commands)


def test_other_code_is_taken_as_it_is_without_what_git_ignores(tmp_path: Path) -> None:
    code, job = tmp_path / "code", tmp_path / "job"
    for name in ("mine.py", "secret.env", "data/large.bin", ".gitignore", ".venv/lib.py"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text("secret.env\ndata/\n.venv/\n")
    job.mkdir()
    pack(job, "name: tiny\n", code)
    # Without git nobody says what belongs to the code, but for folders that never do.
    assert names_in(job) == {"train.yaml", "mine.py", "secret.env", "data/large.bin", ".gitignore"}
    subprocess.run(["git", "init", "-q"], cwd=code, check=True)
    again = tmp_path / "again"
    again.mkdir()
    pack(again, "name: tiny\n", code)
    assert names_in(again) == {"train.yaml", "mine.py", ".gitignore"}


def test_code_that_is_too_large_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, job = tmp_path / "code", tmp_path / "job"
    code.mkdir()
    job.mkdir()
    (code / "model.bin").write_bytes(bytes(3 * 2**20))
    monkeypatch.setattr(packing, "LIMIT_BYTES", 2 * 2**20)
    with pytest.raises(ConfigError, match=r"is 3 MiB, a job takes 2; .*'model.bin' of 3 MiB"):
        pack(job, "name: tiny\n", code)
    with pytest.raises(ConfigError, match="is no folder"):
        pack(job, "name: tiny\n", tmp_path / "absent")


def test_an_address_where_nobody_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ray would believe the variable more than what it is told.
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:2")
    with pytest.raises(ConfigError, match=r"to Ray at address: http://127.0.0.1:1\)"):
        connect("http://127.0.0.1:1")
