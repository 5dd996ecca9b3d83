"""A Ray cluster of one node on this machine, that jobs are submitted to."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent


@contextmanager
def head_node() -> Iterator[str]:
    """Address of the dashboard of a head node of our own, on ports of its own, that ends with this."""
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    # Sockets lie in there, whose names must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", f"--temp-dir={folder}"]
        command += ["--node-ip-address=127.0.0.1", "--num-cpus=2", "--object-store-memory=100000000"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--include-dashboard=true"]
        command += [f"--{name}={port}" for name, port in ports.items()]
        variables = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1"}
        with (Path(folder) / "start.log").open("w+") as log:
            head = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
            try:
                _wait_for(address, head, Path(log.name))
                yield address
            finally:
                # It ends what it started, and nothing else that is called Ray.
                head.terminate()
                head.wait(timeout=60)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _wait_for(address: str, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert head.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/api/jobs/", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())
