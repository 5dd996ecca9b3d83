import asyncio
import base64
import io
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from asked import Painter, picture_file, pixels_of, services_of
from nigaoe.serve.config import ServeConfig
from nigaoe.serve.engine.replica import Replica
from nigaoe.serve.http.app import create_app
from nigaoe.serve.orders import EngineStoppedError, Refusal

Ask = Callable[[Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]], Any]

EDITS, GENERATIONS, VARIATIONS = (f"/v1/images/{name}" for name in ("edits", "generations", "variations"))
GENERATE = "/v1/generate"


async def _request(client: httpx.AsyncClient, method: str, path: str, kwargs: dict[str, Any]) -> httpx.Response:
    return await client.request(method, path, **kwargs)


def posted(ask: Ask, path: str, **kwargs: Any) -> httpx.Response:
    response: httpx.Response = ask(lambda client: client.post(path, **kwargs))
    return response


def edited(ask: Ask, face: bytes, **data: Any) -> httpx.Response:
    return posted(ask, EDITS, files={"image": ("face.jpg", face)}, data={"prompt": "a woman"} | data)


def pixels(item: dict[str, Any]) -> np.ndarray:
    return pixels_of(base64.b64decode(item["b64_json"]))


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text
    assert response.headers["x-request-id"]
    error: dict[str, Any] = body["error"]
    return error


def told(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream."""
    assert response.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def on_painter(config: ServeConfig, painter: Painter, *requests: dict[str, Any]) -> list[httpx.Response]:
    app = create_app(services_of(config, painter))

    async def main() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://nigaoe") as client:
            return [await client.request(**request) for request in requests]

    return asyncio.run(main())


def test_an_edit_draws_n_pictures_with_their_seeds(ask: Ask, face: bytes) -> None:
    response = edited(ask, face, n="2", seed="41", size="64x96", adapter_scale="0.7", steps="3", base="toy/photo")
    assert response.status_code == 200, response.text
    body = response.json()
    assert [item["seed"] for item in body["data"]] == [41, 42]
    assert {"base": "toy/photo", "adapter": "demo", "size": "64x96", "output_format": "png"}.items() <= body.items()
    assert abs(body["created"] - time.time()) < 60
    assert [pixels(item).shape for item in body["data"]] == [(96, 64, 3)] * 2
    assert body["timings"].keys() == {"queued", "encoded", "stepped", "decoded"}
    assert body["parameters"]["image_prompts"][0]["scale"] == 0.7
    usage = body["usage"]
    assert usage["input_tokens"] == 2 + 256
    assert usage["output_tokens"] == 2 * 4 * 6
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_the_seed_that_an_answer_tells_draws_the_same_again(ask: Ask, face: bytes) -> None:
    first = edited(ask, face, prompt="x").json()["data"][0]
    again = edited(ask, face, prompt="x", seed=str(first["seed"])).json()["data"][0]
    assert np.abs(pixels(first) - pixels(again)).max() <= 1


def test_all_ways_to_say_the_same_agree(ask: Ask, face: bytes) -> None:
    said = {"prompt": "", "seed": 3}
    variation = posted(ask, VARIATIONS, files={"image": ("a.jpg", face)}, data={"seed": "3"}).json()
    edit = edited(ask, face, prompt="", seed="3").json()
    generation = posted(ask, GENERATIONS, json=said | {"image": text_of(face)}).json()
    listed = posted(ask, GENERATIONS, json=said | {"adapters": [{"name": "demo", "image": text_of(face)}]}).json()
    native = posted(ask, GENERATE, json=said | {"image_prompts": [{"images": [text_of(face)]}]}).json()
    pictures = [answer["data"][0] for answer in (edit, generation, listed, variation)] + [native["images"][0]]
    assert max(np.abs(pixels(one) - pixels(pictures[0])).max() for one in pictures) <= 1
    other = edited(ask, picture_file((80, 96)), prompt="", seed="3").json()
    assert np.abs(pixels(other["data"][0]) - pixels(pictures[0])).max() > 1


def test_what_a_native_answer_tells_can_be_sent_again(ask: Ask) -> None:
    answer = posted(ask, GENERATE, json={"prompt": "a man", "n": 2, "quality": "low", "steps": 3}).json()
    again = posted(ask, GENERATE, json=answer["parameters"]).json()
    assert again["parameters"] == answer["parameters"]
    for one, other in zip(answer["images"], again["images"], strict=True):
        assert np.abs(pixels(one) - pixels(other)).max() <= 1


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_generation_needs_no_picture(ask: Ask, kind: str) -> None:
    request = {"prompt": "a man", "output_format": kind, "quality": "high", "steps": 2, "unheard_of": {"a": 1}}
    body = posted(ask, GENERATIONS, json=request | {"user": None, "background": "transparent"}).json()
    assert "adapter" not in body
    assert (body["quality"], body["background"]) == ("high", "opaque")
    assert Image.open(io.BytesIO(base64.b64decode(body["data"][0]["b64_json"]))).format == kind.upper()


def test_inpainting_keeps_what_the_mask_keeps(ask: Ask) -> None:
    picture = picture_file((96, 96), "PNG")
    mask = Image.new("RGBA", (96, 96), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 48, 96))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    files = [("image", ("a.png", picture)), ("mask", ("m.png", buffer.getvalue()))]
    body = posted(ask, EDITS, files=files, data={"prompt": "p", "seed": "1", "n": "2", "steps": "4"}).json()
    assert "adapter" not in body
    one, other = (pixels(item) for item in body["data"])
    differing = np.abs(one - other).mean(axis=(0, 2))
    assert differing[72:].mean() < differing[:24].mean() / 3


def test_several_pictures_and_adapters_in_a_form(config: ServeConfig, face: bytes) -> None:
    painter = Painter()
    files = [("image[]", ("a.jpg", face)), ("image[]", ("b.jpg", face))]
    columns = {"adapters[][name]": ["demo", "demo"], "adapters[][scale]": ["0.4", "0.6"]}
    listed = [{"name": "demo", "scale": 0.4}, {"name": "demo", "scale": 0.6, "layers": "style"}]
    numbered = {"adapters[0][scale]": "0.4", "adapters[1][scale]": "0.6", "adapters[1][layers][]": ["1", "0"]}
    responses = on_painter(
        config,
        painter,
        *(
            {"method": "POST", "url": EDITS, "files": files, "data": {"prompt": "p"} | data}
            for data in (columns, {"adapters": json.dumps(listed)}, numbered, {"input_fidelity": "low"})
        ),
    )
    assert [response.status_code for response in responses] == [200] * 4
    scales = [[prompt.scale for prompt in order.image_prompts] for order in painter.orders]
    assert scales == [[0.4, 0.6], [0.4, 0.6], [0.4, 0.6], [0.5]]
    assert [len(prompt.pictures) for order in painter.orders for prompt in order.image_prompts] == [2] * 7
    assert painter.orders[1].image_prompts[1].layers == "style"
    assert painter.orders[2].image_prompts[1].layers == (1.0, 0.0)


def test_strength_draws_over_the_first_picture(config: ServeConfig, face: bytes) -> None:
    painter = Painter()
    one, two = [("image", ("a.jpg", face))], [("image[]", ("a.jpg", face)), ("image[]", ("b.jpg", face))]
    for files, data in ((one, {}), (one, {"adapter_scale": "0.5"}), (two, {})):
        data = {"prompt": "p", "strength": "0.4"} | data
        on_painter(config, painter, {"method": "POST", "url": EDITS, "files": files, "data": data})
    assert [(order.strength, order.init is not None) for order in painter.orders] == [(0.4, True)] * 3
    assert [len(order.image_prompts) for order in painter.orders] == [0, 1, 1]


def test_results_by_address(config: ServeConfig) -> None:
    services = services_of(config, Painter())
    transport = httpx.ASGITransport(create_app(services))

    async def main() -> tuple[httpx.Response, ...]:
        async with httpx.AsyncClient(transport=transport, base_url="http://nigaoe:81") as client:
            said = {"prompt": "p", "seed": 7, "response_format": "url"}
            return await client.post(GENERATIONS, json=said), await client.post(GENERATE, json=said)

    openai, native = asyncio.run(main())
    url = openai.json()["data"][0]["url"]
    assert re.fullmatch(r"http://nigaoe:81/v1/files/[a-z]+_[0-9a-f]{32}", url)
    assert native.json()["images"][0].keys() == {"url", "seed"}
    kept, media_type = asyncio.run(services.objects.results.get(url.rpartition("/")[2]))
    assert media_type == "image/png"
    assert pixels_of(kept)[0, 0, 0] == 7


def test_a_stream_previews_what_it_ends_with(ask: Ask, face: bytes) -> None:
    said = {"stream": "true", "partial_images": "2", "steps": "6", "seed": "3"}
    events = told(edited(ask, face, **said))
    assert [event["type"] for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert [event["partial_image_index"] for event in events[:2]] == [0, 1]
    assert pixels(events[0]).ndim == 3
    at_once = edited(ask, face, steps="6", seed="3").json()["data"][0]
    assert np.abs(pixels(events[-1]) - pixels(at_once)).max() <= 1


def test_a_native_stream_tells_progress(config: ServeConfig) -> None:
    said = {"prompt": "p", "stream": True, "partial_images": 1, "seeds": [5, 9], "steps": 2}
    (response,) = on_painter(config, Painter(), {"method": "POST", "url": GENERATE, "json": said})
    events = told(response)
    kinds = [event["type"] for event in events]
    assert kinds == ["progress", "progress", "partial_image", "partial_image", "completed"]
    assert events[1] == {"type": "progress", "step": 2, "steps": 2}
    assert [image["seed"] for image in events[-1]["images"]] == [5, 9]


def test_models_and_health(ask: Ask) -> None:
    listed = ask(lambda client: client.get("/v1/models")).json()
    assert listed["object"] == "list"
    names = [(m["id"], m["kind"]) for m in listed["data"]]
    assert names == [("toy/anime", "base"), ("toy/photo", "base"), ("demo", "adapter")]
    assert ask(lambda client: client.get("/v1/models/toy/photo")).json()["kind"] == "base"
    assert error_of(ask(lambda client: client.get("/v1/models/x")))["code"] == "model_not_found"
    assert ask(lambda client: client.get("/healthz")).json() == {"status": "ok"}
    assert ask(lambda client: client.get("/readyz")).json()["status"] == "ok"


@pytest.mark.parametrize(
    ("body", "status", "param", "says"),
    [
        ({}, 400, "prompt", "prompt is missing"),
        ({"prompt": 5}, 400, "prompt", "prompt 5 is not valid"),
        ({"prompt": "p", "stepz": 3}, 400, "stepz", "unknown field 'stepz'; steps is probably meant"),
        ({"prompt": "p", "n": "many"}, 400, "n", "n 'many' is not valid"),
        ({"prompt": "p", "n": 4}, 400, "n", r"n 4 is outside \[1, 3\]"),
        ({"prompt": "p", "seed": -1}, 400, "seed", "seed -1"),
        ({"prompt": "p", "seed": 2**70}, 400, "seed", "seed"),
        ({"prompt": "p", "size": "100x100"}, 400, None, "width 100 is not a positive multiple"),
        ({"prompt": "p", "output_format": "gif"}, 400, "output_format", "'png', 'jpeg' or 'webp'"),
        ({"prompt": "p", "model": "gpt-image-1"}, 404, "model", "'gpt-image-1' is not on this server"),
        ({"prompt": "p", "base": "sdxl"}, 404, "base", "'sdxl' is not on this server"),
        ({"prompt": "p", "model": "demo"}, 400, "adapter", "needs a picture"),
        ({"prompt": "p", "steps": 2, "num_inference_steps": 3}, 400, "num_inference_steps", "differ"),
        ({"prompt": "p", "strength": 0.5}, 400, "strength", "needs a picture"),
        ({"prompt": "p", "adapters": [{"name": "demo"}]}, 400, "image", "image is missing"),
        ({"prompt": "p", "adapters": [{"nam": "demo"}]}, 400, "adapters.0.nam", "unknown field"),
        ({"prompt": "p", "image": "no base64!"}, 400, None, "neither base64"),
        ({"prompt": "p", "image": text_of(b"hello")}, 400, "image", "not a JPEG, PNG or WebP"),
        ({"prompt": "p", "images": [text_of(b"hello")] * 2}, 400, "image 1", "not a JPEG, PNG or WebP"),
        ({"prompt": "p", "image": text_of(picture_file()), "adapter": "x"}, 404, "adapter", "'x' is not on this"),
    ],
)
def test_mistakes_in_json(ask: Ask, body: dict[str, Any], status: int, param: str | None, says: str) -> None:
    response = posted(ask, GENERATIONS, json=body)
    error = error_of(response)
    assert (response.status_code, error["type"]) == (status, "invalid_request_error")
    assert param is None or error["param"] == param
    assert re.search(says, error["message"]), error["message"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'"p"',
        b'{"prompt": "p", "guidance_scale": NaN}',
        b'{"prompt": "\\ud800"}',
        b"[" * 100_000,
        b'{"prompt": "p", "prompt": "q"}',
        b'{"prompt": "p", "adapters": [{"name": "a", "name": "b"}]}',
        b"\xff\xfe",
    ],
)
@pytest.mark.parametrize("path", [GENERATIONS, GENERATE])
def test_what_is_not_an_object_of_json(config: ServeConfig, content: bytes, path: str) -> None:
    headers = {"content-type": "application/json"}
    painter = Painter()
    (response,) = on_painter(config, painter, {"method": "POST", "url": path, "content": content, "headers": headers})
    assert response.status_code == 400
    error_of(response)
    assert painter.orders == []


def test_mistakes_in_forms(config: ServeConfig, face: bytes) -> None:
    def refusal(files: Any, data: dict[str, Any] | None = None, path: str = EDITS) -> str:
        request = {"method": "POST", "url": path, "files": files, "data": {"prompt": "p"} if data is None else data}
        (response,) = on_painter(config, Painter(), request)
        assert response.status_code == 400
        message: str = error_of(response)["message"]
        return message

    image, part = ("image", ("a.jpg", face)), {"prompt": "p"}
    assert refusal([image, ("mask", ("m.png", face)), ("mask", ("m.png", face))]) == "mask comes twice; send it once"
    assert refusal([("other", ("a.jpg", face))]) == "other is a file; send pictures as image or image[]"
    assert refusal([("prompt2", (None, "p"))]) == "image is missing; send a picture as file"
    assert refusal([("image", (None, "a.jpg"))]).startswith("image is a text field")
    assert refusal([image, ("prompt", (None, "q"))]) == "prompt comes twice; send it once"
    assert refusal([image], {}) == "prompt is missing; add it"
    assert refusal([image], part | {"guidance_scale": "nan"}).startswith("guidance_scale 'nan' is not valid")
    assert refusal([("image", ("a.jpg", face[:600]))]).startswith("'image' is damaged or truncated")
    assert refusal([("image", ("notes.txt", b"hello"))]).startswith("'image' is not a JPEG, PNG or WebP")
    assert refusal([image] * 12).startswith("the form cannot be read (Too many files")
    assert refusal([image] * 9).startswith("9 pictures were sent")
    assert refusal([image], part | {f"f{i}": "v" for i in range(300)}).startswith("the form cannot be read (Too many")
    assert refusal([image], part | {"adapters": "[{"}).startswith("adapters is not valid JSON")
    odd = part | {"adapters[][name]": ["demo", "demo"], "adapters[][scale]": ["1"]}
    assert "JSON string" in refusal([image], odd)
    assert refusal([image, ("mask", ("m.png", face))], {}, VARIATIONS).startswith("mask is not possible here")


def test_routes_methods_and_types(ask: Ask) -> None:
    cases: list[tuple[str, str, dict[str, Any], int, str]] = [
        ("GET", "/v1/image", {}, 404, "unknown_route"),
        ("GET", EDITS, {}, 405, "method_not_allowed"),
        ("POST", GENERATIONS, {"data": {"prompt": "p"}}, 415, "unsupported_media_type"),
        ("POST", EDITS, {"json": {"prompt": "p"}}, 415, "unsupported_media_type"),
        ("POST", EDITS, {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "invalid_form"),
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


@pytest.mark.parametrize("path", [GENERATIONS, GENERATE])
@pytest.mark.parametrize(
    ("ending", "status", "code", "headers"),
    [
        (RuntimeError("secret detail"), 500, "internal_error", {"x-should-retry": "false"}),
        (EngineStoppedError("secret detail"), 503, "replica_lost", {"retry-after": "2"}),
        (Refusal("invalid", "width 9 is odd; mend it"), 400, "invalid_value", {}),
        (Refusal("overloaded", "full; try again", 7), 429, "overloaded", {"retry-after": "7"}),
        (Refusal("late", "too late; try again"), 429, "deadline_exceeded", {"retry-after": "2"}),
        (Refusal("failed", "not a number"), 500, "generation_failed", {"x-should-retry": "false"}),
        (None, 504, "timeout", {"x-should-retry": "false"}),
    ],
)
def test_failures_of_the_backend(
    config: ServeConfig, path: str, ending: Refusal | Exception | None, status: int, code: str, headers: dict[str, str]
) -> None:
    limits = config.limits.model_copy(update={"request_s": 0.05})
    painter = Painter(ending=ending, silent_s=30 if ending is None else 0)
    said = [{"prompt": "p"}, {"prompt": "p", "stream": True}]
    requests = [{"method": "POST", "url": path, "json": body} for body in said]
    # A stream that has not begun fails like everything else.
    for response in on_painter(config.model_copy(update={"limits": limits}), painter, *requests):
        assert (response.status_code, error_of(response)["code"]) == (status, code)
        assert headers.items() <= dict(response.headers).items()
        assert "secret" not in response.text
    assert painter.active == 0


def test_an_order_that_fails_while_it_is_told_of_says_so(config: ServeConfig) -> None:
    class Failing(Painter):
        async def draw(self, order: Any) -> AsyncIterator[Any]:
            async for event in super().draw(order):
                yield event
                raise RuntimeError("secret detail")

    said = {"prompt": "p", "stream": True, "steps": 3}
    (response,) = on_painter(config, Failing(), {"method": "POST", "url": GENERATE, "json": said})
    assert response.status_code == 200
    *_, last = told(response)
    assert (last["type"], last["error"]["code"]) == ("error", "internal_error")
    assert "secret" not in response.text


def test_users_at_the_same_time_get_what_they_get_alone(config: ServeConfig, replica: Replica) -> None:
    faces = [picture_file((64 + 8 * i, 96)) for i in range(4)]
    said = [
        {"prompt": f"person {i}", "seed": i, "steps": 2 + i, "image": text_of(face), "adapter_scale": 0.3 + 0.2 * i}
        for i, face in enumerate(faces)
    ]
    app = create_app(services_of(config, replica))

    async def main() -> tuple[list[httpx.Response], list[httpx.Response]]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://nigaoe", timeout=60) as http:
            alone = [await http.post(GENERATIONS, json=body) for body in said]
            return alone, await asyncio.gather(*(http.post(GENERATIONS, json=body) for body in said))

    for one, other in zip(*asyncio.run(main()), strict=True):
        assert np.abs(pixels(one.json()["data"][0]) - pixels(other.json()["data"][0])).max() <= 1
