"""What can be wrong or odd about a row, and what becomes of the row."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """What a finding means for its row."""

    left_out = "left out"
    """The row cannot be learnt from; it goes on the quarantine list."""
    look = "worth a look"
    """Kept, but it may teach what nobody wants."""
    handled = "handled"
    """Kept; reading does the right thing."""


@dataclass(frozen=True)
class Kind:
    """One kind of finding."""

    title: str
    severity: Severity
    meaning: str
    """Why it matters, or what is done about it; a sentence for people."""


@dataclass(frozen=True)
class Finding:
    """Something about one row."""

    kind: str
    """A key of `KINDS`."""
    key: str
    """Of the row."""
    reason: str


MAX_ENLARGEMENT = 2.0
"""A picture that has to be enlarged more than this is left out: three quarters of its pixels would be invented, and an
adapter would learn to draw their blur."""
LEAST_SEEN = 0.4
"""Share of a picture that remains after the cut to the training shape; a square remains of 1:2.5."""

KINDS = {
    "missing": Kind("Missing", Severity.left_out, "There is no such file, or it may not be read."),
    "unreadable": Kind("Not a picture", Severity.left_out, "No decoder knows what these files are."),
    "damaged": Kind("Damaged", Severity.left_out, "They begin as pictures and cannot be decoded to their end."),
    "too_large": Kind("Too large", Severity.left_out, "Decoding them would take more memory than reading allows."),
    "tiny": Kind(
        "Tiny",
        Severity.left_out,
        f"They would have to be enlarged more than {MAX_ENLARGEMENT:g} times: "
        "most of what is learnt from them would be blur.",
    ),
    "no_caption": Kind("Without caption", Severity.left_out, "Nothing is said of them, so nothing can be asked."),
    "duplicate": Kind(
        "Duplicate",
        Severity.left_out,
        "The same picture as an earlier row. Twice as often seen is twice as well remembered, "
        "and copies end up on both sides of a split.",
    ),
    "identity_conflict": Kind(
        "Two identities",
        Severity.left_out,
        "The same picture as an earlier row, but said to be of somebody else. One of the two is wrong: see which.",
    ),
    "small": Kind("Small", Severity.look, "They are enlarged to the training size, and teach some of the blur."),
    "extreme_aspect": Kind(
        "Extreme aspect ratio",
        Severity.look,
        f"Less than {LEAST_SEEN:.0%} of each remains after the cut to the training shape; what is said may be gone.",
    ),
    "animated": Kind("Animated", Severity.look, "Only their first frame is read."),
    "cut_caption": Kind("Caption cut", Severity.look, "The text encoder never reads what lies beyond its last token."),
    "same_captions": Kind(
        "Same captions",
        Severity.look,
        "Several pictures share every word: what tells them apart is left to the image prompt.",
    ),
    "rotated": Kind("Turned by EXIF", Severity.handled, "Stored lying and turned upright when read."),
    "cmyk": Kind("CMYK", Severity.handled, "Made for print; converted to RGB when read."),
    "transparent": Kind("Transparent", Severity.handled, "Laid over white when read."),
    "deep": Kind("More than 8 bits", Severity.handled, "Scaled down to 8 bits per channel when read."),
    "grey": Kind("Greyscale", Severity.handled, "Read as RGB. Where they are many, the adapter learns grey pictures."),
}
"""By name, the gravest first."""


def is_left_out(kind: str) -> bool:
    """Whether a row with such a finding goes on the quarantine list."""
    return KINDS[kind].severity is Severity.left_out
