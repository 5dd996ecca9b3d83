"""Whose turn it is: rows of one latent shape share a call, and shapes share the machine by the work they get."""

from collections.abc import Sequence

from nigaoe.core.engine.rows import Row

Shape = tuple[int, ...]


class Turns:
    """Stride scheduling (Waldspurger & Weihl, 1995) over shapes: next is the one that has been given the least work.

    A crowd of large pictures cannot hold up a small one, nor the other way round.
    """

    def __init__(self) -> None:
        self._given: dict[Shape, float] = {}

    def next(self, rows: Sequence[Row], most: int) -> tuple[Row, ...]:
        """Up to `most` rows of one shape, of the highest priority and then those that came first; none if none."""
        if not rows:
            self._given.clear()
            return ()
        waiting = dict.fromkeys(tuple(row.latents.shape) for row in rows)
        known = [self._given[shape] for shape in waiting if shape in self._given]
        now = min(known, default=max(self._given.values(), default=0.0))
        # Who comes anew begins where the others are: neither behind them nor with a claim on the past. Who left ahead
        # of them is remembered, or shapes that come and go, each for a single turn, could hold up all others for good.
        ahead = {shape: given for shape, given in self._given.items() if given > now}
        self._given = ahead | {shape: self._given.get(shape, now) for shape in waiting}
        turn = min(waiting, key=lambda shape: self._given[shape])
        alike = [row for row in rows if tuple(row.latents.shape) == turn]
        chosen = tuple(sorted(alike, key=lambda row: -row.priority)[:most])
        self._given[turn] += sum(row.latents.numel() * (1 + row.is_guided) for row in chosen)
        return chosen
