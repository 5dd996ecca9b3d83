"""Training images per second of nigaoe against the published loop over JPEG files: same weights, batches, noise, drops.

    python tests/benchmarks/train.py --json train.json                     # CPU, one thread a side
    python tests/benchmarks/train.py --device cuda --json train_gpu.json   # SD 1.5 at 512 px, batches of 32, bfloat16
    python tests/benchmarks/train.py --device cpu --tiny --rounds 3        # that the GPU's part runs

The baseline is `tests/plain_training.py`: every step decodes, resizes and encodes anew. On the CPU the models are tiny
and have the FLOP proportions of SD 1.5 at 512 px, of which a table is printed. Before anything is timed, both sides
train from the same weights and their losses are compared. Then they take turns; each round gives a paired ratio, of
which median and quartiles are printed. The GPU's part asks for Ray only to prepare pictures, and does without where
there is none.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

# Before DeepSpeed is imported.
if "cuda" not in sys.argv:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch.utils.flop_counter import FlopCounterMode

from nigaoe.train.config import TrainConfig
from nigaoe.train.samples.batches import TrainingData
from nigaoe.train.samples.prepared import PreparedDataset
from plain_training import Pixels, encode, loss_of
from training_sides import Ours, Plain, World, loss_gaps, samples_of
from training_worlds import MINIATURE, PROPORTIONS, SD15, write_models, write_pictures

EPOCHS = (1, 2, 5, 10)
SAME_LATENTS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest relative difference of a loss where both sides are given the same latents and embeddings."""
FROM_FILES = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""The same from JPEG files on: ours are kept as float16, which has 11 bits."""


class Seconds(NamedTuple):
    """What something took."""

    wall: float
    cpu: float
    """Of this process, which a busy machine changes less."""

    def each(self, count: int) -> "Seconds":
        """Of one of so many."""
        return Seconds(self.wall / count, self.cpu / count)


def seconds(world: World, work: Callable[[], object]) -> Seconds:
    """Of one call."""
    world.settle()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    world.settle()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def costs_of(world: World, ours: Ours, plain: Plain) -> dict[str, tuple[float, float]]:
    """(GFLOP, ms) per picture of all that the plain loop does in a step; `files` is decoding and preprocessing."""
    frozen, size = plain.frozen, world.config.batch_size
    samples = samples_of(world, ours.online, ours.shares(ours.online).at(0))
    pixels = next(plain.loader(samples, 0))

    def works(some: Pixels) -> dict[str, Callable[[], object]]:
        given = encode(frozen, "base", some)
        images, seen = (x.to(world.device, world.dtype) for x in (some.images, some.clip_images))

        def step() -> None:
            loss_of(plain.adapter, frozen, given).backward()
            plain.optimizer.zero_grad()

        return {
            "unet": step,
            "vae": torch.no_grad()(lambda: frozen.vae.encode(images)),
            "clip": torch.no_grad()(lambda: frozen.image_encoder(seen)),
            "text": torch.no_grad()(lambda: frozen.text_encoder(some.token_ids.to(world.device))),
        }

    counted = {"files": 0.0}
    for name, work in works(Pixels(*(None if x is None else x[:1] for x in pixels))).items():  # type: ignore[arg-type]
        with FlopCounterMode(display=False) as counter:
            work()
        counted[name] = counter.get_total_flops() / 1e9
    found = {}
    for name, work in (works(pixels) | {"files": lambda: next(plain.loader(samples, 0))}).items():
        work()
        found[name] = (counted[name], statistics.median(seconds(world, work).wall for _ in range(9)) / size * 1e3)
    flops, ms = sum(counted.values()), sum(x for name, (_, x) in found.items() if name != "files")
    for name, (gflop, spent) in found.items():
        share = PROPORTIONS.get(name, 0) / sum(PROPORTIONS.values())
        of_time = f"{spent / ms:6.1%}" if name != "files" else ""
        print(  # noqa: T201
            f"{name:5} {gflop:9.3f} GFLOP {gflop / flops:6.1%} (SD 1.5: {share:6.1%}) {spent:8.2f} ms {of_time}"
        )
    return found


def row(
    name: str, pairs: Sequence[tuple[Seconds, Seconds]], target: float | None, ceiling: float | None
) -> dict[str, object]:
    """One row of the result, from what a picture took on either side in each round."""
    ratios = [theirs.wall / ours.wall for ours, theirs in pairs]
    q25, median, q75 = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    found = {
        "name": name,
        "ours": 1 / statistics.median(ours.wall for ours, _ in pairs),
        "baseline": 1 / statistics.median(theirs.wall for _, theirs in pairs),
        "ratio": median,
        "q25": q25,
        "q75": q75,
        "target": target,
        "ceiling": ceiling,
        "cpu_time_ratio": statistics.median(theirs.cpu / ours.cpu for ours, theirs in pairs),
        "fastest_ratio": min(theirs.wall for _, theirs in pairs) / min(ours.wall for ours, _ in pairs),
    }
    print(  # noqa: T201
        f"{name:40} {found['ours']:7.2f} against {found['baseline']:7.2f} images/s: {median:.2f}x ({q25:.2f} to "
        f"{q75:.2f}), target {target}, ceiling {'none' if ceiling is None else f'{ceiling:.2f}'}; "
        f"{found['cpu_time_ratio']:.2f}x in CPU time, {found['fastest_ratio']:.2f}x of the fastest rounds",
        flush=True,
    )
    return found


def take_turns(
    world: World, ours: Callable[[], object], theirs: Callable[[], object], rounds: int, steps: int
) -> list[tuple[Seconds, Seconds]]:
    """What a picture took on either side in each round; who begins alternates: the second may find a warmer machine."""
    pictures = steps * world.config.batch_size
    pairs = []
    for i in range(rounds):
        if i % 2:
            b, a = seconds(world, theirs), seconds(world, ours)
        else:
            a, b = seconds(world, ours), seconds(world, theirs)
        pairs.append((a.each(pictures), b.each(pictures)))
    return pairs


def step_only(world: World, ours: Ours, plain: Plain, rounds: int, steps: int, ceiling: float) -> dict[str, object]:
    """Tensors are ready on both sides: pixels for the plain one, what was read from disk for ours."""
    shares = [ours.shares(ours.online).at(step) for step in range(steps)]
    samples = [sample for share in shares for sample in samples_of(world, ours.online, share)]
    ready = list(plain.loader(samples, 0))

    def ours_once() -> None:
        for share in shares:
            ours.step(share)

    with world.pinned():
        memory = [_peak_gib(world, ours_once), _peak_gib(world, lambda: plain.train(iter(ready)))]
        pairs = take_turns(world, ours_once, lambda: plain.train(iter(ready)), rounds, steps)
    more = {} if world.device.type == "cpu" else {"ours_gib": memory[0], "baseline_gib": memory[1]}
    return row("step only", pairs, 1.6, ceiling) | more


def _peak_gib(world: World, work: Callable[[], object]) -> float:
    """What a side needs at most beyond what lies there before it begins; both sides' weights do."""
    work()
    if world.device.type == "cpu":
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def endless(
    world: World, ours: Ours, plain: Plain, data: TrainingData, steps: int, num_workers: int
) -> Iterator[Pixels]:
    """The files of some steps again and again. Loader workers have the other cores, and have started."""
    shares = [ours.shares(data).at(step) for step in range(steps)]
    samples = [sample for share in shares for sample in samples_of(world, data, share)]
    with world.pinned(first_only=not num_workers):
        batches = plain.loader(samples * 1000, num_workers)
        next(batches)
    return batches


def end_to_end(
    world: World, ours: Ours, plain: Plain, data: TrainingData, num_workers: int, rounds: int, steps: int, **bounds: Any
) -> dict[str, object]:
    """From disk: JPEG files for the plain side, prepared shards for ours."""
    batches = endless(world, ours, plain, data, steps, num_workers)
    with world.pinned():
        pairs = take_turns(
            world,
            lambda: ours.train(data, range(steps)),
            lambda: plain.train(islice(batches, steps)),
            rounds + 1,
            steps,
        )
    # The first one finds nothing warm.
    return row(f"end to end, {num_workers} loader workers", pairs[1:], **bounds)


def amortised(
    world: World, ours: Ours, plain: Plain, data: PreparedDataset, num_workers: int, rounds: int
) -> list[dict[str, object]]:
    """Whole epochs: preparing once and then cached ones against as many over the files."""
    from preparing_here import prepare_here

    steps = sum(data.bucket_rows) // world.config.batch_size
    pictures = steps * world.config.batch_size
    batches = endless(world, ours, plain, data, steps, num_workers)
    pairs: dict[int, list[tuple[Seconds, Seconds]]] = {epochs: [] for epochs in EPOCHS}
    for _ in range(rounds):
        with world.pinned(), TemporaryDirectory() as folder:
            changed = world.config.data.model_copy(update={"prepared": Path(folder)})
            config, cpu = world.config.model_copy(update={"data": changed}), time.process_time()
            spent = [(Seconds(prepare_here(config), time.process_time() - cpu), Seconds(0.0, 0.0))]
        for epoch in range(1, max(EPOCHS) + 1):
            with world.pinned():
                a = seconds(world, lambda: ours.train(data, range(steps)))
                spent.append((a, seconds(world, lambda: plain.train(islice(batches, steps)))))
            if epoch in EPOCHS:
                ours_spent, theirs_spent = (
                    Seconds(*map(sum, zip(*side, strict=True))).each(epoch * pictures)
                    for side in zip(*spent, strict=True)
                )
                pairs[epoch].append((ours_spent, theirs_spent))
    name = f"with preparing, {num_workers} loader workers"
    return [row(f"{epochs} epochs {name}", pairs[epochs], None, None) for epochs in EPOCHS]


def prepared(world: World, is_tiny: bool) -> PreparedDataset | None:
    """By Ray, on what it finds; on a CPU in this process, which is quicker. None where there is no Ray."""
    if world.device.type == "cpu" and not is_tiny:
        from preparing_here import prepare_here

        prepare_here(world.config)
        return PreparedDataset.open(world.config.data.prepared)
    try:
        from nigaoe.train.cluster import connected
        from nigaoe.train.preparing.prepare import prepare
    except ImportError:
        return None
    with connected(world.config.cluster, extra_cpus=world.config.cluster.decoders):
        prepare(world.config)
    return PreparedDataset.open(world.config.data.prepared)


def make_world(arguments: argparse.Namespace, folder: Path) -> World:
    """Models, pictures and the config."""
    device = torch.device(arguments.device)
    size, batch = (SD15, 32) if device.type == "cuda" and not arguments.tiny else (MINIATURE, 8)
    base, encoder = write_models(size, folder)
    config = TrainConfig.model_validate(
        {
            "name": "benchmark",
            "out": folder / "out",
            "base": str(base),
            "image_encoder": str(encoder),
            "data": {
                "source": str(write_pictures(folder / "pictures", arguments.pictures or 16 * batch)),
                "prepared": folder / "prepared",
                "resolution_px": size.side_px,
            },
            "steps": 1_000_000,
            "batch_size": arguments.batch_size or batch,
            "precision": "float32" if device.type == "cpu" and not arguments.tiny else "bfloat16",
            # The published loop clips nothing.
            "optimizer": {"max_grad_norm": 1e9},
            "compile": arguments.compile,
            "cluster": {"num_workers": 1, "use_gpu": device.type == "cuda"},
        }
    )
    return World(size, config, device, tuple(sorted(os.sched_getaffinity(0))))


def join_alone(folder: Path, device: torch.device) -> None:
    """A process group of one, which DeepSpeed asks for."""
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    torch.distributed.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)


def measure(world: World, arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    """All rows."""
    rounds, steps, is_cpu = arguments.rounds, arguments.steps, world.device.type == "cpu"
    ours = Ours(world)
    plain = Plain(world, ours.start)
    gaps = loss_gaps(world, ours, plain)
    for name, limit in {"same latents": SAME_LATENTS, "from files": FROM_FILES}.items():
        print(f"losses, {name}: differ by {gaps[name]:.1e} at most, allowed {limit[world.dtype]:.0e}")  # noqa: T201
    equal = gaps["same latents"] <= SAME_LATENTS[world.dtype] and gaps["from files"] <= FROM_FILES[world.dtype]
    with world.pinned():
        costs = costs_of(world, ours, plain)
    unet, flops = costs["unet"], sum(gflop for gflop, _ in costs.values())
    encoding_ms = sum(ms for name, (_, ms) in costs.items() if name != "files")
    found = step_only(world, ours, plain, rounds, steps, flops / unet[0])
    yield found | {
        "outputs_equal": equal,
        "largest_differences": gaps,
        "gflop_and_ms": costs,
        "tflops": float(str(found["ours"])) * unet[0] / 1e3,
    }
    data = prepared(world, arguments.tiny)
    if data is None:
        print("there is no Ray here, so nothing was prepared and nothing is measured from files on")  # noqa: T201
        return
    target = 2.3 if is_cpu else 2.5
    ceiling = (encoding_ms + costs["files"][1]) / unet[1]
    found = end_to_end(world, ours, plain, data, 0, rounds, steps, target=target, ceiling=ceiling)
    yield found | {"outputs_equal": equal}
    counts = arguments.workers or ((1, 2) if is_cpu else (4, 8, 16))
    tried = {
        count: end_to_end(world, ours, plain, data, count, rounds, steps, target=1.6, ceiling=encoding_ms / unet[1])
        for count in counts
    }
    best = max(tried, key=lambda count: float(str(tried[count]["baseline"])))
    for count, found in tried.items():
        yield found | {"outputs_equal": equal, "is_best": count == best}
    if is_cpu and not arguments.tiny:
        for count in (0, best):
            for found in amortised(world, ours, plain, data, count, arguments.epoch_rounds):
                yield found | {"outputs_equal": equal}


def main() -> None:
    """Measure and print; `--json` writes the rows as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--tiny", action="store_true", help="what a GPU would be measured by, on tiny models")
    parser.add_argument("--compile", action="store_true", help="our side with compile=true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=6, help="of a turn")
    parser.add_argument("--epoch-rounds", type=int, default=3, help="rounds of ten epochs, for the amortised curve")
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--pictures", type=int, default=None)
    parser.add_argument("--workers", type=int, nargs="*", default=None, help="numbers of loader workers to try")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here; give --device cpu --tiny to try the script")
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    print(f"load average {' '.join(map(str, os.getloadavg()))}")  # noqa: T201
    with TemporaryDirectory() as folder:
        world = make_world(arguments, Path(folder))
        join_alone(Path(folder), world.device)
        rows = []
        for found in measure(world, arguments):
            rows.append(found)
            if arguments.json:
                # After each, so that a time limit loses nothing.
                arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        torch.distributed.destroy_process_group()
    print(f"load average {' '.join(map(str, os.getloadavg()))}")  # noqa: T201


if __name__ == "__main__":
    main()
