"""Jobs before they are submitted: what they take along, what they run, what they are not told."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.runtime_env import RuntimeEnv

from nigaoe.core.errors import ConfigError
from nigaoe.core.jobs import JobPlan
from nigaoe.train.config import TrainConfig
from nigaoe.train.job_commands import _plan as plan_of_words
from nigaoe.train.jobs import packing
from nigaoe.train.jobs.connecting import connect
from nigaoe.train.jobs.described import prepare_job, train_job
from nigaoe.train.jobs.packing import pack
from nigaoe.train.jobs.submitting import Baggage, Entrypoint, amounts, make_job, pairs, variables_named

ROOT = Path(__file__).parents[3]


def write_config(**changes: Any) -> Path:
    config = {
        "name": "tiny",
        "out": "out",
        "base": "toy/photo",
        "image_encoder": "toy/image_encoder",
        "data": {"source": "s3://bucket/captions.csv", "prepared": "prepared"},
        "steps": 3,
        "tracking": {"mode": "offline"},
        "cluster": {"address": "10.0.0.1:6379"},
    }
    path = Path("tiny.yaml")
    path.write_text(yaml.safe_dump(config | changes))
    return path


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def run_as_ray_does(entrypoint: str, folder: Path, nigaoe: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """By a shell, with a `nigaoe` that is a script of ours."""
    (folder / "nigaoe").write_text(f"#!/bin/sh\n{nigaoe}\n")
    (folder / "nigaoe").chmod(0o755)
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    told = os.environ | {"TMPDIR": str(folder), "PATH": path} | variables
    return subprocess.run(entrypoint, shell=True, env=told, cwd=folder, capture_output=True, text=True)


def test_a_job_reads_the_config_as_the_cluster_sees_it(in_tmp: Path) -> None:
    Path("job").mkdir()
    job = make_job(train_job(write_config(), ["steps=4"]), "tiny-1", Path("job"), Baggage())
    told = TrainConfig.model_validate(yaml.safe_load(Path("job/train.yaml").read_text()))
    assert told.cluster.address == "auto"
    assert told.steps == 4
    assert told.out == in_tmp / "out"
    assert told.data.source == "s3://bucket/captions.csv"
    assert names_in(Path("job")) == {"train.yaml"}
    assert job.entrypoint == "nigaoe train train.yaml"
    assert job.metadata == {"nigaoe.kind": "train", "nigaoe.name": "tiny", "nigaoe.run": str(in_tmp / "out")}
    RuntimeEnv(**job.runtime_env)


def test_preparing_writes_to_a_folder_of_its_own(in_tmp: Path) -> None:
    plan = prepare_job(write_config(), [])
    assert plan.out == in_tmp / "prepared"
    assert make_job(plan, "tiny-1", in_tmp, Baggage()).entrypoint == "nigaoe prepare prepare.yaml"


def test_the_first_word_says_the_command_and_train_need_not_be_said(in_tmp: Path) -> None:
    path = str(write_config())
    assert plan_of_words([path, "steps=5"]) == plan_of_words(["train", path, "steps=5"])
    assert plan_of_words(["prepare", path]).kind == "prepare"
    with pytest.raises(ConfigError, match="`nigaoe submit eval` needs a config"):
        plan_of_words(["eval"])
    with pytest.raises(ConfigError, match="config file 'sweep' does not exist"):
        plan_of_words(["sweep", path])


def test_an_image_gets_the_config_without_a_folder(in_tmp: Path) -> None:
    plan = train_job(write_config(), [])
    job = make_job(plan, "tiny-1", in_tmp, Baggage(image="registry.example/nigaoe:1"))
    RuntimeEnv(**job.runtime_env)
    assert names_in(in_tmp) == {"tiny.yaml"}
    done = run_as_ray_does(job.entrypoint, in_tmp, 'echo "$1" && cat "$2"', **job.runtime_env["env_vars"])
    command, _, text = done.stdout.partition("\n")
    assert command == "train"
    assert TrainConfig.model_validate(yaml.safe_load(text)).name == "tiny"
    with pytest.raises(ConfigError, match="--code"):
        make_job(plan, "tiny-1", in_tmp, Baggage(code=ROOT, image="registry.example/nigaoe:1"))


@pytest.mark.parametrize("ends", [0, 3])
def test_results_follow_a_command_that_succeeded_and_no_other(in_tmp: Path, ends: int) -> None:
    out = in_tmp / "a folder"
    plan = JobPlan("eval", "tiny", "", out, ("report.json",))
    job = make_job(plan, "tiny-1", in_tmp, Baggage(brings_results=True))
    out.mkdir()
    (out / "report.json").write_text("{}")
    done = run_as_ray_does(job.entrypoint, in_tmp, f"exit {ends}")
    assert done.returncode == ends, done.stderr
    assert ('"name":"report.json"' in done.stdout) is (ends == 0)


@pytest.mark.parametrize(("mode", "is_told"), [("online", True), ("offline", False)])
def test_a_key_is_passed_on_only_where_it_is_needed(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, mode: str, is_told: bool
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "not a key")
    monkeypatch.setenv("HF_TOKEN", "not a token")
    for name in ("WANDB_BASE_URL", "WANDB_ENTITY", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    plan = train_job(write_config(tracking={"mode": mode}), [])
    assert ("WANDB_API_KEY" in make_job(plan, "tiny-1", in_tmp, Baggage()).runtime_env["env_vars"]) is is_told
    assert "WANDB_API_KEY" not in prepare_job(write_config(tracking={"mode": mode}), []).variables
    monkeypatch.delenv("WANDB_API_KEY")
    assert make_job(plan, "tiny-1", in_tmp, Baggage()).runtime_env["env_vars"] == {}
    from_hub = train_job(write_config(base="somebody/photos"), [])
    assert make_job(from_hub, "tiny-1", in_tmp, Baggage()).runtime_env["env_vars"] == {"HF_TOKEN": "not a token"}


def test_variables_are_named_with_or_without_their_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "a=b")
    monkeypatch.delenv("ABSENT", raising=False)
    assert variables_named(["HERE", "OTHER=c=d", "EMPTY="]) == {"HERE": "a=b", "OTHER": "c=d", "EMPTY": ""}
    with pytest.raises(ConfigError, match="'ABSENT' is not set here"):
        variables_named(["ABSENT"])


def test_an_entrypoint_asks_for_what_it_is_given_and_nothing_else() -> None:
    assert Entrypoint().options() == {}
    asked = Entrypoint(0.5, 1, 2, amounts("--r", ["big=1.5"]), pairs("--l", ["pool=cpu"])).options()
    assert asked == {
        "entrypoint_num_cpus": 0.5,
        "entrypoint_num_gpus": 1,
        "entrypoint_memory": 2 * 2**30,
        "entrypoint_resources": {"big": 1.5},
        "entrypoint_label_selector": {"pool": "cpu"},
    }
    with pytest.raises(ConfigError, match="--r 'big' is not of the form key=value"):
        amounts("--r", ["big"])
    with pytest.raises(ConfigError, match="--r big=much is no amount"):
        amounts("--r", ["big=much"])


def test_a_packed_checkout_comes_before_what_is_installed(tmp_path: Path) -> None:
    pack(tmp_path, "train.yaml", "name: tiny\n", ROOT)
    packed = names_in(tmp_path)
    assert {"train.yaml", "nigaoe/core/cli.py", "nigaoe/train/jobs/packing.py", "nigaoe/serve/app.py"} <= packed
    assert not [name for name in packed if name.startswith(("tests/", "docs/", "packages/")) or "__pycache__" in name]
    code = (
        "from importlib.metadata import entry_points, version; import nigaoe.train.jobs.packing as found;"
        "print(found.__file__, version('nigaoe'), *sorted(entry_points(group='nigaoe.commands').names))"
    )
    # As Ray puts a job's folder on the path of every worker.
    variables = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    place, found, *commands = done.stdout.split()
    assert place == str(tmp_path / "nigaoe/train/jobs/packing.py")
    assert found.startswith("0.1.0")
    assert {"prepare", "train", "serve", "eval"} <= set(commands)


def test_other_code_is_taken_as_it_is_without_what_git_ignores(tmp_path: Path) -> None:
    code, job = tmp_path / "code", tmp_path / "job"
    for name in ("mine.py", "secret.env", "data/large.bin", ".gitignore", ".venv/lib.py"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text("secret.env\ndata/\n.venv/\n")
    job.mkdir()
    pack(job, "train.yaml", "name: tiny\n", code)
    # Without git nobody says what belongs to the code, but for folders that never do.
    assert names_in(job) == {"train.yaml", "mine.py", "secret.env", "data/large.bin", ".gitignore"}
    subprocess.run(["git", "init", "-q"], cwd=code, check=True)
    again = tmp_path / "again"
    again.mkdir()
    pack(again, "train.yaml", "name: tiny\n", code)
    assert names_in(again) == {"train.yaml", "mine.py", ".gitignore"}


def test_code_that_is_too_large_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, job = tmp_path / "code", tmp_path / "job"
    code.mkdir()
    job.mkdir()
    (code / "model.bin").write_bytes(bytes(3 * 2**20))
    monkeypatch.setattr(packing, "LIMIT_BYTES", 2 * 2**20)
    with pytest.raises(ConfigError, match=r"is 3 MiB, a job takes 2; .*'model.bin' of 3 MiB"):
        pack(job, "train.yaml", "name: tiny\n", code)
    with pytest.raises(ConfigError, match="is no folder"):
        pack(job, "train.yaml", "name: tiny\n", tmp_path / "absent")


def test_an_address_where_nobody_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ray would believe the variable more than what it is told.
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:2")
    with pytest.raises(ConfigError, match=r"to Ray at address: http://127.0.0.1:1\)"):
        connect("http://127.0.0.1:1")
