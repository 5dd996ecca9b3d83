"""One process of a group that trains six steps under every ZeRO stage, and goes on from the third in between.

    python state_worker.py RANK WORLD_SIZE PORT BASE FOLDER VARIANT leave|take

Writes FOLDER/results-WORLD_SIZE.json; leaves its state in FOLDER, or takes up what a group of another size left there.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.variants import Feature
from nigaoe.core.bases import Base, load_base
from nigaoe.train.config import TrainConfig
from nigaoe.train.running.engines import Engine
from nigaoe.train.running.objective import AdapterObjective
from nigaoe.train.running.state import load_optimizer_state, optimizer_state, whole_weights
from nigaoe.train.samples.batches import Batch
from nigaoe.train.samples.division import divide
from nigaoe.train.samples.draws import Draws, draw, sample_generator

STEPS, SAVED = 6, 3
BATCH = 7
"""Which nobody can share evenly."""
WIDTHS: dict[Feature, int] = {"image_embeds": 24, "hidden_states": 20, "identity": 512}
State = dict[str, Tensor]


def config(variant: str, stage: int) -> TrainConfig:
    """Two parts a worker and step, however many workers."""
    faces = {"face_encoder": "dlib"} if variant.startswith("faceid") else {}
    values: dict[str, Any] = {
        **{"name": "x", "out": "x", "base": "x", "image_encoder": "x", "data": {"source": "x", "prepared": "x"}},
        **{"steps": STEPS, "batch_size": BATCH, "micro_batch_size": 2, "deepspeed": {"zero_stage": stage}},
        **{"adapter": {"variant": variant}, "optimizer": {"lr": 1e-3}, **faces},
    }
    return TrainConfig.model_validate(values)


def part(base: Base, adapter: IPAdapter, step: int, start: int, end: int) -> tuple[Batch, Draws]:
    """Samples of a step, drawn as the trainer does."""
    generators = [sample_generator(0, step * BATCH + i) for i in range(start, end)]
    latents = torch.stack([torch.randn(4, 8, 8, generator=g) for g in generators])
    shapes = {name: (5, width) if name == "hidden_states" else (width,) for name, width in WIDTHS.items()}
    features = {
        name: torch.stack([torch.randn(*shapes[name], generator=g) for g in generators])
        for name in adapter.variant.inputs
    }
    ids = base.text_encoder.tokenize(["a photo"] * len(generators))
    draws = draw((4, 8, 8), torch.ones(1000) / 1000, 0.0, generators)
    return Batch(latents, features, ids, torch.zeros(len(generators), 6)), draws


def run(base_path: str, wanted: TrainConfig, world_size: int, begin: tuple[State, State] | None) -> tuple[State, Any]:
    """Weights after all steps, and the state after the third; or on from such a state."""
    torch.manual_seed(0)
    base = load_base(base_path)
    adapter = IPAdapter.for_unet(base.unet, wanted.adapter.variant, features=WIDTHS, lora_rank=4)
    if begin is not None:
        adapter.load_state_dict(begin[0])
    nothing = {
        name: torch.zeros(1, *((5, WIDTHS[name]) if name == "hidden_states" else (WIDTHS[name],)))
        for name in adapter.variant.inputs
    }
    owns = wanted.deepspeed.zero_stage == 3
    objective = AdapterObjective(adapter, base, wanted.drop, nothing, owns_unet=owns)
    engine = Engine(wanted, objective, world_size, torch.device("cpu"))
    if begin is not None:
        load_optimizer_state(engine, adapter, begin[1], SAVED)
    saved: Any = None
    division = divide(BATCH, world_size, wanted.micro_batch_size)
    for step in range(0 if begin is None else SAVED, STEPS):
        for number in range(division.accumulation):
            own = division.part(dist.get_rank(), number)
            engine.accumulate(*part(base, adapter, step, own.start, own.stop), division.weight(own))
        engine.step()
        if step + 1 == SAVED:
            with whole_weights(engine, adapter) as weights:
                saved = {name: x.clone() for name, x in weights.items()}, optimizer_state(engine, adapter)
    with whole_weights(engine, adapter) as weights:
        return {name: x.clone() for name, x in weights.items()}, saved


def difference(a: State, b: State) -> float:
    """The largest, relative to the largest weight of each tensor."""
    return max(float((a[k] - b[k]).abs().max() / b[k].abs().max().clamp(min=1e-8)) for k in b)


def main() -> None:
    """See above."""
    rank, world_size, port = map(int, sys.argv[1:4])
    base_path, folder, variant = sys.argv[4], Path(sys.argv[5]), sys.argv[6]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results: dict[str, dict[str, float]] = {}
    for stage in (0, 1, 2, 3):
        whole, saved = run(base_path, config(variant, stage), world_size, None)
        again, _ = run(base_path, config(variant, stage), world_size, saved)
        results[str(stage)] = {"resumed": difference(again, whole), "identical": float(all_equal(again, whole))}
        left = folder / f"stage-{stage}.pt"
        if sys.argv[7] == "take":
            theirs = torch.load(left, weights_only=True)
            ours, _ = run(base_path, config(variant, stage), world_size, (theirs["weights"], theirs["moments"]))
            results[str(stage)]["taken_over"] = difference(ours, theirs["end"])
        elif rank == 0:
            torch.save({"weights": saved[0], "moments": saved[1], "end": whole}, left)
    if rank == 0:
        (folder / f"results-{world_size}.json").write_text(json.dumps(results))
    dist.barrier()
    # DeepSpeed and gloo leave threads that would be waited for.
    os._exit(0)


def all_equal(a: State, b: State) -> bool:
    """Bit for bit."""
    return all(torch.equal(a[k], b[k]) for k in b)


if __name__ == "__main__":
    main()
