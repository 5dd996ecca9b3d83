"""Jobs as documents: who works at one writes its state again and again, and whoever else is asked reads it.

Of a job there are `<id>.json`, its state; `<id>.request.json`, what was asked for, until it is over; and `<id>.cancel`,
once somebody wants it no more.
"""

import asyncio
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from nigaoe.core.errors import DataError
from nigaoe.core.storage import FileStat, base_name, exists, join, list_files, read_bytes, write_whole
from nigaoe.core.stores import MissingFile
from nigaoe.core.transfers import remove
from nigaoe.serve.orders import AdapterAt
from nigaoe.serve.stores.ids import new_id, path_of, unknown

JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
OVER: tuple[JobStatus, ...] = ("succeeded", "failed", "cancelled")
STALE_S = 20.0
"""After so long without a sign of life whoever worked at a job is taken to be dead; several times that of a beat."""
MOST_HEARTBEATS_AHEAD_S = 300.0
"""A sign of life from farther in the future than this is of a clock that is wrong."""
_KINDS = ("job",)


class JobDocument(BaseModel):
    """The state of a job."""

    model_config = ConfigDict(frozen=True)

    id: str
    status: JobStatus = "queued"
    caller: str
    """Who may look at it."""
    priority: int
    request_id: str
    created: float
    """Unix seconds, as all times here."""
    started: float | None = None
    finished: float | None = None
    step: int = 0
    steps: int
    adapters: tuple[AdapterAt, ...] = ()
    """The versions that were meant when it was asked for."""
    holder: str
    """Who works at it."""
    heartbeat: float
    """When they last said so."""
    attempts: int = 1
    """By how many holders it was begun."""
    files: tuple[str, ...] = ()
    """Names of its pictures."""
    answer: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.status in OVER

    def is_orphaned(self, now: float) -> bool:
        """Whether nobody works at it any more, though it is not over."""
        age_s = now - self.heartbeat
        return not self.is_over and (age_s > STALE_S or age_s < -MOST_HEARTBEATS_AHEAD_S)


class JobStore:
    """Documents of all jobs."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def new_name(self) -> str:
        """A name for a job."""
        return new_id("job")

    async def put(self, document: JobDocument) -> None:
        """Write a state whole, over the former.

        Raises:
            DataError: It cannot be written.
        """
        text = document.model_dump_json().encode()
        await asyncio.to_thread(write_whole, self._address(document.id, "json"), text)

    async def get(self, name: str) -> JobDocument:
        """The state of a job.

        Raises:
            UnknownObject: There is no such job.
            DataError: It cannot be read.
        """
        return await asyncio.to_thread(self._read, name)

    async def put_request(self, name: str, request: bytes) -> None:
        """Keep what was asked for.

        Raises:
            DataError: It cannot be written.
        """
        await asyncio.to_thread(write_whole, self._address(name, "request.json"), request)

    async def get_request(self, name: str) -> bytes:
        """What was asked for.

        Raises:
            UnknownObject: It is not there, or not any more.
            DataError: It cannot be read.
        """
        try:
            return await asyncio.to_thread(read_bytes, self._address(name, "request.json"))
        except MissingFile:
            raise unknown(name, _KINDS) from None

    async def ask_to_cancel(self, name: str) -> None:
        """Let whoever works at it see that it is wanted no more.

        Raises:
            DataError: It cannot be written.
        """
        await asyncio.to_thread(write_whole, self._address(name, "cancel"), b"cancel\n")

    async def is_cancelled(self, name: str) -> bool:
        """Whether somebody asked so.

        Raises:
            DataError: It cannot be read.
        """
        return await asyncio.to_thread(exists, self._address(name, "cancel"))

    async def clear(self, name: str) -> None:
        """Forget what a job needs only while it is under way.

        Raises:
            DataError: It cannot be removed.
        """
        for ending in ("request.json", "cancel"):
            await asyncio.to_thread(remove, self._address(name, ending))

    async def delete(self, name: str) -> None:
        """Forget a job.

        Raises:
            DataError: It cannot be removed.
        """
        await asyncio.to_thread(remove, self._address(name, "json"))
        await self.clear(name)

    async def quiet(self, now: float) -> list[str]:
        """Names of jobs whose state was not written lately: those that are over, and those that are orphaned.

        Raises:
            DataError: They cannot be listed.
        """
        try:
            files: list[FileStat] = await asyncio.to_thread(list_files, self._folder)
        except MissingFile:
            return []
        states = [file for file in files if file.name.endswith(".json") and not file.name.endswith(".request.json")]
        return [base_name(f.uri).removesuffix(".json") for f in states if now - f.mtime_ns / 1e9 > STALE_S]

    def _read(self, name: str) -> JobDocument:
        address = self._address(name, "json")
        try:
            return JobDocument.model_validate_json(read_bytes(address))
        except MissingFile:
            raise unknown(name, _KINDS) from None
        except ValidationError:
            raise DataError(f"job {name!r} cannot be read; send it again") from None

    def _address(self, name: str, ending: str) -> str:
        return join(self._folder, f"{path_of(name, _KINDS)}.{ending}")
