"""Stored objects: names that lead nowhere else, and what is kept how long."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from nigaoe.serve.config import Storage
from nigaoe.serve.orders import AdapterAt
from nigaoe.serve.stores.ids import UnknownObject
from nigaoe.serve.stores.jobs import STALE_S, JobDocument
from nigaoe.serve.stores.objects import Objects
from object_store import object_store

HOSTILE = [
    "../../../etc/passwd",
    "emb_" + "0" * 31,
    "emb_" + "0" * 32 + "\n",
    "emb_" + "A" * 32,
    "png_" + "0" * 32 + "/../x",
    "emb_" + "\u0660" * 32,
    "/etc/passwd",
    "s3://bucket/key",
    "",
    "x" * 100_000,
    "file_" + "0" * 32,
    "emb_" + "0" * 28 + "%2e.",
    "\x00",
]


def document(name: str, **more: object) -> JobDocument:
    at = AdapterAt("demo", "0" * 64, "/x/adapter.safetensors")
    values = {"id": name, "caller": "a", "priority": 0, "request_id": "r", "created": 1.0, "steps": 2, "holder": "h"}
    return JobDocument.model_validate({**values, "heartbeat": 1.0, "adapters": (at,), **more})


def test_objects_come_back_from_folders_and_buckets(tmp_path: Path) -> None:
    async def use(objects: Objects) -> None:
        embedding = await objects.embeddings.put(b"embedding")
        assert await objects.embeddings.get(embedding) == b"embedding"
        assert embedding != await objects.embeddings.put(b"embedding")
        picture = await objects.results.put(b"picture", "image/webp")
        assert await objects.results.get(picture) == (b"picture", "image/webp")
        name = objects.jobs.new_name()
        await objects.jobs.put_request(name, b"{}")
        await objects.jobs.put(document(name))
        assert await objects.jobs.get(name) == document(name)
        assert not await objects.jobs.is_cancelled(name)
        await objects.jobs.ask_to_cancel(name)
        assert await objects.jobs.is_cancelled(name)
        assert await objects.jobs.quiet(time.time() + STALE_S + 5) == [name]
        assert await objects.jobs.quiet(time.time()) == []
        await objects.jobs.delete(name)
        for gone in (objects.jobs.get(name), objects.jobs.get_request(name)):
            with pytest.raises(UnknownObject):
                await gone
        await objects.embeddings.delete(embedding)
        with pytest.raises(UnknownObject):
            await objects.embeddings.delete(embedding)

    asyncio.run(use(Objects(Storage(objects=str(tmp_path)))))
    with object_store() as store:
        asyncio.run(use(Objects(Storage(objects=store.uri("objects")))))


@pytest.mark.parametrize("name", HOSTILE)
def test_names_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "passwd").write_text("secret")
    objects = Objects(Storage(objects=str(tmp_path / "objects")))

    async def use() -> None:
        for ask in (
            objects.embeddings.get(name),
            objects.embeddings.delete(name),
            objects.results.get(name),
            objects.results.delete(name),
            objects.jobs.get(name),
            objects.jobs.get_request(name),
            objects.jobs.ask_to_cancel(name),
        ):
            with pytest.raises(UnknownObject):
                await ask

    asyncio.run(use())
    assert not (tmp_path / "objects").exists()


def test_a_name_of_one_kind_is_none_of_another(tmp_path: Path) -> None:
    objects = Objects(Storage(objects=str(tmp_path)))

    async def use() -> None:
        name = await objects.embeddings.put(b"a face")
        with pytest.raises(UnknownObject):
            await objects.results.get(name)

    asyncio.run(use())


def test_results_and_jobs_are_kept_for_a_while_and_embeddings_for_good(tmp_path: Path) -> None:
    objects = Objects(Storage(objects=str(tmp_path), results_hours=1))

    async def use() -> None:
        embedding = await objects.embeddings.put(b"embedding")
        picture = await objects.results.put(b"picture", "image/png")
        over, alive = objects.jobs.new_name(), objects.jobs.new_name()
        for name in (over, alive):
            await objects.jobs.put_request(name, b"{}")
            await objects.jobs.put(document(name))
        assert await objects.sweep() == 0
        earlier = time.time() - 4000
        for path in tmp_path.rglob("*.*"):
            # A job that is long under way: its state is young, what was asked for is not.
            if path.name != f"{alive}.json":
                os.utime(path, (earlier, earlier))
        assert await objects.sweep() == 2
        assert await objects.jobs.get_request(alive) == b"{}"
        assert await objects.sweep(time.time() + 4000) == 3
        with pytest.raises(UnknownObject):
            await objects.results.get(picture)
        assert await objects.embeddings.get(embedding) == b"embedding"
        assert sorted(path.suffix for path in tmp_path.rglob("*.*")) == [".safetensors"]

    asyncio.run(use())
