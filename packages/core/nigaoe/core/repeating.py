"""Something done again and again, in a thread of its own."""

import threading
from collections.abc import Callable


class Repeating:
    """Calls something at once, every few seconds, and once more when closed. An exception of it ends the calls."""

    def __init__(self, call: Callable[[], None], every_s: float) -> None:
        self._call, self._every_s, self._stop = call, every_s, threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def start(self) -> None:
        """Begin; for who lives as long as its process and is never closed."""
        self._thread.start()

    def __enter__(self) -> "Repeating":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=60)
        self._call()

    def _repeat(self) -> None:
        self._call()
        while not self._stop.wait(self._every_s):
            self._call()
