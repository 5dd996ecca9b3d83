"""Every sample once, in one order, of one space."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.counted import CountedMoments
from nigaoe.eval.metrics.samples import Samples, sample_ids
from nigaoe.eval.metrics.space import FeatureSpace
from nigaoe.eval.scoring.inception import FID_INCEPTION

SPACE = FeatureSpace("toy", 4, "f00d", "64px lanczos")
X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)


def _batch(rows: list[int]) -> Samples:
    return Samples.of(SPACE, X[rows], rows)


@given(st.lists(st.lists(st.integers(0, 39), max_size=12), max_size=6))
def test_rows_depend_on_which_samples_came_alone(batches: list[list[int]]) -> None:
    whole = Samples.empty(SPACE)
    for batch in batches:
        whole = whole.merge(_batch(batch))
    seen = sorted({row for batch in batches for row in batch})
    np.testing.assert_array_equal(whole.ids, seen)
    np.testing.assert_array_equal(whole.features, X[seen])


def test_of_two_nearly_equal_rows_the_same_stays_in_either_order() -> None:
    again = Samples.of(SPACE, X[:5] * np.float32(1.00001), list(range(5)))
    one, two = _batch([0, 1, 2, 3, 4]).merge(again), again.merge(_batch([0, 1, 2, 3, 4]))
    assert len(one.ids) == 5
    np.testing.assert_array_equal(one.features, two.features)


def test_one_id_for_two_samples_is_refused() -> None:
    with pytest.raises(DataError, match="sample id 3 stands for two different samples"):
        _batch([3]).merge(Samples.of(SPACE, X[:1], [3]))


def test_rows_without_ids_are_all_kept() -> None:
    one = Samples.of(SPACE, X[:3])
    assert len(one.merge(one).ids) == 6


def test_texts_are_ids_too() -> None:
    ids = sample_ids(["anime/0001.png", "anime/0002.png", "anime/0001.png"])
    assert ids[0] == ids[2] != ids[1]
    assert ids.min() >= 0
    np.testing.assert_array_equal(sample_ids(torch.tensor([3, 1])), [3, 1])
    assert len(sample_ids([])) == 0


@pytest.mark.parametrize("ids", [[-1, 2], [0.5, 1.0], np.zeros((2, 1), np.int64)])
def test_other_ids_are_refused(ids: list[int]) -> None:
    with pytest.raises(DataError, match="whole numbers from 0"):
        sample_ids(ids)


def test_ids_and_rows_must_be_as_many() -> None:
    with pytest.raises(DataError, match="3 rows of features came with 2 sample ids"):
        Samples.of(SPACE, X[:3], [0, 1])


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (X[0], r"shape \[4\]"),
        (X[:, :3], r"expected float32 of shape \[N, 4\]"),
        (X.astype(np.float64), "features are float64"),
        (torch.from_numpy(X).half(), "features are float16"),
        (np.where(np.arange(40)[:, None] == 7, np.nan, X), "the first is row 7"),
    ],
)
def test_features_of_another_kind_are_refused(features: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Samples.of(SPACE, features)


def test_half_precision_is_kept_as_float32() -> None:
    space = FeatureSpace("toy", 4, "f00d", "64px", "bfloat16")
    assert Samples.of(space, torch.from_numpy(X).bfloat16()).features.dtype == np.float32


def test_only_the_features_of_fids_inception_are_called_fid() -> None:
    canonical = FeatureSpace("inception", 2048, FID_INCEPTION + "abcdef01", "299px")
    assert canonical.figure_name("fid", "fd") == "fid"
    assert FeatureSpace("inception", 2048, "1234", "299px").figure_name("fid", "fd") == "fd_inception"


def test_a_repeated_shard_of_moments_counts_once() -> None:
    a, b = CountedMoments.of(_batch([0, 1, 2])), CountedMoments.of(_batch([3, 4]))
    whole = a.merge(b)
    for twice in (whole.merge(a), b.merge(whole), whole.merge(whole)):
        assert twice.moments.n == 5
        np.testing.assert_array_equal(twice.moments.m2, whole.moments.m2)


def test_moments_that_overlap_in_part_are_refused() -> None:
    with pytest.raises(DataError, match="2 samples of 3 are also among the other 3"):
        CountedMoments.of(_batch([0, 1, 2])).merge(CountedMoments.of(_batch([1, 2, 3])))
