"""Protocols are functions of the config, and bad input is named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nigaoe.core.config import load_config
from nigaoe.core.errors import AdapterError, ConfigError, DataError, ImageError, NigaoeError
from nigaoe.core.toy.people import Identity, split_of
from nigaoe.eval.config import EvalConfig, FolderProtocolConfig, ToyProtocolConfig
from nigaoe.eval.protocols.folder import FolderProtocol
from nigaoe.eval.protocols.protocol import STRANGERS, CellPlan, of_other_words, row_seed, strangers
from nigaoe.eval.protocols.repeated import Repeated
from nigaoe.eval.protocols.targets import scale_series
from nigaoe.eval.protocols.toy import ToyProtocol
from nigaoe.eval.running.plan import make_plan
from nigaoe.eval.running.shards import split_cell
from nigaoe.eval.scoring.judge import RED, judge_columns

ROOT = Path(__file__).parents[3]


def _toy(**values: object) -> EvalConfig:
    return EvalConfig.model_validate({"out": "unused", "protocol": {"kind": "toy", "n": 12}, **values})


def _protocol_of(run: EvalConfig) -> ToyProtocol:
    assert isinstance(run.protocol, ToyProtocolConfig)
    return ToyProtocol(run.protocol, run)


def _toy_protocol(n: int = 12, adapters: tuple[str, ...] = ("demo",), seed: int = 0) -> ToyProtocol:
    return _protocol_of(
        _toy(protocol={"kind": "toy", "n": n}, adapters=dict.fromkeys(adapters, "toy/adapter"), seed=seed)
    )


def _folder_protocol(references: Path, adapters: tuple[str, ...] = ()) -> FolderProtocol:
    config = _folder_config(references)
    run = EvalConfig(out=Path("unused"), protocol=config, adapters=dict.fromkeys(adapters, "toy/adapter"))
    return FolderProtocol(config, run)


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
    protocol = _toy_protocol(seed=3)
    for index in range(6):
        adapted = protocol.sample(_cell(protocol, "anime-adapter"), index)
        ceiling = protocol.sample(_cell(protocol, "real-anime"), index)
        assert isinstance(adapted.identity, Identity)
        assert split_of(adapted.identity) == "heldout"
        assert adapted.identity == ceiling.identity
        assert np.array_equal(np.asarray(adapted.reference), np.asarray(ceiling.reference))
        assert ceiling.picture is not None


def test_nobody_asks_for_red_with_a_red_reference() -> None:
    protocol = _toy_protocol(n=40)
    red, plain = _cell(protocol, "photo-red"), _cell(protocol, "photo-adapter")
    backgrounds = [protocol.sample(plain, index).background for index in range(40)]
    assert RED in backgrounds
    for index, background in enumerate(backgrounds):
        sample = protocol.sample(red, index)
        assert sample.background != RED
        assert background == RED or sample.background == background
    assert all(backgrounds[row] != RED for row in protocol.grid_rows(8))


def test_further_adapters_stand_beside_the_first() -> None:
    names = [cell.name for cell in _toy_protocol(adapters=("demo", "best")).cells()]
    assert {"photo-adapter", "anime-red", "photo-adapter-best", "anime-red-best"} <= set(names)
    assert len(names) == len(set(names))


def test_every_shown_cell_and_headline_exists(tmp_path: Path) -> None:
    toy = _toy_protocol(adapters=("demo", "best"))
    folder = _folder_protocol(_folder(tmp_path / "faces"), adapters=("ours",))
    for protocol in (toy, folder):
        names = [cell.name for cell in protocol.cells()]
        assert all(column.cell is None or column.cell in names for column in protocol.grid_columns())
        for headline in protocol.headlines():
            assert {headline.cell, *(cell for _, cell, _ in headline.beside)} <= set(names)


def test_a_folder_pairs_every_reference_with_every_prompt(tmp_path: Path) -> None:
    protocol = _folder_protocol(_folder(tmp_path / "faces"))
    cell = protocol.cells()[1]
    samples = [protocol.sample(cell, index) for index in range(cell.n)]
    assert [(s.group, s.prompt) for s in samples] == [
        (f"{i}.jpg", prompt) for i in range(3) for prompt in ("a person", "a man")
    ]
    assert [s.id for s in samples] == [protocol.sample_id(cell, index) for index in range(cell.n)]
    assert [protocol.reference_index(cell, index) for index in range(cell.n)] == [0, 0, 1, 1, 2, 2]
    assert len({s.id for s in samples}) == cell.n


def test_a_reference_that_only_seems_whole_is_named_when_it_is_decoded(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "faces")
    torn = folder / "1.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 120, 3), dtype=np.uint8)).save(torn)
    torn.write_bytes(torn.read_bytes()[:5000])
    protocol = _folder_protocol(folder)
    cell = protocol.cells()[0]
    assert protocol.identify(cell, 1)
    with pytest.raises(ImageError, match=r"1\.jpg' is damaged or truncated"):
        protocol.sample(cell, 1)
    torn.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"1\.jpg' is not a picture"):
        _folder_protocol(folder).identify(cell, 0)


def test_folders_are_people(tmp_path: Path) -> None:
    root = tmp_path / "people"
    root.mkdir()
    for person in ("ann", "bob"):
        _folder(root / person, 2)
    Image.new("RGB", (120, 96), "white").save(root / "somebody.png")
    protocol = _folder_protocol(root)
    cells = {cell.name: cell for cell in protocol.cells()}
    assert [protocol.group(cells["references"], i) for i in range(5)] == ["ann", "ann", "bob", "bob", "somebody.png"]
    # Another photo of the person is as good as it gets; somebody alone has none.
    real = [protocol.sample(cells["real"], i) for i in range(cells["real"].n)]
    assert [sample.group for sample in real] == ["ann", "ann", "bob", "bob"]
    for index, sample in enumerate(real):
        assert sample.picture is not None
        place = protocol.reference_index(cells["real"], index)
        reference = protocol.sample(cells["references"], place).picture
        assert reference is not None
        assert reference.tobytes() == sample.reference.tobytes()
        assert sample.picture.tobytes() != sample.reference.tobytes()


def test_wrong_partners_are_other_people_and_other_words(tmp_path: Path) -> None:
    protocol = _folder_protocol(_folder(tmp_path / "faces"))
    cell = next(cell for cell in protocol.cells() if cell.source == "generation")
    for index in range(cell.n):
        wrong = strangers(protocol, cell, index)
        groups = [protocol.group(cell, place) for place in wrong]
        assert len(groups) == len(set(groups)) == 2
        assert protocol.group(cell, index) not in groups
        (place,) = of_other_words(protocol, cell, index)
        assert protocol.prompt(cell, place) != protocol.prompt(cell, index)


def test_one_prompt_has_no_other_words() -> None:
    protocol = _toy_protocol()
    cell = _cell(protocol, "photo-adapter")
    assert of_other_words(protocol, cell, 0) == []
    assert len(strangers(protocol, cell, 0)) == STRANGERS


def test_scales_and_targets_are_cells_of_the_same_samples(tmp_path: Path) -> None:
    run = _toy(
        adapters={"demo": "toy/adapter"},
        sampling={"adapter_scale": 1.0, "scales": [0.5, 1.0, 1.5]},
        folders={"theirs": {"pictures": str(tmp_path), "like": "anime-red"}},
        servers={"live": {"url": "http://127.0.0.1:1", "like": "photo-adapter"}},
    )
    assert isinstance(run.protocol, ToyProtocolConfig)
    protocol = ToyProtocol(run.protocol, run)
    cells = {cell.name: cell for cell in protocol.cells()}
    assert scale_series(protocol.cells()) == {
        f"{style}-adapter": [f"{style}-adapter@0.5", f"{style}-adapter", f"{style}-adapter@1.5"]
        for style in ("photo", "anime")
    }
    assert "photo-red@0.5" not in cells
    for name, like in (("theirs", "anime-red"), ("live", "photo-adapter"), ("photo-adapter@0.5", "photo-adapter")):
        ours, other = (protocol.sample(cells[cell], 3) for cell in (name, like))
        assert (ours.id, ours.prompt, ours.reference.tobytes()) == (other.id, other.prompt, other.reference.tobytes())
    run = _toy(folders={"theirs": {"pictures": str(tmp_path), "like": "anime-adapter"}})
    with pytest.raises(ConfigError, match="lacks; it has: photo-none"):
        _protocol_of(run).cells()


def test_pictures_of_others_need_no_base(tmp_path: Path) -> None:
    references = _folder(tmp_path / "faces")
    values = {"kind": "folder", "references": references, "prompts": ["a person", "a man"], "clip": "toy/clip"}
    theirs = {"theirs": {"pictures": _folder(tmp_path / "theirs")}}
    run = EvalConfig.model_validate({"out": "unused", "protocol": values, "folders": theirs})
    assert isinstance(run.protocol, FolderProtocolConfig)
    protocol, like = FolderProtocol(run.protocol, run), _folder_protocol(references)
    real, cell = protocol.cells()
    assert (cell.name, cell.source, cell.target, cell.base) == ("theirs", "folder", "theirs", None)
    assert (cell.yardstick, cell.references) == (real.name, real.name)
    drawn = like.cells()[1]
    assert [protocol.sample_id(cell, i) for i in range(cell.n)] == [like.sample_id(drawn, i) for i in range(drawn.n)]
    assert [(line.cell, line.metric) for line in protocol.headlines()] == [("theirs", "clip_i"), ("theirs", "clip_t")]
    assert {task.cell.name for task in make_plan(run).tasks} == {"references", "theirs"}


def test_somebody_has_to_draw(tmp_path: Path) -> None:
    config = tmp_path / "eval.yaml"
    config.write_text("out: x\nprotocol: {kind: folder, references: y, prompts: [a person], clip: toy/clip}\n")
    with pytest.raises(ConfigError, match="there are no pictures to score; name bases"):
        load_config(config, EvalConfig)
    folder, base = "folders.theirs={pictures: y}", "protocol.bases={photo: toy/photo}"
    assert load_config(config, EvalConfig, [folder]).folders["theirs"].like is None
    for further in ([folder], [base], [folder, "protocol.image_encoder=z"]):
        with pytest.raises(ConfigError, match="adapters ours have nothing to draw with; name protocol.bases and"):
            load_config(config, EvalConfig, ["adapters.ours=x", *further])
    run = _toy(folders={"theirs": {"pictures": str(tmp_path)}})
    with pytest.raises(ConfigError, match="'theirs' is like no cell; give `like`, one of: photo-none"):
        _protocol_of(run).cells()


def test_shards_cover_every_sample_once() -> None:
    cell = CellPlan("c", "c", "generation", 10)
    tasks = split_cell(cell, 4, keep_features=5, thumbnails=6)
    assert [(task.start, task.stop) for task in tasks] == [(0, 4), (4, 8), (8, 10)]
    assert [(task.keeps_features, task.thumbnails) for task in tasks] == [(True, 4), (True, 2), (False, 0)]


def test_seeds_belong_to_samples() -> None:
    seeds = {row_seed(0, index) for index in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**62 for seed in seeds)
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


@pytest.mark.parametrize("name", ["demo/eval", "toy/eval", "toy/carry", "sd15/eval"])
def test_shipped_configs_are_valid(name: str) -> None:
    config = load_config(ROOT / "configs" / f"{name}.yaml", EvalConfig)
    assert config.adapters, "an evaluation without an adapter shows nothing"


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"adapters": {"demo": "nowhere.safetensors"}}, AdapterError, "nowhere.safetensors"),
        ({"adapters": {"demo": "toy/elsewhere"}}, NigaoeError, "toy/elsewhere"),
        ({"protocol": {"kind": "toy", "photo_base": "toy/oil"}}, NigaoeError, "toy/oil"),
        ({"thresholds": [{"cell": "x", "metric": "clip_t", "at": ">=", "bound": 0}]}, ConfigError, "its cells are"),
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
    with pytest.raises(ConfigError, match="names two systems"):
        load_config(config, EvalConfig, ["adapters.ours=x", "folders.ours={pictures: y, like: photo-ours}"])


def test_folders_without_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        _folder_protocol(tmp_path / "nowhere")
    folder = _folder(tmp_path / "faces", 1)
    with pytest.raises(DataError, match="holds 1 pictures"):
        _folder_protocol(folder)
    (folder / "z.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"z\.png"):
        make_plan(EvalConfig(out=tmp_path, protocol=_folder_config(folder)))


def test_every_drawn_sample_may_be_drawn_several_times(tmp_path: Path) -> None:
    plain = _folder_protocol(_folder(tmp_path / "faces"), adapters=("ours",))
    protocol = Repeated(plain, 3)
    once, thrice = ({cell.name: cell for cell in one.cells()} for one in (plain, protocol))
    assert thrice["references"].n == once["references"].n
    cell = thrice["photo-ours"]
    assert cell.n == 3 * once["photo-ours"].n
    samples = [protocol.sample(cell, index) for index in range(cell.n)]
    assert len({sample.id for sample in samples}) == cell.n
    assert [sample.id for sample in samples[:3]] == ["0.jpg-000", "0.jpg-000-1", "0.jpg-000-2"]
    assert [sample.prompt for sample in samples[:6]] == ["a person"] * 3 + ["a man"] * 3
    assert len({protocol.identify(cell, index) for index in range(cell.n)}) == cell.n
    assert all(protocol.group(cell, place) != "0.jpg" for place in strangers(protocol, cell, 1))
