"""What the routes of a server are given; nothing of it knows of a request."""

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nigaoe.serve.config import ServeConfig
from nigaoe.serve.orders import Backend

if TYPE_CHECKING:
    from nigaoe.serve.catalog import Catalog
    from nigaoe.serve.stores.objects import Objects
    from nigaoe.serve.watching.instruments import Instruments


@dataclass(frozen=True)
class Services:
    """Of one ingress."""

    config: ServeConfig
    backend: Callable[[], Backend]
    """Asked for when first needed, inside the running server."""
    catalog: "Catalog"
    objects: "Objects"
    instruments: "Instruments"
    decoding: Executor = field(default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="decode"))
    """Where uploads are decoded: its threads bound the memory of decoding. It starts them when first needed."""
