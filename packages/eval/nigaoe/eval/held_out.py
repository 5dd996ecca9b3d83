"""References are pictures that the adapter under test has never seen: what it learnt by heart says nothing of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nigaoe.core.errors import DataError
from nigaoe.core.training_pictures import recorded_for

NAMED = 3
"""References that a refusal names."""


@dataclass(frozen=True)
class HeldOut:
    """What a look at the references of an adapter found."""

    looked_at: int
    """References that were looked up; none where nothing is recorded."""
    is_known: bool
    """Whether all pictures that the adapter was trained on are recorded, so that none of these can be among them."""
    sentence: str
    """For the report."""


def require_held_out(adapter_name: str, adapter_path: Path, references: Iterable[tuple[str, bytes]]) -> HeldOut:
    """Look every reference up in what the adapter was trained on, by its very pixels.

    `references`: name and `digest_of` of the whole picture, as its file has it; one that was scaled or cut is found
    nowhere.

    Raises:
        DataError: The adapter was trained on some of them, or its record is damaged.
    """
    recorded = recorded_for(adapter_path)
    if recorded.pictures is None:
        return HeldOut(
            0,
            False,
            f"Whether adapter {adapter_name!r} was trained on any of the references is unknown: {recorded.gap}.",
        )
    looked_at, seen = 0, []
    for name, digest in references:
        looked_at += 1
        if recorded.pictures.holds_digest(digest):
            seen.append(name)
    if seen:
        names = ", ".join(map(repr, seen[:NAMED])) + (", ..." if len(seen) > NAMED else "")
        raise DataError(
            f"adapter {adapter_name!r} was trained on {len(seen)} of {looked_at} references ({names}); "
            f"take references that it never saw"
        )
    sentence = f"None of {looked_at} references is among the pictures that adapter {adapter_name!r} was trained on"
    if recorded.gap is not None:
        return HeldOut(looked_at, False, f"{sentence}, as far as they are recorded: {recorded.gap}.")
    return HeldOut(looked_at, True, f"{sentence}, by their very pixels.")
