"""Configs: every file in the repository is valid, every mistake is named."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from nigaoe.core.config import load_config
from nigaoe.core.errors import ConfigError
from nigaoe.train.config import TrainConfig

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*/train*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_training_config_is_valid(path: Path) -> None:
    assert load_config(path, TrainConfig).steps > 0


def test_overrides_reach_into_sections() -> None:
    path = ROOT / "configs/demo/train.yaml"
    config = load_config(path, TrainConfig, ["optimizer.lr=1e-5", "cluster.num_workers=1", "name=other"])
    assert (config.optimizer.lr, config.cluster.num_workers, config.name) == (1e-5, 1, "other")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.learning_rate=1", ["optimizer.learning_rate", "lr"]),
        ("stepz=1", ["stepz", "steps"]),
        ("steps=none", ["steps"]),
        ("steps", ["key.path=value"]),
        ("name=a/b", ["name"]),
    ],
)
def test_mistakes_are_named(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(ROOT / "configs/demo/train.yaml", TrainConfig, [override])
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "word"), [("a: [", "YAML"), ("- 1", "key"), ("name: x", "missing")])
def test_broken_files_are_named(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=word):
        load_config(path, TrainConfig)
    with pytest.raises(ConfigError, match="absent.yaml"):
        load_config(tmp_path / "absent.yaml", TrainConfig)


def test_help_is_quick_and_lists_every_verb() -> None:
    from nigaoe.core import cli

    names = {command.name for command in cli.app.registered_groups}
    assert {"report", "toy"} <= names
    assert CliRunner().invoke(cli.report_app, ["--help"]).exit_code == 0
