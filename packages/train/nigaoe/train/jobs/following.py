"""A job that is watched from here: its log as it grows, its end, what it brings back."""

import asyncio
from collections.abc import Callable

from ray.job_submission import JobStatus, JobSubmissionClient

from nigaoe.train.jobs.connecting import JobRefused, connect, last_line, reason
from nigaoe.train.jobs.results import Result, ResultReader


def follow(address: str, submission_id: str, write: Callable[[str], object]) -> tuple[int, dict[str, Result]]:
    """Write a job's log as it grows, until the job ends.

    Returns:
        Its exit code, 0 where all went well, and the files that came in its log.

    Raises:
        JobRefused: It was stopped, or the cluster lost it.
    """
    client, reader = connect(address), ResultReader(write)
    try:
        asyncio.run(_tail(client, submission_id, reader.feed))
        details = client.get_job_info(submission_id)
    except (RuntimeError, OSError) as error:
        raise JobRefused(
            f"job {submission_id!r} cannot be followed any more ({reason(error)}); it may go on without us: ask with "
            f"`nigaoe status --address {address}`"
        ) from None
    finally:
        reader.close()
    if details.status == JobStatus.SUCCEEDED:
        return 0, reader.results
    if details.status == JobStatus.STOPPED:
        raise JobRefused(f"job {submission_id!r} was stopped; submit it again to go on from where it was")
    if details.driver_exit_code:
        return int(details.driver_exit_code), reader.results
    raise JobRefused(f"job {submission_id!r} failed ({last_line(details.message)})")


async def _tail(client: JobSubmissionClient, submission_id: str, write: Callable[[str], object]) -> None:
    async for lines in client.tail_job_logs(submission_id):
        write(lines)
