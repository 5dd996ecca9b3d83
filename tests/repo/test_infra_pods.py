"""Manifests become the containers that KubeRay would make of them, and containers become namespaces."""

import os
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from images import owned
from kuberay import Kept, PodPlan, RayCluster, container, quantity, stateful_pod
from pods import MEMORY_CGROUPS, Container, Mount, Network, missing
from ray.scripts.scripts import start

from manifests import OVERLAYS, ROOT, cluster_spec, named, of_kind, ray_clusters, ray_groups

SECRET = {"redis": {"password": "p4ss"}, "api-keys": {"api-keys.yaml": "[]\n"}}


@pytest.fixture(autouse=True)
def nobody_else_owns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of volumes are handed to the pods' group, which only root may do."""
    if os.geteuid() != 0:
        monkeypatch.setattr("os.chown", lambda *_: None)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path, SECRET)


def plans(cluster: RayCluster) -> list[PodPlan]:
    return [cluster.head(), *cluster.workers()]


def arguments(line: str) -> dict[str, Any]:
    """What Ray's own parser makes of a `ray start`."""
    program, command, *words = shlex.split(line)
    assert (program, command) == ("ray", "start")
    return dict(start.make_context("start", words).params)


@pytest.mark.parametrize("name", ["prepare", "train", "eval", "serve"])
def test_ray_starts_with_what_the_manifest_says(name: str, kept: Kept) -> None:
    kind = "RayService" if name == "serve" else "RayJob"
    manifest = named("cpu-demo", kind, name)
    cluster = RayCluster(manifest, kept, "t0ken")
    head, *groups = ray_groups(manifest)
    said = arguments(cluster.start_line(head, "head"))
    assert (said["head"], said["block"], said["no_monitor"]) == (True, True, True)
    assert (said["num_cpus"], said["dashboard_host"]) == (0, "0.0.0.0")
    for group in groups:
        said = arguments(cluster.start_line(group, "worker"))
        assert said["address"] == f"{name}-local-head-svc.nigaoe.svc.cluster.local:6379"
        assert said["num_cpus"] == int(group["rayStartParams"]["num-cpus"])
        wanted = [f"{key}={value}" for key, value in group.get("labels", {}).items()]
        assert said["labels"] == ",".join(wanted)
        memory = group["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
        assert said["memory"] == quantity(memory)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_is_understood(overlay: str, kept: Kept) -> None:
    for manifest in ray_clusters(overlay):
        for group in ray_groups(manifest):
            kind = "worker" if "groupName" in group else "head"
            assert arguments(RayCluster(manifest, kept, "t0ken").start_line(group, kind))["block"]


@pytest.mark.parametrize("name", ["prepare", "train", "eval"])
def test_entrypoints_are_submitted_as_they_stand(name: str, kept: Kept) -> None:
    manifest = named("cpu-demo", "RayJob", name)
    (submitter,) = [of for of in RayCluster(manifest, kept, "t").head().containers if of.name == "ray-job-submitter"]
    line = submitter.command[-1]
    _, separator, submitted = line.partition(" -- ")
    assert separator
    assert submitted == manifest["spec"]["entrypoint"].strip() + " ;"
    words = shlex.split(line.partition("; done ; ")[2])
    assert (
        words[words.index("--runtime-env-json") + 1]
        == '{"env_vars": {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1800"}}'
    )
    assert "/mnt/shared" not in [mount.path for mount in submitter.mounts], "KubeRay mounts nothing into its own"


@pytest.mark.parametrize("name", ["prepare", "train", "eval", "serve"])
def test_containers_see_what_their_manifest_mounts_and_nothing_else(name: str, kept: Kept) -> None:
    manifest = named("cpu-demo", "RayService" if name == "serve" else "RayJob", name)
    cluster = RayCluster(manifest, kept, "t0ken")
    for plan, group in zip(plans(cluster), ray_groups(manifest), strict=True):
        pod = group["template"]["spec"]
        (ray,) = [of for of in plan.containers if of.name in ("ray-head", "ray-worker")]
        image = {"/opt/nigaoe", "/src/packages", "/app/configs"}
        assert {mount.path for mount in ray.mounts} - image == {
            m["mountPath"] for m in pod["containers"][0]["volumeMounts"]
        }
        assert (ray.user, ray.group, ray.folder) == (1000, 1000, "/app")
        assert ray.memory_bytes == quantity(pod["containers"][0]["resources"]["limits"]["memory"])
        assert (ray.variables["RAY_AUTH_MODE"], ray.variables["RAY_AUTH_TOKEN"]) == ("token", "t0ken")
        assert "HF_TOKEN" not in ray.variables, "a secret that may be missing, and is"
        assert ray.before_end == (() if plan.group == "headgroup" else ("ray", "stop"))


def test_what_comes_first_comes_first(kept: Kept) -> None:
    head, worker = plans(RayCluster(named("cpu-demo", "RayJob", "prepare"), kept, "t"))
    (portraits,) = head.first
    assert portraits.command[:4] == ("nigaoe", "toy", "portraits", "/mnt/shared/demo/portraits")
    assert [of.name for of in worker.first] == ["wait-gcs-ready"]


def test_groups_that_begin_with_none_have_one(kept: Kept) -> None:
    service = named("cpu-demo", "RayService", "serve")
    assert [group["replicas"] for group in cluster_spec(service)["workerGroupSpecs"]] == [1, 0]
    found = [plan.group for plan in RayCluster(service, kept, "t").workers()]
    assert found == ["front", "engines"]


def test_the_service_keeps_its_head_in_redis(kept: Kept) -> None:
    head = RayCluster(named("cpu-demo", "RayService", "serve"), kept, "t").head()
    (ray,) = head.containers
    assert ray.variables["RAY_REDIS_ADDRESS"] == "redis:6379"
    assert ray.variables["REDIS_PASSWORD"] == "p4ss"
    assert "--redis-password=$REDIS_PASSWORD" in ray.command[-1]


def test_variables_stand_in_arguments(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    (manifest,) = of_kind("cpu-demo", "StatefulSet")
    (redis,) = stateful_pod(manifest, kept).containers
    assert redis.command[:3] == ("/usr/bin/redis-server", "--requirepass", "p4ss")
    assert [mount.path for mount in redis.mounts] == ["/data"]


def test_a_secret_that_must_be_there_is_missed(tmp_path: Path) -> None:
    cluster = RayCluster(named("cpu-demo", "RayService", "serve"), Kept(tmp_path, {"redis": SECRET["redis"]}), "t")
    with pytest.raises(ValueError, match="secret 'api-keys' is not there"):
        cluster.workers()
    cluster = RayCluster(named("cpu-demo", "RayService", "serve"), Kept(tmp_path, {"api-keys": {}}), "t")
    with pytest.raises(ValueError, match="'password' of secret 'redis'"):
        cluster.head()


def test_an_image_that_is_not_known_is_refused(kept: Kept) -> None:
    with pytest.raises(ValueError, match="image 'busybox:1' is not known here"):
        container({}, {"name": "a", "image": "busybox:1"}, kept)


@pytest.mark.parametrize(("written", "meant"), [("500m", 0.5), ("2", 2.0), ("4Gi", 2.0**32), (3, 3.0), ("1G", 1e9)])
def test_quantities_are_read(written: str | int, meant: float) -> None:
    assert quantity(written) == meant


@pytest.mark.parametrize("written", ["4GB", "", "-1", "1 Gi"])
def test_what_is_no_quantity_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        quantity(written)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A bridge of this test's own."""
    if (why := missing()) is not None:
        pytest.skip(why)
    with Network(tmp_path / "pods", grace_s=0.5) as made:
        yield made


def shell(line: str, *mounts: Mount, name: str = "c", memory_bytes: int | None = None) -> Container:
    """A container of this machine's programs."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return Container(name, ("sh", "-euc", line), {"PATH": path}, 1000, 1000, "/", mounts, memory_bytes=memory_bytes)


def test_each_pod_has_the_port_for_itself(network: Network, tmp_path: Path) -> None:
    shared = owned(tmp_path / "shared", 1000)
    pods = [network.add("one"), network.add("other")]
    for pod in pods:
        folder = Mount("/mnt/shared", shared)
        pod.run(shell("hostname > /mnt/shared/$(hostname)", folder, name="first"), 60)
        pod.start(shell("cd /mnt/shared; exec python -m http.server 8000", folder))
    for pod in pods:
        text = answered(f"http://{pod.address}:8000/{pod.name}")
        assert text == f"{pod.name}\n"
    asked = pods[0].execute(pods[0].containers[-1], ["python", "-c", ASK.format(url="http://other:8000/one")], 60)
    assert asked.stdout == "one\n", asked.stderr


def test_a_container_is_nobody_and_sees_what_it_is_given(network: Network, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/api-keys.yaml").write_text("[]")
    given = (Mount("/etc/nigaoe", tmp_path / "keys", read_only=True), Mount("/dev/shm", None, size_bytes=2**21))
    line = (
        "id -u; grep CapEff /proc/self/status; df -k /dev/shm | tail -1; cat /etc/nigaoe/api-keys.yaml; ls /proc; ls /"
    )
    pod = network.add("one")
    pod.run(shell(line, *given), 60)
    user, capabilities, memory, *rest = pod.containers[0].log.read_text().splitlines()
    assert (user, capabilities.split()[1], memory.split()[1]) == ("1000", "0" * 16, "2048")
    assert rest[0].startswith("[]")
    assert not {"home", "mnt", "models"} & set(rest), "folders of this machine"
    assert sum(line.isdigit() for line in rest) <= 3, "processes of this machine"
    with pytest.raises(RuntimeError, match="Read-only file system"):
        pod.run(shell("echo > /etc/nigaoe/more", *given, name="writes"), 60)


def test_memory_is_limited(network: Network) -> None:
    if not (MEMORY_CGROUPS / "memory.limit_in_bytes").exists():
        pytest.skip("no groups of processes of the first version, which pods' memory is limited by")
    pod = network.add("one")
    pod.run(shell("cat /sys/fs/cgroup/memory/memory.limit_in_bytes", memory_bytes=2**26), 60)
    assert pod.containers[0].log.read_text() == f"{2**26}\n"
    with pytest.raises(RuntimeError, match="ended with"):
        pod.run(shell("exec python -c 'bytearray(2**27)'", name="greedy", memory_bytes=2**26), 60)
    (_, killed), (most, killed_too) = (one.memory() or (0, 0) for one in pod.containers)
    assert (killed, killed_too, most) == (0, 1, 2**26)


def test_nothing_is_left(tmp_path: Path) -> None:
    if (why := missing()) is not None:
        pytest.skip(why)
    with Network(tmp_path / "pods", 0.5) as network, Network(tmp_path / "second", 0.5) as second:
        assert network.subnet != second.subnet, "two runs go on beside one another"
        pod = network.add("one")
        running = pod.start(shell("sleep 1000 & exec sleep 1000", memory_bytes=2**26))
        while len(inside := psutil.Process(running.process.pid).children(recursive=True)) < 2:
            assert running.process.poll() is None
        links = subprocess.run(["ip", "-br", "link"], check=True, capture_output=True, text=True).stdout
        assert links.count(network.bridge) == 2, "the bridge and a cable"
    ids = [pod.pause.pid, running.process.pid, *(one.pid for one in inside)]
    assert [number for number in ids if psutil.pid_exists(number)] == []
    links = subprocess.run(["ip", "-br", "link"], check=True, capture_output=True, text=True).stdout
    assert f"{network.bridge}p2" not in links
    assert running.cgroup is None or not running.cgroup.exists()


def test_pods_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    if (why := missing()) is not None:
        pytest.skip(why)
    words = [sys.executable, "-c", KILLED, str(tmp_path / "pods")]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "infra/local-cluster")}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        bridge, *ids = run.stdout.readline().split()
        try:
            assert len(ids) == 3
            assert all(psutil.pid_exists(int(number)) for number in ids)
            run.kill()
            run.wait()
            gone, alive = psutil.wait_procs(
                [psutil.Process(int(n)) for n in ids if psutil.pid_exists(int(n))], timeout=10
            )
            assert alive == []
        finally:
            subprocess.run(["ip", "link", "del", bridge], check=True)


KILLED = """
import sys, time
from pathlib import Path
from pods import Container, Network
with Network(Path(sys.argv[1])) as network:
    pod = network.add("one")
    running = pod.start(Container("c", ("sleep", "1000"), {"PATH": "/usr/bin:/bin"}, 1000, 1000))
    while (first := running.first()) is None or first.name() != "sleep":
        assert running.process.poll() is None, running.log.read_text()
    print(network.bridge, pod.pause.pid, running.process.pid, first.pid, flush=True)
    time.sleep(1000)
"""
ASK = "import urllib.request; print(urllib.request.urlopen('{url}', timeout=30).read().decode(), end='')"


def answered(url: str) -> str:
    """What a server says that may not have started yet."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
