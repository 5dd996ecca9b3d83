"""From a config to a server that answers, and to a clean end."""

import json
import logging
import math
import os
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import ray
import typer
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import ApplicationStatus, LoggingConfig

from nigaoe.core.errors import ConfigError, NigaoeError
from nigaoe.core.native_lines import without_native_lines
from nigaoe.core.storage import absolute
from nigaoe.serve.app import APP_NAME, INGRESS_CPUS, build
from nigaoe.serve.config import ServeConfig
from nigaoe.serve.engine.loading import require_loadable
from nigaoe.serve.playground import app as page
from nigaoe.serve.playground import config as playground

_OBJECT_STORE_BYTES = 512 * 1024 * 1024
_REPORT_S = "1"
"""Seconds between what replicas and ingresses of a local Ray tell the autoscaler; Ray's own default is 10."""


class _StopRequested(BaseException):
    """SIGINT or SIGTERM; like KeyboardInterrupt, nothing but the end may catch it."""


def serve_until_stopped(config: ServeConfig) -> None:
    """Serve until SIGINT or SIGTERM, and say where as soon as requests are answered.

    Raises:
        NigaoeError: It cannot start.
    """
    require_loadable(config)
    port = _port(config)
    with _stop_signals(), _cluster(config), _application(config, port) as url, _announced(config, url):
        threading.Event().wait()


@contextmanager
def _stop_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into an end of the block, once; a second one does not disturb the cleaning up."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise _StopRequested

    with suppress(_StopRequested):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        yield


@contextmanager
def _cluster(config: ServeConfig) -> Iterator[None]:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    logging.getLogger("ray").setLevel(logging.ERROR)
    with without_native_lines():
        _connect(config)
    # Ray brings handlers of its own.
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
        signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _connect(config: ServeConfig) -> None:
    if config.ray_address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        for who in ("REPLICA", "HANDLE"):
            os.environ.setdefault(f"RAY_SERVE_{who}_AUTOSCALING_METRIC_PUSH_INTERVAL_S", _REPORT_S)
        wanted = config.num_cpus * config.autoscaling.max_replicas + INGRESS_CPUS * 2 * config.ingresses
        ray.init(
            # Said, or Ray joins whatever cluster was last started on this machine, be it gone or not.
            address="local",
            # A laptop may run more replicas than it has cores.
            num_cpus=max(2, os.cpu_count() or 2, math.ceil(wanted)),
            include_dashboard=False,
            _metrics_export_port=config.watching.metrics_port,
            object_store_memory=_OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    else:
        ray.init(config.ray_address, log_to_driver=False, logging_level=logging.ERROR)


@contextmanager
def _application(config: ServeConfig, port: int) -> Iterator[str]:
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.start(http_options=HTTPOptions(host=config.host, port=port), logging_config=quiet)
    url = config.local_url(port)
    targets = [serve.RunTarget(build(_absolute(config)), APP_NAME, "/", quiet)]
    if config.playground:
        application = page.build(playground.PlaygroundConfig.of(config, port))
        targets.append(serve.RunTarget(application, playground.APP_NAME, playground.ROUTE_PREFIX, quiet))
    names = [target.name for target in targets]
    try:
        serve.run_many(targets, wait_for_applications_running=False)
        _wait_until_answering(url, config.ready_timeout_s)
        yield url
    finally:
        _remove_applications(names)


def _remove_applications(names: Sequence[str]) -> None:
    """Let requests under way finish. Not serve.shutdown: a shared cluster may serve others, a local one ends anyway."""
    host, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
    removal = threading.Thread(target=lambda: [serve.delete(name) for name in names], daemon=True)
    removal.start()
    while removal.is_alive():
        removal.join(0.2)
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError:
            # A signal to the whole process group has ended Ray already, and its client would wait a minute for it.
            return


@contextmanager
def _announced(config: ServeConfig, url: str) -> Iterator[None]:
    typer.echo(f"serving on {url} (stop with Ctrl-C)")
    file = config.ready_file
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(file.name + ".part")
        part.write_text(json.dumps({"url": url, "pid": os.getpid()}) + "\n", encoding="utf-8")
        part.replace(file)
    try:
        yield
    finally:
        if file is not None:
            file.unlink(missing_ok=True)


def _wait_until_answering(url: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        overview = serve.status().applications.get(APP_NAME)
        if overview is not None and overview.status == ApplicationStatus.DEPLOY_FAILED:
            reasons = [deployment.message for deployment in overview.deployments.values()]
            raise NigaoeError(_start_failure("\n".join([overview.message, *reasons])))
        if overview is not None and overview.status == ApplicationStatus.RUNNING and _is_answering(url):
            return
        time.sleep(0.2)
    raise NigaoeError(
        f"the server did not answer within ready_timeout_s={timeout_s:g}; see that the cluster has the CPUs and GPUs "
        "that a replica reserves, or raise it"
    )


def _is_answering(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _start_failure(message: str) -> str:
    """The sentence of our own error in what Ray reports of a replica, or its last line."""
    own = re.findall(r"nigaoe\.core\.errors\.\w+(?:\x1b\[\d+m)?: (.+)", message)
    lines = [line for line in message.splitlines() if line.strip()]
    return own[-1] if own else f"no replica could be started ({lines[-1].strip()}); see the logs of Ray Serve"


def _absolute(config: ServeConfig) -> ServeConfig:
    # Replicas may run in another working directory.
    found = {name: Path(where) for name, where in config.adapters.items() if Path(where).exists()}
    storage, access = config.storage, config.access
    return config.model_copy(
        update={
            "adapters": config.adapters | {name: path.resolve() for name, path in found.items()},
            "storage": storage.model_copy(
                update={
                    "registry": None if storage.registry is None else absolute(storage.registry),
                    "objects": absolute(storage.objects),
                }
            ),
            "access": access.model_copy(
                update={"keys_file": None if access.keys_file is None else access.keys_file.resolve()}
            ),
        }
    )


def _port(config: ServeConfig) -> int:
    if config.ray_address is not None and config.port:
        return config.port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(
                f"{config.host}:{config.port} cannot be served on ({reason}); choose another host or port"
            ) from None
        return int(probe.getsockname()[1])
