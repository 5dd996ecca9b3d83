"""Servers that are given the same requests: ours, and what people put in front of a diffusers pipeline.

Each runs in a process of its own, on one core and one torch thread, with the load generator beside it.
"""

import asyncio
import base64
import copy
import io
import itertools
import json
import os
import socket
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, cast
from unittest.mock import patch

import httpx
import torch
from diffusers import StableDiffusionPipeline
from fastapi import FastAPI
from PIL import Image
from ray import serve
from ray.serve.batching import _BatchQueue
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from asked import services_of, serving
from benchmarks.engine import seconds_per_row
from nigaoe.core.bases import load_base
from nigaoe.core.engine.allocator import keep_freed_memory
from nigaoe.core.engine.rows import Row
from nigaoe.core.engine.runners import best_runner
from nigaoe.core.engine.turns import Turns
from nigaoe.core.image_encoders import load_image_encoder
from nigaoe.core.models import locate
from nigaoe.core.unet_call import run_unet
from nigaoe.serve.config import EngineConfig, ServeConfig, Storage
from nigaoe.serve.engine.replica import Replica
from nigaoe.serve.http.app import create_app
from nigaoe.serve.loadtest.results import LoadResult
from nigaoe.serve.loadtest.running import run
from nigaoe.serve.loadtest.workload import Workload, shots
from nigaoe.serve.orders import Event, Order

SideName = Literal["ours", "locked", "batched", "identical"]
BASE, ENCODER, PATH = "toy/photo", "toy/image_encoder", "/v1/generate"
MAX_ROWS = 16
"""Pictures in one UNet call, of every side that batches."""
BATCH_WAIT_S = 0.02


@dataclass(frozen=True)
class World:
    """What all sides share."""

    adapters: dict[str, Path]
    objects: Path
    core: int
    """Every side's, load generator included."""
    with_ray: bool
    """Whether ours and the batched one run on Ray Serve, with its proxy and its processes, or in one process."""

    @property
    def config(self) -> ServeConfig:
        return ServeConfig(
            bases=[BASE],
            image_encoder=ENCODER,
            adapters=dict(self.adapters),
            engine=EngineConfig(max_rows=MAX_ROWS),
            storage=Storage(objects=str(self.objects)),
            playground=False,
        )


@dataclass(frozen=True)
class Wanted:
    """One picture, as the baselines read it from the body of our native API."""

    prompt: str
    seed: int
    steps: int
    guidance: float
    scale: float
    adapter: str
    size: int
    """Pixels of a side."""
    face: Image.Image

    @classmethod
    def of(cls, body: Any) -> "Wanted":
        (said,) = body["image_prompts"]
        face = Image.open(io.BytesIO(base64.b64decode(said["images"][0]))).convert("RGB")
        values = body["prompt"], body["seed"], body["steps"], body["guidance_scale"]
        return cls(*values, said["scale"], said["adapter"], int(body["size"].partition("x")[0]), face)

    @property
    def key(self) -> tuple[object, ...]:
        """Pictures of one key may share a call of a stock pipeline."""
        return self.steps, self.guidance, self.scale, self.adapter, self.size


class Pipelines:
    """One diffusers pipeline per adapter, with what a careful user gives it.

    Inference mode, channels last, the empty prompt encoded once, no progress bar, no adapter ever loaded twice.
    """

    def __init__(self, adapters: dict[str, Path]) -> None:
        whole = StableDiffusionPipeline.from_pretrained(locate(BASE), torch_dtype=torch.float32)
        self._encoder = load_image_encoder(ENCODER, "cpu")
        self._pipelines: dict[str, Any] = {}
        for name, path in adapters.items():
            pipeline: Any = StableDiffusionPipeline(**{**whole.components, "unet": copy.deepcopy(whole.unet)})
            pipeline.load_ip_adapter(str(path.parent), subfolder="", weight_name=path.name, image_encoder_folder=None)
            pipeline.set_progress_bar_config(disable=True)
            pipeline.unet.to(memory_format=torch.channels_last)
            # It repeats embeddings once per prompt, so that in a batch every picture would see all faces; as it is, a
            # stock pipeline could not even share a call between different faces.
            pipeline.prepare_ip_adapter_image_embeds = lambda _image, embeds, *_: embeds
            self._pipelines[name] = pipeline
        with torch.inference_mode():
            self._nothing = pipeline.encode_prompt("", "cpu", 1, False)[0]

    @torch.inference_mode()
    def draw(self, wanted: Sequence[Wanted]) -> list[Image.Image]:
        """Pictures of one key, in one call."""
        first, count = wanted[0], len(wanted)
        pipeline = self._pipelines[first.adapter]
        pipeline.set_ip_adapter_scale(first.scale)
        embeds = self._encoder.encode([one.face for one in wanted])[:, None]
        is_guided = first.guidance > 1
        pictures: list[Image.Image] = pipeline(
            [one.prompt for one in wanted],
            height=first.size,
            width=first.size,
            num_inference_steps=first.steps,
            guidance_scale=first.guidance,
            negative_prompt_embeds=self._nothing.expand(count, -1, -1) if is_guided else None,
            generator=[torch.Generator().manual_seed(one.seed) for one in wanted],
            ip_adapter_image_embeds=[torch.cat([torch.zeros_like(embeds), embeds]) if is_guided else embeds],
        ).images
        return pictures


def answer(picture: Image.Image) -> JSONResponse:
    """A picture in JSON, compressed as lightly as ours."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return JSONResponse({"images": [{"b64_json": base64.b64encode(buffer.getvalue()).decode("ascii")}]})


class Locked:
    """One request at a time, in the order of their arrival."""

    def __init__(self, adapters: dict[str, Path]) -> None:
        self._pipelines, self._lock = Pipelines(adapters), asyncio.Lock()

    async def __call__(self, request: Request) -> Response:
        wanted = Wanted.of(json.loads(await request.body()))
        async with self._lock:
            (picture,) = await asyncio.to_thread(self._pipelines.draw, [wanted])
        return answer(picture)


class Batched:
    """Ray Serve's batching: of what has gathered, those of one key share a call."""

    def __init__(self, adapters: dict[str, Path]) -> None:
        torch.set_num_threads(1)
        keep_freed_memory()
        self._pipelines = Pipelines(adapters)

    async def __call__(self, request: Request) -> Response:
        if request.method != "POST":
            return Response()
        wanted = Wanted.of(json.loads(await request.body()))
        return answer(await self._gathered(wanted))

    @serve.batch(max_batch_size=MAX_ROWS, batch_wait_timeout_s=BATCH_WAIT_S)
    async def _gathered(self, wanted: list[Wanted]) -> list[Image.Image]:
        groups = defaultdict(list)
        for place, one in enumerate(wanted):
            groups[one.key].append(place)
        pictures: dict[int, Image.Image] = {}
        for places in groups.values():
            drawn = await asyncio.to_thread(self._pipelines.draw, [wanted[place] for place in places])
            pictures |= dict(zip(places, drawn, strict=True))
        return [pictures[place] for place in range(len(wanted))]


class IdenticalTurns(Turns):
    """In the order of arrival, each time with all that have the key of the first; whoever has it may join under way."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[tuple[str, int], tuple[object, ...]] = {}
        """By prompt and seed."""

    def next(self, rows: Sequence[Row], most: int) -> tuple[Row, ...]:
        alike = (row for row in rows if self._key(row) == self._key(rows[0]))
        return tuple(itertools.islice(alike, most))

    def _key(self, row: Row) -> tuple[object, ...]:
        return self.keys[row.generation.prompt, row.generation.seed]


class IdenticalReplica(Replica):
    """Ours, held to what others batch: requests that differ in nothing but content."""

    def __init__(self, config: ServeConfig) -> None:
        super().__init__(config)
        self._turns = IdenticalTurns()
        for engine in self._residency.engines().values():
            engine._turns = self._turns

    async def draw(self, order: Order) -> AsyncIterator[Event]:
        (said,), (seed,) = order.image_prompts, order.seeds
        key = (order.steps, order.guidance_scale, said.scale, said.adapter.sha256)
        self._turns.keys[order.prompt, seed] = key
        async with aclosing(cast("AsyncGenerator[Event]", super().draw(order))) as events:
            async for event in events:
                yield event


@contextmanager
def started(name: SideName, world: World) -> Iterator[str]:
    """A side that answers, and where."""
    if world.with_ray and name in ("ours", "batched"):
        with _on_ray(name, world) as url:
            yield url
        return
    if name in ("ours", "identical"):
        replica = Replica(world.config) if name == "ours" else IdenticalReplica(world.config)
        with serving(create_app(services_of(world.config, replica))) as url:
            yield url
        replica.close(5.0)
        return
    app = FastAPI()
    app.add_route(PATH, (Locked if name == "locked" else Batched)(world.adapters).__call__, methods=["POST"])
    # All it does is warn, of a setting that there is only in a replica of Ray Serve.
    with patch.object(_BatchQueue, "_warn_if_max_batch_size_exceeds_max_ongoing_requests"), serving(app) as url:
        yield url


@contextmanager
def _on_ray(name: SideName, world: World) -> Iterator[str]:
    import ray
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    from nigaoe.serve.app import build

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    # Its processes inherit the core and the one thread.
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=256 * 2**20)
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port), logging_config=quiet)
    if name == "ours":
        application = build(world.config)
    else:
        deployment = serve.deployment(max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 1})(Batched)
        application = deployment.bind(world.adapters)
    serve.run(application, name=name, route_prefix="/", logging_config=quiet)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Load:
    """What came of one turn."""

    result: LoadResult
    cpu_s: float
    """Of this process: of the server too, unless that is Ray's."""


def loaded(url: str, workload: Workload) -> Load:
    """Let a side bear a load.

    Raises:
        RuntimeError: A request failed, so that figures would compare different work.
    """
    began = time.process_time()
    result = asyncio.run(run(workload, url))
    spent = time.process_time() - began
    if result.total.errors:
        raise RuntimeError(f"requests failed: {result.total.errors}")
    return Load(result, spent)


def pictures(url: str, workload: Workload, count: int) -> list[bytes]:
    """The first pictures of a workload, asked for all at once."""

    async def main() -> list[bytes]:
        async with httpx.AsyncClient(base_url=url, timeout=workload.timeout_s) as client:
            asked = [client.post(PATH, json=shot.body) for shot in itertools.islice(shots(workload), count)]
            answers = await asyncio.gather(*asked)
        return [base64.b64decode(one.raise_for_status().json()["images"][0]["b64_json"]) for one in answers]

    return asyncio.run(main())


def around_drawing(url: str, workload: Workload, count: int) -> list[tuple[float, float]]:
    """Of requests one after the other: seconds in all, and of them those outside the engine, as our answers tell."""
    found = []
    with httpx.Client(base_url=url, timeout=workload.timeout_s) as client:
        for shot in itertools.islice(shots(workload), count + 1):
            began = time.perf_counter()
            response = client.post(PATH, json=shot.body)
            seconds = time.perf_counter() - began
            found.append((seconds, seconds - sum(response.raise_for_status().json()["timings"].values())))
    # The first one opens the connection.
    return found[1:]


def row_seconds(_url: str, counts: Sequence[int], size: int) -> dict[tuple[str, int], float]:
    """A row's seconds in UNet calls of so many, called as diffusers does ("stock") and as we do ("ours")."""
    base = load_base(BASE)
    runners = {"stock": run_unet, "ours": best_runner(base.unet)}
    return {
        (name, count): seconds_per_row(base, runner, count, size)
        for name, runner in runners.items()
        for count in counts
    }


COMMANDS: dict[str, Callable[..., object]] = {
    command.__name__: command for command in (loaded, pictures, around_drawing, row_seconds)
}


def _main(name: SideName, world: World, connection: "Connection[Any, Any]") -> None:
    os.sched_setaffinity(0, {world.core})
    torch.set_num_threads(1)
    # Ours does it by itself; so that it is no advantage, all do.
    keep_freed_memory()
    with started(name, world) as url:
        connection.send(None)
        while (asked := connection.recv()) is not None:
            command, arguments = asked
            try:
                connection.send(COMMANDS[command](url, *arguments))
            except Exception as error:
                connection.send(RuntimeError(f"{name}: {type(error).__name__}: {error}"))


class Side:
    """A side, in a process of its own; idle until it is its turn."""

    def __init__(self, name: SideName, world: World) -> None:
        self.name = name
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        # Not a daemon: Ray's processes are children of it.
        self._process = context.Process(target=_main, args=(name, world, theirs), name=name)
        self._process.start()
        theirs.close()
        try:
            # Says that it answers.
            self._connection.recv()
        except EOFError:
            raise RuntimeError(f"{name} did not start; above is why") from None

    def ask(self, command: Callable[..., Any], *arguments: object) -> Any:
        """One of `COMMANDS`.

        Raises:
            RuntimeError: It failed there.
        """
        self._connection.send((command.__name__, arguments))
        answered = self._connection.recv()
        if isinstance(answered, Exception):
            raise answered
        return answered

    def close(self) -> None:
        """Let it end; after a while, make it."""
        if self._process.is_alive():
            self._connection.send(None)
        self._process.join(30)
        if self._process.is_alive():
            self._process.terminate()
