"""`check.json`: what a look at every picture of a dataset found."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from nigaoe.train.records.findings import Finding
from nigaoe.train.records.histograms import Histogram


class DatasetCheck(BaseModel):
    """The whole report, for machines; `report.html` shows the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    source: str
    base: str
    resolution_px: int
    """Side of the training pictures, or of a square of their area."""
    token_limit: int
    """Tokens that the text encoder reads, both ends counted."""
    rows: int
    usable_rows: int
    """Without those that are left out."""
    identities: int
    """Among usable rows; rows of which nobody said it count for themselves."""
    lone_identities: int
    """Those with one usable row."""
    captions: int
    cut_captions: int
    formats: dict[str, int]
    """Readable pictures by container, the most frequent first."""
    short_sides_px: Histogram
    aspect_ratios: Histogram
    """Width over height, in steps of a sixth of an octave."""
    caption_tokens: Histogram
    """Both ends counted."""
    rows_per_identity: Histogram
    counts: dict[str, int]
    """Findings by kind."""
    findings: list[Finding]
    """Rows in the order of the dataset."""
