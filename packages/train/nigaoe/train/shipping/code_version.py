"""Which code this is: the version of the package, and the commit where it is a checkout."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def code_version() -> str:
    """As `0.1.0`, `0.1.0+g1234567890ab` of a checkout, or `0.1.0+g1234567890ab.dirty` of one that was changed."""
    try:
        released = version("nigaoe")
    except PackageNotFoundError:
        released = "0"
    commit = checkout_commit(Path(__file__))
    return released if commit is None or "+" in released else f"{released}+g{commit}"


def checkout_commit(file: Path) -> str | None:
    """First 12 digits of the commit that a tracked file is of, with `.dirty` where tracked files were changed."""
    # Whoever has this package installed inside of a checkout of something else has no commit of ours.
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    commit = _git(file.parent, "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return None
    changed = _git(file.parent, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}.dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None where there is no git, or it refuses."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
