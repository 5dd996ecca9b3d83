"""Embeddings over HTTP: pictures are sent once, and what they are asked for is what the pictures give."""

import asyncio
import base64

import httpx
import pytest

from .conftest import Server

DRAW = {"prompt": "a person", "steps": 2, "seed": 1, "size": "64x64"}


def test_an_embedding_stands_for_its_pictures(server: Server, picture: str) -> None:
    # Not as PNG, which holds what was asked for.
    async def use(client: httpx.AsyncClient) -> None:
        made = await client.post("/v1/embeddings/images", json={"images": [picture, picture]})
        assert made.status_code == 201, made.text
        card = made.json()
        assert (card["images"], card["size_bytes"] > 0) == (2, True)
        file = base64.b64decode(picture)
        form = await client.post("/v1/embeddings/images", files=[("image[]", ("a.jpg", file))] * 2)
        assert form.status_code == 201, form.text
        names = [card["id"], form.json()["id"]]
        assert names[0] != names[1]
        # Another ingress, after a restart.
        async with server.client() as other:
            answers = [
                await other.post("/v1/generate", json={**DRAW, "output_format": "webp", "image_prompts": [prompt]})
                for prompt in (*({"embedding": name} for name in names), {"images": [picture, picture]})
            ]
            assert [answer.status_code for answer in answers] == [200] * 3, [answer.text[:300] for answer in answers]
            assert len({answer.json()["images"][0]["b64_json"] for answer in answers}) == 1
            assert (await other.delete(f"/v1/embeddings/images/{names[0]}")).json()["deleted"]
        for answer in (
            await client.delete(f"/v1/embeddings/images/{names[0]}"),
            await client.post("/v1/generate", json={**DRAW, "image_prompts": [{"embedding": names[0]}]}),
        ):
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "embedding_not_found"

    server.ask(use)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"images": []}, 400),
        ({"images": ["AAAA"]}, 400),
        ({"images": ["not base64!"]}, 400),
        ({"images": "AAAA"}, 400),
        ({"images": ["AAAA"] * 100}, 400),
        ({"image": "AAAA"}, 400),
        ({}, 400),
    ],
)
def test_what_is_no_picture_is_refused(server: Server, body: dict[str, object], status: int) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/embeddings/images", json=body)
        assert answer.status_code == status, answer.text

    server.ask(use)


def test_other_forms_are_refused(server: Server, picture: str) -> None:
    file = base64.b64decode(picture)

    async def use(client: httpx.AsyncClient) -> None:
        for answer, status in (
            (await client.post("/v1/embeddings/images", content=b"x"), 415),
            (await client.post("/v1/embeddings/images", data={"image": "x"}, files={"a": b"x"}), 400),
            (await client.post("/v1/embeddings/images", files={"mask": ("a.jpg", file)}), 400),
            (await client.post("/v1/embeddings/images", files={"image": ("../../a.jpg", file)}), 201),
            (await client.get("/v1/files/..%2f..%2fetc%2fpasswd"), 404),
            (await client.get("/v1/files/png_" + "0" * 32), 404),
        ):
            assert answer.status_code == status, answer.text

    server.ask(use)


def test_pictures_may_be_answered_by_address(server: Server) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        by_url = (await client.post("/v1/generate", json={**DRAW, "response_format": "url"})).json()["images"][0]
        as_text = (await client.post("/v1/generate", json=DRAW)).json()["images"][0]
        fetched = await client.get(by_url["url"])
        assert fetched.content == base64.b64decode(as_text["b64_json"])
        assert "immutable" in fetched.headers["cache-control"]

    server.ask(use)
    assert asyncio.run(server.services().objects.sweep()) == 0
