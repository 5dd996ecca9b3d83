"""An evaluation gives the same bytes whoever computes it, in whatever order, and after whatever crash."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from PIL import Image
from typer.testing import CliRunner

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.bases import load_base
from nigaoe.core.errors import AdapterError
from nigaoe.core.image_encoders import load_image_encoder
from nigaoe.core.reports import read_report
from nigaoe.eval.config import EvalConfig
from nigaoe.eval.job import run_evaluation
from nigaoe.eval.protocols.protocol import REAL
from nigaoe.eval.running.panel import Known
from nigaoe.eval.running.plan import make_plan
from nigaoe.eval.running.pool import Hands, Worker, check_with, cluster, evaluate_shards, start_workers
from nigaoe.eval.running.shards import ShardResult, ShardTask
from nigaoe.eval.running.worker import Findings, WorkerSpec

OnResult = Callable[[ShardTask, ShardResult], None]

OUTPUTS = ("report.json", "report.html", "samples.csv", "grid.png")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("adapter") / "adapter.safetensors"
    encoder = load_image_encoder("toy/image_encoder")
    save_adapter(IPAdapter.for_unet(load_base("toy/photo").unet, features={"image_embeds": encoder.embed_dim}), path)
    return path


def _config(out: Path, adapter: Path, cache: Path | None = None, **sampling: Any) -> EvalConfig:
    values = {
        "out": out,
        # Beside the runs of a test, which look at the same real pictures.
        "cache": cache or adapter.parent / "cache",
        "protocol": {"kind": "toy", "n": 4, "yardstick_n": 4},
        "adapters": {"demo": str(adapter)},
        "sampling": {"steps": 2, "max_rows": 2, **sampling},
        "shard_size": 2,
        "pictures": 2,
        "workers": 5,
        "thresholds": [{"cell": "anime-adapter", "metric": "attribute.mean", "at": "<=", "bound": 1.0}],
    }
    return EvalConfig.model_validate(values)


@pytest.fixture(scope="module")
def workers(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Worker]]:
    config = _config(tmp_path_factory.mktemp("pool"), adapter)
    spec = WorkerSpec(config, make_plan(config).adapters, Path.cwd(), "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        # One core more than the pool holds, for a test that starts workers of its own.
        with cluster(config.model_copy(update={"workers": config.workers + 1})):
            yield start_workers(spec, config.workers)


class _Hands:
    """Workers that are there already, and what was asked of them."""

    def __init__(self, workers: Sequence[Worker], done: list[str] | None = None) -> None:
        self.workers, self.done = workers, done

    def check(self) -> Findings:
        return check_with(self.workers, start_timeout_s=120)

    def evaluate(
        self, tasks: Sequence[ShardTask], known_of: Callable[[ShardTask], Known | None], on_result: OnResult
    ) -> None:
        if self.done is not None:
            self.done.extend(task.id for task in tasks)
        evaluate_shards(self.workers, tasks, known_of, self.noted(on_result), start_timeout_s=120)

    def noted(self, on_result: OnResult) -> OnResult:
        """What happens between one result and the next."""
        return on_result


def _run(config: EvalConfig, hands: Hands) -> None:
    run_evaluation(config, lambda plan: hands)


@pytest.fixture(scope="module")
def outputs(
    workers: list[Worker], adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, bytes]]:
    """A finished run of one worker, and its files."""
    out = tmp_path_factory.mktemp("one")
    _run(_config(out, adapter), _Hands(workers[:1]))
    return out, _files(out)


def _files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in OUTPUTS}


@pytest.mark.parametrize("count", [*(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3)), 5])
def test_the_number_of_workers_changes_no_byte(
    workers: list[Worker], adapter: Path, outputs: tuple[Path, dict[str, bytes]], tmp_path: Path, count: int
) -> None:
    # A cache of its own, so that real pictures are looked at again.
    _run(_config(tmp_path, adapter, cache=tmp_path / "cache"), _Hands(workers[:count]))
    assert _files(tmp_path) == outputs[1]


@pytest.mark.slow
def test_the_order_of_shards_changes_no_byte(
    workers: list[Worker], adapter: Path, outputs: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    class Shuffled(_Hands):
        def evaluate(self, tasks: Sequence[ShardTask], known_of: Any, on_result: OnResult) -> None:
            super().evaluate(random.Random(5).sample(list(tasks), len(tasks)), known_of, on_result)

    _run(_config(tmp_path, adapter, cache=tmp_path / "cache"), Shuffled(workers))
    assert _files(tmp_path) == outputs[1]


def test_the_report_is_complete(outputs: tuple[Path, dict[str, bytes]]) -> None:
    report = read_report(outputs[0] / "report.json")
    assert [cell.name for cell in report.cells if cell.base is None] == [
        "real-photo",
        "vae-photo",
        "real-anime",
        "vae-anime",
        "train-photo-halves",
        "train-anime-halves",
    ]
    for cell in report.cells:
        assert cell.n == (2 if cell.name.endswith("-halves") else 4)
        for name, estimate in cell.metrics.items():
            assert (
                not report.metrics[name].is_per_sample
                or estimate.low is not None
                and estimate.low <= estimate.value <= (estimate.high or 0)
            )
    assert [check for check in report.checks if check.passed is False] == []
    assert {(c.cell, c.baseline) for c in report.comparisons} == {
        ("photo-adapter", "photo-none"),
        ("anime-adapter", "anime-none"),
        ("anime-adapter", "photo-adapter"),
    }
    assert len(report.thresholds) == 1
    page = (outputs[0] / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == page.count('src="data:image/webp;base64,') >= 2 * 7
    assert "http" not in page


def test_three_killed_workers_change_no_byte(
    workers: list[Worker], adapter: Path, outputs: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    when = sorted(random.Random(7).sample(range(1, 16), 3))

    class Killed(_Hands):
        results = due = killed = 0

        def noted(self, on_result: OnResult) -> OnResult:
            def keep(task: ShardTask, result: ShardResult) -> None:
                on_result(task, result)
                self.results += 1
                self.due += self.results in when
                # Nobody may be at work at this moment.
                if self.due and _kill_a_worker():
                    self.due, self.killed = self.due - 1, self.killed + 1

            return keep

    # A restart takes longer than all shards here: enough others to kill.
    hands = Killed(workers)
    _run(_config(tmp_path, adapter, cache=tmp_path / "cache"), hands)
    assert hands.killed == 3
    assert _files(tmp_path) == outputs[1]


def _kill_a_worker() -> bool:
    for child in psutil.Process(os.getpid()).children(recursive=True):
        # One that was killed before may not have been reaped.
        with suppress(psutil.NoSuchProcess):
            if "ShardWorker.evaluate" in " ".join(child.cmdline()):
                child.kill()
                return True
    return False


def test_an_interrupted_run_goes_on_where_it_stopped(
    workers: list[Worker], adapter: Path, outputs: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    class Interrupted(_Hands):
        def evaluate(self, tasks: Sequence[ShardTask], known_of: Any, on_result: OnResult) -> None:
            is_real = tasks[0].cell.source in REAL
            super().evaluate(tasks if is_real else tasks[:7], known_of, on_result)
            if not is_real:
                raise KeyboardInterrupt

    config = _config(tmp_path, adapter)
    with pytest.raises(KeyboardInterrupt):
        _run(config, Interrupted(workers))
    finished = [path.stem for path in (tmp_path / "shards").glob("*.npz")]
    done: list[str] = []
    _run(config, _Hands(workers, done))
    assert len(finished) == 7
    drawn = [task.id for task in make_plan(config).tasks if task.cell.source not in REAL]
    assert sorted(done + finished) == sorted(drawn)
    assert _files(tmp_path) == outputs[1]


def test_a_lost_and_a_damaged_shard_are_made_again(
    workers: list[Worker], adapter: Path, outputs: tuple[Path, dict[str, bytes]]
) -> None:
    out, before = outputs
    (out / "shards" / "anime-red-0000002.npz").unlink()
    damaged = out / "shards" / "vae-photo-0000000.npz"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    done: list[str] = []
    _run(_config(out, adapter), _Hands(workers, done))
    assert sorted(done) == ["anime-red-0000002", "vae-photo-0000000"]
    assert _files(out) == before


class _Stopped(Exception):
    pass


class _Noting(_Hands):
    """Says what is missing, and does nothing."""

    def __init__(self) -> None:
        super().__init__([])
        self.cells = set[str]()

    def evaluate(self, tasks: Sequence[ShardTask], known_of: Any, on_result: OnResult) -> None:
        self.cells.update(task.cell.name for task in tasks)
        raise _Stopped


def _missing(config: EvalConfig) -> set[str]:
    hands = _Noting()
    with pytest.raises(_Stopped):
        _run(config, hands)
    return hands.cells


def test_stale_shards_are_refused(outputs: tuple[Path, dict[str, bytes]], adapter: Path, tmp_path: Path) -> None:
    out, _ = outputs
    adapted = {"photo-adapter", "photo-red", "anime-adapter", "anime-red"}
    assert _missing(_config(out, adapter, steps=3)) == {"photo-none", "anime-none", *adapted}
    retrained = tmp_path / "adapter.safetensors"
    save_adapter(
        IPAdapter.for_unet(load_base("toy/anime").unet, features={"image_embeds": 128}, num_tokens=2), retrained
    )
    assert _missing(_config(out, retrained, cache=adapter.parent / "cache")) == adapted


def test_a_folder_on_the_command_line(workers: list[Worker], adapter: Path, tmp_path: Path) -> None:
    from nigaoe.core.cli import app
    from nigaoe.eval.commands import eval_app

    faces = tmp_path / "faces"
    faces.mkdir()
    for i in range(3):
        Image.new("RGB", (150, 120), (60 * i, 90, 160)).save(faces / f"{i}.jpg")
    config = tmp_path / "eval.yaml"
    config.write_text(
        f"out: {tmp_path / 'out'}\n"
        "protocol:\n"
        f"  {{kind: folder, references: {faces}, prompts: [a man, a woman], bases: {{photo: toy/photo}},\n"
        "   image_encoder: toy/image_encoder, clip: toy/clip}\n"
        f"adapters: {{ours: {adapter}}}\n"
        "sampling: {steps: 1}\n"
        "shard_size: 4\n"
    )
    app.add_typer(eval_app, name="eval")
    result = CliRunner().invoke(app, ["eval", str(config), "pictures=2"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "CLIP-I, photo, ours" in result.output
    report = read_report(tmp_path / "out" / "report.json")
    drawn = [("photo-none", 6), ("photo-ours", 6)]
    assert [(cell.name, cell.n) for cell in report.cells] == [*drawn, ("references-halves", 1)]
    assert {"clip_t", "clip_score", "clip_i", "fd_clip"} <= set(report.cells[1].metrics)


@pytest.mark.usefixtures("workers")
def test_what_a_worker_refuses_reaches_the_user_as_one_sentence(adapter: Path, tmp_path: Path) -> None:
    class Refusing:
        def ready(self) -> bool:
            return True

        def evaluate(self, task: ShardTask, known: Known | None) -> None:
            raise AdapterError("the adapter does not fit; give another")

    refusing: Any = ray.remote(Refusing).remote()
    tasks = make_plan(_config(tmp_path, adapter)).tasks
    with pytest.raises(AdapterError) as caught:
        evaluate_shards([refusing], tasks, lambda task: None, lambda task, result: None, start_timeout_s=120)
    assert str(caught.value) == "the adapter does not fit; give another"
