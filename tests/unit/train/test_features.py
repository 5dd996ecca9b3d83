"""What each variant reads goes through preparation into batches; what it does not read is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.adapters.variants import VARIANTS, Variant, VariantName
from nigaoe.core.bases import load_base
from nigaoe.core.config import load_config
from nigaoe.core.errors import ConfigError, DataError
from nigaoe.core.faces.encoder import Face
from nigaoe.core.faces.features import adapter_face_features
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.core.image_prompts.features import image_features
from nigaoe.core.images import read_image
from nigaoe.train.config import DropConfig, TrainConfig
from nigaoe.train.preparing.requirements import require_prepared_for
from nigaoe.train.running.job import train
from nigaoe.train.running.objective import AdapterObjective
from nigaoe.train.samples import features as features_module
from nigaoe.train.samples.batches import Batch
from nigaoe.train.samples.draws import Draws
from nigaoe.train.samples.prepared import PreparedDataset
from preparing_here import prepare_here, prepared_here

PICTURES = 3


class _Faces:
    """Sees one face in every picture that is not black; who it is follows from the colours."""

    name, dim = "colours", 512

    def find(self, image: Image.Image) -> list[Face]:
        pixels = torch.from_numpy(np.asarray(image, np.float32))
        if not pixels.any():
            return []
        identity = pixels.mean(dim=(0, 1)).repeat(self.dim)[: self.dim]
        landmarks = np.array([[20.0, 24.0], [44.0, 24.0], [32.0, 36.0], [24.0, 48.0], [40.0, 48.0]])
        return [Face(identity, (8, 8, 56, 60), landmarks, 1.0)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pictures, and no model of faces."""
    for i in range(PICTURES):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    rows = "".join(f"{i}.png,a photo {i}\n" for i in range(PICTURES))
    (tmp_path / "captions.csv").write_text("ID,caption_0\n" + rows)
    monkeypatch.setattr(features_module, "load_face_encoder", lambda name: _Faces())
    return tmp_path


def _batch(dataset: PreparedDataset) -> Batch:
    """All rows of the one bucket, in the order of the dataset."""
    rows = torch.arange(PICTURES)
    assert dataset.keys(0, rows) == [f"{i}.png" for i in range(PICTURES)]
    return dataset.batch(0, rows, [torch.Generator().manual_seed(i) for i in range(PICTURES)])


def _config(folder: Path, base: Path, variant: str, **changes: Any) -> TrainConfig:
    has_face = "identity" in VARIANTS[variant].inputs if variant in VARIANTS else False
    values = {
        "name": "test",
        "out": folder / "out",
        "base": str(base),
        "image_encoder": "toy/image_encoder",
        "face_encoder": "dlib" if has_face else None,
        "data": {"source": str(folder / "captions.csv"), "prepared": folder / "prepared", "shard_rows": 2},
        "adapter": {"variant": variant},
        "steps": 1,
    }
    return TrainConfig.model_validate({**values, **changes})


def _expected(adapter: IPAdapter, encoder: ImageEncoder, folder: Path) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Features of the pictures and of none, as everybody else computes them."""
    images = [read_image(folder / f"{i}.png") for i in range(PICTURES)]
    if "identity" not in adapter.variant.inputs:
        return image_features(adapter, encoder, images)[:2]
    seen = adapter_face_features(adapter, _Faces(), images)
    return image_features(adapter, encoder, seen.crops, seen.identity)[:2]


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_variant_reads_is_prepared_and_trained_on(
    here: Path, tiny_base: Callable[[str], Path], encoder: ImageEncoder, variant: VariantName
) -> None:
    config = _config(here, tiny_base("sd"), variant)
    prepare_here(config)
    dataset = PreparedDataset.open(config.data.prepared)
    base = load_base(config.base)
    torch.manual_seed(0)
    adapter = IPAdapter.for_unet(base.unet, variant, features=dataset.features.widths, lora_rank=4)
    conditional, unconditional = _expected(adapter, encoder, here)

    batch = _batch(dataset)
    assert set(batch.features) == set(adapter.variant.inputs)
    for name, some, none in zip(adapter.variant.inputs, conditional, unconditional, strict=True):
        # Hidden states are kept as float16: 11 bits.
        torch.testing.assert_close(batch.features[name], some, rtol=2**-10, atol=1e-5)
        torch.testing.assert_close(dataset.features.unconditional[name], none)

    draws = Draws(torch.full((PICTURES,), 500), torch.randn(batch.latents.shape), torch.full((PICTURES,), 0.5))
    losses = []
    for image in (0.0, 1.0):
        drop = DropConfig(image=image, text=0, both=0)
        objective = AdapterObjective(adapter, base, drop, dataset.features.unconditional)
        losses.append(objective(batch, draws))
    losses[0].backward()
    assert all(p.grad is not None for p in adapter.parameters())
    nothing = batch._replace(features={k: v.expand_as(batch.features[k]) for k, v in _named(adapter, unconditional)})
    keep = AdapterObjective(adapter, base, DropConfig(image=0, text=0, both=0), dataset.features.unconditional)
    torch.testing.assert_close(losses[1], keep(nothing, draws))
    assert losses[0] != losses[1]


def _named(adapter: IPAdapter, features: tuple[Tensor, ...]) -> Any:
    return zip(adapter.variant.inputs, features, strict=True)


def test_pictures_without_a_face_are_listed_and_the_rest_is_kept(here: Path, tiny_base: Callable[[str], Path]) -> None:
    whole = (here / "2.png").read_bytes()
    Image.new("RGB", (64, 64)).save(here / "2.png")
    config = _config(here, tiny_base("sd"), "faceid")
    with pytest.raises(DataError, match=r"'colours' finds no face in .*2\.png.* 1 of 3 rows cannot be used"):
        prepare_here(config)
    assert "2.png" in (here / "prepared" / "bad_files.txt").read_text()
    assert len(list((here / "prepared").glob("shard-*.safetensors"))) == 1
    (here / "2.png").write_bytes(whole)
    assert prepared_here(config)[0].rows == PICTURES


def test_data_prepared_for_other_features_are_refused_by_name(here: Path, tiny_base: Callable[[str], Path]) -> None:
    base = tiny_base("sd")
    prepare_here(_config(here, base, "plus"))
    with pytest.raises(ConfigError, match=r"holds 'hidden_states', adapter.variant 'base' reads 'image_embeds'; run"):
        require_prepared_for(_config(here, base, "base"))
    prepare_here(_config(here, base, "faceid"))
    with pytest.raises(ConfigError, match="holds 'identity', adapter.variant 'portrait-unnormalised' reads 'unnorm"):
        require_prepared_for(_config(here, base, "portrait-unnormalised"))
    with pytest.raises(ConfigError, match="made with face_encoder 'dlib', the config says 'insightface'"):
        require_prepared_for(_config(here, base, "faceid", face_encoder="insightface"))
    config = _config(here, base, "faceid")
    manifest, _ = prepared_here(config)
    beside = (f"{kind}-{manifest.fingerprint}.safetensors" for kind in ("index", "features"))
    for name in (manifest.shards[0].file, *beside):
        (here / "prepared" / name).unlink()
        with pytest.raises(DataError, match=f"lacks '{name}'.*run `nigaoe prepare` again"):
            require_prepared_for(config)
        prepare_here(config)
    require_prepared_for(config)


def test_variants_that_read_the_same_share_their_data(here: Path, tiny_base: Callable[[str], Path]) -> None:
    first = prepared_here(_config(here, tiny_base("sd"), "plus"))[0].fingerprint
    assert prepared_here(_config(here, tiny_base("sd"), "full-face"))[0].fingerprint == first
    assert prepared_here(_config(here, tiny_base("sd"), "base"))[0].fingerprint != first


def test_an_adapter_to_start_from_must_be_the_one_that_is_asked_for(
    here: Path, tiny_base: Callable[[str], Path]
) -> None:
    base, start = tiny_base("sd"), here / "start.safetensors"
    unet = load_base(str(base)).unet
    prepare_here(_config(here, base, "plus"))
    save_adapter(IPAdapter.for_unet(unet, "base", features={"image_embeds": 128}), start)
    with pytest.raises(ConfigError, match="is of variant 'base', the config says 'plus'"):
        train(_config(here, base, "plus", init_from=start))
    save_adapter(IPAdapter.for_unet(unet, "plus", features={"hidden_states": 40}), start)
    with pytest.raises(ConfigError, match="reads hidden_states of width 40, the prepared dataset has 128"):
        train(_config(here, base, "plus", init_from=start))


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("adapter.variant=ip-adapter", "there is no adapter variant 'ip-adapter'; choose one of base, "),
        ("adapter={variant: full, num_tokens: 4}", "one token per patch of the picture; leave num_tokens out"),
        ("adapter.variant=faceid", "'faceid' reads an identity; name the recogniser in face_encoder"),
        ("face_encoder=dlib", "'base' reads no identity, so nothing asks 'dlib'; leave face_encoder out"),
    ],
)
def test_impossible_adapters_are_refused_by_key(tmp_path: Path, override: str, word: str) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(
        "{name: a, out: a, base: b, image_encoder: c, data: {source: d.csv, prepared: e}, steps: 1, adapter: {}}"
    )
    with pytest.raises(ConfigError, match=word) as caught:
        load_config(config, TrainConfig, [override])
    assert "\n" not in str(caught.value)


def test_published_names_are_variants(tmp_path: Path) -> None:
    kinds: dict[str, Variant] = {
        name: _config(tmp_path, tmp_path, name).adapter.kind for name in ("light", "plus-face")
    }
    assert {name: kind.name for name, kind in kinds.items()} == {"light": "base", "plus-face": "plus"}
