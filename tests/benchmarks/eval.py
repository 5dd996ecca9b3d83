"""Pictures per second of an evaluation against the usual tools one after the other: same networks, same PNG files.

    python tests/benchmarks/eval.py --json eval.json          # 160 pictures a side, two cores
    python tests/benchmarks/eval.py --n 24 --rounds 2 --tiny  # that it runs

Four figures of a folder of 512 px pictures that somebody drew from references: Frechet and kernel distance on one
network, CLIP-T and CLIP-I on a CLIP. Usually that is FID's Inception, 11.4 GFLOP a picture, and ViT-B/32, 4.4; here it
is a quarter of both, a ViT-S/20 and a CLIP of the size of ViT-S/32 with random weights. One more row has
EfficientNet-Lite0 with its real weights in place of the former, which is cheaper than the CLIP. The tools are
torchmetrics' FID, KID and CLIPScore and a plain loop for CLIP-I, each of which decodes what it needs, as it does for
its users. Ours goes from plan to report: hashing, shards on disk, thumbnails, merging, intervals, and the figures that
nobody asked for here. Not counted on either side: loading networks. Not counted on ours: the checks of the networks,
which are run once per setting and remembered, and the page.

Before anything is timed, the figures of both sides are compared. Then they take turns; each round gives a paired ratio,
of which median and quartiles are printed. One thread and one core a side, but for Ray's row, where two actors of one
thread each stand against one process of two. The ceiling is what the tools spend over our decodes and forwards alone.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

# Before torch and numpy are imported.
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from evaluation_sides import (
    BATCH,
    MINIATURE,
    PROMPT,
    VIT_MINIATURE,
    VIT_S_20,
    VIT_S_32,
    ClassToken,
    Figures,
    Ours,
    Tools,
    WorkerHere,
    cores,
    kernel_distance,
    read,
    write_clip,
    write_people,
    write_vit,
)
from nigaoe.eval.running.plan import make_plan
from nigaoe.eval.running.pool import Hands
from nigaoe.eval.running.worker import Findings

FRECHET, KERNEL, COSINE = 1e-4, 1e-2, 1e-5
"""Largest difference of the figures: relative, relative, absolute. torchmetrics' kernels are float32; against one in
float64, see `kernel_gap`, ours must be as near as `FRECHET`."""


class Costs(NamedTuple):
    """Seconds of one picture in one thread."""

    decode: float
    features: float
    clip: float
    text: float
    """Of a prompt."""
    computing: float
    """Of the tools' distances, of all pictures."""

    def tools(self, n: int) -> float:
        """Of all four: seven decodes, four forwards of one network and three of the other one."""
        return n * (7 * self.decode + 4 * self.features + 3 * self.clip + self.text) + self.computing

    def ours(self, n: int, sides: int) -> float:
        """Of what cannot be saved: of fakes alone where references are remembered."""
        return sides * n * (self.decode + self.features + self.clip)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.inference_mode()
def costs_of(tools: Tools, repeats: int = 5) -> Costs:
    """Medians, of a batch each."""
    paths = tools.paths("references")[:BATCH]
    images = [read(path) for path in paths]
    pixels = torch.stack([tools.tensor(path) for path in paths])

    def each(work: Callable[[], object]) -> float:
        return statistics.median(seconds(work) for _ in range(repeats)) / len(paths)

    return Costs(
        decode=each(lambda: [read(path) for path in paths]),
        features=each(lambda: tools.network(pixels)),
        clip=each(lambda: tools.embedded(images)),
        text=each(lambda: tools.words([PROMPT] * len(paths))),
        computing=seconds(tools.compute),
    )


def gaps(ours: Figures, theirs: Figures) -> dict[str, float]:
    """Differences, relative for distances."""
    return {
        "frechet": abs(ours.frechet / theirs.frechet - 1),
        "kernel": abs(ours.kernel / theirs.kernel - 1),
        "clip_t": abs(ours.clip_t - theirs.clip_t),
        "clip_i": abs(ours.clip_i - theirs.clip_i),
    }


def are_equal(found: dict[str, float]) -> bool:
    """Whether differences are those of rounding."""
    limits = {"frechet": FRECHET, "kernel": KERNEL, "clip_t": COSINE, "clip_i": COSINE}
    return all(found[name] <= limit for name, limit in limits.items())


@torch.inference_mode()
def kernel_gap(tools: Tools, ours: Figures, fakes: int) -> float:
    """Relative difference to a kernel distance in float64 on the tools' own features."""
    real, fake = (tools.features(folder) for folder in ("references", f"fakes-{fakes}"))
    return abs(ours.kernel / kernel_distance(real, fake) - 1)


class Seconds(NamedTuple):
    """What something took."""

    wall: float
    cpu: float
    """Of this process, which a busy machine changes less."""


@dataclass
class Side:
    """Whatever is timed, with the cores and threads that it has."""

    work: Callable[[], Figures]
    cores: tuple[int, ...]
    threads: int = 1

    def figures(self) -> Figures:
        """What comes of it."""
        os.sched_setaffinity(0, self.cores)
        torch.set_num_threads(self.threads)
        return self.work()

    def seconds(self) -> Seconds:
        """What it takes."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.figures()
        return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def compare(
    name: str, ours: Side, theirs: Side, n: int, rounds: int, target: float, ceiling: float
) -> dict[str, object]:
    """One row of the result."""
    # Also what warms both sides up.
    found = gaps(ours.figures(), theirs.figures())
    pairs = []
    for i in range(rounds):
        # Who begins alternates: the machine may be warmer, or busier, for the second.
        if i % 2:
            b, a = theirs.seconds(), ours.seconds()
        else:
            a, b = ours.seconds(), theirs.seconds()
        pairs.append((a, b))
    ratios = [b.wall / a.wall for a, b in pairs]
    q25, median, q75 = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    row: dict[str, object] = {
        "name": name,
        "ours": n / statistics.median(a.wall for a, _ in pairs),
        "baseline": n / statistics.median(b.wall for _, b in pairs),
        "ratio": median,
        "q25": q25,
        "q75": q75,
        "target": target,
        "ceiling": ceiling,
        "outputs_equal": are_equal(found),
        "largest_differences": found,
        "cpu_time_ratio": statistics.median(b.cpu / a.cpu for a, b in pairs),
    }
    apart = ", ".join(f"{key} {gap:.1e}" for key, gap in found.items())
    print(  # noqa: T201
        f"{name:48} {row['ours']:6.2f} against {row['baseline']:6.2f} pictures/s: {median:.2f}x ({q25:.2f} to "
        f"{q75:.2f}), target {target}, ceiling {ceiling:.2f}, {row['cpu_time_ratio']:.2f}x in CPU time of this process;"
        f" figures {'equal' if are_equal(found) else 'DIFFER'}: {apart}",
        flush=True,
    )
    return row


class Runs:
    """Our side, in a new folder each time."""

    def __init__(self, ours: Ours, folder: Path) -> None:
        self.ours, self.folder, self._numbers = ours, folder, count()
        self.findings = Findings([], {}, [])

    def cold(self, workers: Hands) -> Figures:
        """Nothing is known of the references."""
        out = self._new()
        return self.ours.run(workers, self.findings, out, out / "cache")

    def warm(self, workers: Hands, cache: Path) -> Figures:
        """Other fakes of references that an earlier run has seen."""
        return self.ours.run(workers, self.findings, self._new(), cache, fakes=1)

    def _new(self) -> Path:
        return self.folder / f"run-{next(self._numbers)}"


def alone(
    runs: Runs, tools: Tools, n: int, rounds: int, core: tuple[int, ...], also: str = ""
) -> Iterator[dict[str, object]]:
    """One worker of one thread against the tools; `also`: what is other here, for which the first row will do."""
    here = [WorkerHere(make_plan(runs.ours.config(runs.folder / "out", runs.folder / "cache", i))) for i in range(2)]
    runs.findings = here[0].findings()
    cold, warm = Side(lambda: runs.cold(here[0]), core), runs.folder / "warm"
    found = kernel_gap(tools, cold.figures(), 0)
    print(f"kernel distance: {found:.1e} from one in float64 on all pairs")  # noqa: T201
    # Its distances are to be computed once more.
    tools.run()
    costs = costs_of(tools)
    parts = costs._asdict()
    print(", ".join(f"{part} {1e3 * s:.1f} ms" for part, s in parts.items()))  # noqa: T201
    row = compare(
        f"four figures{also}, against the tools in a row",
        cold,
        Side(lambda: tools.run(0), core),
        n,
        rounds,
        target=1.8,
        ceiling=costs.tools(n) / costs.ours(n, 2),
    )
    yield row | {"kernel_gap": found, "outputs_equal": row["outputs_equal"] and found <= FRECHET, "costs_s": parts}
    if also:
        return
    runs.ours.run(here[0], runs.findings, runs.folder / "first", warm)
    yield compare(
        "references known, against the tools in a row",
        Side(lambda: runs.warm(here[1], warm), core),
        Side(lambda: tools.run(1), core),
        n,
        rounds,
        target=1.9,
        ceiling=costs.tools(n) / costs.ours(n, 1),
    )


def together(runs: Runs, tools: Tools, n: int, rounds: int, both: tuple[int, ...]) -> dict[str, object]:
    """Two actors against one process of two threads."""
    import ray

    from nigaoe.core.native_lines import without_native_lines
    from nigaoe.eval.running.pool import RayHands

    os.sched_setaffinity(0, both)
    plan = make_plan(replace(runs.ours, num_workers=2).config(runs.folder / "out", runs.folder / "cache"))
    here = WorkerHere(plan)
    runs.findings = here.findings()
    tools.run()
    costs = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        costs.append(costs_of(tools))
    with without_native_lines():
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=30)
    try:
        with RayHands(plan) as hands:
            return compare(
                "two Ray actors, against one process of 2 threads",
                Side(partial(runs.cold, hands), both),
                Side(partial(runs.cold, here), both, threads=2),
                n,
                rounds,
                target=1.2,
                ceiling=costs[1].ours(n, 2) / (costs[0].ours(n, 2) / 2),
            )
    finally:
        ray.shutdown()


def main() -> None:
    """Measure and print; `--json` writes the rows as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--n", type=int, default=160, help="pictures a side")
    parser.add_argument("--tiny", action="store_true", help="a CLIP of a few layers and small pictures")
    parser.add_argument("--only", choices=["alone", "together"], help="one core against the tools, or the row on Ray")
    arguments = parser.parse_args()
    print(f"load average {' '.join(map(str, os.getloadavg()))}")  # noqa: T201
    all_cores, rows = cores(), list[dict[str, object]]()
    torch.set_num_threads(1)
    # Threads that start later inherit it.
    os.sched_setaffinity(0, all_cores[:1])
    with TemporaryDirectory() as name:
        folder = Path(name)
        people = write_people(folder / "people", arguments.n, 64 if arguments.tiny else 512)
        clip = write_clip(MINIATURE if arguments.tiny else VIT_S_32, folder / "clip")
        vit = write_vit(VIT_MINIATURE if arguments.tiny else VIT_S_20, folder / "vit_s_20")
        usual = Runs(Ours(people, clip, f"dino:{vit}"), folder / "runs"), Tools(people, clip, ClassToken(vit))
        small = Runs(Ours(people, clip), folder / "small"), Tools(people, clip)
        for row in _rows(usual, small, (arguments.n, arguments.rounds), all_cores, arguments.only):
            rows.append(row)
            if arguments.json:
                # After each, so that a time limit loses nothing.
                arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"load average {' '.join(map(str, os.getloadavg()))}")  # noqa: T201


def _rows(
    usual: tuple[Runs, Tools],
    small: tuple[Runs, Tools],
    sizes: tuple[int, int],
    all_cores: tuple[int, ...],
    only: str | None,
) -> Iterator[dict[str, object]]:
    if only != "together":
        yield from alone(*usual, *sizes, all_cores[:1])
        yield from alone(*small, *sizes, all_cores[:1], also=" on a network cheaper than the CLIP")
    if only == "alone":
        return
    if len(all_cores) < 2:
        print("there is one core here, so two actors have nothing to show")  # noqa: T201
        return
    yield together(*usual, *sizes, all_cores[:2])


if __name__ == "__main__":
    main()
