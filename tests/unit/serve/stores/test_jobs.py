"""Jobs: from a request to pictures that are fetched, whoever dies, cancels or is asked meanwhile."""

import asyncio
import base64
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from nigaoe.serve.config import Access, KeyConfig
from nigaoe.serve.http import job_running
from nigaoe.serve.http.access import ANYBODY
from nigaoe.serve.http.job_running import JobRunner
from nigaoe.serve.http.native import GenerateRequest
from nigaoe.serve.orders import Backend, EngineStats, Event, Order, Picture, Refusal
from nigaoe.serve.stores.jobs import MOST_HEARTBEATS_AHEAD_S, STALE_S

from .conftest import Server

SHORT = {"prompt": "a person", "steps": 2, "size": "64x64"}
LONG = {"prompt": "a person", "steps": 400, "size": "64x64", "seed": 5}


async def until(client: httpx.AsyncClient, name: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            answer = await client.get(f"/v1/jobs/{name}")
            assert answer.status_code == 200, answer.text
            job: dict[str, Any] = answer.json()
            if holds(job):
                return job
            await asyncio.sleep(0.05)


def is_over(job: dict[str, Any]) -> bool:
    return job["status"] in ("succeeded", "failed", "cancelled")


def stored(server: Server) -> set[str]:
    return {"".join(path.suffixes) for path in (Path(server.config.storage.objects) / "jobs").rglob("*.*")}


async def posted(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
    answer = await client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    assert (answer.json()["status"], answer.json()["result"]) == ("queued", None)
    return str(answer.json()["id"])


class Refusing:
    """A backend that refuses some orders before it draws them."""

    def __init__(self, backend: Backend, *refusals: Refusal) -> None:
        self._backend, self._refusals = backend, list(refusals)
        self.orders: list[Order] = []

    async def draw(self, order: Order) -> AsyncIterator[Event]:
        self.orders.append(order)
        if self._refusals:
            yield self._refusals.pop(0)
            return
        async for event in self._backend.draw(order):
            yield event

    async def embed(self, pictures: tuple[Picture, ...]) -> bytes | Refusal:
        return await self._backend.embed(pictures)

    async def stats(self) -> EngineStats:
        return await self._backend.stats()


def test_a_job_comes_to_the_pictures_of_a_request(server: Server, picture: str) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        prompt = {"images": [picture], "scale": 0.7}
        body = {**SHORT, "n": 2, "image_prompts": [prompt], "output_format": "webp"}
        name = await posted(client, body)
        job = await until(client, name, is_over)
        assert job["status"] == "succeeded", job
        result = job["result"]
        assert (job["step"], job["steps"], result["size"], result["base"]) == (2, 2, "64x64", "toy/anime")
        assert result["timings"]["stepped"] > 0
        seeds = [image["seed"] for image in result["images"]]
        assert seeds == result["parameters"]["seeds"]
        assert seeds[1] == seeds[0] + 1
        # Any ingress shows it, and its pictures, which are those of the same request asked for at once.
        async with server.client() as other:
            assert (await other.get(f"/v1/jobs/{name}")).json() == job
            pictures = [await other.get(image["url"]) for image in result["images"]]
            assert [one.headers["content-type"] for one in pictures] == ["image/webp"] * 2
            assert pictures[0].headers["x-content-type-options"] == "nosniff"
            at_once = (await other.post("/v1/generate", json={**body, "seed": seeds[0]})).json()
        assert [base64.b64decode(one["b64_json"]) for one in at_once["images"]] == [one.content for one in pictures]
        assert stored(server) == {".json"}
        # Forgotten with its pictures.
        assert (await client.delete(f"/v1/jobs/{name}")).json()["status"] == "succeeded"
        for gone in (f"/v1/jobs/{name}", result["images"][0]["url"]):
            assert (await client.get(gone)).status_code == 404
        assert stored(server) == set()

    server.ask(use)


def test_what_would_be_refused_is_refused_at_once(server: Server) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        for body, status in (
            ({"prompt": "x", "steps": 10_000}, 400),
            ({"prompt": "x", "base": "nobody"}, 404),
            ({"prompt": "x", "stream": True}, 400),
            ({"prompt": "x", "image_prompts": [{"embedding": "emb_" + "0" * 32}]}, 404),
            ({"prompt": "x", "image_prompts": [{"images": ["AAAA"]}]}, 400),
            ({"pormpt": "x"}, 400),
        ):
            answer = await client.post("/v1/jobs", json=body)
            assert answer.status_code == status, answer.text
        for name in ("job_" + "0" * 32, "..%2fx", "png_" + "0" * 32, "x" * 1000):
            for ask in (client.get, client.delete):
                assert (await ask(f"/v1/jobs/{name}")).status_code == 404
            assert (await client.post(f"/v1/jobs/{name}/cancel")).status_code == 404

    server.ask(use)
    assert stored(server) == set()


def test_a_job_is_cancelled_here_and_from_elsewhere(server: Server) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        async with server.client() as other:
            for canceller in (client, other):
                name = await posted(client, LONG)
                running = await until(client, name, lambda job: job["step"] > 0)
                assert running["status"] == "running"
                ended = await canceller.post(f"/v1/jobs/{name}/cancel")
                assert ended.json()["status"] == "cancelled", ended.text
                # For good.
                assert (await client.post(f"/v1/jobs/{name}/cancel")).json()["status"] == "cancelled"
        async with asyncio.timeout(20):
            while (await server.backend.stats()).active_rows:
                await asyncio.sleep(0.05)

    server.ask(use)
    assert stored(server) == {".json"}


def test_a_job_goes_on_elsewhere_when_its_ingress_ends(server: Server, picture: str) -> None:
    body = {**LONG, "steps": 60, "image_prompts": [{"adapter": "demo", "images": [picture]}]}

    async def use(client: httpx.AsyncClient) -> None:
        async with server.client() as first:
            name = await posted(first, body)
            await until(first, name, lambda job: job["step"] > 0)
        job = await until(client, name, is_over)
        assert job["status"] == "succeeded", job
        expected = (await client.post("/v1/generate", json=body)).json()["images"][0]["b64_json"]
        got = await client.get(job["result"]["images"][0]["url"])
        assert base64.b64encode(got.content).decode() == expected

    server.ask(use)


async def abandoned(server: Server, body: dict[str, Any], **state: Any) -> str:
    """A job whose ingress was killed: it says no more, and nobody tidied up."""
    services = server.services()
    runner = JobRunner(services)
    runner._begin = lambda document, is_adopted=False: None  # type: ignore[method-assign,misc]
    document = await runner.submit(GenerateRequest.model_validate(body), ANYBODY, "req_1")
    old = {"heartbeat": time.time() - STALE_S - 1, "status": "running", "step": 1, **state}
    await services.objects.jobs.put(document.model_copy(update=old))
    return document.id


def test_an_orphan_is_taken_up_by_whoever_is_asked(server: Server) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        name = await abandoned(server, {**SHORT, "seeds": [3, 9]})
        job = await until(client, name, is_over)
        assert job["status"] == "succeeded", job
        assert [image["seed"] for image in job["result"]["images"]] == [3, 9]

    server.ask(use)


def test_an_orphan_of_a_deleted_adapter_is_drawn_with_it(server: Server, upload: Path, picture: str) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        await client.put("/v1/adapters/mine", content=upload.read_bytes())
        body = {**SHORT, "image_prompts": [{"adapter": "mine", "images": [picture]}]}
        name = await abandoned(server, body)
        await client.delete("/v1/adapters/mine")
        job = await until(client, name, is_over)
        assert job["status"] == "succeeded", job

    server.ask(use)


def test_two_that_take_up_one_job_draw_it_once(server: Server) -> None:
    async def use() -> None:
        name = await abandoned(server, SHORT)
        backends = [Refusing(server.backend) for _ in range(2)]
        runners = [JobRunner(server.services(backend)) for backend in backends]
        await asyncio.gather(*(runner.look(name) for runner in runners))
        store = server.services().objects.jobs
        async with asyncio.timeout(30):
            while not (await store.get(name)).is_over or any(runner._jobs for runner in runners):
                await asyncio.sleep(0.05)
        assert (await store.get(name)).status == "succeeded"
        assert sum(len(backend.orders) for backend in backends) == 1

    asyncio.run(use())


def test_orphans_are_found_without_being_asked_for(server: Server) -> None:
    async def use() -> None:
        names = [await abandoned(server, SHORT), await abandoned(server, SHORT, attempts=3)]
        cancelled = await abandoned(server, SHORT)
        store = server.services().objects.jobs
        await store.ask_to_cancel(cancelled)
        runner = JobRunner(server.services())
        folder = Path(server.config.storage.objects) / "jobs"
        assert await runner.adopt_orphans() == 0
        earlier = time.time() - STALE_S - 5
        for path in folder.rglob("*.json"):
            os.utime(path, (earlier, earlier))
        assert await runner.adopt_orphans() == 3
        async with asyncio.timeout(30):
            while runner._jobs:
                await asyncio.sleep(0.05)
        states = [await store.get(name) for name in (*names, cancelled)]
        assert [state.status for state in states] == ["succeeded", "failed", "cancelled"]
        assert states[1].error is not None
        assert "ended 3 times" in states[1].error["message"]
        assert await runner.adopt_orphans() == 0

    asyncio.run(use())


def test_a_job_waits_for_room_and_says_why_it_failed(server: Server) -> None:
    async def run(backend: Refusing) -> dict[str, Any]:
        async with server.client(server.services(backend)) as client:
            name = await posted(client, SHORT)
            return await until(client, name, is_over)

    waiting = Refusing(server.backend, Refusal("overloaded", "full", 1), Refusal("late", "too late", 1))
    assert asyncio.run(run(waiting))["status"] == "succeeded"
    assert len(waiting.orders) == 3
    assert waiting.orders[0].deadline_s is None
    assert len({order.seeds for order in waiting.orders}) == 1
    failed = asyncio.run(run(Refusing(server.backend, Refusal("failed", "it came to nothing"))))
    assert failed["status"] == "failed"
    assert (failed["error"]["message"], failed["error"]["code"]) == ("it came to nothing", "generation_failed")


def test_there_is_an_end_to_how_many_may_wait(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_running, "MOST_JOBS", 2)

    async def use(client: httpx.AsyncClient) -> None:
        names = [await posted(client, LONG) for _ in range(2)]
        answer = await client.post("/v1/jobs", json=LONG)
        assert answer.status_code == 429
        assert answer.headers["retry-after"]
        for name in names:
            await client.delete(f"/v1/jobs/{name}")
        assert (await client.post("/v1/jobs", json=SHORT)).status_code == 202

    server.ask(use)


def test_jobs_are_their_callers_alone(server: Server) -> None:
    keys = [KeyConfig(name=name, sha256=hashlib.sha256(name.encode()).hexdigest()) for name in ("one", "two")]
    guarded = replace(server, config=server.config.model_copy(update={"access": Access(keys=keys)}))

    async def use(client: httpx.AsyncClient) -> None:
        one, two = ({"authorization": f"Bearer {name}"} for name in ("one", "two"))
        name = (await client.post("/v1/jobs", json=SHORT, headers=one)).json()["id"]
        assert (await client.get(f"/v1/jobs/{name}", headers=one)).status_code == 200
        for answer in (
            await client.get(f"/v1/jobs/{name}", headers=two),
            await client.post(f"/v1/jobs/{name}/cancel", headers=two),
            await client.delete(f"/v1/jobs/{name}", headers=two),
        ):
            assert answer.status_code == 404
        assert (await client.get(f"/v1/jobs/{name}")).status_code == 401

    guarded.ask(use)


def test_a_clock_that_is_ahead_holds_no_job_for_ever(server: Server) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        name = await abandoned(server, SHORT, heartbeat=time.time() + MOST_HEARTBEATS_AHEAD_S + 60)
        assert (await until(client, name, is_over))["status"] == "succeeded"

    server.ask(use)
