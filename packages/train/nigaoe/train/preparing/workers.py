"""The two kinds of processes that prepare: one decodes pictures on the CPU, one encodes them and writes shards."""

import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import ray
import safetensors.numpy
import torch
from torch import Tensor

from nigaoe.core.base_parts import load_autoencoder
from nigaoe.core.bases import encode_pixels
from nigaoe.core.errors import ImageError
from nigaoe.core.image_encoders import load_image_encoder
from nigaoe.core.training_pictures import DIGEST_BYTES, digest_of
from nigaoe.train.preparing.recipe import Recipe
from nigaoe.train.preparing.rows import RowReader, normalised, prompting
from nigaoe.train.records.pictures import read_picture
from nigaoe.train.records.record import Record
from nigaoe.train.samples.buckets import Shape
from nigaoe.train.samples.features import SeenPicture, asks_clip, encode_seen
from nigaoe.train.samples.row_files import is_whole, write_row_file

ENCODED_PIXELS = 2**21
"""Pixels that the autoencoder sees at once: eight pictures of 512 px, for which it needs some 5 GB in float32."""
ENCODED_CROPS = 32
"""Pictures that CLIP sees at once."""


class Job(NamedTuple):
    """A shard to be made."""

    file: str
    shape: Shape
    records: list[Record]

    def packed(self) -> bytes:
        """As it travels."""
        return pickle.dumps(self)


class Decoder:
    """Turns jobs into arrays; holds no weights but those of the face encoder."""

    def __init__(self, recipe: Recipe) -> None:
        self._reader, self._views = RowReader.load(recipe), list(range(recipe.views))

    def decode(self, packed: bytes) -> tuple[bytes, list[str]]:
        """Arrays of a packed job, packed; none, and a line for each, where there are rows that cannot be used."""
        job: Job = pickle.loads(packed)
        rows, bad = [], []
        for record in job.records:
            try:
                rows.append(self._row(record, job.shape))
            except ImageError as error:
                bad.append(f"{record.key}: {error}")
        content = b"" if bad else safetensors.numpy.save(_joined(rows, [record.key for record in job.records]))
        return content, bad

    def _row(self, record: Record, shape: Shape) -> dict[str, np.ndarray]:
        image = read_picture(record.image)
        reader, prompt = self._reader, prompting(record)
        views = reader.views(record, image, shape, self._views)
        shown = image if prompt == record.image else read_picture(prompt)
        seen = reader.see(record, shown)
        contents = [digest_of(image), bytes(DIGEST_BYTES) if shown is image else digest_of(shown)]
        arrays = {
            "pixels": views.pixels,
            "time_ids": views.time_ids,
            "token_ids": reader.token_ids(record).numpy().astype(np.int32),
            "contents": np.frombuffer(b"".join(contents), np.uint8).reshape(2, DIGEST_BYTES),
        }
        return arrays | {name: value.numpy() for name, value in seen._asdict().items() if value is not None}


def _joined(rows: list[dict[str, np.ndarray]], keys: list[str]) -> dict[str, np.ndarray]:
    """Arrays of a shard from those of its rows; captions are repeated where others have more, and never drawn."""
    counts = np.array([len(row["token_ids"]) for row in rows], np.int32)
    most = int(counts.max())
    names = [key.encode() for key in keys]
    columns = {name: np.stack([row[name] for row in rows]) for name in rows[0] if name != "token_ids"}
    return columns | {
        "token_ids": np.stack([row["token_ids"][np.arange(most) % len(row["token_ids"])] for row in rows]),
        "num_captions": counts,
        "keys": np.frombuffer(b"".join(names), np.uint8),
        "key_ends": np.cumsum([len(name) for name in names]),
    }


class ShardEncoder:
    """Encodes what was decoded and writes the shard; holds the autoencoder and CLIP."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        device = "cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu"
        self._folder = folder
        # Latents are encoded once and used for ever, so in full precision.
        self._vae = load_autoencoder(recipe.base, device)
        self._variant = recipe.variant
        self._clip = load_image_encoder(recipe.image_encoder, device) if asks_clip(recipe.variant) else None

    def write(self, file: str, decoded: bytes) -> None:
        """Write the shard of packed arrays."""
        path = self._folder / file
        # A process that died may have written the file before anybody heard of it.
        if not is_whole(path):
            write_row_file(self._encode(safetensors.numpy.load(decoded)), path)

    def _encode(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        pixels = torch.from_numpy(arrays.pop("pixels"))
        count, views, height, width, _ = pixels.shape
        at_once = max(1, ENCODED_PIXELS // (height * width))
        moments = [self._moments(part) for part in pixels.flatten(0, 1).split(at_once)]
        mean, logvar = (torch.cat(part).unflatten(0, (count, views)).numpy() for part in zip(*moments, strict=True))
        return {"latent_mean": mean, "latent_logvar": logvar, **self._read(arrays), **arrays}

    def _moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Uint8 [B, H, W, 3] to float16 [B, C, h, w]; docs/decisions/0010 says what the rounding costs."""
        mean, logvar = encode_pixels(self._vae, normalised(pixels.to(self._vae.device)))
        return mean.half().cpu(), logvar.half().cpu()

    def _read(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        crops, identities = (
            None if column is None else torch.from_numpy(column)
            for column in (arrays.pop("crop", None), arrays.pop("identity", None))
        )
        seen = [
            SeenPicture(None if crops is None else crops[i], None if identities is None else identities[i])
            for i in range(len(arrays["num_captions"]))
        ]
        parts = [
            encode_seen(self._variant, self._clip, seen[i : i + ENCODED_CROPS])
            for i in range(0, len(seen), ENCODED_CROPS)
        ]
        return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
