"""`samples.csv` gives back what was written, bit for bit, and says what is wrong with one that was damaged."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nigaoe.core.errors import DataError
from nigaoe.eval.findings.samples_file import read_samples, write_samples
from nigaoe.eval.running.tables import SampleTable

NAN = float("nan")
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


def _table(**columns: list[float]) -> SampleTable:
    count = len(next(iter(columns.values())))
    ids = tuple(f"s{i}" for i in range(count))
    arrays = {name: np.array(values, np.float64) for name, values in columns.items()}
    return SampleTable(ids, tuple(f"g{i // 2}" for i in range(count)), arrays, {})


@st.composite
def _tables(draw: st.DrawFn) -> dict[str, SampleTable]:
    tables = {}
    for cell in draw(st.lists(TEXT, min_size=1, max_size=3, unique=True)):
        ids = draw(st.lists(TEXT, min_size=1, max_size=5, unique=True))
        names = draw(st.lists(st.sampled_from(["clip_i", "clip_i~wrong0", "fd, odd", 'a"b\n']), unique=True))
        columns = {
            name: np.array([draw(st.floats(allow_nan=False)), *[draw(st.floats()) for _ in ids[1:]]]) for name in names
        }
        failed = {sample: draw(TEXT.filter(bool)) for sample in draw(st.sets(st.sampled_from(ids)))}
        tables[cell] = SampleTable(tuple(ids), tuple(draw(TEXT) for _ in ids), columns, failed)
    return tables


@given(_tables())
def test_what_was_written_comes_back(tmp_path_factory: pytest.TempPathFactory, tables: dict[str, SampleTable]) -> None:
    path = tmp_path_factory.mktemp("samples") / "samples.csv"
    write_samples(path, tables)
    read = read_samples(path)
    assert list(read) == list(tables)
    for cell, table in tables.items():
        again = read[cell]
        assert (again.ids, again.groups, again.failed) == (table.ids, table.groups, table.failed)
        assert set(again.columns) == set(table.columns)
        for name, values in table.columns.items():
            np.testing.assert_array_equal(again.columns[name], values)
            # Zeros with a sign, too.
            np.testing.assert_array_equal(np.signbit(again.columns[name]), np.signbit(values) & ~np.isnan(values))


def test_a_cell_has_no_columns_of_other_cells(tmp_path: Path) -> None:
    path = tmp_path / "samples.csv"
    write_samples(path, {"a": _table(clip_i=[0.1, NAN], face=[NAN, NAN]), "b": _table(clip_t=[1 / 3])})
    assert path.read_text().splitlines() == [
        "cell,sample,group,failed,clip_i,face,clip_t",
        "a,s0,g0,,0.1,,",
        "a,s1,g0,,,,",
        "b,s0,g0,,,,0.3333333333333333",
    ]
    read = read_samples(path)
    assert {cell: table.names for cell, table in read.items()} == {"a": ["clip_i"], "b": ["clip_t"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no samples"),
        ("cell,sample,group,failed,clip_i\r\n", "no samples"),
        ("cell,sample,clip_i\r\na,0,1\r\n", "does not begin"),
        ("cell,sample,group,failed,x,x\r\na,0,g,,1,1\r\n", "does not begin"),
        ("cell,sample,group,failed,clip_i\r\na,0,g,,0.5\r\na,1,g,\r\n", "row 3 of .* has 4 fields and not 5"),
        ("cell,sample,group,failed,clip_i\r\na,0,g,,0.5\r\na,0,g,,0.5\r\n", "row 3 of .* sample '0' of cell 'a'"),
        ("cell,sample,group,failed,clip_i\r\na,0,g,,half\r\n", "row 2 of .* has 'half' for 'clip_i'"),
        ('cell,sample,group,failed,clip_i\r\na,"0', "not a table of samples"),
        ("cell,sample,group,failed,clip_i\r\n\xff,0,g,,1\r\n", "not a table of samples"),
    ],
)
def test_a_damaged_file_is_said_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "samples.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=said):
        read_samples(path)


def test_a_missing_file_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_samples(tmp_path / "samples.csv")
