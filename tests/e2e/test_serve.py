"""`nigaoe serve` as a user runs it: a process of its own, Ray Serve, real sockets, and a signal at the end."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import torch
import yaml
from PIL import Image

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.bases import load_base

pytestmark = [pytest.mark.timeout(600)]

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_AUTH_MODE": "disabled"}
REQUESTS: list[dict[str, Any]] = [
    {"seed": 1, "steps": 12},
    {"seed": 1, "steps": 12, "adapter_scale": 0.2},
    {"seed": 2, "steps": 20, "n": 2},
    {"seed": 3, "steps": 8, "guidance_scale": 1.0, "base": "toy/photo"},
    {"seed": 4, "steps": 15, "prompt": "a man", "negative_prompt": "glasses"},
    {"seed": 5, "steps": 10, "size": "64x96"},
]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "nigaoe.core.cli", "serve", *arguments]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def written_config(folder: Path) -> Path:
    torch.set_num_threads(1)
    adapter = folder / "adapter.safetensors"
    save_adapter(IPAdapter.for_unet(load_base("toy/anime").unet, features={"image_embeds": 128}), adapter)
    values: dict[str, Any] = {
        "bases": ["toy/anime", "toy/photo"],
        "image_encoder": "toy/image_encoder",
        "adapters": {"demo": str(adapter)},
        "defaults": {"steps": 4, "guidance_scale": 3.0},
        "limits": {"body_mb": 1.0, "n": 4, "steps": 1000},
        # So eager that four requests at a time are too much for one.
        "autoscaling": {"min_replicas": 1, "max_replicas": 2, "wait_s": 1, "cold_start_s": 1, "idle_s": 15},
        "storage": {"objects": str(folder / "objects"), "registry": str(folder / "registry")},
        "watching": {"metrics_port": free_port()},
        "port": 0,
        "ready_file": str(folder / "ready.json"),
    }
    config = folder / "serve.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    return config


@dataclass(frozen=True)
class Server:
    """One that runs."""

    url: str
    pid: int
    metrics_url: str

    def engines(self) -> set[int]:
        """Processes of replicas that draw."""
        found = psutil.Process(self.pid).children(recursive=True)
        return {process.pid for process in found if is_engine(process)}

    def figure(self, name: str) -> float:
        """The sum of a metric over all processes and tags; Ray collects them every few seconds."""
        return sum(self._values(name))

    def samples(self, name: str) -> int:
        """How many processes show a metric that has no tags of its own."""
        return len(self._values(name))

    def _values(self, name: str) -> list[float]:
        lines = httpx.get(self.metrics_url, timeout=30).text.splitlines()
        return [float(line.split()[-1]) for line in lines if line.startswith((f"ray_{name}{{", f"ray_{name} "))]

    def wait_for(self, name: str, is_so: Callable[[float], bool]) -> None:
        """Wait until a metric is as it should be."""
        deadline = time.monotonic() + 60
        while not is_so(value := self.figure(name)):
            assert time.monotonic() < deadline, f"{name} is {value}"
            time.sleep(0.5)


def is_engine(process: psutil.Process) -> bool:
    try:
        return "ServeReplica:nigaoe:engine" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    ready, config = folder / "ready.json", written_config(folder)
    metrics_port = yaml.safe_load(config.read_text())["watching"]["metrics_port"]
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(command(str(config)), stdout=log, stderr=log, env=os.environ | ENVIRONMENT)
        try:
            deadline = time.monotonic() + 300
            while not ready.exists():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
            announced = json.loads(ready.read_text())
            assert announced["pid"] == process.pid
            yield Server(announced["url"], process.pid, f"http://127.0.0.1:{metrics_port}/metrics")
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    assert not ready.exists()
    # One line, and then nothing but Ray's notice of the worker that a test kills.
    first, *others = (folder / "log").read_text().splitlines()
    assert first == f"serving on {announced['url']} (stop with Ctrl-C)"
    assert all("A worker died or was killed" in line for line in others if "(raylet)" in line)
    assert not any("Traceback" in line for line in others)
    with pytest.raises(httpx.ConnectError):
        httpx.get(announced["url"])


@pytest.fixture(scope="module")
def face() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((96, 80)).save(buffer, "PNG")
    return buffer.getvalue()


def edit(server: Server, face: bytes, **data: Any) -> httpx.Response:
    form = {"prompt": "a woman, anime"} | {name: str(value) for name, value in data.items()}
    return httpx.post(f"{server.url}/v1/images/edits", files={"image": ("face.png", face)}, data=form, timeout=240)


def pictures(response: httpx.Response) -> list[np.ndarray]:
    assert response.status_code == 200, response.text
    items = response.json()["data"]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))).astype(int) for item in items]


def require_same(expected: list[np.ndarray], got: list[np.ndarray]) -> None:
    assert len(expected) == len(got)
    assert max(np.abs(a - b).max() for a, b in zip(expected, got, strict=True)) <= 1


@pytest.fixture(scope="module")
def alone(server: Server, face: bytes) -> list[list[np.ndarray]]:
    """What each of `REQUESTS` gives where nobody else asks."""
    return [pictures(edit(server, face, **request)) for request in REQUESTS]


def test_concurrent_requests_draw_what_they_draw_alone(
    server: Server, face: bytes, alone: list[list[np.ndarray]]
) -> None:
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        together = list(pool.map(lambda request: pictures(edit(server, face, **request)), REQUESTS))
    for expected, got in zip(alone, together, strict=True):
        require_same(expected, got)
    # The scale counted, and so did the seed.
    assert np.abs(alone[0][0] - alone[1][0]).max() > 1
    assert np.abs(alone[2][0] - alone[2][1]).max() > 1


def test_what_all_processes_count_is_shown_in_one_place(server: Server, alone: list[list[np.ndarray]]) -> None:
    count = sum(len(pictures) for pictures in alone)
    server.wait_for("nigaoe_images_total", lambda value: value >= count)
    server.wait_for("nigaoe_requests_total", lambda value: value >= len(alone))
    server.wait_for("nigaoe_row_steps_total", lambda value: value >= sum(r["steps"] for r in REQUESTS))
    server.wait_for("nigaoe_rows_in_flight", lambda value: value == 0)


def test_who_hangs_up_frees_the_engine(server: Server, face: bytes) -> None:
    before = server.figure("nigaoe_unet_calls_total")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.url}/v1/images/generations",
            json={"prompt": "p", "steps": 1000, "n": 4},
            timeout=httpx.Timeout(30, read=8),
        )
    server.wait_for("nigaoe_unet_calls_total", lambda value: value > before)
    server.wait_for("nigaoe_rows_in_flight", lambda value: value == 0)
    assert server.figure("nigaoe_unet_calls_total") - before < 1000
    assert len(pictures(edit(server, face, seed=1))) == 1


@pytest.mark.slow
def test_replicas_come_with_work_are_lost_without_loss_and_go(
    server: Server, face: bytes, alone: list[list[np.ndarray]]
) -> None:
    long = [{"seed": 10 + number, "steps": 60} for number in range(4)]
    expected = [pictures(edit(server, face, **request)) for request in long]
    enough = threading.Event()

    def ask_again_and_again(place: int) -> int:
        count = 0
        while not enough.is_set():
            require_same(expected[place], pictures(edit(server, face, **long[place])))
            count += 1
        return count

    with ThreadPoolExecutor(len(long)) as pool:
        loops = [pool.submit(ask_again_and_again, place) for place in range(len(long))]
        try:
            # Two that draw: each says what it does.
            until(lambda: server.samples("nigaoe_rows_in_flight") >= 2 and len(server.engines()) == 2, 180)
            time.sleep(3)
            lost = min(server.engines())
            os.kill(lost, signal.SIGKILL)
            for request, wanted in zip(REQUESTS, alone, strict=True):
                require_same(wanted, pictures(edit(server, face, **request)))
        finally:
            enough.set()
    assert all(loop.result() >= 1 for loop in loops)
    server.wait_for("nigaoe_retries_total", lambda value: value >= 1)
    until(lambda: len(server.engines()) == 1, 180)
    assert lost not in server.engines()


def until(is_so: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_failures_have_one_shape(server: Server, face: bytes) -> None:
    edits, generations = f"{server.url}/v1/images/edits", f"{server.url}/v1/images/generations"
    image = {"image": ("face.png", face)}
    cases: list[tuple[str, str, dict[str, Any], int, str]] = [
        ("POST", edits, {"files": {"image": ("a.txt", b"text")}, "data": {"prompt": "p"}}, 400, "not a"),
        ("POST", edits, {"files": image, "data": {"prompt": "p", "size": "97x96"}}, 400, "width 97"),
        ("POST", edits, {"files": {"image": bytes(3_000_000)}, "data": {"prompt": "p"}}, 413, "1 MB"),
        ("POST", generations, {"json": {"prompt": "p", "model": "x"}}, 404, "'x'"),
        ("GET", f"{server.url}/v1/nothing", {}, 404, "not a route"),
    ]
    for method, url, kwargs, status, says in cases:
        response = httpx.request(method, url, timeout=60, **kwargs)
        assert response.status_code == status, response.text
        error = response.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert says in error["message"]
    models = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["toy/anime", "toy/photo", "demo"]


@pytest.mark.slow
def test_what_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    config = written_config(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for override, says in [
            ("adapters.demo=nowhere.safetensors", "'nowhere.safetensors' does not exist"),
            (f"port={taken.getsockname()[1]}", "cannot be served on"),
        ]:
            arguments = command(str(config), override)
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, env=os.environ | ENVIRONMENT)
            assert done.returncode == 2
            assert says in done.stderr
            assert len(done.stderr.splitlines()) == 1
