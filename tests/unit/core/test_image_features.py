"""What an adapter reads of a picture and of none; encoders that do not belong to it; LoRAs that stay in their rows."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.variants import VARIANTS, VariantName
from nigaoe.core.bases import Base
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.rows import Generation, GuidedImagePrompt
from nigaoe.core.errors import AdapterError
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.core.image_prompts.features import image_features, require_encoder
from nigaoe.core.image_prompts.prompt import guided_image_prompts
from tiny_worlds import moved_adapter

IDENTITY = 16


def _adapter(base: Base, encoder: ImageEncoder, variant: str, seed: int = 0) -> IPAdapter:
    return moved_adapter(base, encoder, variant, identity=IDENTITY, rank=4, seed=seed)


def _picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8))


def _prompt(adapter: IPAdapter, encoder: ImageEncoder, seed: int, scale: float = 1.0) -> GuidedImagePrompt:
    identity = torch.randn(1, IDENTITY, generator=torch.Generator().manual_seed(seed))
    return guided_image_prompts(adapter, image_features(adapter, encoder, [_picture(seed)], identity), scale)[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_unconditional_image_is_the_one_of_training(
    base: Base, encoder: ImageEncoder, variant: VariantName
) -> None:
    adapter = _adapter(base, encoder, variant)
    features = image_features(adapter, encoder, [_picture(1), _picture(2)], torch.ones(2, IDENTITY))
    grey = encoder.model(torch.zeros(1, 3, 96, 96), output_hidden_states=True).hidden_states[-2]
    black = encoder.look([Image.new("RGB", (96, 96))]).hidden_states
    for name, some, none in zip(adapter.variant.inputs, features.conditional, features.unconditional, strict=True):
        assert len(some) == 2
        if name == "hidden_states":
            torch.testing.assert_close(none, grey)
            assert (none - black).abs().max() > 1e-3
        else:
            assert none.abs().max() == 0


def test_an_encoder_of_another_width_is_refused_by_name(base: Base, encoder: ImageEncoder) -> None:
    with torch.device("meta"):
        adapter = IPAdapter.for_unet(base.unet, "base", features={"image_embeds": 1024})
    with pytest.raises(
        AdapterError, match="width 1024, image encoder 'toy/image_encoder' gives 128; use OpenCLIP ViT-H"
    ):
        require_encoder(adapter, encoder)
    config = CLIPVisionConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    stranger = ImageEncoder("x", CLIPVisionModelWithProjection(config), encoder.processor, torch.device("cpu"))
    with pytest.raises(AdapterError, match="reads hidden_states of width 128, image encoder 'x' gives 64"):
        require_encoder(_adapter(base, encoder, "plus"), stranger)


def test_nothing_to_encode_and_nobody_recognised_are_errors(base: Base, encoder: ImageEncoder) -> None:
    with pytest.raises(AdapterError, match="at least one picture"):
        image_features(_adapter(base, encoder, "plus"), encoder, [])
    with pytest.raises(AdapterError, match="'faceid-plus' reads a face recogniser's identity"):
        image_features(_adapter(base, encoder, "faceid-plus"), encoder, [_picture(0)])


def test_every_variant_shares_a_call_and_no_row_feels_another(base: Base, encoder: ImageEncoder) -> None:
    """Rows of all variants, of two FaceIDs with LoRAs of their own, and of no adapter: alone or together, the same."""
    adapters = [_adapter(base, encoder, variant) for variant in VARIANTS] + [_adapter(base, encoder, "faceid", 9)]
    prompts = [(), *((_prompt(adapter, encoder, i, 0.8),) for i, adapter in enumerate(adapters))]
    generations = [
        Generation(
            prompt=f"a photo {i}", seed=i, steps=4, guidance_scale=1.0 if i % 3 == 0 else 4.0, image_prompts=prompt
        )
        for i, prompt in enumerate(prompts)
    ]
    together = Engine(base, max_rows=16)
    tickets = [together.submit(generation) for generation in generations]
    for _ in range(3):
        together.step()
    latents = {row.id: row.latents for row in together._active}
    for ticket, generation in zip(tickets, generations, strict=True):
        alone = Engine(base)
        alone.submit(generation)
        for _ in range(3):
            alone.step()
        assert (alone._active[0].latents - latents[ticket]).abs().max() < 1e-5, generation.prompt


def test_a_lora_changes_its_own_rows(base: Base, encoder: ImageEncoder) -> None:
    adapter = _adapter(base, encoder, "faceid")
    prompt = _prompt(adapter, encoder, 3)
    stripped = GuidedImagePrompt(prompt.conditional._replace(loras=()), prompt.unconditional._replace(loras=()))
    outcomes = []
    for image_prompt in (prompt, stripped):
        engine = Engine(base)
        engine.submit(Generation(prompt="a photo", seed=1, steps=4, image_prompts=(image_prompt,)))
        engine.step()
        outcomes.append(engine._active[0].latents)
    assert (outcomes[0] - outcomes[1]).abs().max() > 1e-3
