"""Files that travel in a log: they come whole or not at all, and the log stays what it was."""

import random
from pathlib import Path

import pytest

from nigaoe.train.jobs import results
from nigaoe.train.jobs.results import MARK, Result, ResultReader, print_results, save_results

LOG = "start\n\rprepare:  50%|#####     | 1/2 [00:00<?]\n\n::nigaoe: not a result\nend without a newline"


def printed(out: Path, *names: str) -> str:
    pieces: list[str] = []
    print_results(out, names, pieces.append)
    return "".join(pieces)


def read_in_pieces(log: str, sizes: random.Random | None) -> tuple[str, dict[str, Result]]:
    shown: list[str] = []
    reader, start = ResultReader(shown.append), 0
    while start < len(log):
        size = len(log) if sizes is None else sizes.choice([1, 2, 7, 19, 500, 20_000])
        reader.feed(log[start : start + size])
        start += size
    reader.close()
    return "".join(shown), reader.results


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_files_come_as_they_were_however_the_log_is_cut(tmp_path: Path, seed: int | None) -> None:
    contents = {"report.json": b'{"a": 1}', "grid.png": random.Random(5).randbytes(50_000), "empty": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    log = LOG + printed(tmp_path, "report.json", "absent", "grid.png", "empty") + LOG
    shown, found = read_in_pieces(log, None if seed is None else random.Random(seed))
    assert shown == LOG + "\n" + LOG
    assert found["absent"].size == -1
    assert not found["absent"].is_damaged
    assert {name: result.content for name, result in found.items() if result.size >= 0} == contents
    saved = save_results(list(found.values()), tmp_path / "here")
    assert {path.name: path.read_bytes() for path in saved} == contents


def test_what_is_too_large_stays_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "LIMIT_BYTES", 10)
    (tmp_path / "adapter").write_bytes(bytes(11))
    _, found = read_in_pieces(printed(tmp_path, "adapter"), None)
    assert found["adapter"].is_too_large
    assert found["adapter"].size == 11
    assert save_results(list(found.values()), tmp_path / "here") == []


@pytest.mark.parametrize("damage", ["changed", "lost"])
def test_a_file_that_was_damaged_on_its_way_is_not_written(tmp_path: Path, damage: str) -> None:
    (tmp_path / "report.json").write_bytes(random.Random(5).randbytes(20_000))
    lines = printed(tmp_path, "report.json").splitlines(keepends=True)
    place = next(place for place, line in enumerate(lines) if line.startswith(MARK) and "{" not in line)
    if damage == "lost":
        del lines[place]
    else:
        lines[place] = lines[place][:100] + ("A" if lines[place][100] != "A" else "B") + lines[place][101:]
    _, found = read_in_pieces("".join(lines), None)
    assert "report.json" not in found or found["report.json"].is_damaged
    assert save_results(list(found.values()), tmp_path / "here") == []


def test_a_header_that_is_none_ends_nothing() -> None:
    shown, found = read_in_pieces(f"{MARK}{{cut\n{MARK}AAAA\nend\n", None)
    assert shown == "end\n"
    assert found == {}
