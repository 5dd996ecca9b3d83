"""Orders that wait for a place: higher priorities first, then those that came first."""

from bisect import insort
from collections.abc import Iterator

from nigaoe.serve.engine.jobs import Job
from nigaoe.serve.engine.pace import Pace


class Waiting:
    """A queue whose every place can be looked at."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []

    def add(self, job: Job) -> None:
        """Let it wait where it belongs."""
        insort(self._jobs, job, key=lambda other: other.goes_before)

    def remove(self, job: Job) -> None:
        """It waits no more, if it did."""
        if job in self._jobs:
            self._jobs.remove(job)

    def __iter__(self) -> Iterator[Job]:
        # A copy: whoever walks through it may take some out.
        return iter(list(self._jobs))

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def rows(self) -> int:
        """Pictures that wait."""
        return sum(len(job.order.seeds) - job.entered for job in self._jobs)

    @property
    def row_steps(self) -> int:
        """Of those."""
        return sum(job.waiting_row_steps for job in self._jobs)

    def ahead_of(self, job: Job) -> tuple[int, int]:
        """Rows and row-steps of those that go before."""
        before = [other for other in self._jobs if other.goes_before < job.goes_before]
        return sum(len(o.order.seeds) - o.entered for o in before), sum(o.waiting_row_steps for o in before)


def predicted_s(job: Job, waiting: Waiting, pace: Pace, active: tuple[int, int], max_rows: int) -> float | None:
    """Seconds until an order that has just come is done; None: nobody knows yet. `active`: rows and row-steps."""
    rows_ahead, steps_ahead = waiting.ahead_of(job)
    own = len(job.order.seeds)
    rows = min(max_rows, active[0] + rows_ahead + own)
    return pace.predicted_s(active[1] + steps_ahead + job.waiting_row_steps, rows, job.steps)
