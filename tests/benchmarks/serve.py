"""Pictures per second over HTTP, and how long they take: our server against what people put before a pipeline.

    python tests/benchmarks/serve.py --json serve.json          # writes serve.0.7x.svg and serve.1.5x.svg as well
    python tests/benchmarks/serve.py --size 64 --json serve64.json
    python tests/benchmarks/serve.py --ray --json serve_ray.json
    python tests/benchmarks/serve.py --quick                    # that it runs; its figures say nothing

Four sides with the same weights: ours; FastAPI with a lock around a diffusers pipeline; `@serve.batch` of Ray Serve
over the same pipeline, which groups what a stock pipeline can share; our server whose engine batches identical requests
only. Each is a process with its load generator, on one core and one thread, started once. With `--ray`, ours and the
batched one run on Ray Serve; without, in one process, so that neither pays for Ray's.

Before anything is timed, every side draws the same pictures and they are compared. Then the sides take turns; each
round gives a paired ratio, of which median and quartiles are printed: of images per second in a closed loop, and of p50
and p95 in an open one, whose rate is a share of what the locked pipeline can do. The ceiling is what there would be to
gain, were there nothing but the UNet.
"""

import argparse
import io
import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

# Before torch is imported, here and in the sides.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}
sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], os.environ.get("PYTHONPATH", "")])

import numpy as np
import torch
from PIL import Image

from nigaoe.core.adapters.files import load_adapter, save_adapter
from nigaoe.core.models import locate
from nigaoe.serve.loadtest.plot import latency_plot
from nigaoe.serve.loadtest.results import LoadResult
from nigaoe.serve.loadtest.workload import Closed, Open, RequestKind, Workload
from served import person
from serving_sides import PATH, Load, Side, SideName, World, around_drawing, loaded, pictures, row_seconds

TITLES: dict[SideName, str] = {
    "ours": "nigaoe",
    "locked": "lock around a pipeline",
    "batched": "@serve.batch",
    "identical": "identical requests only",
}
THEIRS: tuple[SideName, ...] = ("locked", "batched", "identical")
TARGETS: dict[tuple[str, int, SideName], float] = {
    ("mixed", 8, "locked"): 2.3,
    ("mixed", 8, "batched"): 2.2,
    ("mixed", 8, "identical"): 2.0,
    ("mixed", 32, "locked"): 2.5,
    ("mixed", 32, "batched"): 2.0,
    ("mixed", 32, "identical"): 2.2,
    ("alike", 1, "batched"): 1.0,
    ("alike", 8, "locked"): 2.2,
    ("alike", 8, "batched"): 1.0,
    ("alike", 32, "batched"): 1.0,
}
"""Ratios of images per second."""
P95_TARGET = 3.0
"""At 0.7 of the locked pipeline's capacity, against it and the batched one."""
HTTP_TARGET_MS = 10.0
RATES = (0.7, 1.5)
CAPACITY_AT = 8
"""Requests at once by which the capacity of the locked pipeline is measured."""
FRESH = 8
"""Prompts and faces for each request of a turn to choose from: hardly any comes twice, so that no cache decides."""
EQUAL = 1
"""Grey levels of 255 by which pictures may differ."""


class Workloads:
    """Requests, the same ones for all sides of a turn and others in every turn."""

    def __init__(self, folder: Path, adapters: Sequence[str], size: int) -> None:
        self._folder, self._adapters, self.size = folder, adapters, size
        self._people = [person(number).pixels for number in range(16)]
        self._turn = 0

    def next(self, kind: str, load: Closed | Open, requests: int) -> Workload:
        """`kind`: "mixed", or "alike" where nothing differs but face, prompt and seed."""
        self._turn += 1
        count = FRESH * requests
        is_mixed = kind == "mixed"
        scales, adapters = ((0.4, 0.6, 0.8, 1.0), self._adapters) if is_mixed else ((0.8,), self._adapters[:1])
        return Workload(
            load=load,
            requests=requests,
            warm_up=1,
            seed=self._turn,
            prompts=[f"a photo of person {self._turn} {i}" for i in range(count)],
            pictures=[self._face(i) for i in range(count)],
            kinds=[
                RequestKind(
                    name=kind,
                    path=PATH,
                    body={"prompt": "{prompt}", "seed": "{seed}", "size": f"{self.size}x{self.size}"},
                    choices={
                        "steps": [10, 20, 20, 30] if is_mixed else [20],
                        "guidance_scale": [1.0, 5.0, 7.5] if is_mixed else [5.0],
                        "image_prompts": [
                            [{"adapter": adapter, "images": ["{picture}"], "scale": scale}]
                            for adapter in adapters
                            for scale in scales
                        ],
                    },
                )
            ],
        )

    def _face(self, number: int) -> Path:
        # A few pixels that no other picture has; the files of the turn before are needed no more.
        pixels = self._people[number % len(self._people)].copy()
        pixels[:2, :2] = np.random.default_rng((self._turn, number)).integers(256, size=(2, 2, 3))
        path = self._folder / f"{number}.png"
        Image.fromarray(pixels).save(path, compress_level=1)
        return path


@dataclass(frozen=True)
class Bench:
    """All sides, and what is measured with them."""

    sides: dict[SideName, Side]
    workloads: Workloads
    rounds: int
    with_ray: bool

    def turns(self, kind: str, load: Closed | Open, requests: int) -> dict[SideName, list[Load]]:
        """The same load on every side, round by round; who begins changes, for the machine may be busier later."""
        found: dict[SideName, list[Load]] = {name: [] for name in self.sides}
        names = list(self.sides)
        for i in range(self.rounds):
            workload = self.workloads.next(kind, load, requests)
            for name in names[i % len(names) :] + names[: i % len(names)]:
                found[name].append(self.sides[name].ask(loaded, workload))
        return found

    def differences(self, kind: str, count: int) -> dict[SideName, int]:
        """Grey levels between our pictures and each side's."""
        workload = self.workloads.next(kind, Closed(), count)
        drawn = {
            name: [_pixels(one) for one in side.ask(pictures, workload, count)] for name, side in self.sides.items()
        }
        return {
            name: max(int(np.abs(ours - theirs).max()) for ours, theirs in zip(drawn["ours"], own, strict=True))
            for name, own in drawn.items()
        }


def _pixels(file: bytes) -> "np.ndarray[Any, np.dtype[np.int16]]":
    return np.asarray(Image.open(io.BytesIO(file)), np.int16)


def row(
    name: str,
    unit: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    target: float | None,
    ceiling: float | None,
    is_equal: bool,
    cpu: Sequence[tuple[float, float]] = (),
) -> dict[str, object]:
    """One row of the result, from the figures of each round; a ratio above 1 is in our favour."""
    ratios = [a / b if unit == "images/s" else b / a for a, b in zip(ours, theirs, strict=True)]
    q25, median, q75 = quartiles(ratios)
    cpu_ratio = statistics.median(b / a for a, b in cpu) if cpu else None
    bound = "none" if ceiling is None else f"{ceiling:.2f}"
    found: dict[str, object] = {
        "name": name,
        "unit": unit,
        "ours": statistics.median(ours),
        "baseline": statistics.median(theirs),
        "ratio": median,
        "q25": q25,
        "q75": q75,
        "target": target,
        "ceiling": ceiling,
        "outputs_equal": is_equal,
        "cpu_time_ratio": cpu_ratio,
        "load_average": os.getloadavg()[0],
    }
    print(  # noqa: T201
        f"{name:58} {found['ours']:6.2f} against {found['baseline']:6.2f} {unit}: "
        f"{median:.2f}x ({q25:.2f} to {q75:.2f}), target {target}, ceiling {bound}"
        f"{'' if cpu_ratio is None else f'; {cpu_ratio:.2f}x in CPU time'}",
        flush=True,
    )
    return found


def quartiles(values: Sequence[float]) -> list[float]:
    """Of a single value: itself."""
    return statistics.quantiles(values, n=4) if len(values) > 1 else list(values) * 3


def closed_loops(
    bench: Bench, concurrencies: Sequence[int], requests: Callable[[int], int], apart: dict[tuple[str, SideName], int]
) -> tuple[list[dict[str, object]], dict[tuple[str, int], dict[SideName, list[Load]]]]:
    """Images per second of clients that ask again as soon as they have their answer."""
    counts = sorted({2, *(2 * min(16, concurrency) for concurrency in concurrencies)})
    seconds: dict[tuple[str, int], float] = bench.sides["ours"].ask(row_seconds, counts, bench.workloads.size)
    rows, loads = [], {}
    for kind in ("alike", "mixed"):
        for concurrency in concurrencies:
            found = bench.turns(kind, Closed(concurrency=concurrency), requests(concurrency))
            loads[kind, concurrency] = found
            ours = found["ours"]
            most = 2 * min(16, concurrency)
            shared = most if kind == "alike" else 2
            slowest = {
                "locked": seconds["stock", 2],
                "batched": seconds["stock", shared],
                "identical": seconds["ours", shared],
            }
            rows += [
                row(
                    f"closed, {kind}, C={concurrency}, against {TITLES[name]}",
                    "images/s",
                    [load.result.images_per_s for load in ours],
                    [load.result.images_per_s for load in found[name]],
                    target=TARGETS.get((kind, concurrency, name)),
                    ceiling=slowest[name] / seconds["ours", most],
                    is_equal=apart[kind, name] <= EQUAL,
                    # Of a server in Ray's processes it is not known.
                    cpu=[] if bench.with_ray else [(a.cpu_s, b.cpu_s) for a, b in zip(ours, found[name], strict=True)],
                )
                for name in THEIRS
            ]
    return rows, loads


def open_loops(
    bench: Bench, capacity: float, requests: int, apart: dict[tuple[str, SideName], int]
) -> tuple[list[dict[str, object]], dict[float, str]]:
    """Seconds of requests that come by chance, whether or not there are answers; and a plot for each rate."""
    rows, plots = [], {}
    for share in RATES:
        found = bench.turns("mixed", Open(kind="open", rate_per_s=share * capacity), requests)
        together = {name: [second for load in loads for second in seconds_of(load)] for name, loads in found.items()}
        for name in THEIRS:
            for figure in ("p50", "p95"):
                is_aimed_at = figure == "p95" and share < 1 and name != "identical"
                of_rounds = [
                    [getattr(load.result.total.latency, figure) for load in found[side]] for side in ("ours", name)
                ]
                # One round has a handful of requests beyond its p95, so the aim is that of all rounds together.
                of_all = [[float(np.percentile(together[side], int(figure[1:])))] for side in ("ours", name)]
                rows += [
                    row(
                        f"open at {share}x, mixed, {figure} of {what}, against {TITLES[name]}",
                        "s",
                        *figures,
                        target=P95_TARGET if is_aimed_at and what == "all" else None,
                        ceiling=None,
                        is_equal=apart["mixed", name] <= EQUAL,
                    )
                    for what, figures in (("rounds", of_rounds), ("all", of_all))
                ]
        title = f"mixed requests by chance, {share * capacity:.2g} a second: {share}x of what the lock can do"
        plots[share] = plot({name: [load.result for load in loads] for name, loads in found.items()}, title)
    return rows, plots


def seconds_of(load: Load) -> list[float]:
    """Of every request."""
    return [seconds for points in load.result.latencies.values() for _, seconds in points]


def plot(results: dict[SideName, list[LoadResult]], title: str) -> str:
    """One line for each side, over all rounds."""
    latencies = {
        TITLES[name]: [point for result in own for points in result.latencies.values() for point in points]
        for name, own in results.items()
    }
    return latency_plot(results["ours"][0].model_copy(update={"latencies": latencies}), title)


def http_row(bench: Bench, count: int) -> dict[str, object]:
    """Milliseconds of a request that are not the engine's, one request at a time."""
    found = bench.sides["ours"].ask(around_drawing, bench.workloads.next("alike", Closed(), count + 1), count)
    whole, outside = ([1e3 * seconds for seconds in column] for column in zip(*found, strict=True))
    q25, median, q75 = quartiles(outside)
    print(  # noqa: T201
        f"HTTP, C=1: {median:.2f} ms ({q25:.2f} to {q75:.2f}) of {statistics.median(whole):.0f} ms, "
        f"target below {HTTP_TARGET_MS:g}",
        flush=True,
    )
    return {
        "name": "HTTP around one request, C=1",
        "unit": "ms",
        "ours": median,
        "baseline": statistics.median(whole),
        "ratio": None,
        "q25": q25,
        "q75": q75,
        "target": HTTP_TARGET_MS,
        "ceiling": None,
        "outputs_equal": None,
    }


def two_adapters(folder: Path) -> dict[str, Path]:
    """The toy world's own, and one a little apart."""
    found = {}
    for i, name in enumerate(("first", "second")):
        adapter = load_adapter(Path(locate("toy/adapter", "adapter")) / "adapter.safetensors").requires_grad_(False)
        torch.manual_seed(i)
        for parameter in adapter.parameters():
            parameter.add_(0.01 * i * torch.randn_like(parameter))
        found[name] = folder / name / "adapter.safetensors"
        save_adapter(adapter, found[name])
    return found


def main() -> None:
    """Measure and print; `--json` writes the rows as well, and plots beside them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the rows; plots go beside them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--size", type=int, default=96, help="pixels of a side")
    parser.add_argument("--each", type=int, default=4, help="requests of a client in one turn of a closed loop")
    parser.add_argument("--open", type=int, default=60, help="requests of one turn of an open loop")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="on which all of it runs")
    parser.add_argument("--ray", action="store_true", help="ours and @serve.batch on Ray Serve")
    parser.add_argument("--only", choices=["closed", "open", "http"], nargs="+", default=["closed", "open", "http"])
    parser.add_argument("--quick", action="store_true", help="few requests, one round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.concurrency, arguments.each, arguments.open = 1, [2], 1, 2
    compared = 2 if arguments.quick else 8
    rows: list[dict[str, object]] = []
    plots: dict[float, str] = {}
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        adapters = two_adapters(Path(folder))
        world = World(adapters, Path(folder) / "objects", arguments.core, arguments.ray)
        sides: dict[SideName, Side] = {}
        for name in get_args(SideName):
            sides[name] = Side(name, world)
            stack.callback(sides[name].close)
        bench = Bench(sides, Workloads(Path(folder), list(adapters), arguments.size), arguments.rounds, arguments.ray)
        apart: dict[tuple[str, SideName], int] = {}
        for kind in ("alike", "mixed"):
            found = bench.differences(kind, compared)
            apart |= {(kind, name): levels for name, levels in found.items()}
            print(f"{kind}: pictures differ from ours by {found} of 255", flush=True)  # noqa: T201
        loads: dict[tuple[str, int], dict[SideName, list[Load]]] = {}
        if "http" in arguments.only:
            rows.append(http_row(bench, 2 if arguments.quick else 40))
        if "closed" in arguments.only:
            found_rows, loads = closed_loops(
                bench,
                arguments.concurrency,
                lambda concurrency: max(2 if arguments.quick else 8, arguments.each * concurrency),
                apart,
            )
            rows += found_rows
        if "open" in arguments.only:
            at_once = CAPACITY_AT if CAPACITY_AT in arguments.concurrency else max(arguments.concurrency)
            known = loads.get(("mixed", at_once)) or bench.turns(
                "mixed", Closed(concurrency=at_once), arguments.each * at_once
            )
            capacity = statistics.median(load.result.images_per_s for load in known["locked"])
            found_rows, plots = open_loops(bench, capacity, arguments.open, apart)
            rows += found_rows
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        for share, drawing in plots.items():
            arguments.json.with_suffix(f".{share}x.svg").write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    main()
