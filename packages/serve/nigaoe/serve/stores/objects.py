"""Objects that all ingresses share: embeddings, pictures to be fetched, jobs; in a folder or a bucket."""

import asyncio
import time

from nigaoe.core.storage import absolute, join, list_files, read_bytes, write_whole
from nigaoe.core.stores import MissingFile
from nigaoe.core.transfers import remove
from nigaoe.serve.config import Storage
from nigaoe.serve.stores.ids import new_id, path_of, unknown
from nigaoe.serve.stores.jobs import JobStore

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
"""By the kind of a picture's name."""
UNFINISHED_S = 3600.0
"""What is still half written after so long is nobody's."""


class Embeddings:
    """What encoders said of pictures; kept until somebody deletes it."""

    kinds = ("emb",)

    def __init__(self, folder: str) -> None:
        self._folder = folder

    async def put(self, content: bytes) -> str:
        """Keep a file; returns its name.

        Raises:
            DataError: It cannot be written.
        """
        name = new_id("emb")
        await asyncio.to_thread(write_whole, self._address(name), content)
        return name

    async def get(self, name: str) -> bytes:
        """The file of a name.

        Raises:
            UnknownObject: There is none.
            DataError: It cannot be read.
        """
        return await _read(self._address(name), name, self.kinds)

    async def delete(self, name: str) -> None:
        """Keep it no longer.

        Raises:
            UnknownObject: There is none.
            DataError: It cannot be removed.
        """
        if not await asyncio.to_thread(remove, self._address(name)):
            raise unknown(name, self.kinds)

    def _address(self, name: str) -> str:
        return join(self._folder, f"{path_of(name, self.kinds)}.safetensors")


class Results:
    """Finished pictures, kept for a while."""

    kinds = tuple(MEDIA_TYPES)

    def __init__(self, folder: str) -> None:
        self._folder = folder

    async def put(self, content: bytes, media_type: str) -> str:
        """Keep a picture; returns its name, which says what it is.

        Raises:
            DataError: It cannot be written.
        """
        name = new_id(next(kind for kind, known in MEDIA_TYPES.items() if known == media_type))
        await asyncio.to_thread(write_whole, self._address(name), content)
        return name

    async def get(self, name: str) -> tuple[bytes, str]:
        """A picture and its media type.

        Raises:
            UnknownObject: There is none.
            DataError: It cannot be read.
        """
        content = await _read(self._address(name), name, self.kinds)
        return content, MEDIA_TYPES[name.partition("_")[0]]

    async def delete(self, name: str) -> None:
        """Keep it no longer, if it is there.

        Raises:
            UnknownObject: It is no name of a picture.
            DataError: It cannot be removed.
        """
        await asyncio.to_thread(remove, self._address(name))

    def _address(self, name: str) -> str:
        return join(self._folder, path_of(name, self.kinds))


class Objects:
    """All of them."""

    def __init__(self, storage: Storage) -> None:
        self._root, self._kept_s = absolute(storage.objects), storage.results_hours * 3600
        self.embeddings = Embeddings(join(self._root, "embeddings"))
        self.results = Results(join(self._root, "results"))
        self.jobs = JobStore(join(self._root, "jobs"))

    async def sweep(self, now: float | None = None) -> int:
        """Remove pictures and jobs that were kept long enough; returns how many files.

        Raises:
            DataError: The storage cannot be read or written.
        """
        return await asyncio.to_thread(self._swept, time.time() if now is None else now)

    def _swept(self, now: float) -> int:
        swept = 0
        for folder, kept_s in (("results", self._kept_s), ("jobs", self._kept_s), ("embeddings", None)):
            try:
                files = list_files(join(self._root, folder))
            except MissingFile:
                continue
            # A job's state is written while it is under way, what it was asked for once; the two go together.
            alive = {file.name.partition(".")[0] for file in files if kept_s and now - file.mtime_ns / 1e9 <= kept_s}
            for file in files:
                age_s = now - file.mtime_ns / 1e9
                is_over = kept_s is not None and age_s > kept_s and file.name.partition(".")[0] not in alive
                if is_over or (file.name.endswith(".part") and age_s > UNFINISHED_S):
                    swept += remove(file.uri)
        return swept


async def _read(address: str, name: str, kinds: tuple[str, ...]) -> bytes:
    try:
        return await asyncio.to_thread(read_bytes, address)
    except MissingFile:
        raise unknown(name, kinds) from None
