"""How much work is ordered lately."""

import math

from nigaoe.serve.orders import Order

OVER_S = 60.0
"""Orders count for about so long."""
_NEWEST = 0.1
"""Weight of the newest order in the average size."""


def row_steps(order: Order) -> int:
    """Steps to take for an order, of all its pictures."""
    return len(order.seeds) * order.steps


class Arrivals:
    """An average that forgets; owned by one event loop."""

    def __init__(self) -> None:
        self._weight, self._at_s = 0.0, 0.0
        self.row_steps_per_order = 0.0
        """Averaged over some ten orders; 0 before the first."""

    def ordered(self, order: Order, now_s: float) -> None:
        """An order has come."""
        work = row_steps(order)
        self._weight, self._at_s = self._decayed(now_s) + work, now_s
        known = self.row_steps_per_order
        self.row_steps_per_order = known + _NEWEST * (work - known) if known else float(work)

    def row_steps_per_s(self, now_s: float) -> float:
        """Work ordered a second."""
        return self._decayed(now_s) / OVER_S

    def _decayed(self, now_s: float) -> float:
        return self._weight * math.exp(-max(0.0, now_s - self._at_s) / OVER_S)
