"""Prepared data serve the config that made them; others are told what is different."""

from nigaoe.core.errors import ConfigError, DataError
from nigaoe.core.manifests import PreparedManifest, read_prepared
from nigaoe.train.config import DataConfig, TrainConfig
from nigaoe.train.features import reading
from nigaoe.train.preparing import hashes
from nigaoe.train.preparing.recipe import everywhere, recipe_of
from nigaoe.train.records.reading import source_fingerprint


def columns_of(data: DataConfig) -> dict[str, str | list[str] | None]:
    """What a config says of the columns of its source."""
    names = ("image_column", "condition_column", "caption_columns", "identity_column")
    return {name: getattr(data, name) for name in names}


def require_prepared_for(config: TrainConfig) -> PreparedManifest:
    """The manifest of a config's prepared data.

    Raises:
        DataError: There is none, or of another version.
        ConfigError: This config would have made others.
    """
    manifest, data, recipe = read_prepared(config.data.prepared), config.data, recipe_of(config)
    wanted = reading(recipe.variant)
    if manifest.reading != wanted:
        raise ConfigError(
            f"the prepared dataset holds {manifest.reading!r}, adapter.variant {config.adapter.variant!r} reads "
            f"{wanted!r}; run `nigaoe prepare` with this config"
        )
    named = {
        "base": (manifest.base, config.base),
        "image_encoder": (manifest.image_encoder, config.image_encoder),
        "face_encoder": (manifest.face_encoder, config.face_encoder),
    }
    pairs: dict[str, tuple[object, object]] = {
        what: pair for what, pair in named.items() if _everywhere(pair[0]) != _everywhere(pair[1])
    }
    pairs |= {
        "resolution_px": (manifest.resolution_px, recipe.resolution_px),
        "aspect_ratios": (manifest.aspect_ratios, data.aspect_ratios),
        "views": (manifest.views, recipe.views),
        "augment": (manifest.augment, list(recipe.augment)),
        **{name: (manifest.columns.get(name), value) for name, value in columns_of(data).items()},
        "the autoencoder of the base": (manifest.vae_hash, hashes.vae_hash(config.base)),
        "the tokenizer of the base": (manifest.tokenizer_hash, hashes.tokenizer_hash(config.base)),
        "the content of source": (
            _short(manifest.source_fingerprint),
            _short(_listed(data, manifest)),
        ),
        "split": (_short(manifest.split_sha256), _short(hashes.file_hash(data.split))),
        "quarantine": (_short(manifest.quarantine_sha256), _short(hashes.file_hash(data.quarantine))),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise ConfigError(
                f"the prepared dataset was made with {what} {theirs!r}, the config says {ours!r}; "
                f"run `nigaoe prepare` with this config"
            )
    return manifest


def _listed(data: DataConfig, manifest: PreparedManifest) -> str:
    """Fingerprint of the source; the one that was, where there is no source, for prepared data need none."""
    try:
        return source_fingerprint(data)
    except DataError:
        return manifest.source_fingerprint


def _everywhere(name: str | None) -> str | None:
    return None if name is None else everywhere(name)


def _short(digest: str | None) -> str | None:
    return None if digest is None else digest[:12]
