"""Which adapters there are at this moment: those of the config, and those that come and go in the registry."""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from nigaoe.core.errors import AdapterError, NigaoeError
from nigaoe.core.registry import Entry, NotPublished, Registry, require_name
from nigaoe.core.transfers import sha256_of
from nigaoe.serve.cards import AdapterCard, Offer
from nigaoe.serve.config import ServeConfig
from nigaoe.serve.orders import AdapterAt
from nigaoe.serve.shelf import Shelf
from nigaoe.serve.suitability import require_suitable

log = logging.getLogger(__name__)

FRESH_S = 2.0
"""What was seen so lately is believed."""
UNKNOWN_FRESH_S = 0.25
"""The same where a name is not known: it may have just come, and strangers may ask for any name."""


class UnknownAdapter(NigaoeError):
    """This server has no adapter of this name."""


class TakenName(NigaoeError):
    """A name of the config, which uploads cannot have."""


class NoRegistry(NigaoeError):
    """This server has nowhere to put adapters."""


class Catalog:
    """Adapters of a server; every ingress has one of its own."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        address = config.storage.registry
        # Another than the shelf's, for each is used by one thread at a time.
        self._managing = None if address is None else Registry(address)
        self._shelf = Shelf(config)
        self._managers = ThreadPoolExecutor(1, thread_name_prefix="adapters")
        self._offers: dict[str, Offer] = {}
        self._hidden: dict[str, str] = {}
        self._seen_at, self._changes = float("-inf"), 0
        self._refreshing: asyncio.Task[None] | None = None

    async def adapters(self) -> list[AdapterCard]:
        """All of them: those of the config in its order, then those of the registry by name.

        Raises:
            DataError: The registry cannot be read, and never could be.
        """
        await self._refresh(FRESH_S)
        return [offer.card for offer in self._offers.values()]

    async def find(self, name: str | None) -> AdapterAt:
        """The version that a name means now; None: the first of the config, or else the oldest of the registry.

        Raises:
            UnknownAdapter: There is none of this name.
            DataError: As `adapters`.
        """
        return (await self._offer(name)).at

    async def card(self, name: str) -> AdapterCard:
        """What is told of an adapter.

        Raises:
            UnknownAdapter: There is none of this name.
            DataError: As `adapters`.
        """
        return (await self._offer(name)).card

    async def upload(self, name: str, file: Path, variant: str | None = None) -> AdapterCard:
        """Check a file and let it be the adapter of this name, for all servers of the registry, from then on.

        Args:
            name: Another than those of the config.
            file: May be rewritten, to say what it is.
            variant: What it is, where its keys leave a doubt.

        Raises:
            ConfigError: No name of an adapter.
            TakenName: A name of the config.
            NoRegistry: There is nowhere to put it.
            AdapterError: It is no whole adapter, or fits nothing here.
            DataError: The registry cannot be written.
        """
        self._require_free(name)
        loop = asyncio.get_running_loop()
        entry = await loop.run_in_executor(self._managers, self._uploaded, name, file, variant)
        log.info("adapter uploaded", extra={"adapter": name, "sha256": entry.sha256})
        self._changed()
        return await self.card(name)

    async def delete(self, name: str) -> None:
        """Let an adapter of the registry be no more; orders that have found it before are still drawn.

        Raises:
            UnknownAdapter: There is none of this name.
            TakenName: It is of the config.
            NoRegistry: There is no registry.
            DataError: The registry cannot be written.
        """
        self._require_free(name, validate=False)
        assert self._managing is not None
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._managers, self._managing.delete, name)
        except NotPublished:
            raise UnknownAdapter(f"adapter {name[:100]!r} is not on this server; there is nothing to delete") from None
        log.info("adapter deleted", extra={"adapter": name})
        self._changed()

    async def sweep(self) -> int:
        """Take away versions that were deleted long enough ago; returns how many.

        Raises:
            DataError: The registry cannot be written.
        """
        if self._managing is None:
            return 0
        return await asyncio.get_running_loop().run_in_executor(self._managers, self._managing.sweep)

    async def _offer(self, name: str | None) -> Offer:
        await self._refresh(FRESH_S)
        if name is not None and name not in self._offers:
            await self._refresh(UNKNOWN_FRESH_S)
        offers = self._offers
        if name is not None:
            if name not in offers:
                raise self._unknown(name)
            return offers[name]
        if not offers:
            raise UnknownAdapter("this server has no adapters; upload or publish one")
        of_config = next((offers[name] for name in self._config.adapters if name in offers), None)
        return of_config or min(offers.values(), key=lambda offer: (offer.card.created, offer.card.name))

    def _unknown(self, name: str) -> UnknownAdapter:
        if name in self._hidden:
            return UnknownAdapter(f"adapter {name!r} cannot be used on this server: {self._hidden[name]}")
        known = ", ".join(self._offers)
        return UnknownAdapter(f"adapter {name[:100]!r} is not on this server; it has {known or 'none'}")

    async def _refresh(self, fresh_s: float) -> None:
        asked = time.monotonic()
        while asked - self._seen_at > fresh_s:
            task = self._refreshing
            if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
                task = self._refreshing = asyncio.create_task(self._look())
            # Somebody else may wait for the same look.
            await asyncio.shield(task)

    async def _look(self) -> None:
        began, changes = time.monotonic(), self._changes
        try:
            offers, hidden = await asyncio.to_thread(self._shelf.look)
        except NigaoeError as error:
            if not self._offers:
                raise
            # What was known goes on being served; its versions are where they were.
            log.warning("adapters cannot be looked up, the known ones stay: %s", error)
            offers, hidden = self._offers, self._hidden
        for name in hidden.keys() - self._hidden.keys():
            log.warning("adapter %r is hidden: %s", name, hidden[name], extra={"adapter": name})
        self._offers, self._hidden = offers, hidden
        # Where we changed something meanwhile, this may be from before.
        self._seen_at = began if changes == self._changes else float("-inf")

    def _changed(self) -> None:
        self._changes += 1
        self._seen_at = float("-inf")

    def _uploaded(self, name: str, file: Path, variant: str | None) -> Entry:
        from nigaoe.core.adapters.vetting import say_variant, vet_adapter

        assert self._managing is not None
        most = int(self._config.limits.adapter_mb * 1e6)
        if file.lstat().st_size > most:
            raise AdapterError(f"adapter {name!r} is larger than the {most} bytes allowed; send a smaller one")
        where = f"adapter {name!r}"
        found = vet_adapter(file, where, variant)
        require_suitable(found.outline, self._config)
        if variant is not None:
            say_variant(file, found.variant, where)
            found = replace(found, sha256=sha256_of(str(file)))
        manifest = found.manifest(name, datetime.now(UTC).replace(microsecond=0))
        return self._managing.publish(file, manifest)

    def _require_free(self, name: str, *, validate: bool = True) -> None:
        if name in self._config.adapters or name in self._config.bases:
            raise TakenName(f"{name!r} is a name of this server's config; take another, or change the config")
        if self._managing is None:
            raise NoRegistry("this server keeps no adapters of its own; set storage.registry in its config")
        if validate:
            require_name(name)
