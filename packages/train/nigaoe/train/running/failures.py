"""Failures that would come again: noted beside the run, so that restarted workers leave and the driver can say why."""

import json
import re
from pathlib import Path

from nigaoe.core.errors import NigaoeError


class TrainingFailed(NigaoeError):
    """The job gave up; what it had checkpointed is kept."""


def note(out: Path, sentence: str) -> None:
    """Write down why the run cannot go on; the first one counts."""
    path = _path(out)
    if not path.exists():
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"sentence": sentence}), encoding="utf-8")
        part.replace(path)


def noted(out: Path) -> str | None:
    """Why the run cannot go on, if somebody noted it."""
    try:
        return str(json.loads(_path(out).read_text(encoding="utf-8"))["sentence"])
    except (OSError, ValueError, KeyError):
        # None there, or no storage any more: then Ray says what ended the run.
        return None


def forget(out: Path) -> None:
    """For a new attempt."""
    _path(out).unlink(missing_ok=True)


def reason(error: BaseException) -> str:
    """In a few words, what ended a run, out of what Ray says of it."""
    text = str(error)
    if "No space left on device" in text or "[Errno 28]" in text:
        return "the disk is full where checkpoints are written; make room on it"
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    # The last line of a traceback names the error; Ray's own advice may follow it.
    named = [line for line in lines if re.match(r"^[\w.]*(Error|Exception|Failed|Interrupt|Refused)\b.*:", line)]
    return (named or lines or [type(error).__name__])[-1].rstrip(".")


def _path(out: Path) -> Path:
    return out / "failure.json"
