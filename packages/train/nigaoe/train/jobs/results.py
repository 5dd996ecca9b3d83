"""Small files of a job that travel home in its log, the one thing of a job that Ray hands to whoever submitted it.

`python -m nigaoe.train.jobs.results OUT NAME...` prints them, as lines that `ResultReader` takes out of the log again.
"""

import base64
import gzip
import hashlib
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ValidationError

from nigaoe.core.atomic import write_whole

MARK = "::nigaoe-result:: "
"""Begins every line that is part of a file."""
LIMIT_BYTES = 16 * 2**20
"""A log is for reading: what is larger stays where it is."""
_LINE_CHARS = 8192


@dataclass(frozen=True)
class Result:
    """What is known of a file that came, or did not."""

    name: str
    size: int
    """Bytes; -1: there was none."""
    sha256: str = ""
    content: bytes | None = None
    """None: there was none, it was too large to come, or it is damaged."""

    @property
    def is_too_large(self) -> bool:
        """Whether it stayed where it is."""
        return self.size > LIMIT_BYTES

    @property
    def is_damaged(self) -> bool:
        """Whether it did not come as it was sent."""
        return self.content is None and 0 <= self.size <= LIMIT_BYTES


class _Header(BaseModel):
    """What stands before the lines of a file."""

    name: str
    size: int
    sha256: str = ""
    lines: int = 0


def print_results(out: Path, names: Sequence[str], write: Callable[[str], object]) -> None:
    """Print files of a folder, each with its checksum; of those that are too large the checksum alone."""
    # A bar may have left its line unfinished.
    write("\n")
    for name in names:
        for line in _lines(out / name, name):
            write(f"{MARK}{line}\n")


def _lines(path: Path, name: str) -> Iterator[str]:
    if not path.is_file():
        yield _Header(name=name, size=-1).model_dump_json()
        return
    content = path.read_bytes() if path.stat().st_size <= LIMIT_BYTES else None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    packed = "" if content is None else base64.b64encode(gzip.compress(content, mtime=0)).decode()
    lines = [packed[start : start + _LINE_CHARS] for start in range(0, len(packed), _LINE_CHARS)]
    yield _Header(name=name, size=path.stat().st_size, sha256=digest, lines=len(lines)).model_dump_json()
    yield from lines


@dataclass
class ResultReader:
    """Passes a log on as it comes, and keeps the files that are in it."""

    write: Callable[[str], object]
    results: dict[str, Result] = field(default_factory=dict)
    _line: str = ""
    """What has come of a line that is, or may be, part of a file."""
    _is_passing: bool = False
    """Whether the line under way is text, of which a part has been passed on."""
    _header: _Header | None = None
    _packed: list[str] = field(default_factory=list)

    def feed(self, text: str) -> None:
        """Take the next piece, which may end anywhere."""
        for piece in _by_newline(text):
            self._take(piece)

    def close(self) -> None:
        """Pass on what waited for its end."""
        if self._line and not self._line.startswith(MARK):
            self.write(self._line)
        self._line = ""

    def _take(self, piece: str) -> None:
        if self._is_passing:
            self.write(piece)
            self._is_passing = not piece.endswith("\n")
            return
        self._line += piece
        if self._line.startswith(MARK):
            if piece.endswith("\n"):
                self._keep(self._line.removeprefix(MARK).rstrip("\n"))
                self._line = ""
        elif not MARK.startswith(self._line):
            self.write(self._line)
            self._is_passing, self._line = not self._line.endswith("\n"), ""

    def _keep(self, text: str) -> None:
        if text.startswith("{"):
            self._header, self._packed = _header(text), []
        else:
            self._packed.append(text)
        if self._header is not None and len(self._packed) == self._header.lines:
            self.results[self._header.name] = _unpacked(self._header, "".join(self._packed))


def save_results(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write files that came into a folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    for result in results:
        if result.content is not None:
            write_whole(folder / result.name, result.content)
            saved.append(folder / result.name)
    return saved


def _by_newline(text: str) -> list[str]:
    *whole, rest = text.split("\n")
    return [*(f"{line}\n" for line in whole), *([rest] if rest else [])]


def _header(text: str) -> _Header | None:
    try:
        return _Header.model_validate_json(text)
    except ValidationError:
        # Cut where the log was: the file counts as one that did not come.
        return None


def _unpacked(header: _Header, packed: str) -> Result:
    content = None
    if header.lines:
        try:
            content = gzip.decompress(base64.b64decode(packed))
        except (OSError, ValueError, EOFError, zlib.error):
            content = None
    if content is not None and hashlib.sha256(content).hexdigest() != header.sha256:
        content = None
    return Result(header.name, header.size, header.sha256, content)


if __name__ == "__main__":
    print_results(Path(sys.argv[1]), sys.argv[2:], sys.stdout.write)
