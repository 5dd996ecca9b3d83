"""The unmodified OpenAI SDK against a real server."""

import base64
import hashlib
import io
from collections.abc import Iterator

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI

from asked import Painter, pixels_of, services_of, serving
from nigaoe.serve.config import Access, KeyConfig, ServeConfig
from nigaoe.serve.engine.replica import Replica
from nigaoe.serve.http.app import create_app
from nigaoe.serve.orders import Refusal

KEY = "sk-test"


@pytest.fixture(scope="module")
def client(config: ServeConfig, replica: Replica) -> Iterator[OpenAI]:
    with serving(create_app(services_of(config, replica))) as url, OpenAI(base_url=f"{url}/v1", api_key="x") as client:
        yield client


def drawn(response: openai.types.ImagesResponse, place: int = 0) -> np.ndarray:
    assert response.data is not None
    text = response.data[place].b64_json
    assert text is not None
    return pixels_of(base64.b64decode(text))


def test_generate(client: OpenAI) -> None:
    said = {"seed": 4, "num_inference_steps": 3, "guidance_scale": 2.0, "negative_prompt": "hat", "scheduler": "euler"}
    response = client.images.generate(
        prompt="a man, anime",
        model="toy/photo",
        n=2,
        size="64x96",
        quality="high",
        output_format="webp",
        output_compression=80,
        background="auto",
        moderation="low",
        user="me",
        extra_body=said,
    )
    assert drawn(response).shape == (96, 64, 3)
    assert (response.size, response.quality, response.output_format) == ("64x96", "high", "webp")
    assert response.usage is not None
    assert response.usage.input_tokens_details.text_tokens == 5
    assert response.usage.output_tokens_details is not None
    assert response.model_extra is not None
    assert response.model_extra["parameters"]["seeds"] == [4, 5]
    assert response._request_id is not None


def test_edit_with_one_picture_with_several_and_with_a_mask(client: OpenAI, face: bytes) -> None:
    def file(name: str = "a.jpg") -> io.BytesIO:
        buffer = io.BytesIO(face)
        buffer.name = name
        return buffer

    one = client.images.edit(image=file(), prompt="p", input_fidelity="high", extra_body={"seed": 1})
    several = client.images.edit(image=[file(), file("b.jpg")], prompt="p", extra_body={"seed": 1})
    inpainted = client.images.edit(image=file(), mask=file("m.jpg"), prompt="p", extra_body={"seed": 1})
    adapters = client.images.edit(
        image=file(),
        prompt="p",
        extra_body={"seed": 1, "adapters": [{"name": "demo", "scale": 0.2}, {"name": "demo", "scale": 0.8}]},
    )
    assert drawn(one).shape == drawn(several).shape == drawn(adapters).shape == (96, 96, 3)
    assert drawn(inpainted).shape == (80, 96, 3)
    assert adapters.model_extra is not None
    assert [p["scale"] for p in adapters.model_extra["parameters"]["image_prompts"]] == [0.2, 0.8]
    assert np.abs(drawn(one) - drawn(adapters)).max() > 0


def test_variations_and_models(client: OpenAI, face: bytes) -> None:
    # By OpenAI, who have no model for it any more.
    with pytest.deprecated_call():
        response = client.images.create_variation(image=("a.jpg", face), n=2)
    assert drawn(response, 1).shape == (96, 96, 3)
    assert [model.id for model in client.models.list()] == ["toy/anime", "toy/photo", "demo"]
    assert client.models.retrieve("toy/photo").owned_by == "nigaoe"


def test_streams(client: OpenAI, face: bytes) -> None:
    stream = client.images.generate(prompt="p", stream=True, partial_images=2, extra_body={"seed": 3, "steps": 6})
    events = list(stream)
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [type(event).__name__ for event in events[1:]] == ["ImageGenPartialImageEvent", "ImageGenCompletedEvent"]
    last = events[-1]
    assert last.type == "image_generation.completed"
    assert last.usage.total_tokens == last.usage.input_tokens + last.usage.output_tokens
    at_once = client.images.generate(prompt="p", extra_body={"seed": 3, "steps": 6})
    assert np.abs(pixels_of(base64.b64decode(last.b64_json)) - drawn(at_once)).max() <= 1
    edited = list(client.images.edit(image=("a.jpg", face), prompt="p", stream=True, extra_body={"steps": 2}))
    assert [event.type for event in edited] == ["image_edit.completed"]


def test_mistakes_are_the_right_exceptions(client: OpenAI, face: bytes) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.images.generate(prompt="p", n=9)
    assert (bad.value.code, bad.value.param, bad.value.type) == ("invalid_value", "n", "invalid_request_error")
    assert "n 9 is outside [1, 3]" in bad.value.message
    assert bad.value.request_id is not None
    with pytest.raises(openai.NotFoundError) as unknown:
        client.images.generate(prompt="p", model="gpt-image-2")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.APIStatusError) as large:
        client.images.edit(image=("a.jpg", face + bytes(700_000)), prompt="p")
    assert (large.value.status_code, large.value.code) == (413, "request_too_large")


def test_keys(config: ServeConfig) -> None:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    guarded = config.model_copy(update={"access": Access(keys=[KeyConfig(name="me", sha256=digest)])})
    with serving(create_app(services_of(guarded, Painter()))) as url:
        with OpenAI(base_url=f"{url}/v1", api_key=KEY) as right:
            assert drawn(right.images.generate(prompt="p")).shape == (64, 64, 3)
        with OpenAI(base_url=f"{url}/v1", api_key="wrong") as wrong:
            with pytest.raises(openai.AuthenticationError) as refused:
                wrong.images.generate(prompt="p")
            assert refused.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    ("ending", "kind", "tries"),
    [
        (Refusal("failed", "not a number"), openai.InternalServerError, 1),
        (RuntimeError("secret"), openai.InternalServerError, 1),
        (Refusal("invalid", "width 9 is odd"), openai.BadRequestError, 1),
        (Refusal("overloaded", "full", 1), openai.RateLimitError, 2),
    ],
)
def test_only_what_may_succeed_is_tried_again(
    config: ServeConfig, ending: Refusal | Exception, kind: type[openai.APIStatusError], tries: int
) -> None:
    painter = Painter(ending=ending)
    app = create_app(services_of(config, painter))
    with serving(app) as url, OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=1) as client, pytest.raises(kind):
        client.images.generate(prompt="p")
    assert len(painter.orders) == tries


def test_an_error_inside_a_stream_is_an_exception(config: ServeConfig) -> None:
    # Too late for a status of its own: the stream has begun by then.
    painter = Painter(ending=Refusal("failed", "not a number"), silent_s=2.5)
    app = create_app(services_of(config, painter))
    with serving(app) as url, OpenAI(base_url=f"{url}/v1", api_key="x") as client:
        with pytest.raises(openai.APIError, match="not a number") as failed:
            list(client.images.generate(prompt="p", stream=True))
        assert failed.value.code == "generation_failed"
    assert len(painter.orders) == 1


def test_large_bodies_are_answered_and_not_cut_off(config: ServeConfig) -> None:
    with serving(create_app(services_of(config, Painter()))) as url:
        response = httpx.post(f"{url}/v1/images/edits", files={"image": bytes(100_000_000)}, timeout=60)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large"
