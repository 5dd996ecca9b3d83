"""One replica: all models on one device, an engine thread and the asyncio side that waits for it; no Ray."""

import asyncio
import io

from PIL import Image

from nigaoe.core.errors import NigaoeError
from nigaoe.serve.config import ServeConfig
from nigaoe.serve.engine.models import load_models
from nigaoe.serve.engine.thread import EngineStoppedError, EngineThread
from nigaoe.serve.orders import Drawn, EngineStats, Order, OutputFormat, Refusal


class Replica:
    """Draws orders; a `Backend`."""

    def __init__(self, config: ServeConfig) -> None:
        self._thread = EngineThread(load_models(config), config.engine)

    async def draw(self, order: Order) -> Drawn:
        """Draw all pictures of an order; being cancelled takes its rows out before the next step.

        Raises:
            RequestError: The base cannot do what was asked.
        """
        # wrap_future passes a cancellation on, and the result back by call_soon_threadsafe.
        images = await asyncio.wrap_future(self._thread.submit(order))
        pictures = await asyncio.to_thread(
            lambda: tuple(encode(image, order.output_format, order.quality) for image in images)
        )
        return Drawn(pictures, images[0].size)

    async def draw_or_refuse(self, order: Order) -> Drawn | Refusal:
        """As `draw`, with the refusal as a value, for callers in other processes."""
        try:
            return await self.draw(order)
        except NigaoeError as error:
            return Refusal(str(error))

    async def stats(self) -> EngineStats:
        """What the engine is doing."""
        self.check_health()
        return self._thread.stats()

    def check_health(self) -> None:
        """Ray Serve replaces a replica that raises here."""
        if not self._thread.is_alive:
            raise EngineStoppedError("the engine thread is dead; the log of this replica says why")

    def close(self) -> None:
        """End the engine thread."""
        self._thread.close()


def encode(image: Image.Image, output_format: OutputFormat, quality: int) -> bytes:
    """Encode as a file."""
    buffer = io.BytesIO()
    if output_format == "png":
        image.save(buffer, "PNG")
    else:
        image.save(buffer, output_format.upper(), quality=quality)
    return buffer.getvalue()
