"""Embeddings in memory: what a server keeps and hands out."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.bases import Base
from nigaoe.core.errors import AdapterError, ImageError
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.core.image_prompts.conditioner import Conditioner, Reference
from nigaoe.core.image_prompts.embedding_files import StoredEmbeddings, embedding_bytes, parse_embeddings


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(1)
    return [Image.fromarray(random.integers(0, 256, (48, 64, 3), dtype=np.uint8)) for _ in range(2)]


@pytest.fixture(scope="module")
def content(encoder: ImageEncoder) -> bytes:
    return embedding_bytes(Conditioner(encoder).embed(pictures()))


def test_what_was_embedded_speaks_as_the_pictures_do(encoder: ImageEncoder, adapter: IPAdapter, content: bytes) -> None:
    stored = parse_embeddings(content)
    assert (stored.encoder, stored.fingerprint, stored.crop) == (encoder.name, encoder.fingerprint(), "centre")
    conditioner = Conditioner(encoder)
    by_file = conditioner.prompt(adapter, Reference(stored=stored))
    by_pictures = conditioner.prompt(adapter, Reference(images=tuple(pictures())))
    for side in ("conditional", "unconditional"):
        for a, b in zip(getattr(by_file, side).values, getattr(by_pictures, side).values, strict=True):
            torch.testing.assert_close(a, b)


def test_hidden_states_of_whole_pictures_are_none_of_faces(base: Base, encoder: ImageEncoder, content: bytes) -> None:
    features = {"identity": 4, "hidden_states": encoder.hidden_dim}
    adapter = IPAdapter.for_unet(base.unet, "faceid-plusv2", features=features, lora_rank=4)  # type: ignore[arg-type]
    with pytest.raises(AdapterError, match="reads hidden states of aligned faces, the embedding file has"):
        Conditioner(encoder).prompt(adapter, Reference(stored=parse_embeddings(content)))


def test_nothing_to_embed(encoder: ImageEncoder) -> None:
    with pytest.raises(AdapterError, match="at least one picture and an encoder"):
        Conditioner(encoder).embed([])
    with pytest.raises(AdapterError, match="at least one picture and an encoder"):
        Conditioner(None).embed(pictures())


def test_what_is_no_file_of_ours_is_refused() -> None:
    for bad in (b"", b"{}", b"PK\x03\x04" + bytes(99), (2**60).to_bytes(8, "little") + b"{"):
        with pytest.raises(ImageError, match="the embedding file is damaged or truncated"):
            parse_embeddings(bad)
    with pytest.raises(ImageError, match="the embedding file is of format None"):
        parse_embeddings(save({"conditional.image_embeds": torch.ones(1, 4)}))
    nan = StoredEmbeddings({"image_embeds": torch.full((1, 4), float("nan"))}, {"image_embeds": torch.zeros(1, 4)})
    with pytest.raises(ImageError, match="no finite numbers"):
        embedding_bytes(nan)


@given(st.data())
def test_damage_ends_in_a_sentence_or_is_none(content: bytes, data: st.DataObject) -> None:
    header = int.from_bytes(content[:8], "little") + 8
    place = data.draw(st.integers(0, header - 1))
    damaged = bytearray(content)
    damaged[place] = data.draw(st.integers(0, 255))
    try:
        stored = parse_embeddings(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
    except ImageError:
        return
    assert len(stored) == 2


def test_metadata_may_lie_about_nothing_but_names(content: bytes) -> None:
    header = int.from_bytes(content[:8], "little")
    said = json.loads(content[8 : 8 + header])
    said["__metadata__"]["crop"] = "elsewhere"
    text = json.dumps(said).encode()
    again = parse_embeddings(len(text).to_bytes(8, "little") + text + content[8 + header :])
    assert again.crop == "elsewhere"
    assert len(again) == 2
