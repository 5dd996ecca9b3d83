"""Folders that change while they are read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nigaoe.core import storage
from nigaoe.core.stores import MissingFile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("adapter.json", "adapter.json.1f2e.part", "versions/0/adapter.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"content")
    return tmp_path


@pytest.mark.parametrize("gone", ["adapter.json.1f2e.part", "versions"])
def test_what_goes_while_a_folder_is_listed_takes_nothing_else_with_it(
    gone: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A part gets its final name, an older version is swept: between a name and what it names there is time.
    scandir = os.scandir

    @contextmanager
    def late(path: str) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(path) as entries:
            found = list(entries)
        if path == str(folder):
            (folder / gone).rename(folder / ".gone")
        yield found

    expected = [file.name for file in storage.list_files(str(folder)) if not file.name.startswith(gone)]
    monkeypatch.setattr(os, "scandir", late)
    assert [file.name for file in storage.list_files(str(folder))] == expected
    assert "adapter.json" in expected


def test_a_folder_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="does not exist"):
        storage.list_files(str(tmp_path / "none"))
