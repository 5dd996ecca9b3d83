"""`nigaoe prepare` without its cluster: the code of its workers, one shard after the other, in this process."""

import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

from nigaoe.core.manifests import PreparedManifest
from nigaoe.train.config import ClusterConfig, TrainConfig
from nigaoe.train.preparing import prepare as preparing
from nigaoe.train.preparing.plan import Shard
from nigaoe.train.preparing.recipe import Recipe
from nigaoe.train.preparing.workers import Decoder, Job, ShardEncoder
from nigaoe.train.records.record import Record


def prepare_here(config: TrainConfig) -> float:
    """Prepare; returns the seconds of decoding and encoding, without the loading of models."""
    return prepared_here(config)[1]


def prepared_here(config: TrainConfig) -> tuple[PreparedManifest, float]:
    """Prepare; returns the manifest, and the seconds of decoding and encoding, without the loading of models."""
    spent = [0.0]

    def encode_here(
        shards: Sequence[Shard], records: Sequence[Record], recipe: Recipe, folder: Path, cluster: ClusterConfig
    ) -> list[str]:
        if not shards:
            return []
        decoder, encoder = Decoder(recipe), ShardEncoder(recipe, folder)
        start, bad = time.perf_counter(), []
        for shard in shards:
            job = Job(shard.file, shard.shape, [records[row] for row in shard.rows])
            decoded, unusable = decoder.decode(job.packed())
            if not unusable:
                encoder.write(shard.file, decoded)
            bad += unusable
        spent.append(time.perf_counter() - start)
        return bad

    with patch.object(preparing, "encode_shards", encode_here):
        return preparing.prepare(config), spent[-1]
