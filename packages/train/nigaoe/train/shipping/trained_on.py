"""Which pictures a run learns from, for whoever must not measure it on them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from nigaoe.core.manifests import PreparedManifest
from nigaoe.core.training_pictures import DIGEST_BYTES, TRAINED_ON, Recorded, TrainingPictures, recorded_for
from nigaoe.train.config import TrainConfig
from nigaoe.train.preparing.survey import THREADS
from nigaoe.train.samples.row_files import RowFile


def pictures_of_run(config: TrainConfig, prepared: PreparedManifest | None) -> Recorded:
    """All pictures that a run learns from or is prompted with, and those of the adapter that it begins with.

    Nothing is known without a cache: a picture would have to be decoded before training to know its content.

    Raises:
        DataError: A shard is damaged, or the record of the adapter that it begins with.
    """
    if prepared is None or prepared.version < 3:
        return Recorded(None, "its data had no record of them")
    own = _prepared_pictures(config.data.prepared, prepared)
    if config.init_from is None:
        return Recorded(own, None)
    before = recorded_for(config.init_from)
    return Recorded(own if before.pictures is None else own.joined(before.pictures), before.gap)


def leave_record(recorded: Recorded, out: Path) -> None:
    """Write the record of a run into its folder; one of an earlier end goes where nothing is known now."""
    if recorded.pictures is None:
        (out / TRAINED_ON).unlink(missing_ok=True)
    else:
        recorded.pictures.write(out / TRAINED_ON)


def _prepared_pictures(folder: Path, manifest: PreparedManifest) -> TrainingPictures:
    def contents(file: str) -> np.ndarray:
        return RowFile(folder / file).read("contents")

    with ThreadPoolExecutor(THREADS) as pool:
        columns = list(pool.map(contents, [shard.file for shard in manifest.shards]))
    digests = np.concatenate(columns).reshape(-1, DIGEST_BYTES)
    # Zeros stand where the picture that prompts is no other.
    return TrainingPictures(digests[digests.any(axis=1)])
