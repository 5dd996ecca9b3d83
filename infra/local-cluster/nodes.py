"""A Ray cluster of several nodes on one machine: each node is `ray start`, with a raylet and ports of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

HOST = "127.0.0.1"
STORE_BYTES = 80_000_000
"""Of a node's object store; the least that Ray takes is 75 MiB."""
START_S = 300
STOP_S = 60


class LocalCluster:
    """A head that runs no tasks and any number of worker nodes; all end with the block, each by its own process id."""

    def __init__(self) -> None:
        # Sockets lie in there, whose names must be short.
        self._folder = tempfile.TemporaryDirectory(prefix="ngo-", dir="/tmp", ignore_cleanup_errors=True)
        names = ("port", "dashboard-port", "ray-client-server-port", "metrics-export-port")
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.address = f"http://{HOST}:{self._ports['dashboard-port']}"
        """Of the dashboard, which takes jobs."""
        self.gcs_address = f"{HOST}:{self._ports['port']}"
        self.processes: list[subprocess.Popen[bytes]] = []
        """All that were started."""
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        ports = [f"--{name}={port}" for name, port in self._ports.items()]
        try:
            head = self._start("head", "--head", "--num-cpus=0", "--include-dashboard=true", *ports)
            self._wait(head, "the dashboard", lambda: is_answering(f"{self.address}/api/jobs/"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # The head last: without it the others would ask for it for a while.
        for process in reversed(self.processes):
            _end(process)
        self._folder.cleanup()

    def add_worker(self, cpus: int = 1) -> None:
        """One node more; returns when the cluster knows it."""
        expected = self.alive() + 1
        name = f"w{len(self.processes)}"
        worker = self._start(name, f"--address={self.gcs_address}", f"--num-cpus={cpus}")
        self.workers.append(worker)
        self._wait(worker, name, lambda: self.alive() >= expected)

    def kill_worker(self, number: int) -> int:
        """End a node's raylet without a warning, as a power cut does; returns its process id."""
        worker = self.workers.pop(number)
        (raylet,) = [child for child in psutil.Process(worker.pid).children() if child.name() == "raylet"]
        raylet.kill()
        worker.wait(timeout=STOP_S)
        return raylet.pid

    def alive(self) -> int:
        """Nodes that the cluster knows to be alive, the head among them."""
        with urllib.request.urlopen(f"{self.address}/api/v0/nodes", timeout=30) as answer:
            nodes = json.load(answer)["data"]["result"]["result"]
        return sum(node["state"] == "ALIVE" for node in nodes)

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
        command += [f"--node-ip-address={HOST}", f"--object-store-memory={STORE_BYTES}"]
        command += ["--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={free_ports(1)[0]}"]
        # Nodes that shared one would unpack a job's folder over one another, under the feet of the command.
        command.append(f"--temp-dir={self._folder.name}/{name}")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = os.environ | {"PATH": path, "RAY_worker_niceness": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1"}
        with (Path(self._folder.name) / f"{name}.log").open("wb") as log:
            process = subprocess.Popen([*command, *arguments], env=variables, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def _wait(self, process: subprocess.Popen[bytes], what: str, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with suppress(OSError):
                if is_there():
                    return
            if process.poll() is not None:
                break
            time.sleep(0.5)
        logs = "\n".join(path.read_text(errors="replace") for path in Path(self._folder.name).glob("*.log"))
        raise RuntimeError(f"{what} did not start within {START_S} s:\n{logs}")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def is_answering(url: str) -> bool:
    """Whether a server answers there, and well."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bool(answer.status == 200)


def _end(process: subprocess.Popen[bytes]) -> None:
    """It ends what it started, and nothing else that is called Ray."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=STOP_S)
