"""A report says what makes its figures doubtful, exactly where something does."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from made_shards import space_of_width
from nigaoe.core.reports import Cell, Check, Control, Estimate
from nigaoe.eval.config import EvalConfig
from nigaoe.eval.findings.flags import flags_of
from nigaoe.eval.metrics.counted import CountedMoments
from nigaoe.eval.metrics.samples import Samples
from nigaoe.eval.protocols.protocol import DRAWN, CellPlan
from nigaoe.eval.running.merging import MergedCell, Side
from nigaoe.eval.running.plan import Plan, make_plan
from nigaoe.eval.running.tables import SampleTable

N = 4
IDS = tuple(f"{i:06d}" for i in range(N))
NAN = float("nan")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Cells of every kind: ceilings, no adapter, an adapter at three scales, and a folder."""
    folder = tmp_path_factory.mktemp("theirs")
    Image.new("RGB", (8, 8)).save(folder / f"{IDS[0]}.png")
    config = {
        "out": str(folder / "out"),
        "protocol": {"kind": "toy", "n": N, "yardstick_n": N},
        "adapters": {"demo": "toy/adapter"},
        "sampling": {"scales": [0.0, 0.5]},
        "folders": {"theirs": {"pictures": str(folder), "like": "photo-adapter"}},
    }
    return make_plan(EvalConfig.model_validate(config))


def _merged(cell: CellPlan, **columns: list[float]) -> MergedCell:
    """A cell in which all is well, but for some figures."""
    seed = int.from_bytes(cell.name.encode(), "big") % 2**32
    rng = np.random.default_rng(seed)
    samples = Samples.of(space_of_width(3, "judge"), rng.normal(size=(N, 3)).astype(np.float32), list(IDS))
    usual = {"width_px": [64.0] * N, "height_px": [64.0] * N, "clip_t": [0.2] * N}
    arrays = {name: np.array(values, np.float64) for name, values in {**usual, **columns}.items()}
    keys = rng.integers(0, 256, (N, 16), dtype=np.uint8)
    return MergedCell(SampleTable(IDS, IDS, arrays, {}), {"judge": Side(samples, CountedMoments.of(samples))}, keys)


def _cell(plan: Plan, name: str) -> Cell:
    return Cell(name=name, title=plan.cell(name).title, base=None, adapter=None, prompt=None, n=N, metrics={})


def _flags(plan: Plan, *changed: Cell, checks: tuple[Check, ...] = (), **merged: MergedCell) -> list[str]:
    """`_flags_of`, with the names of cells written with '_' for '-'."""
    return _flags_of(plan, {name.replace("_", "-"): one for name, one in merged.items()}, *changed, checks=checks)


def _flags_of(plan: Plan, given: Mapping[str, MergedCell], *changed: Cell, checks: tuple[Check, ...] = ()) -> list[str]:
    """Flags where all is well but for these."""
    by_name = {cell.name: cell for cell in changed}
    cells = [by_name.get(cell.name, _cell(plan, cell.name)) for cell in plan.cells if cell.yardstick is not None]
    # As a report has it: a cell that nobody planned.
    cells.append(Cell(name="train-photo-halves", title="Halves", base=None, adapter=None, prompt=None, n=2, metrics={}))
    return flags_of(plan, checks, cells, {cell.name: given.get(cell.name, _merged(cell)) for cell in plan.cells})


def test_nothing_is_flagged_where_all_is_well(plan: Plan) -> None:
    fine = (Check(name="a", passed=True, detail="b"), Check(name="c", passed=None, detail="cannot be known"))
    assert _flags(plan, checks=fine) == []


def test_a_failed_check_is_flagged(plan: Plan) -> None:
    failed = Check(name="the batch does not matter", passed=False, detail="largest difference 3")
    assert _flags(plan, checks=(failed,)) == ["The check 'the batch does not matter' failed: largest difference 3."]


def test_failed_samples_are_flagged(plan: Plan) -> None:
    cell = _cell(plan, "theirs").model_copy(update={"failed": {IDS[1]: "torn", IDS[2]: "missing"}})
    (flag,) = _flags(plan, cell)
    assert flag.startswith("Folder 'theirs'")
    assert flag.endswith("2 of 4 samples have no picture, such as '000001' (torn).")


def test_a_cell_without_any_picture_is_flagged_as_that_alone(plan: Plan) -> None:
    cell = _cell(plan, "theirs").model_copy(update={"failed": dict.fromkeys(IDS, "torn")})
    nothing = [NAN] * N
    table = replace(_merged(plan.cell("theirs"), width_px=nothing, height_px=nothing, clip_t=nothing).table)
    empty = MergedCell(table, {}, np.zeros((0, 16), np.uint8))
    (flag,) = _flags(plan, cell, theirs=empty)
    assert "4 of 4 samples have no picture" in flag


def _control(low: float) -> Control:
    gap = Estimate(value=0.1, n=N, low=low, high=0.2)
    return Control(matched=0.5, shuffled=0.4, auc=0.6, gap=gap, n_wrong=9, is_broken=low <= 0)


@pytest.mark.parametrize(
    ("cell", "metric", "is_flagged"),
    [
        ("photo-none", "clip_i", False),
        ("photo-none", "clip_t", True),
        ("photo-adapter@0", "clip_i", False),
        ("photo-adapter@0", "clip_t", True),
        ("photo-adapter@0.5", "clip_i", True),
        ("photo-adapter", "clip_i", True),
        ("photo-red", "clip_i", True),
        ("real-anime", "clip_i", True),
        ("vae-photo", "clip_i", True),
        ("theirs", "clip_i", True),
    ],
)
def test_a_figure_that_shuffling_leaves_is_flagged_where_a_likeness_is_expected(
    plan: Plan, cell: str, metric: str, is_flagged: bool
) -> None:
    flags = [
        _flags(plan, _cell(plan, cell).model_copy(update={"controls": {metric: _control(low)}})) for low in (-0.1, 0.1)
    ]
    assert [len(found) for found in flags] == [int(is_flagged), 0]
    if is_flagged:
        assert flags[0][0].startswith(f"{plan.cell(cell).title}: {metric} does not fall when the pairs are shuffled")


def test_a_folder_without_words_is_flagged(plan: Plan) -> None:
    for values, n in (([NAN] * N, 4), ([0.2, 0.2, NAN, NAN], 2)):
        (flag,) = _flags(plan, theirs=_merged(plan.cell("theirs"), clip_t=values))
        assert f"so {n} of 4 have no CLIP-T" in flag
    columns = {name: values for name, values in _merged(plan.cell("theirs")).table.columns.items() if name != "clip_t"}
    merged = _merged(plan.cell("theirs"))
    assert len(_flags(plan, theirs=replace(merged, table=replace(merged.table, columns=columns)))) == 1
    # Pictures that were drawn here are known to be drawn from their words.
    assert _flags(plan, photo_none=_merged(plan.cell("photo-none"), clip_t=[NAN] * N)) == []


@pytest.mark.parametrize("name", ["theirs", "photo-adapter", "references", "train-photo"])
def test_copies_among_pictures_are_flagged(plan: Plan, name: str) -> None:
    merged = _merged(plan.cell(name))
    keys = merged.keys.copy()
    keys[2:] = keys[0]
    (flag,) = _flags_of(plan, {name: replace(merged, keys=keys)})
    assert flag == f"{plan.cell(name).title}: 2 of 4 pictures are copies of another one."


def test_copies_of_references_are_flagged(plan: Plan) -> None:
    (flag,) = _flags(plan, theirs=_merged(plan.cell("theirs"), is_reference=[1, 0, NAN, 1]))
    assert flag.endswith("2 of 4 pictures are the reference itself.")
    assert _flags(plan, theirs=_merged(plan.cell("theirs"), is_reference=[0, 0, NAN, 0])) == []


@pytest.mark.parametrize(
    ("drawn", "real", "words"),
    [
        ((64, 64), (64, 64), None),
        ((128, 128), (64, 64), None),
        ((64, 64), (512, 512), None),
        ((832, 1216), (832, 1216), None),
        ((512, 512), (512, 520), None),
        ((512, 512), (512, 540), "stretch both to one square"),
        ((512, 768), (64, 64), "stretch both to one square"),
        ((512, 512), (255, 255), "thumbnails lack"),
        ((512, 768), (128, 192), "thumbnails lack"),
    ],
)
def test_shapes_that_distances_would_hide_are_flagged(
    plan: Plan, drawn: tuple[int, int], real: tuple[int, int], words: str | None
) -> None:
    def sized(name: str, size: tuple[int, int]) -> MergedCell:
        return _merged(plan.cell(name), width_px=[size[0]] * N, height_px=[size[1]] * N)

    others = {cell.name: sized(cell.name, real) for cell in plan.cells if cell.name != "theirs"}
    flags = _flags_of(plan, others | {"theirs": sized("theirs", drawn)})
    assert [flag for flag in flags if not flag.startswith("Folder")] == []
    assert len(flags) == (0 if words is None else 1)
    if words is not None:
        assert words in flags[0]
        assert f"of {drawn[0]}x{drawn[1]} px are held against ones of {real[0]}x{real[1]} px" in flags[0]


def test_pictures_that_are_one_to_a_network_are_flagged(plan: Plan) -> None:
    cell = plan.cell("theirs")
    for spread, count in ((0.01, 1), (3.0, 0)):
        rows = 1 + spread * np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
        samples = Samples.of(space_of_width(3, "judge"), rows.astype(np.float32), list(IDS))
        side = Side(samples, CountedMoments.of(samples))
        flags = _flags(plan, theirs=replace(_merged(cell), sides={"judge": side}))
        assert len(flags) == count
        assert all("to judge all its pictures are one (mean cosine " in flag for flag in flags)


def test_flags_stand_beside_one_another(plan: Plan) -> None:
    merged = _merged(plan.cell("theirs"), clip_t=[NAN] * N, is_reference=[1] * N)
    failed = _cell(plan, "theirs").model_copy(update={"failed": {IDS[0]: "torn"}})
    found = _flags(plan, failed, theirs=replace(merged, keys=np.zeros((N, 16), np.uint8)))
    assert len(found) == 4


def test_pictures_of_two_codecs_are_flagged(plan: Plan) -> None:
    (flag,) = _flags(plan, train_photo=_merged(plan.cell("train-photo"), is_lossy=[1.0, 0.0, 0.0, NAN]))
    assert "1 of 3 pictures come from files that lose detail" in flag


def test_systems_that_are_stored_by_two_codecs_are_flagged(plan: Plan) -> None:
    drawn = [cell.name for cell in plan.cells if cell.source in DRAWN]
    lossy = {name: _merged(plan.cell(name), is_lossy=[1.0] * N) for name in drawn}
    assert _flags_of(plan, lossy) == []
    (flag,) = _flags_of(
        plan, {name: _merged(plan.cell(name), is_lossy=[float(name == "theirs")] * N) for name in drawn}
    )
    assert flag.startswith("Folder 'theirs'")
    assert "saved alike" in flag
