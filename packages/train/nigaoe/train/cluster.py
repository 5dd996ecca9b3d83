"""A Ray cluster for the length of a command: the one that was named, or a small quiet one on this machine."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from nigaoe.core.errors import ConfigError
from nigaoe.core.native_lines import without_native_lines
from nigaoe.train.config import ClusterConfig


@contextmanager
def connected(cluster: ClusterConfig, extra_cpus: int = 0) -> Iterator[None]:
    """Connect, and disconnect at the end. `extra_cpus`: of a cluster on this machine, beside those of the workers.

    Raises:
        ConfigError: No cluster answers at the address.
    """
    # A cluster of this process alone needs no token, and raw dashboards none either.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # Two-second polls are for clusters of thousands; here they only delay a restart.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # Ray's native part writes advice for Ray's developers over the progress bar.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        with without_native_lines():
            if cluster.address is None:
                cpus = math.ceil(cluster.num_workers * cluster.cpus_per_worker) + extra_cpus
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=True,
                )
            else:
                ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {cluster.address or 'this machine'!r} ({_first_line(error)}); "
            f"mend cluster.address"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
