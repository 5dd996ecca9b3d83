"""The manifests of an overlay run as they stand, their pods as namespaces of this machine: prepare, train, eval, serve.

What of a manifest is not applied is said at the end, after what was checked; it exits with 1 if anything was lost.
"""

import argparse
import io
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
import yaml
from checking import Checks, ask
from images import ROOT
from kuberay import (
    DASHBOARD_PORT,
    SERVE_PORT,
    Kept,
    Manifest,
    PodPlan,
    RayCluster,
    kubectl,
    made_up,
    named,
    rendered,
    stateful_pod,
)
from PIL import Image
from pods import Network, Pod, Running, missing, tail

from nigaoe.core.manifests import read_prepared
from nigaoe.core.registry import Registry
from nigaoe.core.reports import read_report
from nigaoe.core.transfers import sha256_of
from nigaoe.train.watching.history import read_history

OVERLAY = ROOT / "infra" / "kuberay" / "overlays" / "cpu-demo"
STAGES = ("prepare", "train", "eval", "serve")
START_S, JOB_S, DEPLOY_S, ANSWER_S, POLL_S = 600, 3600, 900, 120, 2
END_S = 5
"""What a pod has to end. A head that is asked to would drain itself for 30 s, with nobody to take over."""
SIDE_PX = 96
CALLER = "local"
SMALLER = {
    "train": ["steps=40", "checkpoint_every=20", "batch_size=8"],
    "eval": ["protocol.n=8", "protocol.yardstick_n=16", "sampling.steps=4", "thresholds=[]"],
}
PEOPLE = "24"
NOT_APPLIED = (
    "images are not built: every container sees this checkout and this Python environment, read only",
    "nothing scales: a group that begins with no pod has one; the autoscaler and the operator's containers do not run",
    "secrets hold made-up values; those that may be missing are",
    "no probe restarts anything; seccomp profiles, limits of CPU and disk, network policies, budgets and retries",
    "limits of memory are kept only where groups of processes (cgroups) are of version 1",
    "nothing leaves this machine: pods reach one another and nobody else",
)


def main() -> None:
    """Run what is asked for in a folder, which keeps volumes between runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=Path("runs/manifests"))
    parser.add_argument(
        "--only", nargs="+", choices=STAGES, default=list(STAGES), help="go on in a folder that is there"
    )
    parser.add_argument("--small", action="store_true", help="fewer people and steps than the manifests say")
    given = parser.parse_args()
    out = given.out.resolve()
    if (why := lacking()) is not None:
        sys.exit(why)
    if (out / "volumes").exists() and STAGES[0] in given.only:
        sys.exit(f"{out} holds an earlier run, which this one would go on with; remove it or name another folder")
    # So that the pods are ended whoever ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    manifests = rendered(OVERLAY)
    if given.small:
        make_smaller(manifests)
    key, entry = new_key()
    kept = Kept(out, {"redis": {"password": made_up()}, "api-keys": {"api-keys.yaml": entry}})
    what = "fewer people and steps than the manifests say" if given.small else "the manifests as they stand"
    checks = Checks(f"Checked with pods of {OVERLAY.relative_to(ROOT)}, {what}:")
    try:
        for name in STAGES:
            if name in given.only:
                run_stage(name, manifests, kept, key, checks)
    finally:
        good = checks.show()
        typer.echo("\nNot applied:\n" + "\n".join(f"  {line}" for line in NOT_APPLIED))
    sys.exit(0 if good else 1)


def run_stage(name: str, manifests: list[Manifest], kept: Kept, key: str, checks: Checks) -> None:
    """One job or the service, on a network of its own."""
    began = time.monotonic()
    folder = kept.folder / "pods" / name
    shutil.rmtree(folder, ignore_errors=True)
    with Network(folder, END_S) as network:
        if name == "serve":
            serve(network, manifests, kept, key, checks)
        else:
            run_job(network, named(manifests, "RayJob", name), kept, checks)
    say(f"{name} took {time.monotonic() - began:.0f} s")


def lacking() -> str | None:
    """Why manifests cannot be run here; None if they can."""
    programs = {"redis-server": "apt-get install redis-server", "redis-cli": "apt-get install redis-tools"}
    absent = [f"{name} ({cure})" for name, cure in programs.items() if shutil.which(name) is None]
    if absent:
        return f"the service keeps its head's state in Redis, and this machine has no {' and no '.join(absent)}"
    return missing() or (None if kubectl() else "manifests are rendered by kubectl, which is not here")


def run_job(network: Network, job: Manifest, kept: Kept, checks: Checks) -> None:
    """Start a job's cluster, and follow its submitter to its end."""
    name = job["metadata"]["name"]
    cluster = RayCluster(job, kept, made_up())
    with started(network, cluster) as (head, running, pods):
        submitter = running["ray-job-submitter"]
        wait_until(lambda: submitter.process.poll() is not None, f"the end of {name}", running, JOB_S)
        found = get(head, cluster, f"/api/jobs/{cluster.submitted()}")
        checks.add(found["status"] == "SUCCEEDED", f"{name}: status of the job", found["status"])
        if found["status"] != "SUCCEEDED":
            typer.echo(tail(submitter.log, 60))
            return
        addresses = {node["node_ip"] for node in listed(head, cluster, "nodes") if node["state"] == "ALIVE"}
        expected = {pod.address for pod in pods.values()}
        checks.add(addresses == expected, f"{name}: nodes, each at an address of its own", sorted(addresses))
        places = actors(head, cluster, pods)
        (group,) = [group["groupName"] for group in cluster.spec["workerGroupSpecs"]]
        working = [set(seen) for kind, seen in places.items() if "Worker" in kind]
        good = bool(working) and all(seen == {group} for seen in working)
        checks.add(good, f"{name}: what works does so in group {group}, what leads on the head", places)
        fitted(network, name, checks)
    {"prepare": prepared, "train": trained, "eval": evaluated}[name](job, kept, checks)


def fitted(network: Network, name: str, checks: Checks) -> None:
    """The most memory that containers used, where that is counted."""
    seen, killed = {}, 0
    for pod in network.pods:
        for running in pod.containers:
            limit = running.container.memory_bytes
            if limit is not None and (used := running.memory()) is not None:
                seen[f"{pod.name}/{running.container.name}"] = f"{used[0] / 2**30:.1f} of {limit / 2**30:.1f} GiB"
                killed += used[1]
    if seen:
        checks.add(killed == 0, f"{name}: processes killed for memory", f"{killed}; most used {seen}")


def prepared(job: Manifest, kept: Kept, checks: Checks) -> None:
    """As many rows as the container before it drew pictures."""
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    words = head["initContainers"][0]["args"]
    expected = int(words[words.index("--people") + 1]) * int(words[words.index("--scenes") + 1])
    rows = read_prepared(kept.volume("shared", 1000) / "demo/prepared").rows
    checks.add(rows == expected, f"prepare: rows of the {expected} pictures that the first container drew", rows)


def trained(job: Manifest, kept: Kept, checks: Checks) -> None:
    """All steps, and the adapter in the registry."""
    shared = kept.volume("shared", 1000)
    steps = json.loads((shared / "demo/train/run.json").read_bytes())["steps"]
    history = read_history(shared / "demo/train")
    workers = [start.world_size for start in history.starts]
    checks.add(history.step == steps, f"train: steps of {steps}", f"{history.step}, workers {workers}")
    entries = {entry.name: entry.sha256 for entry in Registry(str(shared / "registry")).entries()}
    digest = sha256_of(str(shared / "demo/train/adapter.safetensors"))
    checks.add(entries == {"demo": digest}, "train: adapter in the registry at /mnt/shared/registry", digest[:12])


def evaluated(job: Manifest, kept: Kept, checks: Checks) -> None:
    """The report is of that adapter, and its page is there."""
    shared = kept.volume("shared", 1000)
    report = read_report(shared / "demo/eval/report.json")
    digest = sha256_of(str(shared / "demo/train/adapter.safetensors"))
    checks.add(report.adapters.get("demo") == digest, "eval: the report is of this adapter", digest[:12])
    missed = [f"{each.cell} {each.metric}" for each in report.misses]
    value = report.cell("anime-adapter").metrics["attribute.mean"]
    checks.add(
        not missed, "eval: thresholds missed", f"{missed}; anime-adapter attribute.mean {value.value:.3f}, n {value.n}"
    )
    checks.add((shared / "demo/eval/report.html").stat().st_size > 10_000, "eval: its page", "report.html")


def serve(network: Network, manifests: list[Manifest], kept: Kept, key: str, checks: Checks) -> None:
    """Start Redis and the service's cluster, hand over its config as KubeRay does, and ask for a picture."""
    service = named(manifests, "RayService", "serve")
    for manifest in manifests:
        if manifest["kind"] == "StatefulSet":
            start_pod(network, stateful_pod(manifest, kept), [manifest["spec"]["serviceName"]])
    cluster = RayCluster(service, kept, made_up())
    with started(network, cluster) as (head, running, pods):
        config = yaml.safe_load(service["spec"]["serveConfigV2"])
        wait_until(lambda: bool(get(head, cluster, "/api/serve/applications/")), "the dashboard", running, START_S)
        say("PUT serveConfigV2 to the dashboard of the head")
        get(head, cluster, "/api/serve/applications/", config)
        wait_until(lambda: set(states(head, cluster).values()) == {"RUNNING"}, "all applications", running, DEPLOY_S)
        front = next(pod for name, pod in pods.items() if "-front-" in name)
        url, picture = f"http://{front.address}:{SERVE_PORT}", stranger(kept.folder)
        for who, wrong in (("without a key", None), ("with a wrong key", "ngo_wrong")):
            seen = status_of(lambda wrong=wrong: ask(url, picture, "demo", SIDE_PX, wrong))  # type: ignore[misc]
            checks.add(seen == 401, f"serve: status {who}", seen)
        drawn = ask(url, picture, "demo", SIDE_PX, key)
        (kept.folder / "answer.png").write_bytes(drawn)
        size = Image.open(io.BytesIO(drawn)).size
        checks.add(size == (SIDE_PX, SIDE_PX), "serve: a picture for the key of the keys' file", "answer.png")
        page = status_of(lambda: urllib.request.urlopen(f"{url}/playground/", timeout=30).read())
        checks.add(page == 200, "serve: status of the playground", page)
        places = actors(head, cluster, pods)
        groups = {kind.rpartition(":")[2]: set(seen) for kind, seen in places.items() if "Replica" in kind}
        expected = {"ingress": {"front"}, "playground": {"front"}, "engine": {"engines"}}
        checks.add(groups == expected, "serve: actors by group", places)
        ready = pods_ready(pods, running)
        checks.add(ready["front"], "serve: pods that KubeRay's readiness probe calls ready", ready)
        redis = next(pod for pod in network.pods if pod.name == "redis-0")
        words = ["redis-cli", "--no-auth-warning", "-a", kept.secrets["redis"]["password"], "dbsize"]
        keys = redis.execute(redis.containers[0], words, 30).stdout.strip()
        checks.add(keys.isdigit() and int(keys) > 0, "serve: keys that the head's GCS keeps in Redis", keys)
        fitted(network, "serve", checks)
        lose_head(network, cluster, pods, lambda: ask(url, picture, "demo", SIDE_PX, key) == drawn, checks)


def lose_head(
    network: Network, cluster: RayCluster, pods: dict[str, Pod], draws: Callable[[], bool], checks: Checks
) -> None:
    """Kill the head; the service draws without one, and with the next, which has another address."""
    plan = cluster.head()
    say(f"killed pod {plan.name}")
    network.kill(pods.pop(plan.name))
    checks.add(comes(draws, ANSWER_S), "serve: the same picture while there is no head", "drawn by front and engines")
    began = time.monotonic()
    plan = replace(plan, name=f"{plan.name}-again")
    head = pods[plan.name] = start_pod(network, plan, head_names(cluster))
    expected = {pod.address for pod in pods.values()}

    def is_back() -> bool:
        alive = {node["node_ip"] for node in listed(head, cluster, "nodes") if node["state"] == "ALIVE"}
        return alive == expected and set(states(head, cluster).values()) == {"RUNNING"}

    back = comes(is_back, START_S)
    seconds = f"{head.address} after {time.monotonic() - began:.0f} s"
    checks.add(back, "serve: a new head, by Redis, has all nodes and applications", seconds)
    checks.add(comes(draws, ANSWER_S), "serve: the same picture with the new head", head.address)


@contextmanager
def started(network: Network, cluster: RayCluster) -> Iterator[tuple[Pod, dict[str, Running], dict[str, Pod]]]:
    """The pods of a cluster; all are started at once, workers wait for the head as KubeRay has them wait."""
    pods: dict[str, Pod] = {}
    running: dict[str, Running] = {}
    plans = [cluster.head(), *cluster.workers()]
    say(f"pods {', '.join(plan.name for plan in plans)}")
    names: list[list[str]] = [head_names(cluster), *[[] for _ in plans[1:]]]
    try:
        for plan, more in zip(plans, names, strict=True):
            pod = pods[plan.name] = network.add(plan.name)
            for name in more:
                network.resolve(name, pod.address)
            for container in plan.first:
                say(f"{plan.name}/{container.name}: {' '.join(container.command)[:100]}")
                pod.run(container, START_S)
            for container in plan.containers:
                started_one = pod.start(container)
                running[container.name if plan is plans[0] else f"{plan.name}/{container.name}"] = started_one
        yield pods[plans[0].name], running, pods
    finally:
        network.end(*pods.values())


def head_names(cluster: RayCluster) -> list[str]:
    """By which pods find the head."""
    return [cluster.head_name, cluster.head_name.partition(".")[0]]


def start_pod(network: Network, plan: PodPlan, names: list[str]) -> Pod:
    """A pod with names, after which others wait for nothing."""
    pod = network.add(plan.name)
    for name in names:
        network.resolve(name, pod.address)
    for container in plan.containers:
        pod.start(container)
    return pod


def get(head: Pod, cluster: RayCluster, path: str, put: Any = None) -> Any:
    """What the dashboard answers to one who has the cluster's token, as KubeRay has it."""
    headers = {"x-ray-authorization": f"Bearer {cluster.token}", "Content-Type": "application/json"}
    data = None if put is None else json.dumps(put).encode()
    url = f"http://{head.address}:{DASHBOARD_PORT}{path}"
    request = urllib.request.Request(url, data=data, headers=headers, method="GET" if put is None else "PUT")
    with urllib.request.urlopen(request, timeout=120) as answer:
        text = answer.read()
    return json.loads(text) if text.startswith((b"{", b"[")) else text


def listed(head: Pod, cluster: RayCluster, kind: str) -> list[dict[str, Any]]:
    """Nodes or actors, dead ones among them."""
    found: list[dict[str, Any]] = get(head, cluster, f"/api/v0/{kind}?detail=1&limit=1000")["data"]["result"]["result"]
    return found


def actors(head: Pod, cluster: RayCluster, pods: dict[str, Pod]) -> dict[str, dict[str, int]]:
    """How many actors of a class each group of pods has had."""
    names = {pod.address: name.removeprefix(f"{cluster.name}-") for name, pod in pods.items()}
    groups = {
        node["node_id"]: names[node["node_ip"]].partition("-worker-")[0] for node in listed(head, cluster, "nodes")
    }
    found: dict[str, Counter[str]] = {}
    for actor in listed(head, cluster, "actors"):
        if actor["node_id"] in groups:
            found.setdefault(actor["class_name"], Counter())[groups[actor["node_id"]]] += 1
    return {kind: dict(seen) for kind, seen in sorted(found.items())}


def states(head: Pod, cluster: RayCluster) -> dict[str, str]:
    """Of Serve's applications."""
    applications = get(head, cluster, "/api/serve/applications/?api_type=declarative")["applications"]
    return {name: one["status"] for name, one in applications.items()}


def pods_ready(pods: dict[str, Pod], running: dict[str, Running]) -> dict[str, bool]:
    """What KubeRay's readiness probe of worker pods that serve says in each of them."""
    found = {}
    for name, pod in pods.items():
        ray = running.get(f"{name}/ray-worker")
        if ray is not None:
            urls = ["http://localhost:52365/api/local_raylet_healthz", f"http://localhost:{SERVE_PORT}/-/healthz"]
            line = " && ".join(f"wget --tries 1 -T 10 -q -O- {url} | grep success" for url in urls)
            group = name.split("-")[-3]
            found[group] = pod.execute(ray, ["bash", "-c", line], 30).returncode == 0
    return found


def status_of(asked: Callable[[], object]) -> int:
    """The HTTP status of an answer."""
    try:
        asked()
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def comes(is_so: Callable[[], bool], timeout_s: float) -> bool:
    """Whether something is so in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with suppress(OSError):
            if is_so():
                return True
        time.sleep(POLL_S)
    return False


def wait_until(is_so: Callable[[], bool], what: str, running: dict[str, Running], timeout_s: float) -> None:
    """Wait for something; a container of Ray that ends before it ends everything."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with suppress(OSError):
            if is_so():
                return
        for name, one in running.items():
            if one.process.poll() is not None and one.container.name != "ray-job-submitter":
                sys.exit(f"{name} ended with {one.process.returncode} before {what}:\n{tail(one.log)}")
        time.sleep(POLL_S)
    logs = "\n".join(f"--- {name}\n{tail(one.log)}" for name, one in running.items())
    sys.exit(f"{what} did not come within {timeout_s:.0f} s:\n{logs}")


def make_smaller(manifests: list[Manifest]) -> None:
    """For a look at whether all of it fits together; only sizes are changed."""
    head = named(manifests, "RayJob", "prepare")["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    words = head["initContainers"][0]["args"]
    words[words.index("--people") + 1] = PEOPLE
    for name, more in SMALLER.items():
        job = named(manifests, "RayJob", name)["spec"]
        job["entrypoint"] = " ".join([job["entrypoint"], *more])


def new_key() -> tuple[str, str]:
    """A key, and its entry in a keys' file, as `nigaoe serve-key` prints them."""
    words = [sys.executable, "-m", "nigaoe.core.cli", "serve-key", CALLER]
    said = subprocess.run(words, check=True, capture_output=True, text=True, timeout=120).stdout
    key, _, rest = said.partition("\n")
    return key, rest.strip() + "\n"


def stranger(folder: Path) -> Path:
    """A person whom training did not see."""
    words = [sys.executable, "-m", "nigaoe.core.cli", "toy", "portraits", str(folder / "stranger")]
    words += ["--people", "1", "--scenes", "1", "--split", "heldout", "--seed", "5"]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    return next((folder / "stranger").glob("*.jpg"))


def say(text: str) -> None:
    """What is done next."""
    typer.echo(f"\n$ {text}")


if __name__ == "__main__":
    main()
