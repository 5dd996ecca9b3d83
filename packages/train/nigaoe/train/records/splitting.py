"""A held-out part of a dataset: whole people, chosen once, so that nothing is measured on what was learnt.

Every identity has a number in [0, 1), the hash of the seed and its name. Held out are those below a bound, which is set
when the split is made so that the share of identities fits. Neither the order nor the number of rows matters: people
who come later fall on a side by their own number, and nobody ever changes sides.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer

from nigaoe.core.errors import ConfigError, DataError
from nigaoe.core.manifests import write_json
from nigaoe.train.config import DataConfig
from nigaoe.train.records.reading import read_records
from nigaoe.train.records.record import Record


class Split(BaseModel):
    """What `nigaoe dataset split` writes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    source: str
    seed: int
    share: float = Field(gt=0, lt=1)
    """Of identities, as asked for."""
    bound: float = Field(gt=0, lt=1)
    """Identities whose number is less are held out."""
    rows: int
    held_out_rows: int
    identities: int
    held_out: frozenset[str]
    """The identities that were there and are held out."""

    @field_serializer("held_out")
    def _in_order(self, names: frozenset[str]) -> list[str]:
        return sorted(names)

    def is_held_out(self, record: Record) -> bool:
        """Whether a row, new or old, may only be measured on."""
        return record.identity in self.held_out or _number(self.seed, record.identity) < self.bound


def split_records(records: Sequence[Record], source: str, share: float, seed: int) -> Split:
    """Choose the people to be held out: the share asked for, at least one, and never everybody.

    Raises:
        DataError: There is one identity only.
    """
    numbers = {identity: _number(seed, identity) for identity in {record.identity for record in records}}
    if len(numbers) < 2:
        raise DataError(
            f"all rows of {source!r} are of one identity, so nobody can be held out; "
            f"name another column in data.identity_column"
        )
    ordered = sorted(numbers.values())
    count = min(max(1, round(share * len(ordered))), len(ordered) - 1)
    # Between the last of those held out and the first of the others; the share itself where it lies there, so that
    # people who come later are held out as often.
    bound = min(max(share, math.nextafter(ordered[count - 1], 1)), ordered[count])
    held_out = frozenset(identity for identity, number in numbers.items() if number < bound)
    return Split(
        source=source,
        seed=seed,
        share=share,
        bound=bound,
        rows=len(records),
        held_out_rows=sum(record.identity in held_out for record in records),
        identities=len(numbers),
        held_out=held_out,
    )


def require_new(path: Path) -> None:
    """Refuse to write over a split.

    Raises:
        DataError: There is a file already.
    """
    if path.exists():
        raise DataError(
            f"split {str(path)!r} is there already, and what was trained with it must not be measured by another; "
            f"use it, or give another file"
        )


def write_split(split: Split, path: Path) -> None:
    """Write a new split.

    Raises:
        DataError: There is a file already.
    """
    require_new(path)
    write_json(split, path)


def read_split(path: Path) -> Split:
    """Read a split.

    Raises:
        DataError: Missing, or not a split.
    """
    if not path.is_file():
        raise DataError(f"split {str(path)!r} does not exist; make it with `nigaoe dataset split`")
    try:
        return Split.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(
            f"split {str(path)!r} cannot be read ({error.errors()[0]['msg']}); give a file of `nigaoe dataset split`"
        ) from None


def training_records(data: DataConfig) -> list[Record]:
    """Rows that may be learnt: all of them where there is no split.

    A row that shows a held-out picture, such as the photo of somebody else's row that prompts, is left out too.

    Raises:
        DataError: The source or the split cannot be read, or everybody is held out.
    """
    records = read_records(data)
    if data.split is None:
        return records
    split = read_split(data.split)
    held_out = {picture for record in records if split.is_held_out(record) for picture in _pictures(record)}
    kept = [r for r in records if not split.is_held_out(r) and held_out.isdisjoint(_pictures(r))]
    if not kept:
        raise DataError(f"split {str(data.split)!r} holds out every row of {data.source!r}; make one for this dataset")
    return kept


def held_out_records(data: DataConfig) -> list[Record]:
    """Rows that are never learnt.

    Raises:
        ConfigError: The config names no split.
        DataError: The source or the split cannot be read, or nobody is held out.
    """
    if data.split is None:
        raise ConfigError("nobody is held out without data.split; name the file of `nigaoe dataset split` there")
    split = read_split(data.split)
    records = [record for record in read_records(data) if split.is_held_out(record)]
    if not records:
        raise DataError(f"split {str(data.split)!r} holds out no row of {data.source!r}; make one for this dataset")
    return records


def _pictures(record: Record) -> tuple[object, ...]:
    return record.image, record.condition or record.image


def _number(seed: int, identity: str) -> float:
    """In [0, 1); 48 bits, which a float holds exactly."""
    digest = hashlib.sha256(f"{seed}\0{identity}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
