import hashlib

import pytest
import typer
import yaml
from ray.serve.schema import ServeDeploySchema
from typer.testing import CliRunner

from nigaoe.core.config import parse_config
from nigaoe.serve import commands
from nigaoe.serve.config import KeyConfig

app = typer.Typer()
for name, command in (("config", commands.serve_config), ("key", commands.serve_key), ("load", commands.loadtest)):
    app.command(name)(command)


def output(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_key_is_shown_with_the_entry_that_lets_it_in() -> None:
    printed = output("key", "alice", "--rate", "60/minute", "--may-manage")
    key = printed.splitlines()[0]
    (entry,) = yaml.safe_load(printed.split("\n", 1)[1])
    known = parse_config(entry, KeyConfig, "test")
    assert known == KeyConfig(name="alice", sha256=known.sha256, rate="60/minute", may_manage=True)
    assert known.sha256 == hashlib.sha256(key.encode()).hexdigest()
    assert len(key) > 40
    assert output("key", "alice").splitlines()[0] != key


def test_a_name_that_is_none_is_refused() -> None:
    assert "name" in str(CliRunner().invoke(app, ["key", "a b"]).exception)


@pytest.mark.parametrize("path", ["configs/demo/serve.yaml", "configs/sd15/serve.yaml"])
def test_the_printed_config_is_deployable(path: str) -> None:
    printed = yaml.safe_load(output("config", path, "port=81", "num_cpus=2"))
    schema = ServeDeploySchema.model_validate(printed)
    assert schema.http_options.port == 81
    assert schema.applications[0].args["num_cpus"] == 2
    # What was changed for a deployment holds as an argument.
    assert "deployments" not in printed["applications"][0]
