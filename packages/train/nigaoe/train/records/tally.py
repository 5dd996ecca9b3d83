"""Adds up looks, row after row, in memory that grows by some hundred bytes a row and never holds a picture."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nigaoe.train.records.check_report import DatasetCheck
from nigaoe.train.records.findings import LEAST_SEEN, MAX_ENLARGEMENT, Finding, is_left_out
from nigaoe.train.records.histograms import Histogram, histogram
from nigaoe.train.records.looking import Look, RowLook
from nigaoe.train.records.record import Record
from nigaoe.train.samples.buckets import Shape, nearest

ASPECT_STEPS = 6
"""Bins of aspect ratio per octave."""
ASPECT_OCTAVES = 2
"""Octaves to either side of the square; what is beyond counts to the outermost bins."""


@dataclass(frozen=True)
class Demands:
    """What a training config asks of pictures and captions."""

    resolution_px: int
    """Side of the square, or of a square of the area of the other shapes."""
    shapes: Sequence[Shape]
    """What pictures are cut to, each to the nearest."""
    token_limit: int
    """Both ends counted."""

    def enlargement(self, look: Look) -> float:
        """How many times larger the picture has to become to cover its shape."""
        shape = self._shape(look)
        return max(shape.height / look.height, shape.width / look.width)

    def seen(self, look: Look) -> float:
        """Share of the picture that remains after the cut."""
        shape = self._shape(look)
        return shape.height * shape.width / (self.enlargement(look) ** 2 * look.height * look.width)

    def _shape(self, look: Look) -> Shape:
        return self.shapes[nearest(self.shapes, look.height, look.width)]


@dataclass(frozen=True)
class _First:
    """The row that showed a picture first."""

    record: Record
    content: bytes
    """Digest of its file."""


class Tally:
    """What is known after the rows so far; rows come in the order of the dataset."""

    def __init__(self, demands: Demands) -> None:
        self.findings: list[Finding] = []
        self._demands = demands
        self._rows = self._usable = self._captions = self._cut = 0
        self._firsts: dict[bytes, _First] = {}
        self._saying: dict[bytes, tuple[str, str, int]] = {}
        self._identities: Counter[str] = Counter()
        self._formats: Counter[str] = Counter()
        self._short_sides: Counter[int] = Counter()
        self._aspects: Counter[int] = Counter()
        self._tokens: Counter[int] = Counter()

    def add(self, record: Record, look: RowLook, tokens: Sequence[int]) -> None:
        """Count a row; `tokens`: lengths of its captions, both ends counted."""
        self._rows += 1
        found = [
            *self._of_picture("", look.image),
            *(self._of_picture("its condition: ", look.condition) if look.condition else ()),
            *self._of_captions(record, tokens),
        ]
        if look.image.failure is None:
            self._measure(look.image)
        if not any(is_left_out(kind) for kind, _ in found):
            found += self._of_others(record, look)
        self.findings += [Finding(kind, record.key, reason) for kind, reason in found]
        if not any(is_left_out(kind) for kind, _ in found):
            self._usable += 1
            self._identities[record.identity] += 1
            self._count_saying(record)

    def result(self, source: str, base: str) -> DatasetCheck:
        """The report of all rows."""
        findings = [*self.findings, *self._same_captions()]
        counts = Counter(finding.kind for finding in findings)
        return DatasetCheck(
            source=source,
            base=base,
            resolution_px=self._demands.resolution_px,
            token_limit=self._demands.token_limit,
            rows=self._rows,
            usable_rows=self._usable,
            identities=len(self._identities),
            lone_identities=sum(count == 1 for count in self._identities.values()),
            captions=self._captions,
            cut_captions=self._cut,
            formats=dict(self._formats.most_common()),
            short_sides_px=histogram(self._short_sides),
            aspect_ratios=self._aspect_histogram(),
            caption_tokens=histogram(self._tokens),
            rows_per_identity=histogram(Counter(self._identities.values())),
            counts=dict(counts),
            findings=findings,
        )

    def _of_picture(self, whose: str, look: Look) -> Iterator[tuple[str, str]]:
        if look.failure:
            yield look.failure.kind, whose + look.failure.reason
            return
        size = f"{look.width}x{look.height} px"
        enlargement = self._demands.enlargement(look)
        # A condition is shrunk to what an image encoder reads; its size is nobody's demand.
        if not whose and enlargement > 1:
            kind = "tiny" if enlargement > MAX_ENLARGEMENT else "small"
            yield kind, f"{size}, to be enlarged {enlargement:.3g} times"
        # Image encoders read squares.
        seen = min(look.width, look.height) / max(look.width, look.height) if whose else self._demands.seen(look)
        if seen < LEAST_SEEN:
            yield "extreme_aspect", f"{whose}{size}, of which {seen:.0%} are seen"
        for trait in look.traits:
            yield trait.kind, whose + trait.reason

    def _of_captions(self, record: Record, tokens: Sequence[int]) -> Iterator[tuple[str, str]]:
        said = [length for caption, length in zip(record.captions, tokens, strict=True) if caption.strip()]
        self._captions += len(said)
        self._tokens.update(said)
        if not said:
            yield "no_caption", "no caption, or an empty one"
        limit = self._demands.token_limit
        cut = [length for length in said if length > limit]
        self._cut += len(cut)
        if cut:
            which = "its caption" if len(said) == 1 else f"{len(cut)} of its {len(said)} captions"
            yield "cut_caption", f"{which}: up to {max(cut)} tokens where {limit} are read"

    def _of_others(self, record: Record, look: RowLook) -> Iterator[tuple[str, str]]:
        """Whether an earlier row shows the same picture, prompted by the same one."""
        shown = look.image.pixels + (look.condition.pixels if look.condition else b"")
        this = _First(record, look.image.content)
        first = self._firsts.setdefault(shown, this)
        if first.record.image == record.image and first.record.captions != record.captions:
            # A list may name one picture once for each of its captions.
            first = self._firsts.setdefault(shown + _saying(record), this)
        if first is this:
            return
        key, theirs, ours = first.record.key, _said_identity(first.record), _said_identity(record)
        how = "the same file as" if first.content == look.image.content else "the same pixels as"
        if theirs and ours and theirs != ours:
            yield "identity_conflict", f"{how} {key!r} of {theirs!r}; this row says {ours!r}"
        else:
            yield "duplicate", f"{how} {key!r}"

    def _measure(self, look: Look) -> None:
        self._formats[look.format] += 1
        self._short_sides[min(look.width, look.height)] += 1
        octaves = math.log2(look.width / look.height)
        self._aspects[round(max(-ASPECT_OCTAVES, min(octaves, ASPECT_OCTAVES)) * ASPECT_STEPS)] += 1

    def _count_saying(self, record: Record) -> None:
        digest = _saying(record)
        key, caption, count = self._saying.get(digest, (record.key, record.captions[0], 0))
        self._saying[digest] = key, caption, count + 1

    def _same_captions(self) -> Iterator[Finding]:
        for key, caption, count in self._saying.values():
            if count > 1:
                yield Finding("same_captions", key, f"{count} rows from this one on say {caption!r}")

    def _aspect_histogram(self) -> Histogram:
        outermost = ASPECT_OCTAVES * ASPECT_STEPS
        steps = range(-outermost, outermost + 1)
        edges = [2 ** ((step - 0.5) / ASPECT_STEPS) for step in (*steps, outermost + 1)]
        return Histogram(edges=edges, counts=[self._aspects[step] for step in steps], is_open=True)


def _saying(record: Record) -> bytes:
    """Digest of its captions, in any order."""
    return hashlib.blake2b("\0".join(sorted(record.captions)).encode(), digest_size=16).digest()


def _said_identity(record: Record) -> str:
    """Empty where nobody said: then it is the key, less what tells apart the rows of one picture."""
    return "" if record.identity == record.key.partition("#")[0] or record.identity == record.key else record.identity
