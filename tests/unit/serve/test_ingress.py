import asyncio
import base64
import io
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from nigaoe.serve.config import ServeConfig
from nigaoe.serve.http.app import create_app
from nigaoe.serve.http.problems import Problem
from nigaoe.serve.orders import Drawn, EngineStats, Order

Ask = Callable[[Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]], Any]

EDITS, GENERATIONS = "/v1/images/edits", "/v1/images/generations"


async def _request(client: httpx.AsyncClient, method: str, path: str, kwargs: dict[str, Any]) -> httpx.Response:
    return await client.request(method, path, **kwargs)


def posted(ask: Ask, path: str, **kwargs: Any) -> httpx.Response:
    response: httpx.Response = ask(lambda client: client.post(path, **kwargs))
    return response


def edited(ask: Ask, face: bytes, **data: Any) -> httpx.Response:
    return posted(ask, EDITS, files={"image": ("face.jpg", face)}, data={"prompt": "a woman"} | data)


def pixels(item: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))).astype(int)


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text
    error: dict[str, Any] = body["error"]
    return error


def test_an_edit_draws_n_pictures_with_their_seeds(ask: Ask, face: bytes) -> None:
    response = edited(ask, face, n="2", seed="41", size="64x96", adapter_scale="0.7", steps="3", base="toy/photo")
    assert response.status_code == 200
    body = response.json()
    assert [item["seed"] for item in body["data"]] == [41, 42]
    assert {"base": "toy/photo", "adapter": "demo", "size": "64x96", "output_format": "png"}.items() <= body.items()
    assert abs(body["created"] - time.time()) < 60
    assert [pixels(item).shape for item in body["data"]] == [(96, 64, 3)] * 2


def test_the_seed_that_an_answer_tells_draws_the_same_again(ask: Ask, face: bytes) -> None:
    first = edited(ask, face, prompt="x").json()["data"][0]
    again = edited(ask, face, prompt="x", seed=str(first["seed"])).json()["data"][0]
    assert np.abs(pixels(first) - pixels(again)).max() <= 1


def test_an_edit_and_a_generation_with_the_same_picture_agree(ask: Ask, face: bytes) -> None:
    edit = edited(ask, face, seed="3").json()
    request = {"prompt": "a woman", "seed": 3, "image": base64.b64encode(face).decode()}
    generation = posted(ask, GENERATIONS, json=request).json()
    assert np.abs(pixels(edit["data"][0]) - pixels(generation["data"][0])).max() <= 1


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_generation_needs_no_picture(ask: Ask, kind: str) -> None:
    body = posted(ask, GENERATIONS, json={"prompt": "a man", "output_format": kind, "quality": "high"}).json()
    assert body["adapter"] is None
    assert Image.open(io.BytesIO(base64.b64decode(body["data"][0]["b64_json"]))).format == kind.upper()


def test_image_with_brackets_is_tolerated(ask: Ask, face: bytes) -> None:
    assert posted(ask, EDITS, files=[("image[]", ("a.jpg", face))], data={"prompt": "p"}).status_code == 200


def test_models_and_health(ask: Ask) -> None:
    listed = ask(lambda client: client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [(m["id"], m["kind"]) for m in listed["data"]] == [
        ("toy/anime", "base"),
        ("toy/photo", "base"),
        ("demo", "adapter"),
    ]
    health = ask(lambda client: client.get("/healthz"))
    assert health.status_code == 200
    assert health.json()["status"] == "ok"


def test_the_documentation_tells_the_bodies(ask: Ask) -> None:
    paths = ask(lambda client: client.get("/openapi.json")).json()["paths"]
    form = paths[EDITS]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["prompt", "image"]
    assert "adapter_scale" in form["properties"]


@pytest.mark.parametrize(
    ("body", "status", "param", "says"),
    [
        ({}, 400, "prompt", "prompt is missing"),
        ({"prompt": 5}, 400, "prompt", "prompt 5 is not valid"),
        ({"prompt": "p", "stepz": 3}, 400, "stepz", "unknown field 'stepz'; known fields are: prompt"),
        ({"prompt": "p", "n": "many"}, 400, "n", "n 'many' is not valid"),
        ({"prompt": "p", "n": 4}, 400, "n", r"n 4 is outside \[1, 3\]"),
        ({"prompt": "p", "seed": -1}, 400, "seed", "seed -1"),
        ({"prompt": "p", "seed": 2**70}, 400, "seed", "seed"),
        ({"prompt": "p", "size": "100x100"}, 400, None, "width 100 is not a positive multiple"),
        ({"prompt": "p", "output_format": "gif"}, 400, "output_format", "'png', 'jpeg' or 'webp'"),
        ({"prompt": "p", "response_format": "url"}, 400, "response_format", "use 'b64_json'"),
        ({"prompt": "p", "model": "gpt-image-1"}, 404, "model", "has toy/anime, toy/photo, demo"),
        ({"prompt": "p", "base": "sdxl"}, 404, "base", "'sdxl' is not on this server"),
        ({"prompt": "p", "adapter": "x"}, 404, "adapter", "'x' is not on this server"),
        ({"prompt": "p", "adapter": "demo"}, 400, "adapter", "needs a picture"),
        ({"prompt": "p", "image": "no base64!"}, 400, "image", "neither base64"),
        ({"prompt": "p", "image": base64.b64encode(b"hello").decode()}, 400, "image", "not a JPEG, PNG or WebP"),
    ],
)
def test_mistakes_in_json(ask: Ask, body: dict[str, Any], status: int, param: str | None, says: str) -> None:
    response = posted(ask, GENERATIONS, json=body)
    error = error_of(response)
    assert (response.status_code, error["param"], error["type"]) == (status, param, "invalid_request_error")
    assert re.search(says, error["message"])


@pytest.mark.parametrize(
    "content", [b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"prompt": "\\ud800"}', b'{"prompt": NaN}']
)
def test_bodies_that_are_no_json_object(ask: Ask, content: bytes) -> None:
    response = posted(ask, GENERATIONS, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    error_of(response)


def test_mistakes_in_forms(ask: Ask, face: bytes) -> None:
    def refusal(files: Any, data: dict[str, str] | None = None) -> tuple[int, str]:
        response = posted(ask, EDITS, files=files, data={"prompt": "p"} if data is None else data)
        return response.status_code, error_of(response)["message"]

    image = ("image", ("a.jpg", face))
    assert refusal([image, image]) == (400, "2 pictures are not supported; send one image")
    assert refusal([image, ("mask", ("m.png", face))]) == (400, "mask is not supported; leave it out")
    assert refusal([("other", ("a.jpg", face))])[1] == "other is a file; send pictures as image"
    assert refusal([("prompt2", (None, "p"))])[1] == "image is missing; send a picture as file"
    assert refusal([("image", (None, "a.jpg"))])[1].startswith("image is a text field")
    assert refusal([image, ("prompt", (None, "q"))])[1] == "prompt comes twice; send it once"
    assert refusal([image], {})[1] == "prompt is missing; add it"
    assert refusal([image], {"prompt": "p", "guidance_scale": "nan"})[1].startswith("guidance_scale 'nan' is not valid")
    assert refusal([("image", ("a.jpg", face[:600]))])[1].startswith("'a.jpg' is damaged or truncated")
    assert refusal([("image", ("notes.txt", b"hello"))])[1].startswith("'notes.txt' is not a JPEG, PNG or WebP")


def test_routes_methods_and_types(ask: Ask, face: bytes) -> None:
    cases: list[tuple[str, str, dict[str, Any], int, str]] = [
        ("GET", "/v1/image", {}, 404, "unknown_route"),
        ("GET", EDITS, {}, 405, "method_not_allowed"),
        ("POST", GENERATIONS, {"data": {"prompt": "p"}}, 415, "unsupported_media_type"),
        ("POST", EDITS, {"json": {"prompt": "p"}}, 415, "unsupported_media_type"),
        ("POST", EDITS, {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "http_400"),
        ("POST", EDITS, {"files": {"image": bytes(600_000)}, "data": {"prompt": "p"}}, 413, "request_too_large"),
        ("POST", GENERATIONS, {"json": {"prompt": "p", "image": "A" * 600_000}}, 413, "request_too_large"),
    ]
    for method, path, kwargs, status, code in cases:
        response = ask(partial(_request, method=method, path=path, kwargs=kwargs))
        assert (response.status_code, error_of(response)["code"]) == (status, code)


def test_a_body_of_untold_length_is_cut_off(ask: Ask) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 50_000_000:
            sent += 65536
            yield bytes(65536)

    response = posted(ask, GENERATIONS, content=endless(), headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert sent < 2_000_000


class Failing:
    """A backend in the states that a healthy one never shows."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    async def draw(self, order: Order) -> Drawn:
        if self.error is None:
            await asyncio.sleep(3600)
        assert self.error is not None
        raise self.error

    async def stats(self) -> EngineStats:
        raise self.error or TimeoutError


@pytest.mark.parametrize(
    ("error", "status", "code", "health"),
    [
        (RuntimeError("secret detail"), 500, "internal_error", 500),
        (Problem(503, "overloaded", "full; try again", retry_after_s=2), 503, "overloaded", 200),
        (Problem(503, "replica_lost", "lost; try again", retry_after_s=2), 503, "replica_lost", 503),
        (None, 504, "timeout", 200),
    ],
)
def test_failures_of_the_backend(
    config: ServeConfig, error: Exception | None, status: int, code: str, health: int
) -> None:
    limits = config.limits.model_copy(update={"request_s": 0.05})
    app = create_app(lambda: Failing(error), config.model_copy(update={"limits": limits}))

    async def main() -> tuple[httpx.Response, httpx.Response]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://nigaoe") as client:
            return await client.post(GENERATIONS, json={"prompt": "p"}), await client.get("/healthz")

    response, healthz = asyncio.run(main())
    body = error_of(response)
    assert (response.status_code, body["code"], body["type"]) == (status, code, "server_error")
    assert "secret" not in response.text
    assert ("retry-after" in response.headers) == (status == 503)
    assert healthz.status_code == health
