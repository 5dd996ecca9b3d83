"""`nigaoe serve` as a process of its own, on real sockets, for tests and benchmarks to ask and to hurt."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil
import yaml

from nigaoe.core.models import locate

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_AUTH_MODE": "disabled"}
READY_S = 400.0

_DEPLOY = """
import sys, ray, yaml
from ray import serve
from nigaoe.serve.app import APP_NAME, build
from nigaoe.serve.config import ServeConfig

ray.init(sys.argv[1], log_to_driver=False)
with open(sys.argv[2], encoding="utf-8") as file:
    config = ServeConfig.model_validate(yaml.safe_load(file))
serve.run_many([serve.RunTarget(build(config), APP_NAME, "/")])
"""


@dataclass(frozen=True)
class RunningServer:
    """One that answers."""

    url: str
    pid: int
    metrics_url: str
    log: Path
    """All that its process has said."""

    def processes(self, kind: Literal["engine", "ingress", "ProxyActor"]) -> set[int]:
        """Those that draw, that speak our HTTP, or that pass it on."""
        title = kind if kind == "ProxyActor" else f"ServeReplica:nigaoe:{kind}"
        return {process.pid for process in psutil.Process(self.pid).children(recursive=True) if _is(process, title)}

    def values(self, name: str, **tags: str) -> list[float]:
        """A metric as every process shows it; Ray collects them every few seconds."""
        found = []
        for line in httpx.get(self.metrics_url, timeout=30).text.splitlines():
            if line.startswith((f"ray_{name}{{", f"ray_{name} ")) and all(
                f'{key}="{value}"' in line for key, value in tags.items()
            ):
                found.append(float(line.split()[-1]))
        return found

    def wait_for(self, name: str, is_so: Callable[[float], bool]) -> None:
        """Wait until the sum of a metric is as it should be."""
        until(lambda: is_so(sum(self.values(name))), 60, f"{name} is {sum(self.values(name))}")

    def deploy(self, config: Path) -> None:
        """Let another config take the place of the one that runs, as `serve deploy` would.

        Ends when Ray Serve says that all of it is up.
        """
        (address,) = {
            found[1]
            for process in psutil.Process(self.pid).children(recursive=True)
            if (found := re.search(r"--gcs-address=([\d.]+:\d+)", _command(process)))
        }
        command = [sys.executable, "-c", _DEPLOY, address, str(config)]
        subprocess.run(command, check=True, timeout=READY_S, env=os.environ | ENVIRONMENT, capture_output=True)


def until(is_so: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait for something that other processes bring about."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def write_serve_config(folder: Path, values: dict[str, Any], name: str = "serve.yaml") -> Path:
    """A config of these values, with places and ports of its own where they name none."""
    own: dict[str, Any] = {
        "storage": {"objects": str(folder / "objects"), "registry": str(folder / "registry")},
        "watching": {"metrics_port": free_port()},
        "playground": False,
        "port": 0,
        "ready_file": str(folder / "ready.json"),
    }
    config = folder / name
    config.write_text(yaml.safe_dump(own | values), encoding="utf-8")
    return config


def toy_server_config(folder: Path) -> Path:
    """Two toy bases, the toy adapter and a page; so eager for replicas that four requests are too much for one."""
    adapter = Path(locate("toy/adapter", "adapter")) / "adapter.safetensors"
    values = {
        "bases": ["toy/anime", "toy/photo"],
        "image_encoder": "toy/image_encoder",
        "adapters": {"demo": str(adapter)},
        "defaults": {"steps": 4, "guidance_scale": 3.0},
        "limits": {"body_mb": 1.0, "n": 4, "steps": 1000},
        "playground": True,
        "autoscaling": {"min_replicas": 1, "max_replicas": 2, "wait_s": 1, "cold_start_s": 1, "idle_s": 15},
    }
    return write_serve_config(folder, values)


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(*arguments: str) -> list[str]:
    """`nigaoe serve`."""
    return [sys.executable, "-m", "nigaoe.core.cli", "serve", *arguments]


@contextmanager
def running(config: Path) -> Iterator[RunningServer]:
    """The server of a config that `write_serve_config` wrote; its log lies beside it."""
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    ready, log = Path(values["ready_file"]), config.with_suffix(".log")
    with log.open("w+") as file:
        process = subprocess.Popen(command(str(config)), stdout=file, stderr=file, env=os.environ | ENVIRONMENT)
        try:
            deadline = time.monotonic() + READY_S
            while not ready.exists():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            url = json.loads(ready.read_text())["url"]
            metrics_url = f"http://127.0.0.1:{values['watching']['metrics_port']}/metrics"
            yield RunningServer(url, process.pid, metrics_url, log)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=120) == 0, log.read_text()
            assert not ready.exists()
        finally:
            process.kill()


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _is(process: psutil.Process, title: str) -> bool:
    try:
        return title in _command(process) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
