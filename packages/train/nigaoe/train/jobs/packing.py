"""What a job takes along: its config, and the code it runs where the cluster shall not use its own."""

import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

from nigaoe.core.errors import ConfigError
from nigaoe.train.shipping.code_version import checkout_commit

LIMIT_BYTES = 100 * 2**20
"""Ray takes up to 512 MiB, keeps them in the memory of the head node, and sends them to every machine."""

_NEVER = {".git", ".venv", "venv", "__pycache__", "node_modules", "runs", "wandb", "build", "dist", ".pytest_cache"}
"""Folders that are left out where there is no git to say what belongs to the code."""


def pack(folder: Path, config_name: str, config: str, code: Path | None) -> None:
    """Fill a folder: the config as a file of this name, and files of `code` that git does not ignore.

    A checkout of this project is packed as it would be installed, so that it comes before what is installed there.

    Raises:
        ConfigError: `code` is no folder, or too large.
    """
    (folder / config_name).write_text(config, encoding="utf-8")
    if code is None:
        return
    if not code.is_dir():
        raise ConfigError(f"code {str(code)!r} is no folder; give the one whose code the job shall run")
    is_ours = (code / "packages" / "train" / "nigaoe").is_dir()
    wanted = [name for name in _files(code) if not is_ours or _installed_name(name) is not None]
    _require_small(code, wanted)
    for name in wanted:
        target = folder / ((_installed_name(name) or name) if is_ours else name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(code / name, target)
    if is_ours:
        _write_metadata(code, folder)


def _files(code: Path) -> list[Path]:
    """Files that belong to a folder's code, relative to it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=code, capture_output=True, text=True, timeout=60)
        listed = [Path(name) for name in done.stdout.split("\0") if name] if done.returncode == 0 else []
    except (OSError, subprocess.TimeoutExpired):
        listed = []
    # Those that git still lists may be gone, and links may lead to what is none of the code.
    return [name for name in listed or _walk(code) if (code / name).is_file() and not (code / name).is_symlink()]


def _walk(code: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(code):
        folders[:] = sorted(name for name in folders if name not in _NEVER)
        yield from (Path(where, name).relative_to(code) for name in sorted(names))


def _installed_name(name: Path) -> Path | None:
    """Where an install puts a file of a checkout: `packages/train/nigaoe/.../loop.py` at `nigaoe/.../loop.py`."""
    is_code = len(name.parts) > 3 and name.parts[0] == "packages" and name.parts[2] == "nigaoe"
    return Path(*name.parts[2:]) if is_code else None


def _require_small(code: Path, names: list[Path]) -> None:
    sizes = {name: (code / name).stat().st_size for name in names}
    total = sum(sizes.values())
    if total > LIMIT_BYTES:
        largest = max(sizes, key=lambda name: sizes[name])
        raise ConfigError(
            f"the code in {str(code)!r} is {total / 2**20:.0f} MiB, a job takes {LIMIT_BYTES / 2**20:.0f}; let git "
            f"ignore what is no code, such as {str(largest)!r} of {sizes[largest] / 2**20:.0f} MiB"
        )


def _write_metadata(code: Path, folder: Path) -> None:
    """What an install leaves beside the code: its version, and which commands there are."""
    project = tomllib.loads((code / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    commit = checkout_commit(code / "pyproject.toml")
    version = project["version"] if commit is None else f"{project['version']}+g{commit}"
    info = folder / f"nigaoe-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: nigaoe\nVersion: {version}\n", encoding="utf-8")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
