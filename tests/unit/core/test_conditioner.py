"""From references to image prompts: what is remembered, crops, stored embeddings, negatives, faces."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.variants import VARIANTS, Feature
from nigaoe.core.bases import Base
from nigaoe.core.engine.rows import GuidedImagePrompt
from nigaoe.core.errors import AdapterError
from nigaoe.core.faces.alignment import align, template
from nigaoe.core.faces.encoder import Face, FaceNotFoundError
from nigaoe.core.faces.features import adapter_face_features
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.core.image_prompts.conditioner import Conditioner, Reference
from nigaoe.core.image_prompts.crops import CropMode, crop_reference, mean_colour
from nigaoe.core.image_prompts.embedding_files import StoredEmbeddings, load_embeddings, save_embeddings
from nigaoe.core.image_prompts.features import ImageFeatures, image_features
from nigaoe.core.image_prompts.noise import noise_picture
from nigaoe.core.image_prompts.prompt import PromptScales, guided_image_prompt
from tiny_worlds import moved_adapter

IDENTITY = 4


def _adapter(base: Base, encoder: ImageEncoder, variant: str, seed: int = 0) -> IPAdapter:
    return moved_adapter(base, encoder, variant, identity=IDENTITY, rank=2, seed=seed)


@pytest.fixture(scope="module")
def plus(base: Base, encoder: ImageEncoder) -> IPAdapter:
    return _adapter(base, encoder, "plus")


def _picture(seed: int, width: int = 96, height: int = 96) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def _same(a: GuidedImagePrompt, b: GuidedImagePrompt) -> bool:
    return all(
        x.shape == y.shape and torch.allclose(x, y, atol=1e-5)
        for ours, theirs in ((a.conditional, b.conditional), (a.unconditional, b.unconditional))
        for x, y in zip(ours.keys + ours.values, theirs.keys + theirs.values, strict=True)
    )


# What is remembered.


def test_the_same_picture_is_encoded_once(encoder: ImageEncoder, adapter: IPAdapter, plus: IPAdapter) -> None:
    conditioner = Conditioner(encoder)
    reference = Reference(images=(_picture(1),))
    first = conditioner.prompt(adapter, reference)
    assert (conditioner.prompt_cache.hits, conditioner.prompt_cache.misses) == (0, 1)
    # The picture, and none.
    assert (conditioner.feature_cache.hits, conditioner.feature_cache.misses) == (0, 2)

    again = conditioner.prompt(adapter, Reference(images=(_picture(1),)))
    assert again.conditional.keys[0] is first.conditional.keys[0], "nothing was made again"
    assert (conditioner.prompt_cache.hits, conditioner.prompt_cache.misses) == (1, 1)

    louder = conditioner.prompt(adapter, replace(reference, scales=PromptScales(scale=2.0)))
    assert not _same(louder, first)
    conditioner.prompt(plus, reference)
    assert (conditioner.prompt_cache.hits, conditioner.prompt_cache.misses) == (1, 3)
    assert (conditioner.feature_cache.hits, conditioner.feature_cache.misses) == (4, 2), "both were seen already"
    assert conditioner.prompt_cache.entries == 3

    conditioner.prompt(adapter, Reference(images=(_picture(2),)))
    assert (conditioner.feature_cache.hits, conditioner.feature_cache.misses) == (5, 3)


def test_adapters_are_told_apart_by_their_weights(base: Base, encoder: ImageEncoder) -> None:
    conditioner, reference = Conditioner(encoder), Reference(images=(_picture(1),))
    one, copy, other = (_adapter(base, encoder, "base", seed) for seed in (0, 0, 1))
    first = conditioner.prompt(one, reference)
    assert conditioner.prompt(copy, reference).conditional.keys[0] is first.conditional.keys[0]
    assert not _same(conditioner.prompt(other, reference), first)


def test_a_mask_is_of_the_request_and_not_remembered(encoder: ImageEncoder, adapter: IPAdapter) -> None:
    conditioner, mask = Conditioner(encoder), torch.rand(96, 96)
    masked = conditioner.prompt(adapter, Reference(images=(_picture(1),), mask=mask))
    plain = conditioner.prompt(adapter, Reference(images=(_picture(1),)))
    assert conditioner.prompt_cache.hits == 1
    assert masked.mask is mask
    assert plain.mask is None


def test_memories_keep_to_their_bounds_and_stay_right(encoder: ImageEncoder, adapter: IPAdapter) -> None:
    seen = encoder.look([_picture(0)])
    bytes_each = 4 * (seen.image_embeds.numel() + seen.hidden_states.numel())
    small = Conditioner(encoder, feature_bytes=3 * bytes_each, prompt_bytes=0)
    for seed in (1, 2, 3, 4, 1):
        reference = Reference(images=(_picture(seed),))
        assert _same(small.prompt(adapter, reference), Conditioner(encoder).prompt(adapter, reference))
        assert small.feature_cache.size_bytes <= small.feature_cache.limit_bytes == 3 * bytes_each
    assert small.feature_cache.entries == 3
    assert small.feature_cache.misses == 6, "the first picture was forgotten, that of nothing was not"
    assert (small.prompt_cache.entries, small.prompt_cache.hits, small.prompt_cache.misses) == (0, 0, 5)


# Crops.


def test_every_crop_shows_something_else(encoder: ImageEncoder, adapter: IPAdapter) -> None:
    conditioner, wide = Conditioner(encoder), _picture(1, 240, 100)
    kinds: list[dict[str, Any]] = [
        *({"crop": crop} for crop in ("centre", "pad", "resize", "tile")),
        {"crop": "centre", "crop_position": (0.0, 0.5)},
    ]
    prompts = [conditioner.prompt(adapter, Reference(images=(wide,), **kind)) for kind in kinds]
    assert not any(_same(a, b) for i, a in enumerate(prompts) for b in prompts[:i])
    # Three squares of 96 px cover 230 px.
    assert [prompt.conditional.num_tokens // adapter.num_tokens for prompt in prompts] == [1, 1, 1, 3, 1]
    by_hand = guided_image_prompt(adapter, image_features(adapter, encoder, [wide]))
    assert _same(prompts[0], by_hand), "the centre is what the encoder takes by itself"


@pytest.mark.parametrize("crop", ["pad", "resize", "tile"])
def test_a_crop_is_seen_as_it_is(encoder: ImageEncoder, adapter: IPAdapter, crop: CropMode) -> None:
    """Borders in the colour that this encoder takes for nothing, whatever its means are."""
    means = [0.2, 0.4, 0.6]
    processor = CLIPImageProcessorPil(**{**encoder.processor.to_dict(), "image_mean": means})
    other = ImageEncoder("other", encoder.model, processor, encoder.device)
    wide = _picture(1, 240, 100)
    ours = Conditioner(other).prompt(adapter, Reference(images=(wide,), crop=crop))
    squares = crop_reference(wide, crop, 96, fill=mean_colour(means))
    assert _same(ours, guided_image_prompt(adapter, image_features(adapter, other, squares)))
    if crop == "pad":
        blackened = crop_reference(wide, crop, 96, fill=(0, 0, 0))
        assert not _same(ours, guided_image_prompt(adapter, image_features(adapter, other, blackened)))


def test_all_tiles_of_a_picture_have_its_weight(encoder: ImageEncoder, adapter: IPAdapter) -> None:
    pictures, conditioner = (_picture(1, 240, 100), _picture(2), _picture(3, 100, 190)), Conditioner(encoder)
    tiles = [crop_reference(picture, "tile", 96) for picture in pictures]
    assert [len(some) for some in tiles] == [3, 1, 2]
    features = image_features(adapter, encoder, [tile for some in tiles for tile in some])

    scales = PromptScales(weights=(0.5, 2.0, 1.0))
    side_by_side = conditioner.prompt(adapter, Reference(images=pictures, crop="tile", scales=scales))
    expected = guided_image_prompt(adapter, features, replace(scales, weights=(0.5, 0.5, 0.5, 2.0, 1.0, 1.0)))
    assert _same(side_by_side, expected)

    # Merged, a picture counts once, however many squares it was seen in.
    means = torch.stack([part.mean(0) for part in features.conditional[0].split([3, 1, 2])])
    merging = replace(scales, combination="average")
    merged = conditioner.prompt(adapter, Reference(images=pictures, crop="tile", scales=merging))
    assert _same(merged, guided_image_prompt(adapter, ImageFeatures((means,), features.unconditional), merging))


# Stored embeddings.


def _stored(encoder: ImageEncoder, pictures: list[Image.Image], file: Path, fingerprint: str) -> StoredEmbeddings:
    seen, nothing = encoder.look(pictures), encoder.look_at_nothing()
    save_embeddings(
        file,
        {"image_embeds": seen.image_embeds, "hidden_states": seen.hidden_states},
        {"image_embeds": torch.zeros_like(nothing.image_embeds), "hidden_states": nothing.hidden_states},
        encoder.name,
        fingerprint,
    )
    return load_embeddings(file)


@pytest.mark.parametrize("variant", ["base", "plus", "full"])
def test_stored_embeddings_say_what_their_pictures_say(
    base: Base, encoder: ImageEncoder, variant: str, tmp_path: Path
) -> None:
    adapter = _adapter(base, encoder, variant)
    pictures = [_picture(1), _picture(2)]
    stored = _stored(encoder, pictures, tmp_path / "two.safetensors", encoder.fingerprint())
    scales = PromptScales(scale=0.7, weights=(0.4, 1.0), start=0.2)
    conditioner = Conditioner(encoder)
    of_pictures = conditioner.prompt(adapter, Reference(images=tuple(pictures), scales=scales))
    misses = conditioner.feature_cache.misses
    of_stored = conditioner.prompt(adapter, Reference(stored=stored, scales=scales, mask=torch.ones(8, 8)))
    assert _same(of_stored, of_pictures)
    assert (of_stored.start, of_stored.mask is None) == (0.2, False)
    assert conditioner.feature_cache.misses == misses, "no encoder was asked"
    assert _same(Conditioner(None).prompt(adapter, Reference(stored=stored, scales=scales)), of_pictures)


def test_embeddings_of_another_encoder_are_refused(encoder: ImageEncoder, adapter: IPAdapter, tmp_path: Path) -> None:
    stored = _stored(encoder, [_picture(1)], tmp_path / "one.safetensors", "0123456789abcdef")
    with pytest.raises(
        AdapterError,
        match=r"^embedding file '.*one\.safetensors' is of image encoder 'toy/image_encoder' with weights "
        rf"0123456789abcdef, here is 'toy/image_encoder' with {encoder.fingerprint()}; encode the pictures with this "
        "one$",
    ):
        Conditioner(encoder).prompt(adapter, Reference(stored=stored))
    # Nobody can tell: no encoder here, or a file that does not say.
    assert Conditioner(None).prompt(adapter, Reference(stored=stored))
    assert Conditioner(encoder).prompt(adapter, Reference(stored=replace(stored, fingerprint=None)))


def test_identities_are_not_taken_for_the_image_encoders(base: Base, encoder: ImageEncoder, tmp_path: Path) -> None:
    file = tmp_path / "faces.safetensors"
    save_embeddings(file, {"identity": torch.ones(1, IDENTITY)}, {"identity": torch.zeros(1, IDENTITY)}, "dlib", "0")
    adapter = _adapter(base, encoder, "faceid")
    prompt = Conditioner(encoder).prompt(adapter, Reference(stored=load_embeddings(file)))
    features = ImageFeatures((torch.ones(1, IDENTITY),), (torch.zeros(1, IDENTITY),))
    assert _same(prompt, guided_image_prompt(adapter, features))


# Negatives.


@pytest.mark.parametrize("variant", ["base", "plus"])
def test_noise_is_a_negative(base: Base, encoder: ImageEncoder, variant: str) -> None:
    adapter, conditioner = _adapter(base, encoder, variant), Conditioner(encoder)
    noise = noise_picture("shuffle", 0.8, 2.0, torch.Generator().manual_seed(1), _picture(1), encoder.side)
    plain = conditioner.prompt(adapter, Reference(images=(_picture(1),)))
    away = conditioner.prompt(adapter, Reference(images=(_picture(1),), negative=noise))
    of_noise = conditioner.prompt(adapter, Reference(images=(noise,)))
    assert not _same(away, plain)
    assert _same(plain._replace(unconditional=of_noise.conditional), away)


# Faces.


class _Faces:
    """Finds one face that fills the picture, of an identity that its colours make; none where all is black."""

    name, dim = "colours", IDENTITY

    def __init__(self) -> None:
        self.searched = 0

    def find(self, image: Image.Image) -> list[Face]:
        self.searched += 1
        colours = torch.from_numpy(np.asarray(image, np.float32)).mean((0, 1))
        if not colours.any():
            return []
        points = template(112) * np.array(image.size) / 112
        raw = torch.cat([colours, torch.ones(IDENTITY - 3)])
        return [Face(raw, (0.0, 0.0, float(image.width), float(image.height)), points, 1.0)]


PEOPLE = [name for name, variant in VARIANTS.items() if "identity" in variant.inputs]


@pytest.mark.parametrize("variant", PEOPLE)
def test_identities_reach_every_variant_that_reads_them(base: Base, encoder: ImageEncoder, variant: str) -> None:
    adapter, people, faces = _adapter(base, encoder, variant), [_picture(1, 120, 150), _picture(2)], _Faces()
    conditioner = Conditioner(encoder, faces)
    ours = conditioner.prompt(adapter, Reference(images=tuple(people)))
    identity, crops = adapter_face_features(adapter, _Faces(), people)
    features = image_features(adapter, encoder, crops, identity)
    assert _same(ours, guided_image_prompt(adapter, features))
    assert not _same(ours, conditioner.prompt(adapter, Reference(images=(people[0], _picture(3)))))
    for scale in (0.5, 0.6):
        conditioner.prompt(adapter, Reference(images=tuple(people), scales=PromptScales(scale=scale)))
    assert faces.searched == 3, "once per picture"


def test_the_face_alone_can_be_what_clip_sees(base: Base, encoder: ImageEncoder) -> None:
    adapter, picture = _adapter(base, encoder, "plus"), _picture(1, 120, 150)
    ours = Conditioner(encoder, _Faces()).prompt(adapter, Reference(images=(picture,), crop="face"))
    points = template(112) * np.array(picture.size) / 112
    cut = align(picture, points, encoder.side)
    assert _same(ours, guided_image_prompt(adapter, image_features(adapter, encoder, [cut])))
    with pytest.raises(FaceNotFoundError, match="no face in 'a reference picture'"):
        Conditioner(encoder, _Faces()).prompt(adapter, Reference(images=(Image.new("RGB", (9, 9)),), crop="face"))


def test_several_photos_of_one_person_are_a_portrait(base: Base, encoder: ImageEncoder) -> None:
    adapter, people = _adapter(base, encoder, "portrait"), [_picture(seed) for seed in (1, 2, 3)]
    ours = Conditioner(None, _Faces()).prompt(adapter, Reference(images=tuple(people)))
    identity = adapter_face_features(adapter, _Faces(), people).identity[None]
    together = guided_image_prompt(adapter, ImageFeatures((identity,), (torch.zeros_like(identity),)))
    for a, b in zip(ours.conditional.values, together.conditional.values, strict=True):
        torch.testing.assert_close(a, b)


def test_a_negative_picture_of_a_face_adapter_is_what_clip_sees(base: Base, encoder: ImageEncoder) -> None:
    adapter, conditioner = _adapter(base, encoder, "faceid-plus"), Conditioner(encoder, _Faces())
    plain, away = (
        conditioner.prompt(adapter, Reference(images=(_picture(1),), negative=negative))
        for negative in (None, _picture(2))
    )
    assert _same(away._replace(unconditional=plain.unconditional), plain)
    assert not _same(away, plain)


# What cannot be encoded.


@pytest.mark.parametrize(
    ("variant", "parts", "reference", "message"),
    [
        ("base", "both", {}, "an image prompt needs at least one picture and got none; give one"),
        ("plus", "faces", {"images": 1}, "variant 'plus' reads CLIP and there is no image encoder; give one"),
        (
            "faceid",
            "clip",
            {"images": 1},
            "variant 'faceid' reads a face recogniser's identity and there is no face encoder; give one, or use an "
            "adapter and a crop that need none",
        ),
        (
            "plus",
            "clip",
            {"images": 1, "crop": "face"},
            "crop 'face' was asked for and there is no face encoder; give one, or use an adapter and a crop that need "
            "none",
        ),
        (
            "faceid-plus",
            "faces",
            {"images": 1},
            "variant 'faceid-plus' reads CLIP and there is no image encoder; give one",
        ),
        (
            "portrait",
            "both",
            {"images": 1, "negative": True},
            "variant 'portrait' reads identities alone, which have no negative, and a negative picture was given; "
            "leave it out",
        ),
        (
            "base",
            "both",
            {"images": 2, "weights": (1.0,)},
            "1 weights were given for 2 pictures; give one each",
        ),
        (
            "base",
            "both",
            {"images": 2, "weights": (1.0,), "crop": "tile"},
            "1 weights were given for 2 pictures; give one each",
        ),
        (
            "base",
            "both",
            {"images": 2, "stored": True},
            "what was stored and 2 pictures were given for one image prompt; give either",
        ),
        (
            "base",
            "both",
            {"negative": True, "stored": True},
            "what was stored and a negative picture were given for one image prompt; leave the picture out, or store "
            "it and add it by `against`",
        ),
        (
            "plus",
            "both",
            {"stored": True},
            "the adapter reads hidden_states, what was stored has image_embeds; encode the pictures for this adapter",
        ),
    ],
)
def test_what_is_missing_or_excluded_is_said(
    base: Base, encoder: ImageEncoder, variant: str, parts: str, reference: dict[str, Any], message: str
) -> None:
    conditioner = Conditioner(None if parts == "faces" else encoder, None if parts == "clip" else _Faces())
    embeds: dict[Feature, torch.Tensor] = {"image_embeds": torch.ones(1, encoder.embed_dim)}
    asked = Reference(
        images=tuple(_picture(seed, 240, 100) for seed in range(reference.get("images", 0))),
        stored=StoredEmbeddings(embeds, embeds) if "stored" in reference else None,
        negative=_picture(9) if "negative" in reference else None,
        crop=reference.get("crop", "centre"),
        scales=PromptScales(weights=reference.get("weights")),
    )
    with pytest.raises(AdapterError) as caught:
        conditioner.prompt(_adapter(base, encoder, variant), asked)
    assert str(caught.value) == message


def test_a_picture_without_a_face_is_named(base: Base, encoder: ImageEncoder) -> None:
    adapter, conditioner = _adapter(base, encoder, "faceid"), Conditioner(encoder, _Faces())
    nobody = Image.new("RGB", (96, 96))
    for _ in range(2):
        with pytest.raises(
            FaceNotFoundError, match=r"^face encoder 'colours' finds no face in 'picture 2 of 2'; give a picture of .*$"
        ):
            conditioner.prompt(adapter, Reference(images=(_picture(1), nobody)))
    assert conditioner.prompt_cache.entries == 0
