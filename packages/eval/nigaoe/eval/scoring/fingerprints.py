"""Hashes of feature extractors, told without loading them."""

from pathlib import Path

from nigaoe.core.errors import BaseModelError
from nigaoe.eval.scoring.efficientnet import NAME as EFFICIENTNET
from nigaoe.eval.scoring.efficientnet import WEIGHTS_SHA256
from nigaoe.eval.scoring.weights import file_fingerprint, model_fingerprint


def extractor_fingerprint(name: str) -> str:
    """Hash of what `load_extractor` loads under a name.

    Raises:
        BaseModelError: It is not there.
    """
    kind, _, where = name.partition(":")
    if name == EFFICIENTNET:
        # The one file that is taken.
        return WEIGHTS_SHA256
    if kind == "inception":
        path = Path(where).expanduser()
        if not path.is_file():
            raise BaseModelError(f"FID's Inception {where!r} does not exist; download it and give its path")
        return file_fingerprint(path)
    return model_fingerprint("toy/judge" if name == "judge" else where or name, "feature extractor")
