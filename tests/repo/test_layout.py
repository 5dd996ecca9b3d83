"""The namespace has two mistakes that nothing else reports; see docs/decisions/0001-namespace-packages.md."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ["core", "train", "serve", "eval"]


def test_parts_are_the_folders_of_packages() -> None:
    assert {path.name for path in (ROOT / "packages").iterdir() if path.is_dir()} == set(PARTS)


def test_namespace_has_no_init() -> None:
    assert not list(ROOT.glob("packages/*/nigaoe/__init__.py")), "it would hide the other parts"


@pytest.mark.parametrize("part", PARTS)
def test_part_holds_its_own_name_only(part: str) -> None:
    entries = {path.name for path in (ROOT / "packages" / part / "nigaoe").iterdir()} - {"__pycache__"}
    assert entries == {part}


@pytest.mark.parametrize("part", PARTS)
def test_part_is_marked_as_typed(part: str) -> None:
    assert (ROOT / "packages" / part / "nigaoe" / part / "py.typed").is_file()


def test_build_settings_name_every_part() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["dev-mode-dirs"] == [f"packages/{part}" for part in PARTS]
    assert build["targets"]["wheel"]["packages"] == [f"packages/{part}/nigaoe" for part in PARTS]


def test_namespace_spans_every_part_from_anywhere(tmp_path: Path) -> None:
    code = "import nigaoe; print(*nigaoe.__path__, sep='\\n')"
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert set(output.splitlines()) >= {str(ROOT / "packages" / part / "nigaoe") for part in PARTS}


def test_git_ignores_no_source() -> None:
    """What git ignores is missing from a clone, and hatchling leaves it out of the wheel."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "packages", "tests"]
    ignored = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    caches = ("__pycache__/", ".hypothesis/", ".pytest_cache/", ".egg-info/")
    assert [path for path in ignored if not any(cache in path for cache in caches)] == []
