"""`nigaoe eval` takes a config or a command."""

import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from nigaoe.core import cli
from nigaoe.core.errors import ConfigError
from nigaoe.eval.commands import eval_app


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.add_typer(eval_app, name="eval")
    return app


@pytest.mark.parametrize("words", [["eval", "no.yaml"], ["eval", "run", "no.yaml"], ["eval", "no.yaml", "a=b"]])
def test_a_config_is_run_whether_or_not_the_command_is_named(app: typer.Typer, words: list[str]) -> None:
    with pytest.raises(ConfigError, match="config file 'no.yaml' does not exist"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_overrides_reach_the_config(app: typer.Typer, tmp_path: Path) -> None:
    config = tmp_path / "eval.yaml"
    config.write_text("out: out\nprotocol: {kind: toy}\n")
    with pytest.raises(ConfigError, match="'workers' is 0"):
        CliRunner().invoke(app, ["eval", str(config), "workers=0"], catch_exceptions=False)


def test_commands_are_not_taken_for_configs(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["eval", "compare", "--help"])
    assert result.exit_code == 0
    assert "Hold two finished runs against each other" in result.output


@pytest.mark.parametrize("words", [["eval"], ["eval", "--help"]])
def test_help_shows_both_ways(app: typer.Typer, words: list[str]) -> None:
    shown = re.sub(r"\s+", " ", CliRunner().invoke(app, words).output)
    assert "eval [OPTIONS] CONFIG [OVERRIDES]... | COMMAND [ARGS]..." in shown
    assert "run " in shown
    assert "compare " in shown


def test_the_command_line_finds_what_the_package_names(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    named = project["entry-points"]["nigaoe.commands"]
    points = [EntryPoint(name, named[name], "nigaoe.commands") for name in named if "nigaoe.eval." in named[name]]
    monkeypatch.setattr(cli, "entry_points", lambda group: points)
    monkeypatch.setattr(cli, "app", typer.Typer())
    monkeypatch.setattr("sys.argv", ["nigaoe", "eval", "no.yaml"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
