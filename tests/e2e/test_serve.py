"""`nigaoe serve` as a user runs it: a process of its own, Ray Serve, real sockets, and a signal at the end."""

import base64
import io
import os
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from served_here import ENVIRONMENT, RunningServer, command, toy_server_config, until

pytestmark = [pytest.mark.timeout(600)]

REQUESTS: list[dict[str, Any]] = [
    {"seed": 1, "steps": 12},
    {"seed": 1, "steps": 12, "adapter_scale": 0.2},
    {"seed": 2, "steps": 20, "n": 2},
    {"seed": 3, "steps": 8, "guidance_scale": 1.0, "base": "toy/photo"},
    {"seed": 4, "steps": 15, "prompt": "a man", "negative_prompt": "glasses"},
    {"seed": 5, "steps": 10, "size": "64x96"},
]


@pytest.fixture(scope="module")
def face() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((96, 80)).save(buffer, "PNG")
    return buffer.getvalue()


def _figure(server: RunningServer, name: str) -> float:
    return sum(server.values(name))


def edit(server: RunningServer, face: bytes, **data: Any) -> httpx.Response:
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
def alone(server: RunningServer, face: bytes) -> list[list[np.ndarray]]:
    """What each of `REQUESTS` gives where nobody else asks."""
    return [pictures(edit(server, face, **request)) for request in REQUESTS]


def test_concurrent_requests_draw_what_they_draw_alone(
    server: RunningServer, face: bytes, alone: list[list[np.ndarray]]
) -> None:
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        together = list(pool.map(lambda request: pictures(edit(server, face, **request)), REQUESTS))
    for expected, got in zip(alone, together, strict=True):
        require_same(expected, got)
    # The scale counted, and so did the seed.
    assert np.abs(alone[0][0] - alone[1][0]).max() > 1
    assert np.abs(alone[2][0] - alone[2][1]).max() > 1


def test_what_all_processes_count_is_shown_in_one_place(server: RunningServer, alone: list[list[np.ndarray]]) -> None:
    count = sum(len(pictures) for pictures in alone)
    server.wait_for("nigaoe_images_total", lambda value: value >= count)
    server.wait_for("nigaoe_requests_total", lambda value: value >= len(alone))
    server.wait_for("nigaoe_row_steps_total", lambda value: value >= sum(r["steps"] for r in REQUESTS))
    server.wait_for("nigaoe_rows_in_flight", lambda value: value == 0)


def test_who_hangs_up_frees_the_engine(server: RunningServer, face: bytes) -> None:
    before = _figure(server, "nigaoe_unet_calls_total")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.url}/v1/images/generations",
            json={"prompt": "p", "steps": 1000, "n": 4},
            timeout=httpx.Timeout(30, read=8),
        )
    server.wait_for("nigaoe_unet_calls_total", lambda value: value > before)
    server.wait_for("nigaoe_rows_in_flight", lambda value: value == 0)
    assert _figure(server, "nigaoe_unet_calls_total") - before < 1000
    assert len(pictures(edit(server, face, seed=1))) == 1


@pytest.mark.slow
def test_replicas_come_with_work_are_lost_without_loss_and_go(
    server: RunningServer, face: bytes, alone: list[list[np.ndarray]]
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
            until(
                lambda: len(server.values("nigaoe_rows_in_flight")) >= 2 and len(server.processes("engine")) == 2,
                180,
                "two draw",
            )
            time.sleep(3)
            lost = min(server.processes("engine"))
            os.kill(lost, signal.SIGKILL)
            for request, wanted in zip(REQUESTS, alone, strict=True):
                require_same(wanted, pictures(edit(server, face, **request)))
        finally:
            enough.set()
    assert all(loop.result() >= 1 for loop in loops)
    server.wait_for("nigaoe_retries_total", lambda value: value >= 1)
    until(lambda: len(server.processes("engine")) == 1, 180, "one is enough again")
    assert lost not in server.processes("engine")


def test_failures_have_one_shape(server: RunningServer, face: bytes) -> None:
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
    config = toy_server_config(tmp_path)
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
