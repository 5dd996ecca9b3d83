"""A Ray head of our own, as `ray start` makes it, and the real Prometheus that finds it with the config in infra/."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from nigaoe.core.repeating import Repeating
from served_here import ENVIRONMENT, free_port, until
from watching_files import PROMETHEUS

BIN = Path(sys.executable).parent
SCRAPE_S = 2
START_S = 240


@dataclass(frozen=True)
class Head:
    """A cluster of one node."""

    pid: int
    address: str
    dashboard: str
    discovery: Path
    """What Ray writes for Prometheus."""

    def targets(self) -> list[str]:
        """Hosts and ports that show metrics."""
        try:
            return [target for group in json.loads(self.discovery.read_text()) for target in group["targets"]]
        except FileNotFoundError:
            return []


@contextmanager
def ray_head(cpus: int) -> Iterator[Head]:
    """A head on ports of its own, with its dashboard; it ends with the block, and nothing else that is called Ray."""
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "metrics-export-port")
    ports = {name: free_port() for name in names}
    # Sockets lie in there, whose names must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", f"--temp-dir={folder}"]
        command += ["--node-ip-address=127.0.0.1", f"--num-cpus={cpus}", "--object-store-memory=100000000"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--include-dashboard=true"]
        command += [f"--{name}={port}" for name, port in ports.items()]
        own = {"AUTOSCALER_METRIC_PORT": str(free_port()), "DASHBOARD_METRIC_PORT": str(free_port())}
        path = {"PATH": f"{BIN}:{os.environ['PATH']}"}
        with (Path(folder) / "start.log").open("w+") as log:
            process = subprocess.Popen(command, env=os.environ | ENVIRONMENT | own | path, stdout=log, stderr=log)
            try:
                head = Head(
                    process.pid,
                    f"127.0.0.1:{ports['port']}",
                    f"http://127.0.0.1:{ports['dashboard-port']}",
                    Path(folder) / "prom_metrics_service_discovery.json",
                )
                until(lambda: bool(head.targets()) or process.poll() is not None, START_S, "no targets are told")
                assert process.poll() is None, Path(log.name).read_text()
                yield head
            finally:
                process.terminate()
                process.wait(timeout=60)


class Scrape:
    """Names of all metrics that a cluster has shown since this was made; some show themselves for moments only."""

    def __init__(self, head: Head) -> None:
        self._head, self._lock, self._names = head, threading.Lock(), set[str]()

    @contextmanager
    def going_on(self) -> Iterator["Scrape"]:
        """Look every few seconds, for the length of a block."""
        with Repeating(self.look, 3.0):
            yield self

    def look(self) -> None:
        """Once; a node that is slow to answer is asked again the next time."""
        for target in self._head.targets():
            try:
                text = httpx.get(f"http://{target}/metrics", timeout=20).text
            except httpx.TransportError:
                continue
            found = {line.split("{")[0].split()[0] for line in text.splitlines() if line and line[0] != "#"}
            with self._lock:
                self._names |= found

    @property
    def names(self) -> set[str]:
        with self._lock:
            return set(self._names)


class Prometheus:
    """The real one, asked through its API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: Any) -> Any:
        """The `data` of an answer."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def has_shown(self, expr: str, minutes: int = 30) -> bool:
        """Whether an expression had a value at some moment of the last minutes."""
        return bool(self.get("query", query=f"last_over_time(({expr})[{minutes}m:5s])")["result"])


@contextmanager
def prometheus(head: Head, folder: Path) -> Iterator[Prometheus]:
    """Prometheus with the config and rules of infra/, in a hurry and pointed at this head."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {f"{name}_interval": f"{SCRAPE_S}s" for name in ("scrape", "evaluation")}
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    (job,) = config["scrape_configs"]
    (files,), (http,) = job["file_sd_configs"], job["http_sd_configs"]
    assert Path(files["files"][0]).name == head.discovery.name
    files["files"] = [str(head.discovery)]
    http["url"] = http["url"].replace("http://ray-head:8265", head.dashboard)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with prometheus_of(folder) as running:
        yield running


@contextmanager
def prometheus_of(folder: Path) -> Iterator[Prometheus]:
    """Prometheus with the config and, if there are any yet, the data in a folder."""
    program, port = shutil.which("prometheus"), free_port()
    assert program is not None
    command = [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("w+") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            until(lambda: _is_ready(url) or process.poll() is not None, START_S, "Prometheus is not ready")
            assert process.poll() is None, Path(log.name).read_text()
            yield Prometheus(url)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
