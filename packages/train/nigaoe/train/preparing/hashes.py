"""What encodes pictures, by hash: two preparations of equal hashes give the same shards."""

import hashlib
import json
from pathlib import Path

from nigaoe.core.base_parts import load_autoencoder, load_tokenizers
from nigaoe.core.errors import DataError
from nigaoe.core.models import fingerprint
from nigaoe.train.preparing.recipe import VERSION, Recipe
from nigaoe.train.samples.features import PictureReader


def vae_hash(base: str) -> str:
    """Of the autoencoder's weights and of what its settings do to them.

    Raises:
        BaseModelError: It cannot be found.
    """
    return fingerprint(load_autoencoder(base))


def tokenizer_hash(base: str) -> str:
    """Of the tokenizers of a base.

    Raises:
        BaseModelError: One of them cannot be found.
    """
    said = [[one.get_vocab(), one.model_max_length, one.pad_token, one.eos_token] for one in load_tokenizers(base)]
    return _hash(said)


def face_encoder_hash(name: str) -> str:
    """Of the files that a face encoder is loaded from; of its name where they are a package's own."""
    _, _, where = name.partition(":")
    place = Path(where).expanduser() if where else Path()
    files = sorted(place.rglob("*.onnx")) if where and place.is_dir() else [place] if where and place.is_file() else []
    digest = hashlib.sha256(name.partition(":")[0].encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def preprocessing_hash(recipe: Recipe, reader: PictureReader) -> str:
    """Of all that is done to a picture before an encoder sees it, but for the shape of its bucket."""
    return _hash([VERSION, recipe.views, recipe.augment, reader.processor.to_dict(), reader.face_side])


def file_hash(path: Path | None) -> str | None:
    """SHA-256 of a file of the config; None where it names none.

    Raises:
        DataError: It is not there.
    """
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read ({error.strerror}); mend the path in the config") from None


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
