"""What ended a run, in a sentence."""

from pathlib import Path

import pytest

from nigaoe.train.running.failures import forget, note, noted, reason
from nigaoe.train.running.fitting import largest_that_fits


def test_the_first_failure_counts_until_it_is_forgotten(tmp_path: Path) -> None:
    assert noted(tmp_path) is None
    note(tmp_path, "first")
    note(tmp_path, "second")
    assert noted(tmp_path) == "first"
    forget(tmp_path)
    assert noted(tmp_path) is None


def test_storage_that_has_gone_notes_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("no folder any more")
    assert noted(tmp_path / "out") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Traceback (most recent call last):\n  File x\nOSError: [Errno 28] No space left on device", "disk is full"),
        ("rank 0:\nTraceback:\n  File\nValueError: seven\n\nSee the docs.", "ValueError: seven"),
        ("", "RuntimeError"),
    ],
)
def test_reasons_are_found_in_what_ray_says(text: str, said: str) -> None:
    found = reason(RuntimeError(text))
    assert said in found
    assert "\n" not in found


@pytest.mark.parametrize("limit", [0, 1, 5, 11])
def test_the_largest_that_fits_is_found_by_trying(limit: int) -> None:
    def attempt(size: int) -> None:
        if size > limit:
            raise MemoryError

    assert largest_that_fits(attempt, 12) == limit


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def attempt(size: int) -> None:
        raise RuntimeError(f"shape {size} is wrong")

    with pytest.raises(RuntimeError, match="is wrong"):
        largest_that_fits(attempt, 4)
