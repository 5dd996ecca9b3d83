"""How a batch is divided over workers, and over what each computes at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nigaoe.train.samples.division import divide


@given(st.integers(1, 300), st.integers(1, 16), st.none() | st.integers(1, 40))
def test_every_sample_is_computed_once_and_counts_alike(batch_size: int, world_size: int, most: int | None) -> None:
    division = divide(batch_size, world_size, most)
    parts = [division.part(rank, n) for rank in range(world_size) for n in range(division.accumulation)]
    assert [i for part in parts for i in part] == list(range(batch_size))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert division.micro_batch_size == max(sizes) <= (most or batch_size)
    # A mean over parts of means over samples.
    shares = [division.weight(part) / len(part) / len(parts) for part in parts if part]
    assert shares == pytest.approx([1 / batch_size] * len(shares))
    assert sum(division.weight(part) for part in parts) == pytest.approx(len(parts))


def test_equal_parts_weigh_exactly_one() -> None:
    division = divide(96, 3, 8)
    assert (division.accumulation, division.micro_batch_size) == (4, 8)
    assert {division.weight(division.part(rank, n)) for rank in range(3) for n in range(4)} == {1.0}


def test_a_batch_of_seven_over_two_workers() -> None:
    division = divide(7, 2, 2)
    assert [[division.part(rank, n) for n in range(2)] for rank in range(2)] == [
        [range(1), range(1, 3)],
        [range(3, 5), range(5, 7)],
    ]
