"""Two finished runs: what is compared, what is refused, and what is only said."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from nigaoe.core.errors import ConfigError, DataError, NigaoeError
from nigaoe.core.reports import Cell, Estimate, Metric, Report
from nigaoe.eval.commands import eval_app
from nigaoe.eval.findings.comparing_runs import Run, compare_runs, read_run, run_differences
from nigaoe.eval.findings.samples_file import write_samples
from nigaoe.eval.running.tables import SampleTable

N = 24
METRICS = {
    "clip_i": Metric(title="CLIP-I", setting="toy/clip abc", higher_is_better=True),
    "lpips": Metric(title="LPIPS", setting="vgg", higher_is_better=False),
    "copied": Metric(title="background copied", is_share=True),
    "fd_judge": Metric(title="FD judge", setting="judge", higher_is_better=False, is_per_sample=False),
}
NOISE = np.random.default_rng(0).normal(0, 0.05, N)


def _table(likeness: float, **changes: Any) -> SampleTable:
    columns = {
        "clip_i": likeness + NOISE,
        "clip_i~wrong0": NOISE,
        "lpips": 0.8 - likeness + NOISE[::-1],
        "copied": (np.arange(N) % 4 == 0).astype(float),
    }
    values: dict[str, Any] = {
        "ids": tuple(f"toy/0/{i}" for i in range(N)),
        "groups": tuple(f"person {i // 2}" for i in range(N)),
        "columns": columns,
        "failed": {},
    }
    return SampleTable(**values | changes)


def _run(folder: Path, cells: dict[str, SampleTable], provenance: dict[str, str] | None = None, **said: Any) -> Path:
    report = Report(
        title=folder.name,
        provenance=provenance or {"seed": "0"},
        metrics=said.get("metrics", METRICS),
        comparisons=[],
        cells=[
            Cell(
                name=name,
                title=name,
                base="toy/anime",
                adapter=said.get("adapter", "ours"),
                prompt="an anime drawing",
                n=len(table.ids),
                metrics={
                    **{key: table.items(key, METRICS[key]).estimate() for key in METRICS if key in table.columns},
                    "fd_judge": Estimate(value=3.5, n=said.get("fd_n", N)),
                },
            )
            for name, table in cells.items()
        ],
    )
    folder.mkdir()
    (folder / "report.json").write_text(report.model_dump_json())
    write_samples(folder / "samples.csv", cells)
    return folder


@pytest.fixture
def plain(tmp_path: Path) -> Run:
    return read_run(_run(tmp_path / "plain", {"photo": _table(0.6), "anime": _table(0.5)}))


def test_every_figure_of_every_cell_of_both_is_compared(plain: Run, tmp_path: Path) -> None:
    better = read_run(_run(tmp_path / "better", {"anime": _table(0.7), "other": _table(0.7)}))
    likeness, distance, copied, frechet = compare_runs(plain, better)
    assert {figure.first_cell for figure in (likeness, distance, copied, frechet)} == {"anime"}
    assert likeness.difference is not None
    assert likeness.first == pytest.approx(0.5 + NOISE.mean(), abs=1e-12)
    assert likeness.second == pytest.approx(0.7 + NOISE.mean(), abs=1e-12)
    assert likeness.difference.value == pytest.approx(0.2, abs=1e-12)
    assert (likeness.n, likeness.n_groups) == (N, 12)
    assert likeness.p == 2 / 2**12
    assert likeness.verdict == distance.verdict == "B better"
    assert distance.difference is not None
    assert distance.difference.value < 0, "less is better"
    assert (copied.verdict, copied.p) == ("undecided", 1.0)
    assert (frechet.first, frechet.second, frechet.difference, frechet.verdict) == (3.5, 3.5, None, "")
    back = compare_runs(better, plain, metrics=["clip_i"])
    assert [figure.verdict for figure in back] == ["A better"]


def test_a_figure_without_a_direction_is_higher_and_not_better(plain: Run, tmp_path: Path) -> None:
    table = _table(0.5)
    table.columns["copied"][:] = 1.0
    other = read_run(_run(tmp_path / "other", {"anime": table}))
    (copied,) = compare_runs(plain, other, metrics=["copied"])
    assert (copied.is_better, copied.verdict) == (None, "B higher")


def test_cells_of_other_names_are_compared_when_they_are_named(plain: Run) -> None:
    (figure,) = compare_runs(plain, plain, {"photo": "anime"}, ["clip_i"])
    assert (figure.first_cell, figure.second_cell, figure.verdict) == ("photo", "anime", "A better")


def test_samples_without_a_value_are_left_out_of_both_means(plain: Run, tmp_path: Path) -> None:
    table = _table(0.7, failed={"toy/0/0": "the server gave no picture"})
    table.columns["clip_i"][[0, 5]] = np.nan
    other = read_run(_run(tmp_path / "other", {"anime": table}))
    (figure,) = compare_runs(plain, other, metrics=["clip_i"])
    assert (figure.n, figure.left_out) == (N - 2, 2)
    assert figure.first is not None
    assert figure.second is not None
    assert figure.second - figure.first == pytest.approx(0.2, abs=1e-12)


def test_figures_through_other_weights_are_refused(plain: Run, tmp_path: Path) -> None:
    metrics = METRICS | {"clip_i": Metric(title="CLIP-I", setting="toy/clip def", higher_is_better=True)}
    other = read_run(_run(tmp_path / "other", {"anime": _table(0.7)}, metrics=metrics))
    with pytest.raises(DataError, match="'clip_i' looks through 'toy/clip abc' .* through 'toy/clip def'"):
        compare_runs(plain, other)
    assert [figure.metric for figure in compare_runs(plain, other, metrics=["lpips"])] == ["lpips"]


@pytest.mark.parametrize(
    "changes",
    [
        {"ids": tuple(f"toy/1/{i}" for i in range(N))},
        {"groups": tuple(f"stranger {i // 2}" for i in range(N))},
    ],
)
def test_other_samples_are_refused(plain: Run, tmp_path: Path, changes: dict[str, Any]) -> None:
    other = read_run(_run(tmp_path / "other", {"anime": _table(0.7, **changes)}))
    with pytest.raises(DataError, match="are of other samples .*; run both with the same protocol and seed"):
        compare_runs(plain, other)


def test_distances_of_other_numbers_of_samples_do_not_stand_side_by_side(plain: Run, tmp_path: Path) -> None:
    other = read_run(_run(tmp_path / "other", {"anime": _table(0.7)}, fd_n=N - 1))
    (figure,) = compare_runs(plain, other, metrics=["fd_judge"])
    assert (figure.first, figure.second) == (None, None)
    assert figure.note == "rests on 24 samples in A and on 23 in B, and changes with their number: not compared"


def test_what_else_is_not_the_same_is_said(plain: Run, tmp_path: Path) -> None:
    folder = _run(tmp_path / "other", {"anime": _table(0.7)}, {"seed": "1", "steps": "20"}, adapter="theirs")
    other = read_run(folder)
    said = run_differences(plain, other, compare_runs(plain, other))
    assert said == {"seed": ("0", "1"), "steps": ("", "20"), "adapter of anime": ("ours", "theirs")}
    assert run_differences(plain, plain, compare_runs(plain, plain)) == {}


@pytest.mark.parametrize(
    ("cells", "metrics", "said"),
    [
        ({"photo": "real"}, [], "has no cell 'real'; it has: photo, anime"),
        ({"red": "photo"}, [], "has no cell 'red'; it has: photo, anime"),
        (None, ["fid"], "have no figure in common among fid"),
    ],
)
def test_what_is_not_there_is_said(plain: Run, cells: dict[str, str] | None, metrics: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        compare_runs(plain, plain, cells, metrics)


def test_runs_without_a_common_cell_are_refused(plain: Run, tmp_path: Path) -> None:
    other = read_run(_run(tmp_path / "other", {"drawn": _table(0.7)}))
    with pytest.raises(DataError, match=r"no cell in common \(photo, anime; drawn\); name two by --cell a=b"):
        compare_runs(plain, other)
    assert compare_runs(plain, other, {"anime": "drawn"})


def test_the_command_prints_and_writes(plain: Run, tmp_path: Path) -> None:
    other = _run(tmp_path / "better [b]", {"anime": _table(0.7)}, {"seed": "1"}, fd_n=7)
    page, file = tmp_path / "comparison.html", tmp_path / "comparison.json"
    arguments = ["compare", plain.where, str(other), "--html", str(page), "--json", str(file)]
    result = CliRunner().invoke(eval_app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    shown = re.sub(r"\s+", " ", result.output)
    assert "seed: 0 | 1" in shown
    assert "FD judge rests on 24 samples in A and on 7 in B" in shown
    assert "+0.200" in shown
    assert "B better" in shown
    assert "better [b]" in shown, "a path is no markup"
    written = json.loads(file.read_text())
    assert written["differences"] == {"seed": ["0", "1"]}
    assert [figure["metric"] for figure in written["figures"]] == list(METRICS)
    text = page.read_text()
    assert "http" not in text
    assert text.count('class="bar"') == 2, "two figures that differ"
    assert "changes with their number" in text


def test_the_command_compares_the_cells_that_it_is_told(plain: Run) -> None:
    command = ["compare", plain.where, plain.where, "--metric", "clip_i", "--cell"]
    result = CliRunner().invoke(eval_app, [*command, "photo=anime"], catch_exceptions=False)
    assert "photo (A), anime (B)" in result.output
    result = CliRunner().invoke(eval_app, [*command, "photo"], catch_exceptions=False)
    assert "undecided" in result.output
    for pair in ("photo=", "=anime"):
        with pytest.raises(ConfigError, match=f"'{pair}'"):
            CliRunner().invoke(eval_app, [*command, pair], catch_exceptions=False)


def test_a_folder_that_holds_no_run_is_said_in_a_sentence(plain: Run, tmp_path: Path) -> None:
    with pytest.raises(NigaoeError, match="does not exist; run an evaluation first"):
        read_run(tmp_path)
    (Path(plain.where) / "samples.csv").unlink()
    with pytest.raises(NigaoeError, match="samples.csv' does not exist"):
        read_run(Path(plain.where))
