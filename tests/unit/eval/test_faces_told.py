"""What is said of each sample adds up to what is said of all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nigaoe.eval.findings.faces_told import face_columns
from nigaoe.eval.findings.figures import FALSE_ALARMS
from nigaoe.eval.metrics.separation import auc, tpr_at_fpr
from nigaoe.eval.running.tables import SampleTable

NAN = float("nan")
# Few different values, so that ties are common.
COSINES = st.integers(-4, 4).map(lambda value: value / 4)


def _table(
    right: np.ndarray, wrong: np.ndarray, found: np.ndarray | None = None, references: np.ndarray | None = None
) -> SampleTable:
    """Cosines of right pairs [N] and of wrong ones [N, K]; whether pictures and references have a face."""
    n = len(right)
    names = tuple(f"{i}" for i in range(n))
    there = np.ones(n) if found is None else found
    asked = np.ones(n) if references is None else references
    columns = {"face_dlib": np.where((there == 1) & (asked == 1), right, np.nan)}
    columns |= {f"face_dlib~wrong{k}": np.where(there == 1, values, np.nan) for k, values in enumerate(wrong.T)}
    columns |= {"face_dlib_found": there, "face_dlib_reference_found": asked, "clip_i": right}
    return SampleTable(names, names, columns, {})


@st.composite
def _tables(draw: st.DrawFn, least: int = 1) -> SampleTable:
    n, k = draw(st.integers(least, 30)), draw(st.integers(1, 5))
    right = np.array(draw(st.lists(COSINES, min_size=n, max_size=n)))
    wrong = np.array(draw(st.lists(COSINES, min_size=n * k, max_size=n * k))).reshape(n, k)
    there, asked = (np.array(draw(st.lists(st.sampled_from([1.0, 1.0, 0.0]), min_size=n, max_size=n))) for _ in "ab")
    return _table(right, wrong, there, asked)


def _pairs(table: SampleTable) -> tuple[np.ndarray, np.ndarray]:
    sides = table.columns["face_dlib"], table.wrong("face_dlib")
    right, wrong = (side[~np.isnan(side)] for side in sides)
    return right, wrong


@given(_tables())
def test_the_mean_of_the_auc_column_is_the_auc(table: SampleTable) -> None:
    right, wrong = _pairs(table)
    column = face_columns(table).columns["face_dlib_auc"]
    assert np.array_equal(np.isnan(column), np.isnan(table.columns["face_dlib"]) | (len(wrong) == 0))
    if len(right) and len(wrong):
        assert np.nanmean(column) == pytest.approx(auc(right, wrong), abs=1e-12)


@given(_tables(least=25), st.integers(1, 9))
def test_the_mean_of_the_recognised_column_is_the_share_at_one_percent(table: SampleTable, times: int) -> None:
    # Wrong pairs enough for a rate of 1 %, mostly.
    columns = {
        name: np.tile(values, 4) + (np.arange(4 * len(values)) % times) / 100 for name, values in table.columns.items()
    }
    columns |= {name: np.tile(table.columns[name], 4) for name in table.columns if name.endswith("found")}
    names = tuple(f"{i}" for i in range(4 * len(table.ids)))
    told = face_columns(SampleTable(names, names, columns, {})).columns["face_dlib_recognised"]
    _, wrong = _pairs(SampleTable(names, names, columns, {}))
    is_found, is_asked = columns["face_dlib_found"] == 1, columns["face_dlib_reference_found"] == 1
    asked = np.where(is_found, columns["face_dlib"], -np.inf)[is_asked]
    wanted = tpr_at_fpr(asked, wrong, FALSE_ALARMS)
    if np.isnan(wanted):
        assert np.isnan(told).all()
    else:
        assert np.array_equal(np.isnan(told), ~is_asked)
        assert np.nanmean(told) == pytest.approx(wanted, abs=1e-12)


def test_a_picture_without_a_face_is_not_recognised_and_has_no_cosine() -> None:
    rng = np.random.default_rng(0)
    right, wrong = np.full(40, 0.9), rng.uniform(-1, 0.5, (40, 4))
    found = np.ones(40)
    found[:10] = 0
    columns = face_columns(_table(right, wrong, found)).columns
    assert columns["face_dlib_recognised"].mean() == 0.75
    assert columns["face_dlib_recognised"][:10].tolist() == [0.0] * 10
    # Among faces found everybody is told from strangers: that is why both stand in a report.
    assert np.nanmean(columns["face_dlib_auc"]) == 1.0
    assert np.isnan(columns["face_dlib_auc"][:10]).all()


def test_a_reference_without_a_face_asks_nothing() -> None:
    rng = np.random.default_rng(0)
    references = np.ones(40)
    references[:10] = 0
    columns = face_columns(_table(np.full(40, 0.9), rng.uniform(-1, 0.5, (40, 4)), None, references)).columns
    assert np.isnan(columns["face_dlib_recognised"][:10]).all()
    assert columns["face_dlib_recognised"][10:].tolist() == [1.0] * 30
    neither = np.zeros(40)
    columns = face_columns(_table(np.full(40, 0.9), rng.uniform(-1, 0.5, (40, 4)), neither, neither)).columns
    assert all(np.isnan(columns[f"face_dlib_{word}"]).all() for word in ("auc", "recognised"))


def test_failed_samples_ask_nothing() -> None:
    table = _table(np.full(40, 0.9), np.random.default_rng(0).uniform(-1, 0.5, (40, 4)))
    for values in table.columns.values():
        values[:3] = NAN
    columns = face_columns(table).columns
    assert np.isnan(columns["face_dlib_recognised"]).sum() == np.isnan(columns["face_dlib_auc"]).sum() == 3


def test_too_few_wrong_pairs_set_no_threshold() -> None:
    for rows, is_told in ((24, False), (25, True)):
        columns = face_columns(_table(np.full(rows, 0.9), np.zeros((rows, 4)))).columns
        assert np.isnan(columns["face_dlib_recognised"]).all() != is_told


def test_every_encoder_has_columns_and_nothing_else_changes() -> None:
    table = _table(np.full(30, 0.9), np.zeros((30, 4)))
    renamed = {name.replace("dlib", "other"): values for name, values in table.columns.items() if "dlib" in name}
    both = SampleTable(table.ids, table.groups, {**table.columns, **renamed}, {})
    found = face_columns(both)
    added = {f"face_{name}_{word}" for name in ("dlib", "other") for word in ("auc", "recognised")}
    assert set(found.columns) - set(both.columns) == added
    assert all(found.columns[name] is both.columns[name] for name in both.columns)
    without = SampleTable(table.ids, table.groups, {"clip_i": np.zeros(30)}, {})
    assert set(face_columns(without).columns) == {"clip_i"}
