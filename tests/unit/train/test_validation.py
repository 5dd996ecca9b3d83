"""A validation measures what it says, gives the same figures each time, and fails in a sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.bases import load_base
from nigaoe.core.errors import DataError, NigaoeError
from nigaoe.core.faces.encoder import Face
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.core.image_prompts.conditioner import Conditioner
from nigaoe.core.toy.portraits import write_portraits
from nigaoe.train.config import TrainConfig
from nigaoe.train.records.record import Picture, Record
from nigaoe.train.samples.batches import Batch
from nigaoe.train.samples.draws import Draws
from nigaoe.train.validating.bands import band_losses
from nigaoe.train.validating.likeness import likeness
from nigaoe.train.validating.measure import likenesses, measure_adapter
from nigaoe.train.validating.pictures import Person, choose_people
from nigaoe.train.validating.rows import in_fixed_order
from nigaoe.train.watching.history import grid_path, read_validations
from tiny_worlds import moved_adapter

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Two pictures of each of six toy people, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("portraits")
    write_portraits(folder, people=6, scenes=2, split="heldout", seed=0)
    paths = sorted(folder.glob("*.jpg"))
    (folder / "broken.jpg").write_bytes(paths[0].read_bytes()[:300])
    records = [Record(p.name, Picture(str(p)), ("a photo of a person",), p.name.partition("_")[0]) for p in paths]
    return [Record("broken.jpg", Picture(str(folder / "broken.jpg")), ("a photo",), "nobody"), *records]


@pytest.fixture(scope="module")
def adapter_file(adapter: IPAdapter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "adapter.safetensors"
    save_adapter(adapter, path)
    return path


def _config(out: Path, base: str = "toy/photo", **changes: Any) -> TrainConfig:
    validation = {"loss_rows": 4, "references": 2, "prompts": ["a photo of a person", "an anime drawing"], "steps": 2}
    values = {
        "name": "test",
        "out": out,
        "base": base,
        "image_encoder": "toy/image_encoder",
        "data": {"source": "captions.csv", "prepared": "prepared", "split": "split.json", "reference": "other"},
        "steps": 100,
        "validation": validation,
    }
    return TrainConfig.model_validate(values | changes)


def test_the_same_adapter_gives_the_same_figures_and_another_one_others(
    portraits: list[Record], adapter_file: Path, adapter: IPAdapter, tmp_path: Path
) -> None:
    first = measure_adapter(adapter_file, 10, _config(tmp_path / "a"), portraits, CPU)
    again = measure_adapter(adapter_file, 10, _config(tmp_path / "b"), portraits[::-1], CPU)
    assert first.metrics == again.metrics, "the order of the rows does not matter either"
    pictures = [grid_path(tmp_path / name, 10).read_bytes() for name in "ab"]
    assert pictures[0] == pictures[1]
    _require_reference(Image.open(grid_path(tmp_path / "a", 10)), portraits)
    bands = {key: value for key, value in first.metrics.items() if key.startswith("loss_t")}
    assert list(bands) == ["loss_t000_250", "loss_t250_500", "loss_t500_750", "loss_t750_1000"]
    assert first.metrics["validation_loss"] == pytest.approx(sum(bands.values()) / 4)
    assert 0 < first.metrics["clip_i_shuffled"] < 1
    assert "identity" not in first.metrics
    assert (first.loss_rows, first.pictures) == (4, 4)
    assert read_validations(tmp_path / "a") == [first]
    changed = IPAdapter.of_state({k: 1.1 * v for k, v in adapter.state_dict().items()}, adapter.variant, "a test")
    save_adapter(changed, tmp_path / "other.safetensors")
    other = measure_adapter(tmp_path / "other.safetensors", 20, _config(tmp_path / "a"), portraits, CPU)
    assert all(other.metrics[key] != value for key, value in first.metrics.items())


def _require_reference(grid: Image.Image, portraits: list[Record]) -> None:
    """The first tile of the first row is the first person, and there are as many tiles as there should be."""
    columns, rows = 1 + 2, 2
    assert grid.width == 2 * 16 + columns * 200 - 8
    assert rows * 200 < grid.height < (rows + 1) * 200
    first = next(record for record in in_fixed_order(portraits, 0) if record.key != "broken.jpg")
    reference = Image.open(first.image.uri).convert("RGB").resize((192, 192), Image.Resampling.LANCZOS)
    pixels = np.asarray(grid.convert("RGB"), np.float32)
    top = next(y for y in range(grid.height) if (pixels[y, 16:208] < 250).all())
    assert np.abs(pixels[top : top + 192, 16:208] - np.asarray(reference, np.float32)).mean() < 1


@pytest.mark.parametrize("kind", ["sd2", "sdxl"])
def test_other_kinds_of_bases_are_measured_too(
    kind: str, tiny_base: Callable[[str], Path], encoder: ImageEncoder, portraits: list[Record], tmp_path: Path
) -> None:
    folder = tiny_base(kind)
    adapter = moved_adapter(load_base(str(folder)), encoder, "plus", identity=8, rank=4, seed=3)
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    config = _config(tmp_path, str(folder), adapter={"variant": "plus"}, validation={"steps": 1, "references": 2})
    result = measure_adapter(tmp_path / "adapter.safetensors", 1, config, portraits, CPU)
    assert result.loss_rows == 12, "as many as there are"
    assert result.metrics.keys() >= {"validation_loss", "loss_t750_1000", "clip_i"}


def test_an_adapter_that_came_apart_fails_in_a_sentence(
    portraits: list[Record], adapter: IPAdapter, tmp_path: Path
) -> None:
    state = {key: torch.full_like(value, 1e30) for key, value in adapter.state_dict().items()}
    save_adapter(IPAdapter.of_state(state, adapter.variant, "a test"), tmp_path / "adapter.safetensors")
    with pytest.raises(NigaoeError, match=r"step 7 is no finite number; lower optimizer\.lr"):
        measure_adapter(tmp_path / "adapter.safetensors", 7, _config(tmp_path), portraits, CPU)
    assert not (tmp_path / "validation").exists()


def test_pictures_that_cannot_be_read_are_nobodys_reference(
    portraits: list[Record], adapter_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no held-out picture .* can be used"):
        measure_adapter(adapter_file, 1, _config(tmp_path), portraits[:1], CPU)


class Recorder:
    """An objective whose loss is its timestep."""

    def __init__(self) -> None:
        self.draws: list[Draws] = []

    def losses(self, batch: Batch, draws: Draws) -> Tensor:
        self.draws.append(draws)
        return draws.timesteps.float()


def _batch(rows: int) -> Batch:
    return Batch(torch.zeros(rows, 4, 2, 2), {}, torch.zeros(rows, 3, dtype=torch.long), torch.zeros(rows, 6))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from([1000, 20, 7]))
def test_rows_are_spread_evenly_over_every_band(count: int, at_once: int, train_timesteps: int) -> None:
    keys = [f"row {i}" for i in range(count)]
    parts = [keys[i : i + at_once] for i in range(0, count, at_once)]
    objective: Any = Recorder()
    losses = band_losses(objective, [(part, _batch(len(part))) for part in parts], count, train_timesteps, seed=0)
    edges = [train_timesteps * i // 4 for i in range(5)]
    for band in range(4):
        name = f"loss_t{edges[band]:03d}_{edges[band + 1]:03d}"
        steps = torch.cat([draws.timesteps for draws in objective.draws[band::4]])
        assert len(steps) == count
        assert int(steps.min()) >= edges[band]
        assert int(steps.max()) < edges[band + 1]
        assert losses[name] == pytest.approx(steps.double().mean().item(), rel=1e-6)
        assert steps.double().mean() == pytest.approx((edges[band] + edges[band + 1] - 1) / 2, abs=0.51)


def test_the_noise_of_a_row_does_not_depend_on_its_company() -> None:
    alone, together = Recorder(), Recorder()
    band_losses(alone, [(["b"], _batch(1))], 1, 1000, seed=0)  # type: ignore[arg-type]
    band_losses(together, [(["a", "b"], _batch(2))], 2, 1000, seed=0)  # type: ignore[arg-type]
    for one, two in zip(alone.draws, together.draws, strict=True):
        assert torch.equal(one.noise[0], two.noise[1])
        assert not torch.equal(two.noise[0], two.noise[1])
    assert not torch.equal(alone.draws[0].noise, alone.draws[1].noise)


def test_likeness_is_told_beside_that_of_the_wrong_person() -> None:
    references = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    drawn = torch.stack([references[[0, 0]], references[[1, 1]], references[[2, 2]]]) * 5
    assert likeness("clip_i", references, drawn, ["a", "b", "c"]) == pytest.approx(
        {"clip_i": 1.0, "clip_i_shuffled": 2 / 6}
    )
    # The third picture is of the first person, so it says nothing of strangers.
    assert likeness("clip_i", references, drawn, ["a", "b", "a"])["clip_i_shuffled"] == pytest.approx(0.0)
    assert likeness("clip_i", references, drawn, ["a", "a", "a"]).keys() == {"clip_i"}


def test_faces_that_nobody_finds_count_nowhere() -> None:
    references = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    drawn = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert likeness("identity", references, drawn, ["a", "b"]) == {"identity": 1.0, "identity_shuffled": 0.0}
    assert likeness("identity", references, torch.zeros(2, 2, 2), ["a", "b"]) == {}


class Colours:
    """A face encoder that takes every picture which is not black for a face, known by its colour."""

    name, dim = "colours", 3

    def find(self, image: Image.Image) -> list[Face]:
        colour = torch.from_numpy(np.asarray(image, np.float32).mean((0, 1)))
        return [Face(colour, (0, 0, 1, 1), np.zeros((5, 2)), 1.0)] if bool(colour.any()) else []


def test_identities_come_with_the_share_of_pictures_that_have_one(encoder: ImageEncoder) -> None:
    red, blue, black = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "black"))
    nothing: Any = None
    people = [Person("1.jpg", "a", red, nothing), Person("2.jpg", "b", blue, nothing)]
    metrics = likenesses(people, [[red, black], [blue, red]], encoder, Colours())
    assert metrics["faces_found"] == 0.75
    assert metrics["identity"] == pytest.approx(2 / 3)
    assert metrics["identity_shuffled"] == pytest.approx(1 / 3)
    assert metrics["clip_i"] > metrics["clip_i_shuffled"]
    assert "identity" not in likenesses(people, [[red], [blue]], encoder, None)


def test_references_are_of_as_many_people_as_there_are(
    portraits: list[Record], adapter: IPAdapter, encoder: ImageEncoder
) -> None:
    ordered, conditioner = in_fixed_order(portraits, 0), Conditioner(encoder)
    chosen = choose_people(ordered, 8, adapter, conditioner, 1.0)
    assert len({person.identity for person in chosen[:6]}) == 6
    assert len({person.key for person in chosen}) == 8
    assert [person.key for person in choose_people(ordered, 3, adapter, conditioner, 1.0)] == [
        person.key for person in chosen[:3]
    ]
