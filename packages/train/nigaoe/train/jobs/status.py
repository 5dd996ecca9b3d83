"""How a cluster is: its jobs and how far they are, what it serves, its nodes."""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import requests
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from nigaoe.train.jobs.connecting import KIND_KEY, NAME_KEY, RUN_KEY, JobRefused, connect, reason

_BAR = re.compile(r"([^\r\n|]*?):? +\d+%\|[^|\r\n]*\| *(\d+)/(\d+) \[")
"""A line of tqdm's: what it counts, how many it has, of how many."""
_RESOURCE = re.compile(r"^\s*([\d.]+)/([\d.]+) (CPU|GPU)\b", re.MULTILINE)
_TIMEOUT_S = 30


@dataclass(frozen=True)
class Bar:
    """The last that a job's log says of how far it is."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class JobState:
    """A job of ours."""

    id: str
    kind: str
    name: str
    """Of its run."""
    state: str
    """`pending`, `running`, `succeeded`, `failed` or `stopped`."""
    age_s: float
    """Since it was submitted."""
    took_s: float | None
    """Until it ended; None: it has not."""
    progress: Bar | None
    """None: it has said nothing of it yet, or has succeeded."""
    out: str
    """Folder that it writes to, as the cluster sees it."""
    reason: str | None
    """Why it failed."""


@dataclass(frozen=True)
class DeploymentState:
    """A deployment of an application of Ray Serve."""

    application: str
    route: str | None
    name: str
    state: str
    age_s: float | None
    """Since its application was last deployed."""
    replicas: int
    """That run."""
    wanted: int


@dataclass(frozen=True)
class NodeState:
    """A machine of the cluster."""

    address: str
    is_head: bool
    state: str
    age_s: float | None
    cpus: float
    gpus: float
    cpus_used: float | None
    """None: the cluster does not say."""
    gpus_used: float | None


@dataclass(frozen=True)
class ClusterState:
    """All of it."""

    jobs: list[JobState]
    """The latest first."""
    deployments: list[DeploymentState]
    nodes: list[NodeState]

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def cluster_state(address: str) -> ClusterState:
    """Ask a cluster's dashboard.

    Raises:
        ConfigError: None answers.
        JobRefused: It stopped answering.
    """
    client, now = connect(address), time.time()
    try:
        ours = [job for job in client.list_jobs() if KIND_KEY in (job.metadata or {})]
        jobs = [_job(client, job, now) for job in sorted(ours, key=lambda job: -(job.start_time or 0))]
        served, nodes = _get(client, "/api/serve/applications/"), _get(client, "/api/v0/nodes?detail=1")
        used = _get(client, "/nodes?view=summary")["data"].get("nodeLogicalResources") or {}
    except (RuntimeError, requests.RequestException, KeyError) as error:
        raise JobRefused(f"the cluster at {address!r} stopped answering ({reason(error)}); ask again") from None
    return ClusterState(jobs, list(_deployments(served, now)), _nodes(nodes["data"]["result"]["result"], used, now))


def last_bar(log: str) -> Bar | None:
    """The last bar that a log shows, if any."""
    found = _BAR.findall(log)
    return Bar(found[-1][0].strip(), int(found[-1][1]), int(found[-1][2])) if found else None


def _job(client: JobSubmissionClient, job: JobDetails, now: float) -> JobState:
    told, began = job.metadata or {}, (job.start_time or 0) / 1000
    ended = None if job.end_time is None or not job.status.is_terminal() else job.end_time / 1000
    has_failed = job.status == JobStatus.FAILED
    submission_id = job.submission_id or ""
    log = "" if job.status in (JobStatus.SUCCEEDED, JobStatus.PENDING) else client.get_job_logs(submission_id)
    return JobState(
        id=submission_id,
        kind=told[KIND_KEY],
        name=told.get(NAME_KEY, ""),
        state=job.status.value.lower(),
        age_s=now - began,
        took_s=None if ended is None else ended - began,
        progress=last_bar(log),
        out=told.get(RUN_KEY, ""),
        reason=_reason(log) or job.message if has_failed else None,
    )


def _reason(log: str) -> str | None:
    """The sentence that a command of ours ends with."""
    sentences = [line.removeprefix("nigaoe: ") for line in log.splitlines() if line.startswith("nigaoe: ")]
    return sentences[-1] if sentences else None


def _deployments(served: Mapping[str, Any], now: float) -> Iterator[DeploymentState]:
    for name, application in served["applications"].items():
        deployed = application.get("last_deployed_time_s")
        age_s, route = (now - deployed if deployed else None), application.get("route_prefix")
        found = application.get("deployments") or {}
        if not found:
            yield DeploymentState(name, route, "", application["status"].lower(), age_s, 0, 0)
        for deployment, said in found.items():
            running = sum(replica["state"] == "RUNNING" for replica in said.get("replicas") or [])
            wanted = said.get("target_num_replicas") or 0
            yield DeploymentState(name, route, deployment, said["status"].lower(), age_s, running, wanted)


def _nodes(listed: list[dict[str, Any]], used: Mapping[str, str], now: float) -> list[NodeState]:
    nodes = []
    for node in listed:
        usage = {kind: float(amount) for amount, _, kind in _RESOURCE.findall(used.get(node["node_id"], ""))}
        has, began = node.get("resources_total") or {}, node.get("start_time_ms")
        is_told = node["node_id"] in used and node["state"] == "ALIVE"
        nodes.append(
            NodeState(
                address=node["node_ip"],
                is_head=bool(node.get("is_head_node")),
                state=node["state"].lower(),
                age_s=now - began / 1000 if began else None,
                cpus=has.get("CPU", 0.0),
                gpus=has.get("GPU", 0.0),
                cpus_used=usage.get("CPU", 0.0) if is_told else None,
                gpus_used=usage.get("GPU", 0.0) if is_told else None,
            )
        )
    return sorted(nodes, key=lambda node: (not node.is_head, node.state != "alive", node.address))


def _get(client: JobSubmissionClient, path: str) -> dict[str, Any]:
    # What is public asks for jobs alone; this one adds the token of a cluster that wants one.
    answer = client._do_request("GET", path, timeout=_TIMEOUT_S)
    if answer.status_code != 200:
        raise RuntimeError(f"{path} answers {answer.status_code}")
    found: dict[str, Any] = answer.json()
    return found
