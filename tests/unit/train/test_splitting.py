"""Who is held out, and that it stays so."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nigaoe.core.errors import ConfigError, DataError
from nigaoe.train.config import DataConfig
from nigaoe.train.records.record import Picture, Record
from nigaoe.train.records.splitting import (
    Split,
    held_out_records,
    read_split,
    split_records,
    training_records,
    write_split,
)

NAMES = st.sets(st.text(min_size=1, max_size=6), min_size=2, max_size=40)
SHARES = st.floats(0.01, 0.9)


def _records(names: set[str], each: int = 2) -> list[Record]:
    return [
        Record(f"{name}/{i}.jpg", Picture(f"/pictures/{name}/{i}.jpg"), ("a photo",), name)
        for name in sorted(names)
        for i in range(each)
    ]


@given(names=NAMES, share=SHARES, seed=st.integers(0, 5))
def test_the_share_is_held_out_and_somebody_is_on_each_side(names: set[str], share: float, seed: int) -> None:
    records = _records(names)
    split = split_records(records, "x", share, seed)
    held_out = {record.identity for record in records if split.is_held_out(record)}
    assert held_out == split.held_out
    assert len(held_out) == min(max(1, round(share * len(names))), len(names) - 1)
    assert split.held_out_rows == 2 * len(held_out)


@given(names=NAMES, later=NAMES, share=SHARES, seed=st.integers(0, 5))
def test_rows_added_later_move_nobody(names: set[str], later: set[str], share: float, seed: int) -> None:
    """Not under the stored split, whoever comes; and nobody new is on both sides."""
    split = split_records(_records(names), "x", share, seed)
    stored = Split.model_validate_json(split.model_dump_json())
    grown = _records(names | later, each=3)
    sides = {(record.identity, stored.is_held_out(record)) for record in grown}
    assert len(sides) == len(names | later), "an identity is on both sides"
    assert {name for name, is_held_out in sides if is_held_out and name in names} == split.held_out


def test_people_who_come_later_are_held_out_as_often() -> None:
    split = split_records(_records({f"person {i}" for i in range(200)}), "x", 0.1, seed=3)
    later = _records({f"late {i}" for i in range(2000)}, each=1)
    assert 0.06 < sum(map(split.is_held_out, later)) / len(later) < 0.14


def test_another_seed_holds_out_others() -> None:
    records = _records({f"person {i}" for i in range(100)})
    first, again, other = (split_records(records, "x", 0.2, seed) for seed in (0, 0, 1))
    assert first == again
    assert first.model_dump_json() == again.model_dump_json()
    assert first.held_out != other.held_out


def test_who_was_held_out_stays_so_whatever_the_rule_says() -> None:
    split = split_records(_records({"a", "b", "c", "d"}), "x", 0.5, seed=0)
    (trained, *_) = {"a", "b", "c", "d"} - split.held_out
    kept = split.model_copy(update={"held_out": split.held_out | {trained}})
    assert kept.is_held_out(_records({trained})[0])


def test_one_identity_cannot_be_split() -> None:
    with pytest.raises(DataError, match="one identity"):
        split_records(_records({"ann"}), "x", 0.5, seed=0)


def test_a_split_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    split = split_records(_records({"a", "b"}), "x", 0.5, seed=0)
    write_split(split, path)
    assert read_split(path) == split
    before = path.read_bytes()
    with pytest.raises(DataError, match="there already"):
        write_split(split_records(_records({"a", "b"}), "x", 0.5, seed=1), path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", [None, "", "{}", '{"held_out": ["a"]}', "[]", '{"version": 2}'])
def test_a_file_that_is_no_split_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "split.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=re.escape(str(path))) as caught:
        read_split(path)
    assert "nigaoe dataset split" in str(caught.value)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """Six people with two pictures each, a third of them held out."""
    rows = [
        {"image_file": f"{name}{i}.jpg", "face": f"{name}{1 - i}.jpg", "text": "a photo", "identity": name}
        for name in "abcdef"
        for i in range(2)
    ]
    source = tmp_path / "data.json"
    source.write_text(json.dumps(rows))
    data = DataConfig(source=str(source), prepared=tmp_path / "prepared", split=tmp_path / "split.json")
    records = training_records(data.model_copy(update={"split": None}))
    write_split(split_records(records, data.source, 0.34, seed=0), tmp_path / "split.json")
    return data


def test_the_two_sides_share_nobody_and_leave_nobody_out(data: DataConfig) -> None:
    learnt, measured = training_records(data), held_out_records(data)
    assert {row.identity for row in learnt}.isdisjoint(row.identity for row in measured)
    assert (len(learnt), len(measured)) == (8, 4)


def test_a_row_that_is_prompted_by_a_held_out_picture_is_not_learnt(data: DataConfig) -> None:
    measured = held_out_records(data)[0]
    rows = json.loads(Path(data.source).read_text())
    learnt = next(row for row in rows if row["image_file"] == training_records(data)[0].key)
    learnt["face"] = measured.key
    Path(data.source).write_text(json.dumps(rows))
    keys = {row.key for row in training_records(data.model_copy(update={"condition_column": "face"}))}
    assert learnt["image_file"] not in keys
    assert len(keys) == 7


def test_a_split_of_another_dataset_is_told(data: DataConfig) -> None:
    split = read_split(data.split or Path())
    rows = json.loads(Path(data.source).read_text())
    for row in rows:
        row["identity"] = next(iter(split.held_out))
    Path(data.source).write_text(json.dumps(rows))
    with pytest.raises(DataError, match="every row"):
        training_records(data)
    for row in rows:
        row["identity"] = next(iter(set("abcdef") - split.held_out))
    Path(data.source).write_text(json.dumps(rows))
    with pytest.raises(DataError, match="no row"):
        held_out_records(data)


def test_nobody_is_held_out_without_a_split(data: DataConfig) -> None:
    without = data.model_copy(update={"split": None})
    assert len(training_records(without)) == 12
    with pytest.raises(ConfigError, match=r"data\.split"):
        held_out_records(without)
