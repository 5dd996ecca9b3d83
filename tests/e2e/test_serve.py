"""`nigaoe serve` as a user runs it: a process of its own, Ray Serve, real sockets, and a signal at the end."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.bases import load_base

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_AUTH_MODE": "disabled"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "nigaoe.core.cli", "serve", *arguments]


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
        "port": 0,
        "ready_file": str(folder / "ready.json"),
    }
    config = folder / "serve.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    return config


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    ready = folder / "ready.json"
    with (folder / "log").open("w+") as log:
        arguments = command(str(written_config(folder)))
        process = subprocess.Popen(arguments, stdout=log, stderr=log, env=os.environ | ENVIRONMENT)
        try:
            deadline = time.monotonic() + 300
            while not ready.exists():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
            announced = json.loads(ready.read_text())
            assert announced["pid"] == process.pid
            yield announced["url"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    assert not ready.exists()
    # One line, and nothing noisy.
    assert (folder / "log").read_text() == f"serving on {announced['url']} (stop with Ctrl-C)\n"
    with pytest.raises(httpx.ConnectError):
        httpx.get(announced["url"])


@pytest.fixture(scope="module")
def face() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((96, 80)).save(buffer, "PNG")
    return buffer.getvalue()


def edit(server: str, face: bytes, **data: Any) -> httpx.Response:
    form = {"prompt": "a woman, anime"} | {name: str(value) for name, value in data.items()}
    return httpx.post(f"{server}/v1/images/edits", files={"image": ("face.png", face)}, data=form, timeout=120)


def pictures(response: httpx.Response) -> list[np.ndarray]:
    assert response.status_code == 200, response.text
    items = response.json()["data"]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))).astype(int) for item in items]


def test_concurrent_requests_draw_what_they_draw_alone(server: str, face: bytes) -> None:
    requests: list[dict[str, Any]] = [
        {"seed": 1, "steps": 12},
        {"seed": 1, "steps": 12, "adapter_scale": 0.2},
        {"seed": 2, "steps": 20, "n": 2},
        {"seed": 3, "steps": 8, "guidance_scale": 1.0, "base": "toy/photo"},
        {"seed": 4, "steps": 15, "prompt": "a man", "negative_prompt": "glasses"},
        {"seed": 5, "steps": 10, "size": "64x96"},
    ]
    alone = [pictures(edit(server, face, **request)) for request in requests]
    with ThreadPoolExecutor(len(requests)) as pool:
        together = list(pool.map(lambda request: pictures(edit(server, face, **request)), requests))
    for expected, got in zip(alone, together, strict=True):
        assert len(expected) == len(got)
        assert max(np.abs(a - b).max() for a, b in zip(expected, got, strict=True)) <= 1
    # The scale counted, and so did the seed.
    assert np.abs(alone[0][0] - alone[1][0]).max() > 1
    assert np.abs(alone[2][0] - alone[2][1]).max() > 1


def test_who_hangs_up_frees_the_engine(server: str, face: bytes) -> None:
    before = httpx.get(f"{server}/healthz").json()["unet_calls"]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server}/v1/images/generations",
            json={"prompt": "p", "steps": 1000, "n": 4},
            timeout=httpx.Timeout(30, read=2),
        )
    deadline = time.monotonic() + 30
    while (health := httpx.get(f"{server}/healthz", timeout=30).json())["active_rows"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert 0 < health["unet_calls"] - before < 1000
    assert len(pictures(edit(server, face, seed=1))) == 1


def test_failures_have_one_shape(server: str, face: bytes) -> None:
    edits, generations = f"{server}/v1/images/edits", f"{server}/v1/images/generations"
    whole = io.BytesIO()
    Image.effect_noise((96, 96), 80).save(whole, "JPEG")
    image = {"image": ("face.png", face)}
    cases: list[tuple[str, str, dict[str, Any], int, str]] = [
        ("POST", edits, {"files": {"image": ("a.txt", b"text")}, "data": {"prompt": "p"}}, 400, "not a JPEG"),
        ("POST", edits, {"files": {"image": whole.getvalue()[:2000]}, "data": {"prompt": "p"}}, 400, "truncated"),
        ("POST", edits, {"files": image, "data": {}}, 400, "prompt is missing"),
        ("POST", edits, {"files": image, "data": {"prompt": "p", "adapter": "x"}}, 404, "'x' is not on this server"),
        ("POST", edits, {"files": image, "data": {"prompt": "p", "size": "97x96"}}, 400, "width 97"),
        ("POST", edits, {"files": {"image": bytes(3_000_000)}, "data": {"prompt": "p"}}, 413, "larger than the 1 MB"),
        ("POST", edits, {"json": {"prompt": "p"}}, 415, "multipart/form-data"),
        ("POST", generations, {"json": {"prompt": "p", "model": "x"}}, 404, "'x' is not on this server"),
        ("POST", generations, {"json": {"prompt": "p", "foo": 1}}, 400, "unknown field 'foo'"),
        ("POST", generations, {"json": {"prompt": "p", "n": 5}}, 400, "n 5 is outside"),
        ("GET", generations, {}, 405, "use POST"),
        ("GET", f"{server}/v1/nothing", {}, 404, "not a route"),
    ]
    for method, url, kwargs, status, says in cases:
        response = httpx.request(method, url, timeout=60, **kwargs)
        assert response.status_code == status, response.text
        error = response.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert says in error["message"]
    assert [model["id"] for model in httpx.get(f"{server}/v1/models").json()["data"]] == [
        "toy/anime",
        "toy/photo",
        "demo",
    ]


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
