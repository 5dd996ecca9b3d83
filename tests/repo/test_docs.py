"""What the documentation shows works: code runs, commands and configs are read by their readers, links lead somewhere.

A block of Python runs, in an empty folder, unless the line before it is `<!-- not run: WHY -->`; then only what it
imports is looked up. Lines of shell that call `nigaoe` or `make` are parsed here by the real command line; they run in
tests/e2e/test_docs_run.py, with some of the Python that needs more than an empty folder. YAML is laid over a config of
this repository and validated. Notebooks run in tests/e2e.
"""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer
import yaml

from docs_pages import DOCS, PAGES, ROOT, SHELL, Block, blocks, laid_over, tokens, typed
from nigaoe.core import cli
from nigaoe.core.config import Config, load_config, parse_config
from nigaoe.core.config import read_values as read_yaml
from nigaoe.core.errors import ConfigError
from nigaoe.eval.config import EvalConfig
from nigaoe.eval.default_command import DEFAULT
from nigaoe.eval.gate import GateConfig
from nigaoe.serve.deploy_file import read_serve_config
from nigaoe.train.config import TrainConfig

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONFIGS: dict[str, type[Config]] = {
    "configs/sd15/train.yaml": TrainConfig,
    "configs/toy/eval.yaml": EvalConfig,
    "configs/demo/gate.yaml": GateConfig,
}
"""What a piece of YAML may be laid over."""


def test_the_languages_of_all_blocks_are_known() -> None:
    known = {"python", "sh", "console", "yaml", "json", "csv", "text"}
    found = {t.info for page in PAGES for t in tokens(page) if t.type == "fence"}
    assert found - known == set()


@pytest.mark.parametrize("block", [b for b in blocks("python") if b.is_run], ids=str)
def test_python_runs(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "block.py"
    path.write_text(block.code)
    result = subprocess.run([sys.executable, path.name], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("block", [b for b in blocks("python") if not b.is_run], ids=str)
def test_python_that_cannot_run_here_names_what_exists(block: Block) -> None:
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            module = import_module(node.module)
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []


def words_of(block: Block) -> Iterator[list[str]]:
    """Words of each command, variables of the block put in."""
    variables: dict[str, list[str]] = {}
    for line in typed(block):
        words = [w for word in shlex.split(line.command) for w in variables.get(word, [word])]
        if len(words) == 1 and (assigned := re.fullmatch(r"(\w+)=(.*)", words[0])):
            variables[f"${assigned[1]}"] = assigned[2].split()
        else:
            yield words


COMMANDS = [(str(block), words) for block in blocks(*SHELL) for words in words_of(block)]


@pytest.fixture(scope="module")
def command_line() -> Any:
    """`nigaoe` as this checkout declares it, whatever is installed."""
    app = typer.Typer()
    app.registered_groups += cli.app.registered_groups
    for name, target in PROJECT["entry-points"]["nigaoe.commands"].items():
        module, _, attribute = target.partition(":")
        command = getattr(import_module(module), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return typer.main.get_command(app)


def parse(command: Any, words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Names of the subcommands and the values of the last one; raises what the command line would say."""
    names, context, rest = [], command.make_context("nigaoe", list(words)), []
    while hasattr(command, "resolve_command"):
        # Where click keeps what a group has not read.
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        names.append(name)
        context = command.make_context(name, list(rest), parent=context)
    return names, context.params


@pytest.mark.parametrize(
    ("where", "words"), [(where, words) for where, words in COMMANDS if words[0] == "nigaoe"], ids=lambda x: str(x)[:60]
)
def test_commands_are_parsed(where: str, words: list[str], command_line: Any) -> None:
    names, values = parse(command_line, words[1:])
    config = next((Path(str(v)) for v in values.values() if str(v).endswith(".yaml")), None)
    if config is None or config.parts[0] != "configs":
        return
    path, overrides = ROOT / config, values.get("overrides") or ()
    assert path.is_file(), f"{where} names {config}, which is not there"
    # Everything else is loaded by the tests of its own part.
    if names[0] in ("prepare", "train", "submit", "dataset"):
        load_config(path, TrainConfig, overrides)
    elif names[0] == "eval":
        load_config(path, EvalConfig, overrides)
    elif names[0] == "serve":
        read_serve_config(path, overrides)


@pytest.mark.parametrize(
    "words", [["trian", "x.yaml"], ["train"], ["train", "x.yaml", "--dri-run"], ["eval", "compare"]]
)
def test_wrong_commands_are_noticed(words: list[str], command_line: Any) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|missing"):
        parse(command_line, words)


SENTENCES = [
    (f"{page.relative_to(ROOT)}: {child.content}", shlex.split(child.content))
    for page in PAGES
    for token in tokens(page)
    for child in token.children or ()
    if child.type == "code_inline" and child.content.startswith("nigaoe ")
]


def require_command(command: Any, words: list[str]) -> None:
    """Subcommands and options of a command in a sentence exist; what it is given may be left out there."""
    rest = words[1:]
    while hasattr(command, "commands") and rest:
        known = command.commands
        # `nigaoe eval CONFIG` needs no name.
        name = rest[0] if rest[0] in known else DEFAULT
        assert name in known, f"no command {rest[0]!r}"
        command, rest = known[name], rest[1:]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= options


@pytest.mark.parametrize(("where", "words"), SENTENCES, ids=[where for where, _ in SENTENCES])
def test_commands_within_sentences_exist(where: str, words: list[str], command_line: Any) -> None:
    require_command(command_line, words)


@pytest.mark.parametrize("wrong", ["nigaoe trian CONFIG", "nigaoe adapter look FILE", "nigaoe train CONFIG --dry"])
def test_wrong_commands_within_sentences_are_noticed(wrong: str, command_line: Any) -> None:
    with pytest.raises(AssertionError):
        require_command(command_line, wrong.split())


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for _, words in COMMANDS if words[0] == "make" for word in words[1:]}
    assert named
    assert named - targets == set()


def test_extras_exist() -> None:
    text = " ".join(page.read_text() for page in PAGES)
    named = {e.strip() for found in re.findall(r"(?:nigaoe|\.)\[([a-z0-9, ]+)\]", text) for e in found.split(",")}
    assert named
    assert named - set(PROJECT["optional-dependencies"]) == set()


def config_of(change: dict[str, Any]) -> str:
    """The config that takes a piece of YAML; raises what each of them says against it."""
    reasons = []
    for name, model in CONFIGS.items():
        if change.keys() <= model.model_fields.keys():
            try:
                parse_config(laid_over(read_yaml(ROOT / name), change), model, name)
            except ConfigError as error:
                reasons.append(f"{name}: {error}")
            else:
                return name
    raise ValueError("; ".join(reasons) or f"no config has {', '.join(change)}")


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_taken_by_a_config(block: Block) -> None:
    config_of(yaml.safe_load(block.code))


@pytest.mark.parametrize("wrong", ["data: {sorce: x}", "thresholds: [{cell: a}]", "nonsense: 1"])
def test_wrong_yaml_is_noticed(wrong: str) -> None:
    with pytest.raises(ValueError, match="sorce|thresholds|nonsense"):
        config_of(yaml.safe_load(wrong))


def anchors(page: Path) -> set[str]:
    """As the site names headings, and hubs of code do."""
    found, read = set(), tokens(page)
    for token, content in pairwise(read):
        if token.type == "heading_open":
            words = "".join(c.content for c in content.children or () if c.type in ("text", "code_inline"))
            found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", words).strip().lower()))
    return found


def links(page: Path) -> Iterator[str]:
    for token in tokens(page):
        for child in token.children or ():
            target = child.attrs.get("href") if child.type == "link_open" else child.attrs.get("src")
            if isinstance(target, str) and not re.match(r"[a-z]+:", target):
                yield unquote(target)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link} leads nowhere"
        if page.is_relative_to(DOCS):
            assert target.is_relative_to(DOCS), f"{link} leads out of the site; name the file instead"
            assert target.is_file(), f"{link} is a folder, which the site has no page for"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_every_page_is_in_the_navigation_once() -> None:
    def named(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values() if isinstance(entry, dict) else entry:
                yield from named(value)

    listed = list(named(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def build(project: Path) -> subprocess.CompletedProcess[str]:
    """The site of mkdocs.yml in a folder of its own, with nothing but loopback."""
    shutil.copy(ROOT / "mkdocs.yml", project)
    zensical = str(Path(sys.executable).with_name("zensical"))
    environment = {**os.environ, "NO_COLOR": "1"}
    command = [zensical, "build", "--strict"]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)


def test_the_site_is_built_and_fetches_nothing(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    result = build(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    site = tmp_path / "build" / "site"
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    fetched = re.compile(
        r"""<(?:script|img|iframe|link rel="?(?:stylesheet|icon|preconnect)"?)[^>]*(?:src|href)="?https?:"""
    )
    assert {str(page.relative_to(site)): m.group() for page in pages if (m := fetched.search(page.read_text()))} == {}


def test_a_dead_link_breaks_the_build(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    page = tmp_path / "docs" / "idea.md"
    page.write_text(page.read_text() + "\n[nowhere](nowhere.md)\n")
    assert build(tmp_path).returncode != 0
