"""Prepare: a dataset to cached latents, features and token ids.

A shard is written whole or not at all and named by the hash of what made it; running again makes only what is missing.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

from nigaoe.core.errors import DataError
from nigaoe.core.image_encoders import load_image_encoder
from nigaoe.core.manifests import PreparedBucket, PreparedManifest, PreparedShard, write_json
from nigaoe.train.config import ClusterConfig, DataConfig, TrainConfig
from nigaoe.train.preparing import hashes
from nigaoe.train.preparing.attempts import forget_attempts
from nigaoe.train.preparing.pipeline import encode_shards, survey_rows
from nigaoe.train.preparing.plan import Shard, fingerprint_of, plan_shards
from nigaoe.train.preparing.recipe import Recipe, recipe_of
from nigaoe.train.preparing.requirements import columns_of
from nigaoe.train.preparing.survey import THREADS
from nigaoe.train.records.reading import read_records, source_fingerprint
from nigaoe.train.records.record import Record
from nigaoe.train.records.splitting import training_records
from nigaoe.train.samples.buckets import nearest
from nigaoe.train.samples.choices import index_name, people_columns
from nigaoe.train.samples.features import PictureReader, PreparedFeatures, features_of_nothing, reading, write_features
from nigaoe.train.samples.row_files import is_whole, write_row_file


class _MadeBy(TypedDict):
    """What a shard depends on beside its rows; fields of the manifest."""

    vae_hash: str
    tokenizer_hash: str
    image_encoder_hash: str
    face_encoder_hash: str | None
    preprocessing_hash: str
    reading: str


def prepare(config: TrainConfig) -> PreparedManifest:
    """Encode a whole dataset and write its manifest; a cluster runs only while something is encoded.

    Raises:
        ConfigError: The base cannot be trained on, or the config asks for views or sizes that cannot be.
        DataError: The source is wrong, or pictures cannot be read or show no face where the variant reads one; all of
            those are listed in `bad_files.txt`.
        PreparationFailed: A worker failed for another reason.
    """
    data, recipe, listed = config.data, recipe_of(config), source_fingerprint(config.data)
    records = training_records(data)
    reader = PictureReader.load(recipe.variant, recipe.image_encoder, recipe.face_encoder, is_xl=recipe.is_xl)
    encoder = load_image_encoder(recipe.image_encoder)
    made_by = _MadeBy(
        vae_hash=hashes.vae_hash(recipe.base),
        tokenizer_hash=hashes.tokenizer_hash(recipe.base),
        image_encoder_hash=encoder.fingerprint(),
        face_encoder_hash=None if recipe.face_encoder is None else hashes.face_encoder_hash(recipe.face_encoder),
        preprocessing_hash=hashes.preprocessing_hash(recipe, reader),
        reading=reading(recipe.variant),
    )
    folder = _made(data.prepared)
    shards, bad = _plan(records, recipe, made_by, data, config.cluster)
    with ThreadPoolExecutor(THREADS) as pool:
        are_there = list(pool.map(is_whole, (folder / shard.file for shard in shards)))
    missing = [shard for shard, is_there in zip(shards, are_there, strict=True) if not is_there]
    bad += encode_shards(missing, records, recipe, folder, config.cluster)
    _tell_of_bad(bad, len(records), data)
    manifest = _manifest(config, recipe, records, shards, made_by, listed)
    nothing = features_of_nothing(recipe.variant, encoder, reader.face_encoder)
    write_features(PreparedFeatures(manifest.reading, config.face_encoder, nothing), folder, manifest.fingerprint)
    rows = [records[row] for shard in shards for row in shard.rows]
    write_row_file(people_columns(rows), folder / index_name(manifest.fingerprint))
    write_json(manifest, folder / "manifest.json")
    forget_attempts(folder)
    # What processes left that died while they wrote.
    for part in folder.glob("*.part"):
        part.unlink(missing_ok=True)
    return manifest


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"data.prepared {str(folder)!r} cannot be made ({error.strerror}); name another folder"
        ) from None
    return folder.resolve()


def _plan(
    records: Sequence[Record], recipe: Recipe, made_by: _MadeBy, data: DataConfig, cluster: ClusterConfig
) -> tuple[list[Shard], list[str]]:
    """Shards, and a line for each row whose picture has no size and so no place in any."""
    found = survey_rows(records, cluster, with_sizes=len(recipe.shapes) > 1)
    bad = [f"{record.key}: {one.problem}" for record, one in zip(records, found, strict=True) if one.problem]
    buckets = [-1 if one.problem else nearest(recipe.shapes, *one.size) if one.size is not None else 0 for one in found]
    stamps = [one.stamp for one in found]
    shards = plan_shards(
        records, stamps, buckets, recipe.shapes, dict(made_by), shard_rows=data.shard_rows, views=recipe.views
    )
    return shards, bad


def _tell_of_bad(bad: Sequence[str], rows: int, data: DataConfig) -> None:
    listing = data.prepared / "bad_files.txt"
    if not bad:
        listing.unlink(missing_ok=True)
        return
    listing.write_text("\n".join(bad) + "\n", encoding="utf-8")
    raise DataError(
        f"{bad[0]}; {len(bad)} of {rows} rows cannot be used, all listed in {str(listing)!r}; mend them, or have "
        f"`nigaoe dataset check` write a list for data.quarantine, and run again: everything else is kept"
    )


def _manifest(
    config: TrainConfig,
    recipe: Recipe,
    records: Sequence[Record],
    shards: Sequence[Shard],
    made_by: _MadeBy,
    listed: str,
) -> PreparedManifest:
    data = config.data
    counts = Counter({shard.bucket: 0 for shard in shards})
    for shard in shards:
        counts[shard.bucket] += len(shard.rows)
    # Shapes that no picture has are no buckets.
    places = {bucket: place for place, bucket in enumerate(counts)}
    return PreparedManifest(
        fingerprint=fingerprint_of(shards, records),
        source=data.source,
        source_fingerprint=listed,
        columns=columns_of(data),
        split_sha256=hashes.file_hash(data.split),
        held_out_rows=0 if data.split is None else len(read_records(data)) - len(records),
        quarantine_sha256=hashes.file_hash(data.quarantine),
        base=config.base,
        image_encoder=config.image_encoder,
        face_encoder=config.face_encoder,
        **made_by,
        resolution_px=recipe.resolution_px,
        aspect_ratios=data.aspect_ratios,
        views=recipe.views,
        augment=list(recipe.augment),
        rows=len(records),
        conditioned_rows=sum(record.condition is not None for record in records),
        identities=len({record.identity for record in records}),
        buckets=[
            PreparedBucket(height=recipe.shapes[bucket].height, width=recipe.shapes[bucket].width, rows=rows)
            for bucket, rows in counts.items()
        ],
        shards=[PreparedShard(file=shard.file, bucket=places[shard.bucket], rows=len(shard.rows)) for shard in shards],
    )
