"""Protocols are functions of the config, and bad input is named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nigaoe.core.config import load_config
from nigaoe.core.errors import AdapterError, ConfigError, DataError, ImageError, NigaoeError
from nigaoe.core.toy.people import Identity, split_of
from nigaoe.eval.config import EvalConfig, FolderProtocolConfig, ToyProtocolConfig
from nigaoe.eval.plan import make_plan
from nigaoe.eval.protocols.folder import FolderProtocol
from nigaoe.eval.protocols.protocol import CellPlan, row_seed
from nigaoe.eval.protocols.toy import ToyProtocol
from nigaoe.eval.scoring.judge import RED, judge_columns
from nigaoe.eval.shards import split_cell

ROOT = Path(__file__).parents[3]


def _toy(**values: object) -> EvalConfig:
    return EvalConfig.model_validate({"out": "unused", "protocol": {"kind": "toy", "n": 12}, **values})


def _cell(protocol: ToyProtocol, name: str) -> CellPlan:
    return next(cell for cell in protocol.cells() if cell.name == name)


def _folder(path: Path, count: int = 3) -> Path:
    path.mkdir()
    for i in range(count):
        Image.new("RGB", (120, 96), (40 * i, 90, 160)).save(path / f"{i}.jpg")
    return path


def _folder_config(references: Path) -> FolderProtocolConfig:
    return FolderProtocolConfig(
        kind="folder",
        references=references,
        prompts=["a person", "a man"],
        bases={"photo": "toy/photo"},
        image_encoder="toy/image_encoder",
        clip="toy/clip",
    )


def test_people_are_held_out_and_shared_by_all_cells() -> None:
    protocol = ToyProtocol(ToyProtocolConfig(kind="toy", n=12), ["demo"], seed=3)
    for index in range(6):
        adapted = protocol.sample(_cell(protocol, "anime-adapter"), index)
        ceiling = protocol.sample(_cell(protocol, "real-anime"), index)
        assert isinstance(adapted.identity, Identity)
        assert split_of(adapted.identity) == "heldout"
        assert adapted.identity == ceiling.identity
        assert np.array_equal(np.asarray(adapted.reference), np.asarray(ceiling.reference))
        assert ceiling.picture is not None


def test_nobody_asks_for_red_with_a_red_reference() -> None:
    protocol = ToyProtocol(ToyProtocolConfig(kind="toy", n=40), ["demo"], seed=0)
    red, plain = _cell(protocol, "photo-red"), _cell(protocol, "photo-adapter")
    backgrounds = [protocol.sample(plain, index).background for index in range(40)]
    assert RED in backgrounds
    for index, background in enumerate(backgrounds):
        sample = protocol.sample(red, index)
        assert sample.background != RED
        assert background == RED or sample.background == background
    assert all(backgrounds[row] != RED for row in protocol.grid_rows(8))


def test_further_adapters_stand_beside_the_first() -> None:
    names = [cell.name for cell in ToyProtocol(ToyProtocolConfig(kind="toy", n=4), ["demo", "best"], 0).cells()]
    assert {"photo-adapter", "anime-red", "photo-adapter-best", "anime-red-best"} <= set(names)
    assert len(names) == len(set(names))


def test_every_shown_cell_and_headline_exists(tmp_path: Path) -> None:
    toy = ToyProtocol(ToyProtocolConfig(kind="toy", n=4), ["demo", "best"], 0)
    folder = FolderProtocol(_folder_config(_folder(tmp_path / "faces")), ["ours"], 0)
    for protocol in (toy, folder):
        metrics = {cell.name: protocol.metrics(cell) for cell in protocol.cells()}
        assert all(column.cell is None or column.cell in metrics for column in protocol.grid_columns())
        for headline in protocol.headlines():
            for _, cell, metric in ((), headline.cell, headline.metric), *headline.beside:
                assert metric in metrics[cell]


def test_a_folder_pairs_every_reference_with_every_prompt(tmp_path: Path) -> None:
    protocol = FolderProtocol(_folder_config(_folder(tmp_path / "faces")), [], 0)
    cell = protocol.cells()[1]
    pairs = [(s.group, s.prompt) for s in (protocol.sample(cell, index) for index in range(cell.n))]
    assert pairs == [(f"{i}.jpg", prompt) for i in range(3) for prompt in ("a person", "a man")]


def test_shards_cover_every_sample_once_and_wrap_the_control() -> None:
    cell = CellPlan("c", "c", "generation", 10)
    tasks = split_cell(cell, 4, [0, 5])
    assert [(task.start, task.stop, task.pictures) for task in tasks] == [(0, 4, (0,)), (4, 8, (5,)), (8, 10, ())]
    assert [index for task in tasks for index in task.shuffled] == [*range(1, 10), 0]


def test_seeds_belong_to_samples() -> None:
    seeds = {row_seed(0, index) for index in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert row_seed(0, 7) != row_seed(1, 7)


def test_judge_columns_compare_with_the_reference() -> None:
    identity = Identity(0, 1, 2, 3, 0, 1, 2, 1, 3)
    answers = {name: np.array([value]) for name, value in vars(identity).items()}
    answers |= {"background": np.array([RED]), "medium": np.array([1])}
    columns = judge_columns(answers, [identity], [RED])
    assert columns["attribute.mean"] == [1.0]
    assert columns["background_copied"] == columns["background_red"] == columns["judged_anime"] == [1.0]
    answers["skin"] = np.array([0])
    columns = judge_columns(answers, [identity], [2])
    assert columns["attribute.mean"] == [pytest.approx(8 / 9)]
    assert columns["background_copied"] == [0.0]


@pytest.mark.parametrize("name", ["demo", "toy", "sd15"])
def test_shipped_configs_are_valid(name: str) -> None:
    config = load_config(ROOT / "configs" / name / "eval.yaml", EvalConfig)
    assert config.adapters, "an evaluation without an adapter shows nothing"


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"adapters": {"demo": "nowhere.safetensors"}}, AdapterError, "nowhere.safetensors"),
        ({"adapters": {"demo": "toy/elsewhere"}}, NigaoeError, "toy/elsewhere"),
        ({"protocol": {"kind": "toy", "photo_base": "toy/oil"}}, NigaoeError, "toy/oil"),
        ({"thresholds": [{"cell": "x", "metric": "clip_t", "at": ">=", "bound": 0}]}, ConfigError, "its cells are"),
        ({"thresholds": [{"cell": "photo-none", "metric": "x", "at": ">=", "bound": 0}]}, ConfigError, "it has: attr"),
    ],
)
def test_bad_input_is_named_before_any_work(values: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make_plan(_toy(**values))


def test_unknown_keys_and_bad_names_are_named(tmp_path: Path) -> None:
    config = tmp_path / "eval.yaml"
    config.write_text("out: x\nprotocol: {kind: toy}\n")
    with pytest.raises(ConfigError, match=r"sampling\.step"):
        load_config(config, EvalConfig, ["sampling.step=3"])
    with pytest.raises(ConfigError, match="none"):
        load_config(config, EvalConfig, ["adapters.none=x"])


def test_folders_without_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        FolderProtocol(_folder_config(tmp_path / "nowhere"), [], 0)
    folder = _folder(tmp_path / "faces", 1)
    with pytest.raises(DataError, match="holds 1 pictures"):
        FolderProtocol(_folder_config(folder), [], 0)
    (folder / "z.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"z\.png"):
        FolderProtocol(_folder_config(folder), [], 0)
