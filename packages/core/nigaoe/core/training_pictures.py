"""Which pictures an adapter was trained on, by content: `trained_on.bin` beside it. No torch here.

The file holds the digests of the pictures, 16 bytes each, sorted, each once, and nothing else. It speaks of the adapter
alone: what its base saw before is not known here.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from nigaoe.core.adapters.fetching import MANIFEST, WEIGHTS
from nigaoe.core.atomic import write_whole
from nigaoe.core.errors import DataError
from nigaoe.core.images import to_rgb
from nigaoe.core.manifests import read_adapter_manifest
from nigaoe.core.transfers import sha256_of

TRAINED_ON = "trained_on.bin"
DIGEST_BYTES = 16
# Numpy compares such values whole, but cuts zeros off the end of one that is taken out of its array: none is.
_DIGEST = np.dtype(f"S{DIGEST_BYTES}")


def digest_of(image: Image.Image) -> bytes:
    """Of size and pixels, upright RGB: equal for one picture in two lossless containers, another one for any other."""
    upright = to_rgb(ImageOps.exif_transpose(image))
    digest = hashlib.blake2b(f"{upright.width}x{upright.height}:".encode(), digest_size=DIGEST_BYTES)
    digest.update(upright.tobytes())
    return digest.digest()


class TrainingPictures:
    """A set of pictures, of which only digests are known."""

    def __init__(self, digests: np.ndarray) -> None:
        """`digests`: uint8 [N, 16], in any order."""
        self._sorted: np.ndarray = np.unique(np.ascontiguousarray(digests, np.uint8).reshape(-1).view(_DIGEST))

    @classmethod
    def of(cls, digests: Sequence[bytes]) -> "TrainingPictures":
        """From what `digest_of` gives."""
        return cls(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES))

    @classmethod
    def read(cls, path: Path, sha256: str | None = None) -> "TrainingPictures":
        """Read a file; `sha256`: what it must have, where somebody says it.

        Raises:
            DataError: Missing or damaged, or another file.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"record of training pictures {str(path)!r} cannot be read ({error.strerror}); copy it there"
            ) from None
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise _damaged(path, f"it is not the file that {MANIFEST} beside it speaks of")
        if not content or len(content) % DIGEST_BYTES:
            raise _damaged(path, f"it has {len(content)} bytes, not {DIGEST_BYTES} for each picture")
        stored = np.frombuffer(content, _DIGEST)
        if not (stored[1:] > stored[:-1]).all():
            raise _damaged(path, "its digests are not sorted")
        return cls(stored.view(np.uint8))

    def __len__(self) -> int:
        return len(self._sorted)

    def holds(self, image: Image.Image) -> bool:
        """Whether the very pixels of a picture are among them; a copy that was scaled, cut or saved as JPEG is not."""
        return self.holds_digest(digest_of(image))

    def holds_digest(self, digest: bytes) -> bool:
        """The same by what `digest_of` gives."""
        wanted = np.frombuffer(digest, _DIGEST)
        place = int(np.searchsorted(self._sorted, wanted)[0])
        return bool((self._sorted[place : place + 1] == wanted).any())

    def joined(self, other: "TrainingPictures") -> "TrainingPictures":
        """The pictures of both."""
        return TrainingPictures(np.concatenate([self._sorted, other._sorted]).view(np.uint8))

    @property
    def sha256(self) -> str:
        """Of the file that `write` makes."""
        return hashlib.sha256(self._sorted.tobytes()).hexdigest()

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_whole(path, self._sorted.tobytes())


@dataclass(frozen=True)
class Recorded:
    """What is known of the pictures that an adapter was trained on."""

    pictures: TrainingPictures | None
    """None where nothing is recorded."""
    gap: str | None
    """Why there are or may be others, as the second half of a sentence; None where these are all."""


def recorded_for(adapter: Path) -> Recorded:
    """What lies beside an adapter file, or in the folder of a run.

    Raises:
        DataError: The record is damaged, or the manifest that speaks of it.
    """
    weights = adapter / WEIGHTS if adapter.is_dir() else adapter
    described = weights.with_name(MANIFEST)
    if not weights.is_file() or not described.is_file():
        return Recorded(None, f"no {MANIFEST} lies beside its weights")
    manifest = read_adapter_manifest(described)
    if manifest.sha256 != sha256_of(str(weights)):
        return Recorded(None, f"the {MANIFEST} beside its weights speaks of another file")
    training = manifest.training
    if training is None or training.trained_on_sha256 is None:
        return Recorded(None, f"its {MANIFEST} names none")
    path = weights.with_name(TRAINED_ON)
    if not path.is_file():
        return Recorded(None, f"no {TRAINED_ON} lies beside its weights")
    pictures = TrainingPictures.read(path, training.trained_on_sha256)
    gap = "it began with another adapter, whose training pictures are not recorded"
    return Recorded(pictures, None if training.trained_on_is_all else gap)


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"record of training pictures {str(path)!r} is damaged ({reason}); copy it again from the folder of the run"
    )
