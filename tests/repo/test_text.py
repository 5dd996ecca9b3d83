"""What is committed makes sense on any machine."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# /home/ray is the home folder in Ray's own container images.
MACHINE_PATH = re.compile(
    r"(?<![\w.~*$})-])/(?:root|work|home/(?!ray\b)[a-z][\w-]*|opt/(?:wheels|pypi[\w-]*))(?=/|\b)(?!-)"
)


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Return every text file that git tracks or would add, by its path."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    contents = {name: (ROOT / name).read_bytes() for name in names if (ROOT / name).is_file()}
    return {name: content.decode() for name, content in contents.items() if b"\0" not in content[:8192]}


def test_no_machine_paths(texts: dict[str, str]) -> None:
    found = {name: match.group() for name, text in texts.items() if (match := MACHINE_PATH.search(text))}
    assert found == {}


@pytest.mark.parametrize("path", ["root/x", "work/main", "home/ann/x", "opt/wheels"])
def test_machine_paths_are_recognized(path: str) -> None:
    assert MACHINE_PATH.search(f"see '/{path}'")


@pytest.mark.parametrize("text", ["packages/work/x", "https://example.org/root/x", "/home/ray/app", "/workspace"])
def test_other_paths_are_not(text: str) -> None:
    assert not MACHINE_PATH.search(text)


def test_no_conflict_markers(texts: dict[str, str]) -> None:
    marker = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
    assert [name for name, text in texts.items() if marker.search(text)] == []
