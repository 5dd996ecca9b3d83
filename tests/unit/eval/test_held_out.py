"""References that an adapter was trained on are refused by name; where nobody can tell, the report says so."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nigaoe.core.errors import DataError
from nigaoe.core.models import locate
from nigaoe.core.training_pictures import TRAINED_ON, TrainingPictures, digest_of
from nigaoe.eval.held_out import require_held_out
from recorded_runs import leave_run


def _picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def _references(*seeds: int) -> Iterator[tuple[str, bytes]]:
    return ((f"{seed}.png", digest_of(_picture(seed))) for seed in seeds)


def _trained(folder: Path, *seeds: int, is_all: bool = True) -> Path:
    """An adapter that was trained on some pictures."""
    return leave_run(folder, TrainingPictures.of([digest_of(_picture(seed)) for seed in seeds]), is_all=is_all)


def test_references_that_were_never_seen_pass(tmp_path: Path) -> None:
    found = require_held_out("mine", _trained(tmp_path, 1, 2, 3), _references(4, 5))
    assert (found.looked_at, found.is_known) == (2, True)
    assert found.sentence == (
        "None of 2 references is among the pictures that adapter 'mine' was trained on, by their very pixels."
    )


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ((9, 2, 8), r"1 of 3 references \('2.png'\)"),
        ((5, 4, 9, 3, 2, 1), r"5 of 6 references \('5.png', '4.png', '3.png', ...\)"),
    ],
)
def test_references_that_were_learnt_are_refused_by_name(tmp_path: Path, seeds: tuple[int, ...], said: str) -> None:
    adapter = _trained(tmp_path, 1, 2, 3, 4, 5)
    with pytest.raises(DataError, match=f"^adapter 'mine' was trained on {said}; take references") as caught:
        require_held_out("mine", adapter, _references(*seeds))
    assert "\n" not in str(caught.value)


def test_a_record_with_a_gap_refuses_what_it_has_and_claims_no_more(tmp_path: Path) -> None:
    adapter = _trained(tmp_path, 1, is_all=False)
    found = require_held_out("mine", adapter, _references(4))
    assert (found.looked_at, found.is_known) == (1, False)
    assert "as far as they are recorded: it began with another adapter" in found.sentence
    with pytest.raises(DataError, match="trained on 1 of 2"):
        require_held_out("mine", adapter, _references(4, 1))


def test_without_a_record_nothing_is_claimed() -> None:
    toy = Path(locate("toy/adapter", "adapter")) / "adapter.safetensors"
    found = require_held_out("toy", toy, _references(1))
    assert (found.looked_at, found.is_known) == (0, False)
    assert found.sentence.startswith("Whether adapter 'toy' was trained on any of the references is unknown: no ")


def test_a_damaged_record_stops_the_evaluation(tmp_path: Path) -> None:
    adapter = _trained(tmp_path, 1, 2)
    (tmp_path / TRAINED_ON).write_bytes((tmp_path / TRAINED_ON).read_bytes()[:-1])
    with pytest.raises(DataError, match=r"trained_on.bin' is damaged"):
        require_held_out("mine", adapter, _references(4))
