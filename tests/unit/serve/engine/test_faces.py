"""Faces are searched beside the engine thread, once, and found there."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.bases import Base
from nigaoe.core.faces.encoder import Face
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.core.image_prompts.conditioner import Conditioner, Reference
from nigaoe.core.image_prompts.remembering import RememberingFaceEncoder
from nigaoe.serve.engine.prompts import prepare
from nigaoe.serve.orders import ImagePromptOrder
from served import adapter_file, order_of, person

DIM = 4


class Recogniser:
    """One face in the middle of every picture; its identity is the picture's colour."""

    name, dim = "colours", DIM

    def __init__(self) -> None:
        self.searched = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def find(self, image: Image.Image) -> list[Face]:
        self.searched += 1
        self.may_go_on.wait(10)
        width, height = image.size
        spots = np.array([[0.35, 0.4], [0.65, 0.4], [0.5, 0.55], [0.4, 0.7], [0.6, 0.7]]) * [width, height]
        colour = torch.tensor([1.0, *np.asarray(image, np.float32).mean((0, 1)).tolist()])
        return [Face(colour, (0, 0, width, height), spots, 1.0)]


def test_a_picture_is_searched_once_and_known_ones_wait_for_nobody() -> None:
    recogniser = Recogniser()
    faces = RememberingFaceEncoder(recogniser)
    ann, bob = (Image.fromarray(person(number).pixels) for number in (1, 2))
    first = faces.find(ann)
    recogniser.may_go_on.clear()
    search = threading.Thread(target=faces.find, args=(bob,))
    search.start()
    while recogniser.searched < 2:
        time.sleep(0.001)
    assert faces.find(ann.copy())[0] is first[0]
    recogniser.may_go_on.set()
    search.join(10)
    faces.find(bob)
    assert recogniser.searched == 2


@pytest.mark.parametrize("variant", ["faceid", "faceid-plusv2"])
def test_identities_reach_the_adapter(base: Base, encoder: ImageEncoder, variant: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    features = {"identity": DIM, "hidden_states": encoder.hidden_dim}
    adapter = IPAdapter.for_unet(base.unet, variant, features=features, lora_rank=4)  # type: ignore[arg-type]
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    adapter = adapter.eval().requires_grad_(False)
    said = ImagePromptOrder(
        adapter=adapter_file(tmp_path / "adapter.safetensors"),
        pictures=(person(1),),
        shortcut_scale=0.5,
        lora_scale=0.25,
    )
    recogniser = Recogniser()
    faces = RememberingFaceEncoder(recogniser)
    prepared = prepare(order_of(image_prompts=(said,)), base, [adapter], encoder.side, faces)
    assert recogniser.searched == 1
    conditioner = Conditioner(encoder, faces)
    (got,) = prepared.image_prompts(conditioner, 0)
    # The engine thread, which encodes, has searched nothing.
    assert recogniser.searched == 1
    (reference,) = prepared.prompts[0].references
    expected = Conditioner(encoder, Recogniser()).prompt(
        adapter, Reference(images=(Image.fromarray(person(1).pixels),), scales=reference.scales)
    )
    for a, b in zip(got.conditional.keys, expected.conditional.keys, strict=True):
        torch.testing.assert_close(a, b)
    assert [lora.scale for lora in got.conditional.loras] == [0.25]
    assert reference.scales.shortcut_scale == 0.5


def test_a_face_may_be_cut_out_for_any_adapter(base: Base, encoder: ImageEncoder, adapter: IPAdapter) -> None:
    recogniser = Recogniser()
    faces = RememberingFaceEncoder(recogniser)
    at = adapter_file(Path(__file__))
    said = ImagePromptOrder(adapter=at, pictures=(person(1), person(2)), crop="face")
    prepared = prepare(order_of(image_prompts=(said,)), base, [adapter], encoder.side, faces)
    assert recogniser.searched == 2
    whole = prepare(
        order_of(image_prompts=(ImagePromptOrder(adapter=at, pictures=said.pictures),)),
        base,
        [adapter],
        encoder.side,
        faces,
    )
    conditioner = Conditioner(encoder, faces)
    cut, uncut = (p.image_prompts(conditioner, 0)[0].conditional.keys[0] for p in (prepared, whole))
    assert (cut - uncut).abs().max() > 1e-3
    assert recogniser.searched == 2
