"""An hour of 0.7 times what a server can do, with people who hang up: what grows, what sticks, what is miscounted.

    python tests/benchmarks/soak.py --minutes 60 --json soak.json

`nigaoe serve` runs as a user starts it, on toy bases. A closed loop first measures its capacity; then requests arrive
by chance at 0.7 times of it, and one in ten hangs up before it is answered. Ends with 1 where a row is stuck, where
counters do not add up, where something was answered with 5xx, or where memory grows by more than `--most-mib-per-hour`.
"""

import argparse
import asyncio
import base64
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# What several benchmarks and tests share lies beside their folders.
sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx
import numpy as np
import psutil
import torch

from asked import picture_file
from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.bases import load_base
from served_here import RunningServer, running, write_serve_config

PATH = "/v1/generate"
SHARE = 0.7
HANG_UP = 0.1
PATIENCE_S = (0.1, 0.2)
"""Of those who hang up: at least, so that the request has arrived, and on average beyond that."""
JUDGED_MINUTES = 10.0
"""A shorter run says nothing of memory: it is still warming up."""
CLIENTS = 8
"""Of the closed loop that measures capacity."""
SAMPLES_S = 5.0
SETTLING_S = 120.0
"""At most, until nothing is under way any more and Ray has collected every figure."""
MIB = 1024**2
FACE = base64.b64encode(picture_file()).decode()
MIX: list[dict[str, Any]] = [
    {"steps": 4},
    {"steps": 8, "image_prompts": [{"images": [FACE]}]},
    {"steps": 12, "image_prompts": [{"images": [FACE], "scale": 0.6}], "n": 2},
    {"steps": 6, "base": "toy/photo", "size": "64x96"},
    {"steps": 20, "negative_prompt": "glasses"},
]


@dataclass
class Tally:
    """What clients saw."""

    sent: int = 0
    hung_up: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    """Of those that were answered."""


def body_of(rng: random.Random) -> dict[str, Any]:
    """Some request; every one has a seed of its own, and half of them a face of their own scale."""
    body = rng.choice(MIX) | {"prompt": "a woman, anime", "seed": rng.randrange(2**31)}
    if "image_prompts" in body and rng.random() < 0.5:
        # Another scale is another image prompt: caches that only grow would show.
        body["image_prompts"] = [body["image_prompts"][0] | {"scale": rng.uniform(0.1, 1.0)}]
    return body


async def one(client: httpx.AsyncClient, body: dict[str, Any], tally: Tally, leave_after_s: float | None) -> None:
    """Ask once, and hang up after so long."""
    tally.sent += 1
    began = time.perf_counter()
    try:
        async with asyncio.timeout(leave_after_s):
            answer = await client.post(PATH, json=body)
    except TimeoutError:
        tally.hung_up += 1
        return
    except httpx.TransportError:
        tally.statuses[0] += 1
        return
    tally.statuses[answer.status_code] += 1
    tally.seconds.append(time.perf_counter() - began)


async def measure_capacity(client: httpx.AsyncClient, seconds: float, tally: Tally) -> float:
    """Requests a second of a closed loop; the first quarter of the time warms up."""
    rng, ended = random.Random(0), list[float]()
    began = time.perf_counter()

    async def loop() -> None:
        while time.perf_counter() - began < seconds:
            await one(client, body_of(rng), tally, None)
            ended.append(time.perf_counter() - began)

    await asyncio.gather(*(loop() for _ in range(CLIENTS)))
    counted = [end for end in ended if seconds / 4 <= end <= seconds]
    return len(counted) / (seconds * 3 / 4)


async def soak(client: httpx.AsyncClient, rate: float, seconds: float, tally: Tally) -> None:
    """Requests at random moments, whatever becomes of those before."""
    rng, under_way = random.Random(1), set[asyncio.Task[None]]()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        await asyncio.sleep(rng.expovariate(rate))
        leave_after_s = PATIENCE_S[0] + rng.expovariate(1 / PATIENCE_S[1]) if rng.random() < HANG_UP else None
        task = asyncio.create_task(one(client, body_of(rng), tally, leave_after_s))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)


async def watch(server: RunningServer, samples: dict[str, list[tuple[float, int]]]) -> None:
    """Memory of every kind of process, again and again."""
    while True:
        for kind in ("engine", "ingress", "ProxyActor"):
            resident = sum(psutil.Process(pid).memory_info().rss for pid in server.processes(kind))
            samples.setdefault(kind, []).append((time.perf_counter(), resident))
        await asyncio.sleep(SAMPLES_S)


def mib_per_hour(samples: Sequence[tuple[float, int]]) -> float:
    """Slope over the second half, when caches have their size."""
    times, sizes = np.array(samples[len(samples) // 2 :], float).T
    return float(np.polyfit(times, sizes, 1)[0]) * 3600 / MIB if len(times) > 1 else 0.0


async def settle(server: RunningServer, sent: int) -> tuple[float, float]:
    """Rows that are still there, and requests that the server counted, once neither changes or time is up."""
    until = time.perf_counter() + SETTLING_S
    while True:
        rows = sum(server.values("nigaoe_rows_in_flight")) + sum(server.values("nigaoe_rows_waiting"))
        counted = sum(server.values("nigaoe_requests_total", route=PATH))
        if (rows == 0 and counted == sent) or time.perf_counter() > until:
            return rows, counted
        await asyncio.sleep(2.0)


async def measured(server: RunningServer, minutes: float) -> dict[str, Any]:
    """All of it."""
    tally, samples = Tally(), dict[str, list[tuple[float, int]]]()
    seconds = minutes * 60
    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=limits) as client:
        capacity = await measure_capacity(client, min(60.0, seconds / 4), tally)
        tally.seconds.clear()
        watching = asyncio.create_task(watch(server, samples))
        try:
            await soak(client, SHARE * capacity, seconds, tally)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    rows, counted = await settle(server, tally.sent)
    gone = sum(server.values("nigaoe_requests_total", route=PATH, status="499"))
    p50, p95, p99 = np.percentile(tally.seconds or [0.0], [50, 95, 99])
    return {
        "minutes": minutes,
        "capacity_requests_per_s": capacity,
        "rate_requests_per_s": SHARE * capacity,
        "sent": tally.sent,
        "hung_up": tally.hung_up,
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "p50_s": float(p50),
        "p95_s": float(p95),
        "p99_s": float(p99),
        "counted_by_server": counted,
        "counted_as_hung_up": gone,
        "stuck_rows": rows,
        "memory_mib": {kind: [round(size / MIB, 1) for _, size in found] for kind, found in samples.items()},
        "memory_mib_per_hour": {kind: mib_per_hour(found) for kind, found in samples.items()},
    }


def faults_of(found: dict[str, Any], most_mib_per_hour: float) -> list[str]:
    """What is not as it should be."""
    faults = []
    if found["stuck_rows"]:
        faults.append(f"{found['stuck_rows']:.0f} rows are stuck")
    # Who hangs up at once may never arrive; nobody else may be missing.
    missing = found["sent"] - found["counted_by_server"]
    if not 0 <= missing <= found["hung_up"] - found["counted_as_hung_up"]:
        faults.append(f"{found['sent']} requests were sent and {found['counted_by_server']:.0f} counted")
    if found["hung_up"] + sum(found["statuses"].values()) != found["sent"]:
        faults.append("answers and hang-ups are not all that was sent")
    bad = {status: count for status, count in found["statuses"].items() if status not in {"200", "429"}}
    if bad:
        faults.append(f"answers other than 200 and 429: {bad}")
    for kind, slope in found["memory_mib_per_hour"].items():
        if found["minutes"] >= JUDGED_MINUTES and slope > most_mib_per_hour:
            faults.append(f"the memory of {kind} grows by {slope:.0f} MiB an hour")
    return faults


def main() -> int:
    """Run it, tell it, and judge it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--most-mib-per-hour", type=float, default=20.0)
    options = parser.parse_args()
    torch.manual_seed(0)
    with TemporaryDirectory() as name:
        folder = Path(name)
        adapter = folder / "demo.safetensors"
        save_adapter(IPAdapter.for_unet(load_base("toy/anime").unet, features={"image_embeds": 128}), adapter)
        config = write_serve_config(
            folder,
            {
                "bases": ["toy/anime", "toy/photo"],
                "image_encoder": "toy/image_encoder",
                "adapters": {"demo": str(adapter)},
                "defaults": {"guidance_scale": 3.0},
                # So small that it is full long before the end.
                "engine": {"cached_image_prompts_mib": 16},
            },
        )
        with running(config) as server:
            found = asyncio.run(measured(server, options.minutes))
    found["faults"] = faults_of(found, options.most_mib_per_hour)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps({key: value for key, value in found.items() if key != "memory_mib"}, indent=2) + "\n")
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
