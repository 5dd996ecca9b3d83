"""Clusters of virtual and other machines are what Ray's cluster launcher takes."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

from manifests import ROOT, parsed_command
from nigaoe.core.config import load_config
from nigaoe.train.config import TrainConfig

FILES = sorted((ROOT / "infra" / "ray-up").glob("*.yaml"))
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def values_of(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(path.read_text())
    return values


@every_file
def test_ray_takes_it(path: Path) -> None:
    values = values_of(path)
    jsonschema.validate(values, SCHEMA)
    validate_config(prepare_config(values))


def test_an_unknown_key_is_noticed() -> None:
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(prepare_config(values_of(FILES[0]) | {"max_worker": 1}))


def test_machines_that_are_there_are_all_used() -> None:
    values = values_of(ROOT / "infra" / "ray-up" / "machines.yaml")
    (kind,) = prepare_config(values)["available_node_types"].values()
    assert kind["min_workers"] == kind["max_workers"] == len(values["provider"]["worker_ips"])


@every_file
def test_ray_start_knows_its_commands(path: Path) -> None:
    values = values_of(path)
    for key, is_head in (("head_start_ray_commands", True), ("worker_start_ray_commands", False)):
        first, line = values[key]
        assert first == "ray stop"
        words = shlex.split(line.replace("$RAY_HEAD_IP", "head"))
        given = start.make_context("start", words[words.index("start") + 1 :]).params
        assert given["head"] is is_head
        assert given["metrics_export_port"] == 8080
        assert (given["address"] is None) is is_head


@every_file
def test_its_image_is_that_of_this_version(path: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert values_of(path)["docker"]["image"].endswith(f"/nigaoe-all:{version}-gpu")


@every_file
def test_whatever_it_installs_is_pinned_as_everywhere(path: Path) -> None:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    commands = " ".join(command for key, value in values_of(path).items() if "commands" in key for command in value)
    assert [pin for pin in re.findall(r"\S+==\S+", commands) if pin not in pins] == []
    assert all("==" in line for line in re.findall(r"pip install[^;&]*", commands))


@every_file
def test_nodes_ask_for_a_token(path: Path) -> None:
    values = values_of(path)
    assert "--env RAY_AUTH_MODE=token" in values["docker"]["run_options"]
    assert values["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}


@every_file
def test_its_head_says_commands_of_ours(path: Path) -> None:
    (line,) = re.findall(r"RAY_AUTH_MODE=token (nigaoe .*)", path.read_text())
    command, given = parsed_command(line)
    assert command == "submit"
    (config,) = given["what"]
    load_config(ROOT / config, TrainConfig)


def test_machines_of_amazon_hold_the_workers_of_the_config() -> None:
    values = values_of(ROOT / "infra" / "ray-up" / "aws.yaml")
    cluster = load_config(ROOT / "configs" / "sd15" / "train.yaml", TrainConfig).cluster
    for name, kind in values["available_node_types"].items():
        if name != values["head_node_type"]:
            assert kind["resources"]["GPU"] >= 1
            assert kind["resources"]["CPU"] >= cluster.cpus_per_worker
            assert kind["max_workers"] >= cluster.num_workers
    assert values["max_workers"] >= cluster.num_workers
