"""Prepare: pictures and captions to cached latents, features and token ids, shard by shard on Ray Data.

A shard is written whole or not at all and named by the hash of what made it; running again makes only what is missing.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from nigaoe.core.adapters.variants import variant_named
from nigaoe.core.bases import Base, load_base
from nigaoe.core.errors import DataError, ImageError
from nigaoe.core.manifests import PreparedManifest, PreparedShard, write_json
from nigaoe.core.models import fingerprint
from nigaoe.core.pixels import centre_crop, to_tensor
from nigaoe.train.config import TrainConfig
from nigaoe.train.datasets import Record, read_records
from nigaoe.train.features import FeatureEncoder, PreparedFeatures, SeenPicture, reading, write_features
from nigaoe.train.trainable import require_trainable

ENCODE_BATCH = 32


def prepare(config: TrainConfig) -> PreparedManifest:
    """Encode a whole dataset and write its manifest.

    Raises:
        ConfigError: The base cannot be trained on.
        DataError: The captions file is wrong, or pictures cannot be read or show no face where the variant reads
            one; all of those are listed in `bad_files.txt`.
    """
    data = config.data
    records = read_records(data.source, data.image_root, data.caption_columns)
    require_trainable(config.base)
    base = load_base(config.base)
    variant = config.adapter.kind
    encoder = FeatureEncoder.load(variant, config.image_encoder, config.face_encoder)
    settings: dict[str, Any] = {
        "base": config.base,
        "image_encoder": config.image_encoder,
        "resolution_px": data.resolution_px or base.default_size_px,
        "captions": max(len(record.captions) for record in records),
        "encoder_hash": encoder.image_encoder.fingerprint(),
        "vae_hash": fingerprint(base.vae),
    }
    if reading(variant) != "image_embeds":
        # Only then, so that shards from before there was a choice are found again.
        settings |= {"reading": reading(variant), "face_encoder": config.face_encoder}
    identities = {name: i for i, name in enumerate(dict.fromkeys(record.identity for record in records))}
    shards = _plan(records, identities, data.shard_rows, settings)
    bad = _encode_missing(shards, settings, config)
    if bad:
        listing = data.prepared / "bad_files.txt"
        listing.write_text("\n".join(bad) + "\n", encoding="utf-8")
        raise DataError(
            f"{bad[0]}; {len(bad)} of {len(records)} pictures cannot be used, all listed in {str(listing)!r}; "
            f"mend or remove them and run again, everything else is kept"
        )
    manifest = PreparedManifest(
        source=str(data.source),
        captions_sha256=hashlib.sha256(data.source.read_bytes()).hexdigest(),
        fingerprint=_hash([shard["file"] for shard in shards]),
        base=config.base,
        image_encoder=config.image_encoder,
        image_encoder_hash=settings["encoder_hash"],
        resolution_px=settings["resolution_px"],
        rows=len(records),
        identities=len(identities),
        shards=[PreparedShard(file=shard["file"], rows=len(shard["rows"])) for shard in shards],
    )
    features = PreparedFeatures(reading(variant), config.face_encoder, encoder.of_nothing())
    write_features(features, data.prepared, manifest.fingerprint)
    write_json(manifest, data.prepared / "manifest.json")
    return manifest


def _plan(
    records: Sequence[Record], identities: dict[str, int], shard_rows: int, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Cut the records into shards; a shard's file name holds the hash of its content and settings."""
    shards = []
    for start in range(0, len(records), shard_rows):
        rows: list[dict[str, Any]] = [
            {"image": str(r.image.resolve()), "captions": list(r.captions), "identity": identities[r.identity]}
            for r in records[start : start + shard_rows]
        ]
        stamps = [_stamp(Path(row["image"])) for row in rows]
        shards.append(
            {"file": f"shard-{start // shard_rows:05d}-{_hash([settings, rows, stamps])}.safetensors", "rows": rows}
        )
    return shards


def _stamp(path: Path) -> list[int]:
    if not path.is_file():
        return []
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _encode_missing(shards: Sequence[dict[str, Any]], settings: dict[str, Any], config: TrainConfig) -> list[str]:
    """Encode the shards whose files do not exist; returns one line per unusable picture."""
    folder = config.data.prepared
    folder.mkdir(parents=True, exist_ok=True)
    missing = [shard for shard in shards if not (folder / shard["file"]).is_file()]
    total = sum(len(shard["rows"]) for shard in missing)
    bad: list[str] = []
    # One bar is enough: Ray's own tells of blocks and object stores.
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    with tqdm(total=total, desc="prepare", unit="image", disable=not missing) as bar:
        if missing:
            cluster = config.cluster
            jobs = [{"job": json.dumps(shard)} for shard in missing]
            results = ray.data.from_items(jobs, override_num_blocks=len(jobs)).map_batches(
                ShardEncoder,
                fn_constructor_args=(settings, config.adapter.variant, config.face_encoder, str(folder.resolve())),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(cluster.num_workers, len(jobs))),
                num_cpus=cluster.cpus_per_worker,
                num_gpus=1 if cluster.use_gpu else None,
            )
            for row in results.iter_rows():
                bar.update(int(row["rows"]))
                bad += json.loads(row["bad"])
    return bad


class ShardEncoder:
    """A Ray Data actor: holds the frozen encoders, writes one shard per call."""

    def __init__(self, settings: dict[str, Any], variant: str, face_encoder: str | None, folder: str) -> None:
        self.folder = Path(folder)
        # Latents are encoded once and used for ever, so in full precision.
        device = "cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu"
        self.settings = settings
        self.base: Base = load_base(settings["base"], device=device)
        self.encoder = FeatureEncoder.load(variant_named(variant), settings["image_encoder"], face_encoder, device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Encode the shard of a one-row batch."""
        shard = json.loads(str(batch["job"][0]))
        parts: list[dict[str, Tensor]] = []
        bad: list[str] = []
        for start in range(0, len(shard["rows"]), ENCODE_BATCH):
            parts += self._encode(shard["rows"][start : start + ENCODE_BATCH], bad)
        if not bad:
            path = self.folder / shard["file"]
            columns = {key: torch.cat([part[key] for part in parts]).contiguous() for key in parts[0]}
            save_file(columns, path.with_suffix(".part"))
            path.with_suffix(".part").chmod(0o644)
            path.with_suffix(".part").replace(path)
        return {"rows": [len(shard["rows"])], "bad": [json.dumps(bad)]}

    def _encode(self, rows: list[dict[str, Any]], bad: list[str]) -> list[dict[str, Tensor]]:
        pictures: list[SeenPicture] = []
        for row in rows:
            try:
                pictures.append(self.encoder.read(Path(row["image"])))
            except ImageError as error:
                bad.append(str(error))
        if bad:
            return []
        side = self.settings["resolution_px"]
        mean, logvar = self.base.encode_images(
            torch.stack([to_tensor(centre_crop(seen.image, side)) for seen in pictures])
        )
        count = self.settings["captions"]
        ids = [self.base.text_encoder.tokenize(row["captions"]) for row in rows]
        return [
            {
                "latent_mean": mean.half().cpu(),
                "latent_logvar": logvar.half().cpu(),
                **self.encoder.encode(pictures),
                "token_ids": torch.stack([_repeat_rows(i, count) for i in ids]).to(torch.int32),
                "num_captions": torch.tensor([len(i) for i in ids]),
                "identity": torch.tensor([row["identity"] for row in rows]),
            }
        ]


def _repeat_rows(ids: Tensor, count: int) -> Tensor:
    """Pad [k, T] to [count, T]; the padding is never drawn."""
    return ids[torch.arange(count) % len(ids)].contiguous()
