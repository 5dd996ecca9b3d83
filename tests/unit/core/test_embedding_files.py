"""Embeddings out and in again, from diffusers and ComfyUI too, and never code."""

import contextlib
import io
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.adapters.variants import Feature
from nigaoe.core.bases import Base
from nigaoe.core.errors import AdapterError, ImageError
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.core.image_prompts.embedding_files import FORMAT, StoredEmbeddings, load_embeddings, save_embeddings
from nigaoe.core.models import locate

# Every example writes its file anew.
IN_ONE_FOLDER = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])
METADATA = {"format": FORMAT, "encoder": "toy/image_encoder", "encoder_sha256": "ab"}


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _saved(tmp_path: Path, content: object, name: str = "image.ipadpt") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


def _refusal(path: Path, word: str, **options: Any) -> None:
    """The file is refused in one sentence that names it."""
    with pytest.raises(ImageError, match=word) as caught:
        load_embeddings(path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


def _portraits(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(5)
    return [Image.fromarray(rng.integers(0, 256, (60 + 20 * i, 80, 3), dtype=np.uint8)) for i in range(count)]


# Our own format.


@st.composite
def _halves(draw: st.DrawFn) -> tuple[dict[Feature, Tensor], dict[Feature, Tensor]]:
    batch, width = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    shapes: dict[Feature, tuple[int, ...]] = {
        "image_embeds": (width,),
        "hidden_states": (draw(st.integers(1, 5)), width),
        "identity": draw(st.sampled_from([(width,), (3, width)])),
    }
    features = draw(st.lists(st.sampled_from(sorted(shapes)), min_size=1, unique=True))
    dtype = draw(DTYPES)
    rows = draw(st.sampled_from([1, batch]))
    conditional = {name: _random(batch, *shapes[name], seed=1, dtype=dtype) for name in features}
    return conditional, {name: _random(rows, *shapes[name], seed=2, dtype=dtype) for name in features}


@IN_ONE_FOLDER
@given(halves=_halves(), encoder=st.text(), fingerprint=st.text("0123456789abcdef", min_size=16, max_size=16))
def test_what_is_saved_is_loaded(
    tmp_path: Path,
    halves: tuple[dict[Feature, Tensor], dict[Feature, Tensor]],
    encoder: str,
    fingerprint: str,
) -> None:
    path = tmp_path / "new" / "portrait.safetensors"
    save_embeddings(path, *halves, encoder, fingerprint)
    stored = load_embeddings(path)
    assert (stored.encoder, stored.fingerprint) == (encoder, fingerprint)
    for found, given_ in zip((stored.conditional, stored.unconditional), halves, strict=True):
        assert found.keys() == given_.keys()
        for name, tensor in given_.items():
            assert found[name].dtype == torch.float32
            assert torch.equal(found[name], tensor.float())
    assert len(stored) == len(next(iter(halves[0].values())))
    assert [entry.name for entry in path.parent.iterdir()] == ["portrait.safetensors"]


def test_views_and_shared_tensors_are_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    embeds = _random(6, 4).T[:, ::2].requires_grad_()
    save_embeddings(path, {"image_embeds": embeds}, {"image_embeds": embeds}, "e", "f")
    assert torch.equal(load_embeddings(path).conditional["image_embeds"], embeds)
    assert not load_embeddings(path).conditional["image_embeds"].requires_grad


def test_a_failed_save_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    half: dict[Feature, Tensor] = {"image_embeds": _random(1, 4)}
    save_embeddings(path, half, half, "before", "f")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        save_embeddings(path, half, half, "after", "f")
    assert load_embeddings(path).encoder == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("conditional", "unconditional", "word"),
    [
        ({}, {}, "no 'conditional.<feature>'"),
        ({"image_embeds": _random(1, 4)}, {}, "has 'conditional.image_embeds' but not 'unconditional.image_embeds'"),
        ({"image_embeds": _random(4)}, {"image_embeds": _random(4)}, r"shape \[4\]; they must be \[B, E\]"),
        ({"depth": _random(1, 4)}, {"depth": _random(1, 4)}, "'depth'; features are image_embeds"),
        ({"image_embeds": _random(3, 4)}, {"image_embeds": _random(2, 4)}, "3 rows .* 2 unconditional"),
        ({"image_embeds": _random(3, 4)}, {"image_embeds": _random(3, 5)}, r"\[3, 4\] .* \[3, 5\]; .* one encoder"),
        (
            {"image_embeds": _random(3, 4), "identity": _random(2, 4)},
            {"image_embeds": _random(1, 4), "identity": _random(1, 4)},
            "2 of identity, 3 of image_embeds",
        ),
        ({"image_embeds": torch.zeros(1, 4, dtype=torch.int64)}, {"image_embeds": _random(1, 4)}, "as int64"),
        ({"image_embeds": torch.full((1, 4), torch.nan)}, {"image_embeds": _random(1, 4)}, "no finite numbers"),
        ({"image_embeds": _random(0, 4)}, {"image_embeds": _random(1, 4)}, "0 values"),
    ],
)
def test_what_could_not_be_read_again_is_neither_written_nor_read(
    tmp_path: Path, conditional: dict[Feature, Tensor], unconditional: dict[Feature, Tensor], word: str
) -> None:
    path = tmp_path / "portrait.safetensors"
    with pytest.raises(ImageError, match=word) as caught:
        save_embeddings(path, conditional, unconditional, "e", "f")
    assert "portrait.safetensors" in str(caught.value)
    assert not path.exists()
    state = {f"conditional.{name}": tensor for name, tensor in conditional.items()}
    state |= {f"unconditional.{name}": tensor for name, tensor in unconditional.items()}
    save_file(state, path, METADATA)
    _refusal(path, word)


def test_another_suffix_is_not_written(tmp_path: Path) -> None:
    half: dict[Feature, Tensor] = {"image_embeds": _random(1, 4)}
    with pytest.raises(ImageError, match=r"ends in \.safetensors"):
        save_embeddings(tmp_path / "a.ipadpt", half, half, "e", "f")


def test_other_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state = {"conditional.image_embeds": _random(1, 4), "unconditional.image_embeds": _random(1, 4)}
    save_file(state, path)
    _refusal(path, "of format None, this version reads 'nigaoe.embeddings/1'")
    save_file(state, path, METADATA | {"format": "nigaoe.embeddings/2"})
    _refusal(path, "of format 'nigaoe.embeddings/2'")
    save_file(state, path, {key: value for key, value in METADATA.items() if key != "encoder_sha256"})
    _refusal(path, "no 'encoder_sha256' in its metadata")
    save_file(state | {"weight": _random(1)}, path, METADATA)
    _refusal(path, "a tensor 'weight'")


# Pickles of others.


@pytest.fixture(scope="module")
def pipeline(encoder: ImageEncoder) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(
        locate("toy/photo"), image_encoder=encoder.model, feature_extractor=encoder.processor, dtype=torch.float32
    )


@pytest.fixture(params=["base", "plus"])
def loaded(
    request: pytest.FixtureRequest, base: Base, encoder: ImageEncoder, pipeline: StableDiffusionPipeline, tmp_path: Path
) -> Iterator[Feature]:
    """What the adapter reads that the pipeline has loaded."""
    torch.manual_seed(2)
    features: dict[Feature, int] = {"image_embeds": encoder.embed_dim, "hidden_states": encoder.hidden_dim}
    adapter = IPAdapter.for_unet(base.unet, request.param, features=features)
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    pipeline.load_ip_adapter(str(tmp_path), subfolder="", weight_name="adapter.safetensors", image_encoder_folder=None)
    yield adapter.variant.inputs[0]
    pipeline.unload_ip_adapter()
    # Unloading takes these with it.
    pipeline.register_modules(image_encoder=encoder.model, feature_extractor=encoder.processor)


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("count", [1, 3])
def test_what_diffusers_prepares_is_what_we_encode(
    loaded: Feature,
    pipeline: StableDiffusionPipeline,
    encoder: ImageEncoder,
    tmp_path: Path,
    guided: bool,
    repeats: int,
    count: int,
) -> None:
    pictures = _portraits(count)
    with torch.no_grad():
        prepared = pipeline.prepare_ip_adapter_image_embeds([pictures], None, "cpu", repeats, guided)
    path = _saved(tmp_path, prepared)
    told = guided if loaded == "hidden_states" else None
    stored = load_embeddings(path, guided=told)
    seen, nothing = encoder.look(pictures), encoder.look_at_nothing()
    expected: Tensor = getattr(seen, loaded)
    torch.testing.assert_close(stored.conditional[loaded], expected, atol=1e-5, rtol=1e-5)
    assert (stored.encoder, stored.fingerprint) == (None, None)
    if loaded == "image_embeds":
        assert torch.equal(stored.unconditional[loaded], torch.zeros(1, encoder.embed_dim))
    elif guided:
        torch.testing.assert_close(stored.unconditional[loaded], nothing.hidden_states, atol=1e-5, rtol=1e-5)
    else:
        with pytest.raises(AdapterError, match=r"image.ipadpt.* of no picture"):
            stored.in_order(["hidden_states"])
    if guided:
        conditional, unconditional = stored.in_order([loaded])
        assert (len(conditional[0]), len(unconditional[0])) == (count, 1)


@IN_ONE_FOLDER
@given(
    pictures=st.integers(1, 4),
    repeats=st.integers(1, 3),
    tokens=st.sampled_from([None, 5]),
    is_guided=st.booleans(),
    dtype=DTYPES,
)
def test_any_list_of_diffusers_is_read(
    tmp_path: Path, pictures: int, repeats: int, tokens: int | None, is_guided: bool, dtype: torch.dtype
) -> None:
    shape = (1, pictures, 8) if tokens is None else (1, pictures, tokens, 8)
    conditional = _random(*shape, seed=1, dtype=dtype)
    unconditional = torch.zeros_like(conditional)
    if tokens is not None:
        unconditional += _random(*shape[2:], seed=2, dtype=dtype)
    halves = [unconditional] * repeats + [conditional] * repeats if is_guided else [conditional] * repeats
    feature: Feature = "image_embeds" if tokens is None else "hidden_states"
    told = None if tokens is None else is_guided
    stored = load_embeddings(_saved(tmp_path, [torch.cat(halves)]), guided=told)
    assert torch.equal(stored.conditional[feature], conditional[0].float())
    if is_guided or tokens is None:
        assert torch.equal(stored.unconditional[feature], unconditional[0, :1].float())
    else:
        assert not stored.unconditional


def test_a_negative_of_ones_own_stays(tmp_path: Path) -> None:
    rows = _random(2, 3, 8)
    stored = load_embeddings(_saved(tmp_path, [rows]), guided=True)
    assert torch.equal(stored.unconditional["image_embeds"], rows[0])
    assert torch.equal(stored.conditional["image_embeds"], rows[1])


def test_rows_of_one_picture_each_are_a_batch(tmp_path: Path) -> None:
    rows = _random(3, 1, 8)
    stored = load_embeddings(_saved(tmp_path, [torch.cat([torch.zeros(3, 1, 8), rows])]))
    assert torch.equal(stored.conditional["image_embeds"], rows[:, 0])
    _refusal(_saved(tmp_path, [_random(3, 2, 8)]), "2 pictures for each of 3 different rows")


def test_a_doubt_is_settled_by_an_option(tmp_path: Path) -> None:
    states = _saved(tmp_path, [_random(2, 1, 5, 8)])
    _refusal(states, "by the option `guided`")
    assert len(load_embeddings(states, guided=False)) == 2
    assert len(load_embeddings(states, guided=True)) == 1
    _refusal(_saved(tmp_path, [_random(3, 1, 5, 8)]), "no two halves", guided=True)

    several = _saved(tmp_path, [_random(1, 1, 8), _random(1, 1, 5, 9)])
    _refusal(several, "2 adapters; say which by the option `index`")
    _refusal(several, "no index 2", index=2)
    assert load_embeddings(several, index=1).conditional["hidden_states"].shape == (1, 5, 9)

    narrow = _saved(tmp_path, [torch.cat([torch.zeros(1, 1, 512), _random(1, 1, 512)])])
    _refusal(narrow, "by the option `feature`")
    assert load_embeddings(narrow, "identity").conditional["identity"].shape == (1, 512)
    assert load_embeddings(narrow, "image_embeds").conditional["image_embeds"].shape == (1, 512)
    _refusal(narrow, r"\[2, 1, 512\], which cannot be hidden_states", feature="hidden_states")
    _refusal(_saved(tmp_path, [_random(2, 1, 5, 512)]), "cannot be identity", feature="identity")


def test_identities_as_diffusers_guide_stacks_them(tmp_path: Path) -> None:
    faces = torch.nn.functional.normalize(_random(3, 512))
    stacked = torch.stack([face.unsqueeze(0) for face in faces]).unsqueeze(0)
    path = _saved(tmp_path, [torch.cat([torch.zeros_like(stacked), stacked]).half()])
    stored = load_embeddings(path)
    assert torch.equal(stored.conditional["identity"], faces.half().float())
    assert torch.equal(stored.unconditional["identity"], torch.zeros(1, 512))


def test_what_comfyui_saves_is_read(tmp_path: Path) -> None:
    embeds, states = _random(3, 8), _random(3, 5, 8)
    stored = load_embeddings(_saved(tmp_path, embeds.half(), "embeds.ipadpt"))
    assert torch.equal(stored.conditional["image_embeds"], embeds.half().float())
    assert torch.equal(stored.unconditional["image_embeds"], torch.zeros(1, 8))
    positive = load_embeddings(_saved(tmp_path, states, "positive.ipadpt"))
    assert torch.equal(positive.conditional["hidden_states"], states)
    assert not positive.unconditional

    negative = load_embeddings(_saved(tmp_path, states[:1] + 1, "negative.ipadpt"))
    both = positive.against(negative)
    assert torch.equal(both.in_order(["hidden_states"])[1][0], states[:1] + 1)
    with pytest.raises(ImageError, match=r"embeds.ipadpt.*hidden_states on the positive side only"):
        positive.against(stored)
    with pytest.raises(ImageError, match="2 unconditional"):
        positive.against(load_embeddings(_saved(tmp_path, states[:2])))


def test_a_row_of_diffusers_without_its_list_is_read(tmp_path: Path) -> None:
    for rows in (_random(1, 2, 5, 8), _random(1, 1, 8)):
        stored = load_embeddings(_saved(tmp_path, rows))
        (found,) = stored.conditional.values()
        assert torch.equal(found, rows[0])


def test_negatives_of_another_encoder_are_refused() -> None:
    half: dict[Feature, Tensor] = {"image_embeds": _random(1, 4)}
    one, other = (StoredEmbeddings(half, half, "e", name, f"file {name!r}") for name in "ab")
    with pytest.raises(ImageError, match="file 'a' and file 'b' are of different encoders"):
        one.against(other)
    assert one.against(one).unconditional is half


def test_an_adapter_that_reads_something_else_is_told(tmp_path: Path) -> None:
    stored = load_embeddings(_saved(tmp_path, _random(1, 8)))
    with pytest.raises(AdapterError, match=r"reads hidden_states, embedding file .*image.ipadpt' has image_embeds"):
        stored.in_order(["hidden_states"])


# Files that are no embeddings.


class _Malice:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_a_bare_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    made, path = tmp_path / "made", tmp_path / "image.ipadpt"
    content = pickle.dumps([_Malice(made)], protocol=protocol)
    path.write_bytes(content)
    _refusal(path, "bare pickle, which may run code and was not opened" if protocol >= 2 else "of no known format")
    assert not made.exists()
    pickle.loads(content)
    assert made.is_dir(), "the pickle must be able to do harm, or its refusal says nothing"


def test_an_archive_with_code_runs_nothing(tmp_path: Path) -> None:
    made = tmp_path / "made"
    path = _saved(tmp_path, [_random(1, 1, 8), _Malice(made)])
    _refusal(path, "holds more than tensors, so it may run code and was not opened")
    assert not made.exists()
    torch.load(path, weights_only=False)
    assert made.is_dir(), "the archive must be able to do harm, or its refusal says nothing"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ([], "holds no embeddings"),
        ({"image_embeds": _random(1, 8)}, "holds no embeddings"),
        ([_random(1, 8), 3], "holds no embeddings"),
        (_random(8), "2 to 4 axes"),
        (_random(1, 1, 1, 5, 8), "2 to 4 axes"),
        (torch.zeros(1, 8, dtype=torch.int32), "as int32; save dense floats"),
        (torch.zeros(1, 8, dtype=torch.complex64), "as complex64"),
        (torch.eye(8).to_sparse(), "as sparse_coo float32"),
        (torch.zeros(1, 8, device="meta"), "a shape without values"),
        (_random(0, 8), "0 values"),
        (torch.zeros(1).expand(10**9, 10**3), "1000000000000 values; .* at most 268435456"),
        ([torch.full((1, 1, 8), torch.inf)], "no finite numbers"),
        (torch.full((1, 8), 1e300, dtype=torch.float64), "no finite numbers"),
    ],
)
def test_other_contents_end_in_one_sentence(tmp_path: Path, content: object, word: str) -> None:
    _refusal(_saved(tmp_path, content), word)


def test_files_of_other_kinds_end_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "image.ipadpt"
    _refusal(path, "does not exist")
    for content, word in ((b"", "is empty"), (b"this is no pickle", "no known format"), (b"PK", "damaged")):
        path.write_bytes(content)
        _refusal(path, word)
    torch.save([_random(1, 8)], path, _use_new_zipfile_serialization=False)
    _refusal(path, "bare pickle")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**6)
    _refusal(path, "compressed archive")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "nothing")
    _refusal(path, "damaged")


def _bytes(kind: str, tmp_path: Path) -> bytes:
    if kind == "ours":
        half: dict[Feature, Tensor] = {"image_embeds": _random(2, 8), "hidden_states": _random(2, 5, 8)}
        save_embeddings(tmp_path / "a.safetensors", half, half, "toy/image_encoder", "ab")
        return (tmp_path / "a.safetensors").read_bytes()
    buffer = io.BytesIO()
    torch.save([_random(2, 1, 5, 8)], buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["ours", "theirs"])
@IN_ONE_FOLDER
@given(data=st.data())
def test_damage_ends_in_one_sentence_or_does_not_show(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    content = bytearray(_bytes(kind, tmp_path))
    path = tmp_path / "damaged"
    if data.draw(st.booleans()):
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        _refusal(path, "embedding file", guided=True)
        return
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(ImageError):
        stored = load_embeddings(path, guided=True)
        assert all(torch.isfinite(tensor).all() for tensor in stored.conditional.values())


def test_the_file_is_what_the_format_says(tmp_path: Path) -> None:
    half: dict[Feature, Tensor] = {"image_embeds": _random(2, 8, dtype=torch.float16)}
    path = tmp_path / "a.safetensors"
    save_embeddings(path, half, {"image_embeds": torch.zeros(1, 8)}, "toy/image_encoder", "ab")
    state = load_file(path)
    assert {key: tensor.dtype for key, tensor in state.items()} == {
        "conditional.image_embeds": torch.float16,
        "unconditional.image_embeds": torch.float32,
    }
    assert path.stat().st_mode & 0o777 == 0o644
