"""Which bases and adapters are in memory: what is asked for comes, what was not asked for longest leaves.

Weights are read by a thread of their own, so that nobody who is being drawn waits for a disk.
"""

import gc
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

import torch

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.bases import load_base
from nigaoe.core.engine.allocator import keep_freed_memory
from nigaoe.core.engine.engine import Engine
from nigaoe.core.errors import AdapterError, RequestError
from nigaoe.core.faces.loading import load_face_encoder
from nigaoe.core.image_encoders import load_image_encoder
from nigaoe.core.image_prompts.conditioner import Conditioner
from nigaoe.core.image_prompts.remembering import RememberingFaceEncoder
from nigaoe.serve.config import EngineConfig, ServeConfig
from nigaoe.serve.engine.loading import (
    Encoders,
    adapter_at,
    adapter_bytes,
    base_bytes,
    device_of,
    encoder_bytes,
    load_version,
    require_budget,
)
from nigaoe.serve.engine.warming import make_engine, warm
from nigaoe.serve.orders import AdapterAt, Order

log = logging.getLogger(__name__)

MOST_ADAPTERS = 64
"""In memory at once, whatever room there is: who uploads one after the other fills no machine."""

ThingT = TypeVar("ThingT")


class Key(NamedTuple):
    """What is in memory: a base by name, an adapter by the hash of its file."""

    kind: Literal["base", "adapter"]
    id: str


@dataclass(frozen=True, eq=False)
class Loaded(Generic[ThingT]):
    """In memory."""

    thing: ThingT
    size_bytes: int


@dataclass(eq=False)
class _Entry:
    name: str
    future: "Future[Loaded[Engine]] | Future[Loaded[IPAdapter]]"
    pins: int = 0

    @property
    def is_loaded(self) -> bool:
        return self.future.done() and self.future.exception() is None


@dataclass(frozen=True, eq=False)
class Lease:
    """What one order draws with; it stays until the lease is given back."""

    base: "Future[Loaded[Engine]]"
    adapters: "tuple[Future[Loaded[IPAdapter]], ...]"
    keys: tuple[Key, ...]

    @property
    def is_ready(self) -> bool:
        """Whether all is in memory, or failed to come."""
        return self.base.done() and all(future.done() for future in self.adapters)


class Residency:
    """Models of one replica. For the engine thread alone, but for what its own thread reads."""

    def __init__(self, config: ServeConfig, *, on_loaded: Callable[[], None] = lambda: None) -> None:
        """Load the encoders, the first base and the adapters of a config. `on_loaded` is called from any thread.

        Raises:
            BaseModelError: A base or an encoder cannot be loaded, or there is no GPU.
            AdapterError: An adapter cannot be read, or does not fit the encoders or the base.
            ConfigError: They need more memory than they may have.
        """
        self._config, self._bounds, self.on_loaded = config, config.engine, on_loaded
        self._device = device_of(config)
        if self._device == "cpu":
            keep_freed_memory()
        name = config.face_encoder
        self.faces = None if name is None else RememberingFaceEncoder(load_face_encoder(name))
        looks = None if config.image_encoder is None else load_image_encoder(config.image_encoder, self._device)
        self._encoders = Encoders(looks, self.faces)
        self._encoder_bytes = encoder_bytes(self._encoders)
        self.conditioner = Conditioner(looks, self.faces, prompt_bytes=config.engine.cached_image_prompts_mib * 2**20)
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._sizes: dict[Key, int] = {}
        self._gone: Counter[str] = Counter()
        self.first_call_s: float | None = None
        """Of one row, on the base that was loaded first."""
        try:
            self._start(config)
        except BaseException:
            self.close()
            raise

    def _start(self, config: ServeConfig) -> None:
        lease = self._lease(config.bases[0], [adapter_at(name, path) for name, path in config.adapters.items()])
        base = lease.base.result().thing.base
        for name, future in zip(config.adapters, lease.adapters, strict=True):
            try:
                future.result().thing.require_fit(base.unet)
            except AdapterError as error:
                raise AdapterError(f"adapter {name!r} does not fit base {base.name!r}: {error}") from None
        require_budget(self._bounds, f"base {base.name!r} and the adapters of the config", self.memory_bytes)
        self.release(lease)

    def acquire(self, order: Order) -> Lease | None:
        """What an order needs, in memory or on its way there; None: no room before others are done.

        Raises:
            RequestError: There is no such base.
        """
        if order.base not in self._config.bases:
            known = ", ".join(self._config.bases)
            raise RequestError(f"there is no base {order.base!r} here; choose one of {known}")
        adapters = [prompt.adapter for prompt in order.image_prompts]
        wanted = {Key("base", order.base), *(Key("adapter", at.sha256) for at in adapters)}
        coming = sum(self._sizes.get(key, 0) for key in wanted - self._entries.keys())
        is_used = any(entry.pins for key, entry in self._entries.items() if key not in wanted)
        if not self._make_room(coming, wanted) and is_used:
            return None
        return self._lease(order.base, adapters)

    def require_room(self, lease: Lease) -> None:
        """Refuse what turned out to be too large, now that its size is known.

        Raises:
            ConfigError: It does not fit even alone.
        """
        needed = self._encoder_bytes + sum(self._size(key) for key in set(lease.keys))
        names = ", ".join(repr(self._entries[key].name) for key in dict.fromkeys(lease.keys))
        require_budget(self._bounds, names, needed)

    def release(self, lease: Lease) -> None:
        """An order is done with what it drew with."""
        for key in lease.keys:
            if key in self._entries:
                self._entries[key].pins -= 1
        self.settle()

    def settle(self) -> None:
        """Forget what failed to load, and let go of what is beyond the budget now that sizes are known."""
        for key, entry in list(self._entries.items()):
            if entry.future.done() and not entry.is_loaded and not entry.pins:
                del self._entries[key]
        self._make_room(0, set())

    def engines(self) -> dict[str, Engine]:
        """Of bases in memory, by name."""
        engines = {}
        for key, entry in self._entries.items():
            if key.kind == "base" and entry.is_loaded:
                engine = entry.future.result().thing
                assert isinstance(engine, Engine)
                engines[key.id] = engine
        return engines

    def reconfigure(self, config: EngineConfig) -> None:
        """Take other bounds."""
        self._bounds = config
        for engine in self.engines().values():
            engine.max_rows = config.max_rows
        self.settle()

    @property
    def memory_bytes(self) -> int:
        """Of all weights in memory."""
        return self._encoder_bytes + sum(self._size(key) for key in self._entries)

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """Of adapters in memory."""
        return tuple(entry.name for key, entry in self._entries.items() if key.kind == "adapter" and entry.is_loaded)

    def cache_counts(self) -> dict[str, tuple[int, int]]:
        """Hits and misses since the start."""
        prompts, features = self.conditioner.prompt_cache, self.conditioner.feature_cache
        texts = [engine.text_cache for engine in self.engines().values()]
        return {
            "image_prompts": (prompts.hits, prompts.misses),
            "image_features": (features.hits, features.misses),
            "texts": (
                self._gone["hits"] + sum(stats.hits for stats in texts),
                self._gone["misses"] + sum(stats.misses for stats in texts),
            ),
        }

    def close(self) -> None:
        """End its thread; what is being read is read to its end."""
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _lease(self, base: str, adapters: Sequence[AdapterAt]) -> Lease:
        engine = self._entry(Key("base", base), base, lambda: self._load_base(base)).future
        loaded = tuple(
            self._entry(Key("adapter", at.sha256), at.name, lambda at=at: self._load_adapter(at)).future  # type: ignore[misc]
            for at in adapters
        )
        keys = (Key("base", base), *(Key("adapter", at.sha256) for at in adapters))
        for key in keys:
            self._entries[key].pins += 1
        return Lease(engine, loaded, keys)  # type: ignore[arg-type]

    def _entry(self, key: Key, name: str, load: "Callable[[], Loaded[Engine] | Loaded[IPAdapter]]") -> _Entry:
        known = self._entries.get(key)
        if known is None or (known.future.done() and not known.is_loaded):
            future = self._loader.submit(load)
            known = _Entry(name, future, 0 if known is None else known.pins)  # type: ignore[arg-type]
            self._entries[key] = known
            future.add_done_callback(lambda _: self.on_loaded())
        self._entries.move_to_end(key)
        return known

    def _load_base(self, name: str) -> Loaded[Engine]:
        began = time.monotonic()
        base = load_base(name, self._config.precision, self._device)
        engine = make_engine(base, self._bounds)
        seconds = warm(engine, self._bounds)
        self.first_call_s = self.first_call_s or seconds
        loaded = Loaded(engine, base_bytes(base, self._bounds))
        self._sizes[Key("base", name)] = loaded.size_bytes
        log.info("base loaded", extra={"base": name, "seconds": round(time.monotonic() - began, 3)})
        return loaded

    def _load_adapter(self, at: AdapterAt) -> Loaded[IPAdapter]:
        adapter = load_version(at, self._encoders, self._device)
        self.conditioner.prime(adapter)
        loaded = Loaded(adapter, adapter_bytes(adapter))
        self._sizes[Key("adapter", at.sha256)] = loaded.size_bytes
        log.info("adapter loaded", extra={"adapter": at.name, "sha256": at.sha256})
        return loaded

    def _size(self, key: Key) -> int:
        return self._sizes.get(key, 0)

    def _make_room(self, coming: int, wanted: set[Key]) -> bool:
        """Let go of what nobody uses until there is room for so many bytes more; whether there is."""
        budget = self._bounds.memory_gib
        limit = float("inf") if budget is None else budget * 2**30
        while self._beyond(coming, limit):
            adapters_only = self.memory_bytes + coming <= limit
            idle = (
                key
                for key, entry in self._entries.items()
                if not entry.pins and entry.future.done() and key not in wanted
                if key.kind == "adapter" or not adapters_only
            )
            leaving = next(idle, None)
            if leaving is None:
                return self.memory_bytes + coming <= limit
            self._let_go(leaving)
        return True

    def _beyond(self, coming: int, limit: float) -> bool:
        adapters = sum(1 for key in self._entries if key.kind == "adapter")
        return self.memory_bytes + coming > limit or adapters > MOST_ADAPTERS

    def _let_go(self, key: Key) -> None:
        entry = self._entries.pop(key)
        if key.kind == "base" and entry.is_loaded:
            engine = entry.future.result().thing
            assert isinstance(engine, Engine)
            assert engine.active_rows == 0
            self._gone.update(hits=engine.text_cache.hits, misses=engine.text_cache.misses)
            del engine
        log.info("weights left memory", extra={"kind": key.kind, "name_of": entry.name})
        del entry
        # Packed and attached modules hold themselves in circles.
        gc.collect()
        if self._device == "cuda":
            torch.cuda.empty_cache()
