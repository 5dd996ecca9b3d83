"""Prepared data serve the config that made them; others are told what is different."""

import os
from collections.abc import Mapping
from pathlib import Path

from nigaoe.core.errors import ConfigError, DataError
from nigaoe.core.manifests import PreparedManifest, read_prepared
from nigaoe.core.places import everywhere, face_encoder_everywhere
from nigaoe.train.config import DataConfig, TrainConfig
from nigaoe.train.preparing import hashes
from nigaoe.train.preparing.recipe import recipe_of
from nigaoe.train.records.reading import source_fingerprint
from nigaoe.train.samples.choices import index_name
from nigaoe.train.samples.features import read_features, reading


def columns_of(data: DataConfig) -> dict[str, str | list[str] | None]:
    """What a config says of the columns of its source."""
    names = ("image_column", "condition_column", "caption_columns", "identity_column")
    return {name: getattr(data, name) for name in names}


def require_prepared_for(config: TrainConfig) -> PreparedManifest:
    """The manifest of a config's prepared data.

    Raises:
        DataError: There is none, or of another version, or a file of it is gone.
        ConfigError: This config would have made others.
    """
    manifest, data, recipe = read_prepared(config.data.prepared), config.data, recipe_of(config)
    wanted = reading(recipe.variant)
    if manifest.reading != wanted:
        raise ConfigError(
            f"the prepared dataset holds {manifest.reading!r}, adapter.variant {config.adapter.variant!r} reads "
            f"{wanted!r}; run `nigaoe prepare` with this config"
        )
    theirs_face, ours_face = manifest.face_encoder, recipe.face_encoder
    _require_equal(
        {
            "base": (everywhere(manifest.base), recipe.base),
            "image_encoder": (everywhere(manifest.image_encoder), recipe.image_encoder),
            "face_encoder": (theirs_face and face_encoder_everywhere(theirs_face), ours_face),
            "resolution_px": (manifest.resolution_px, recipe.resolution_px),
            "aspect_ratios": (manifest.aspect_ratios, data.aspect_ratios),
            "views": (manifest.views, recipe.views),
            "augment": (manifest.augment, list(recipe.augment)),
            **{name: (manifest.columns.get(name), value) for name, value in columns_of(data).items()},
        }
    )
    # Of equal names, are they what they were? The image encoder is not asked: whoever has a cache never loads it.
    face_hash = None if ours_face is None else hashes.face_encoder_hash(ours_face)
    _require_equal(
        {
            "split": (_short(manifest.split_sha256), _short(hashes.file_hash(data.split))),
            "quarantine": (_short(manifest.quarantine_sha256), _short(hashes.file_hash(data.quarantine))),
            "the content of source": (_short(manifest.source_fingerprint), _short(_listed(data, manifest))),
            "the autoencoder of the base": (manifest.vae_hash, hashes.vae_hash(recipe.base)),
            "the tokenizer of the base": (manifest.tokenizer_hash, hashes.tokenizer_hash(recipe.base)),
            "the files of face_encoder": (manifest.face_encoder_hash, face_hash),
        }
    )
    _require_whole(data.prepared, manifest)
    return manifest


def _require_whole(folder: Path, manifest: PreparedManifest) -> None:
    read_features(folder, manifest.fingerprint)
    there = set(os.listdir(folder))
    for name in (index_name(manifest.fingerprint), *(shard.file for shard in manifest.shards)):
        if name not in there:
            raise DataError(f"prepared dataset {str(folder)!r} lacks {name!r}; run `nigaoe prepare` again")


def _require_equal(pairs: Mapping[str, tuple[object, object]]) -> None:
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise ConfigError(
                f"the prepared dataset was made with {what} {theirs!r}, the config says {ours!r}; "
                f"run `nigaoe prepare` with this config"
            )


def _listed(data: DataConfig, manifest: PreparedManifest) -> str:
    """Fingerprint of the source; the one that was, where there is no source, for prepared data need none."""
    try:
        return source_fingerprint(data)
    except DataError:
        return manifest.source_fingerprint


def _short(digest: str | None) -> str | None:
    return None if digest is None else digest[:12]
