"""How fast rows are stepped lately, and so how long some work will take."""

import math

MEMORY_S = 10.0
"""Of the rate that is told: busy seconds after which a call counts a third."""
SHARE = 0.2
"""Of a new call in what calls of so many rows are taken to last."""


class Pace:
    """Row-steps per second. Idle time does not count. For one thread."""

    def __init__(self) -> None:
        self._rows = self._seconds = 0.0
        self._calls: dict[int, tuple[int, float]] = {}

    def record(self, rows: int, seconds: float) -> None:
        """A UNet call stepped so many rows, and with all around it took so long."""
        decay = math.exp(-seconds / MEMORY_S)
        self._rows = self._rows * decay + rows
        self._seconds = self._seconds * decay + seconds
        count, known = self._calls.get(rows, (0, seconds))
        # The first call of its kind may have compiled something.
        lasting = min(known, seconds) if count == 1 else known + SHARE * (seconds - known)
        self._calls[rows] = count + 1, lasting

    @property
    def row_steps_per_s(self) -> float:
        """Lately; 0 before anything was recorded."""
        return self._rows / self._seconds if self._seconds else 0.0

    def call_s(self, rows: int) -> float | None:
        """Seconds of a call of so many rows; None before anything was recorded.

        Between two measured ones it lies on the line, beyond the largest it grows in proportion.
        """
        if not self._calls:
            return None
        below = max((n for n in self._calls if n <= rows), default=None)
        above = min((n for n in self._calls if n >= rows), default=None)
        if below is None:
            assert above is not None
            return self._calls[above][1]
        if above is None:
            return self._calls[below][1] * rows / below
        low, high = self._calls[below][1], self._calls[above][1]
        return low if above == below else low + (high - low) * (rows - below) / (above - below)

    def predicted_s(self, row_steps: int, rows: int, steps: int) -> float | None:
        """Until so many row-steps are done, by calls of `rows`; one row alone has `steps`. None: nobody knows yet."""
        call_s = self.call_s(rows)
        return None if call_s is None else call_s * max(row_steps / rows, steps)
