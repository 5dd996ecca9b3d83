"""The documentation as its tests read it: pages, blocks of code, and the commands that readers type from them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted({*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"})
SHELL = ("sh", "console")
NOT_RUN = re.compile(r"<!-- not run: .+ -->")
_PROMPT = "$ "


@dataclass(frozen=True)
class Block:
    """Code between fences."""

    page: Path
    line: int
    language: str
    code: str
    is_run: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Typed:
    """A command with what stands below it: what it prints."""

    command: str
    """As a shell takes it, without the comment behind it."""
    shown: str


def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        for before, token in pairwise([Token("start", "", 0), *tokens(page)]):
            if token.type == "fence" and token.info in languages:
                assert token.map is not None
                said = before.type == "html_block" and NOT_RUN.search(before.content)
                found.append(Block(page, token.map[0] + 1, token.info, token.content, not said))
    return found


def block(page: str, begins: str) -> Block:
    """The block of a page that begins so."""
    (found,) = [
        b
        for b in blocks("python", "yaml", "csv", *SHELL)
        if b.page == ROOT / page and b.code.removeprefix(_PROMPT).startswith(begins)
    ]
    return found


def typed(block: Block) -> Iterator[Typed]:
    """The commands of a block in their order; of a console, those behind a prompt."""
    command, shown = "", ""
    for line in re.sub(r"\\\n\s*", "", block.code).splitlines():
        if block.language == "console" and not line.startswith(_PROMPT):
            shown += f"{line}\n"
            continue
        if command:
            yield Typed(command, shown)
        command, shown = re.sub(r"\s+#\s.*", "", line.removeprefix(_PROMPT)).strip(), ""
    if command:
        yield Typed(command, shown)


def laid_over(values: Any, change: Any) -> Any:
    """A piece of a config over the rest of it."""
    if not isinstance(values, dict) or not isinstance(change, dict):
        return change
    return {**values, **{key: laid_over(values.get(key), value) for key, value in change.items()}}
