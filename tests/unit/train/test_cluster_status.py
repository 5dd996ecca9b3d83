"""What `nigaoe status` makes of what a cluster says; a cluster itself is asked in tests/integration/test_submit.py."""

import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nigaoe.core.errors import ConfigError
from nigaoe.core.jobs import JobPlan
from nigaoe.train.jobs.connecting import JobRefused
from nigaoe.train.jobs.status import (
    Bar,
    ClusterState,
    DeploymentState,
    JobState,
    NodeState,
    _deployments,
    _nodes,
    _reason,
    cluster_state,
    last_bar,
)
from nigaoe.train.jobs.status_table import SHOWN_ENDED, age, print_state
from nigaoe.train.jobs.submitting import Baggage, Entrypoint, submit

LOG = """Running entrypoint for job tiny-1: nigaoe train train.yaml
look at files: 100%|##########| 24/24 [00:00<00:00, 99.00image/s]
train tiny:   0%|          | 0/40 [00:00<?, ?step/s]
train tiny:  25%|##5       | 10/40 [00:04<00:12, 2.49step/s, loss 0.1234, 5.0 images/s]
"""


def make_job(number: int, **changes: object) -> JobState:
    values = {
        "id": f"a-run-with-a-rather-long-name-{number}-20261110-101010",
        "kind": "train",
        "name": "a-run-with-a-rather-long-name",
        "state": "running",
        "age_s": 7200.0 + number,
        "took_s": None,
        "progress": Bar("train a-run-with-a-rather-long-name", 1200, 50000),
        "out": "/shared/runs/out",
        "reason": None,
    }
    return JobState(**(values | changes))  # type: ignore[arg-type]


def shown(state: ClusterState, shows_all: bool = False) -> str:
    console = Console(file=io.StringIO(), width=80)
    print_state(state, console, shows_all=shows_all)
    written: str = console.file.getvalue()  # type: ignore[attr-defined]
    return written


def test_the_last_bar_of_a_log_is_the_progress() -> None:
    assert last_bar(LOG) == Bar("train tiny", 10, 40)
    # As a file has it before Ray reads it: one line.
    assert last_bar(LOG.replace("\n", "\r")) == Bar("train tiny", 10, 40)
    assert last_bar("nothing\n") is None


def test_a_failure_is_the_sentence_of_the_command() -> None:
    assert _reason("x\nnigaoe: no data; prepare it\nsomething after\n") == "no data; prepare it"
    assert _reason("Traceback\n") is None


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, ""), (-1, "0 s"), (59, "59 s"), (61, "1 min"), (7200, "2 h"), (200_000, "2 d")]
)
def test_ages_are_short(seconds: float | None, said: str) -> None:
    assert age(seconds) == said


def test_the_table_fits_80_columns_and_loses_no_id() -> None:
    jobs = [make_job(1), make_job(2, kind="prepare", state="failed", took_s=5.0, reason="no [data]; prepare it")]
    state = ClusterState(
        jobs,
        [DeploymentState("nigaoe", "/", "Engine", "healthy", 90.0, 1, 2)],
        [NodeState("192.0.2.10", True, "alive", 90.0, 0.0, 0.0, None, None)]
        + [NodeState("192.0.2.11", False, "alive", 90.0, 16.0, 8.0, 4.0, 7.5)],
    )
    text = shown(state)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "1 of 2 replicas" in text
    assert "7.5 of 8 GPU" in " ".join(text.split())
    assert f"{jobs[1].id}: no [data]; prepare it" in text.replace("\n", " ")
    assert json.loads(json.dumps(state.as_json()))["jobs"][0]["progress"] == {
        "what": "train a-run-with-a-rather-long-name",
        "done": 1200,
        "total": 50000,
    }


def test_what_runs_is_always_shown_and_of_the_rest_the_latest() -> None:
    jobs = [make_job(n, id=f"job{n}", name="n", state="succeeded", took_s=1.0) for n in range(SHOWN_ENDED + 3)]
    jobs.append(make_job(99, id="job99", name="n"))
    few, many = shown(ClusterState(jobs, [], [])), shown(ClusterState(jobs, [], []), shows_all=True)
    assert "job99" in few
    assert "job10" not in few
    assert "3 more jobs have ended" in few
    assert "job12" in many


def test_replicas_are_counted_that_run() -> None:
    replicas = [{"state": "RUNNING"}, {"state": "STARTING"}]
    engine = {"status": "UPSCALING", "target_num_replicas": 2, "replicas": replicas}
    applications = {
        "nigaoe": {"status": "RUNNING", "last_deployed_time_s": 40.0, "deployments": {"Engine": engine}},
        "other": {"status": "DEPLOY_FAILED", "deployments": {}},
    }
    found = list(_deployments({"applications": applications}, now=100.0))
    assert found[0] == DeploymentState("nigaoe", None, "Engine", "upscaling", 60.0, 1, 2)
    assert found[1] == DeploymentState("other", None, "", "deploy_failed", None, 0, 0)


def test_nodes_say_what_is_used_where_the_cluster_says_so() -> None:
    listed: list[dict[str, Any]] = [
        {"node_id": "b", "node_ip": "192.0.2.2", "state": "DEAD", "resources_total": {"CPU": 2.0}},
        {"node_id": "c", "node_ip": "192.0.2.3", "state": "ALIVE", "resources_total": {"CPU": 2.0, "GPU": 1.0}},
        {"node_id": "a", "node_ip": "192.0.2.1", "state": "ALIVE", "is_head_node": True, "start_time_ms": 40_000},
    ]
    found = _nodes(listed, {"b": "2.0/2.0 CPU", "c": " 1.5/2.0 CPU\n 0.0/1.0 GPU\n 0B/1GiB memory"}, now=100.0)
    assert [(node.address, node.state, node.cpus_used, node.gpus_used) for node in found] == [
        ("192.0.2.1", "alive", None, None),
        ("192.0.2.3", "alive", 1.5, 0.0),
        ("192.0.2.2", "dead", None, None),
    ]
    assert found[0].is_head
    assert found[0].age_s == 60.0


@contextmanager
def dashboard(answers: dict[str, Any]) -> Iterator[str]:
    """A server that says what a dashboard of Ray would; yields its address."""

    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path)
            body = json.dumps(answer).encode()
            self.send_response(200 if answer is not None else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def canned(*jobs: dict[str, Any]) -> dict[str, Any]:
    version = {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": "canned"}
    return {
        "/api/version": version,
        "/api/jobs/": [{"type": "SUBMISSION", "entrypoint": "x", "runtime_env": {}} | job for job in jobs],
        "/api/jobs/tiny-2/logs": {"logs": LOG + "nigaoe: no data; prepare it\n"},
        "/api/serve/applications/": {"applications": {}},
        "/api/v0/nodes?detail=1": {"data": {"result": {"result": []}}},
        "/nodes?view=summary": {"data": {"summary": [], "nodeLogicalResources": {}}},
    }


def test_a_cluster_is_asked_for_our_jobs_alone() -> None:
    now_ms = int(time.time() * 1000)
    told = {"nigaoe.kind": "train", "nigaoe.name": "tiny", "nigaoe.run": "/runs/out"}
    answers = canned(
        {"submission_id": "theirs", "status": "RUNNING", "start_time": now_ms},
        {"submission_id": "tiny-1", "status": "SUCCEEDED", "start_time": 1000, "end_time": 61_000, "metadata": told},
        {"submission_id": "tiny-2", "status": "FAILED", "start_time": 2000, "end_time": 3000, "metadata": told},
        {"submission_id": "tiny-3", "status": "PENDING", "start_time": now_ms, "metadata": {"nigaoe.kind": "eval"}},
    )
    with dashboard(answers) as address:
        found = cluster_state(address)
    assert [(job.id, job.kind, job.state, job.took_s) for job in found.jobs] == [
        ("tiny-3", "eval", "pending", None),
        ("tiny-2", "train", "failed", 1.0),
        ("tiny-1", "train", "succeeded", 60.0),
    ]
    assert found.jobs[0].age_s < 60
    assert found.jobs[1].progress == Bar("train tiny", 10, 40)
    assert found.jobs[1].reason == "no data; prepare it"
    del answers["/api/serve/applications/"]
    with dashboard(answers) as address, pytest.raises(JobRefused, match=r"stopped answering .*applications.* 404"):
        cluster_state(address)


def test_two_jobs_do_not_write_to_one_folder(in_tmp: Path) -> None:
    plan = JobPlan("eval", "tiny", "", in_tmp / "out", ())
    other = {"nigaoe.kind": "eval", "nigaoe.run": str(in_tmp / "out")}
    running = {"submission_id": "eval-1", "status": "RUNNING", "start_time": 1, "metadata": other}
    refused = pytest.raises(ConfigError, match=r"is under way in .*out' already, as job 'eval-1'")
    with dashboard(canned(running)) as address, refused:
        submit(plan, address, Baggage(), Entrypoint())
    # This one has nowhere to send it to, but nothing against it.
    lost = pytest.raises(JobRefused, match="did not take job")
    with dashboard(canned(running | {"status": "STOPPED", "end_time": 2})) as address, lost:
        submit(plan, address, Baggage(), Entrypoint())
