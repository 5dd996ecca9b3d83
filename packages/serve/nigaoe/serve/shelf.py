"""Adapters as they are at this moment: those of the config first, then those of the registry that fit this server."""

from pathlib import Path

from nigaoe.core.adapters.fetching import (
    Published,
    fetch_adapter,
    fetch_version,
    is_address,
    is_published,
    read_published,
)
from nigaoe.core.errors import AdapterError, NigaoeError
from nigaoe.core.manifests import AdapterManifest, AdapterOutline
from nigaoe.core.registry import Registry
from nigaoe.core.storage import base_name
from nigaoe.serve.cards import AdapterCard, Offer, Source, manifest_of_file
from nigaoe.serve.config import ServeConfig
from nigaoe.serve.orders import AdapterAt
from nigaoe.serve.suitability import require_suitable


class Shelf:
    """Looks, and remembers what it takes long to find out. For one thread at a time."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        address = config.storage.registry
        self._registry = None if address is None else Registry(address)
        self._described: dict[tuple[str, int, int], AdapterManifest] = {}
        self._outlines: dict[str, AdapterOutline] = {}

    def look(self) -> tuple[dict[str, Offer], dict[str, str]]:
        """What can be asked for, by name, and why other names cannot.

        Raises:
            DataError: The registry cannot be read.
        """
        offers: dict[str, Offer] = {}
        hidden: dict[str, str] = {}
        for name, path in self._config.adapters.items():
            try:
                manifest, where = self._of_config(name, str(path))
                offers[name] = self._offered(name, manifest, where, "config")
            except NigaoeError as error:
                hidden[name] = str(error)
        for entry in [] if self._registry is None else self._registry.entries():
            if entry.name in self._config.adapters or entry.name in self._config.bases:
                continue
            try:
                offers[entry.name] = self._offered(entry.name, entry.manifest, entry.where, "registry")
            except NigaoeError as error:
                hidden[entry.name] = str(error)
        return offers, hidden

    def _offered(self, name: str, manifest: AdapterManifest, where: str, source: Source) -> Offer:
        outline = manifest.outline or self._read_outline(Published(manifest, where))
        bases = require_suitable(outline, self._config)
        card = AdapterCard.of(name, manifest, outline, bases, source)
        return Offer(card=card, at=AdapterAt(name, manifest.sha256, where))

    def _read_outline(self, published: Published) -> AdapterOutline:
        """Of an adapter whose manifest, of an older version, does not say."""
        if published.sha256 not in self._outlines:
            manifest = manifest_of_file("", fetch_version(published.where, published.sha256))
            assert manifest.outline is not None
            self._outlines[published.sha256] = manifest.outline
        return self._outlines[published.sha256]

    def _of_config(self, name: str, path: str) -> tuple[AdapterManifest, str]:
        """What a config calls an adapter, and where just this version of it is."""
        is_file = base_name(path).endswith((".safetensors", ".bin"))
        if not is_file and (is_address(path) or is_published(Path(path))):
            published = read_published(path)
            return published.manifest, published.where
        from nigaoe.core.adapters.files import adapter_file

        file = fetch_adapter(path) if is_address(path) else adapter_file(Path(path))
        try:
            stat = file.stat()
        except OSError as error:
            raise AdapterError(f"adapter file {str(file)!r} cannot be read ({error.strerror}); mend the path") from None
        key = (str(file), stat.st_size, stat.st_mtime_ns)
        if key not in self._described:
            self._described[key] = manifest_of_file(name, file)
        return self._described[key], path if is_address(path) else str(file.absolute())
