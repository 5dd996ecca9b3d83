"""Ray clusters of several nodes on one machine: each node has a raylet and processes of its own, all share the disk."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.cluster_utils import Cluster

STORE_BYTES = 80 * 1024**2
"""Of a node's object store; the least that Ray takes is 75 MiB."""


class SimulatedCluster:
    """A head that only drivers and controllers use, and nodes of one worker each."""

    def __init__(self, nodes: int) -> None:
        # Raylets hand their environment down to the workers.
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - so it is spelled
        self._cluster = Cluster(initialize_head=True, head_node_args=_node(cpus=0))
        self.nodes: list[Any] = []
        for _ in range(nodes):
            self.add()

    @property
    def address(self) -> str:
        """Host and port, for `cluster.address`."""
        return str(self._cluster.address)

    def add(self, cpus: int = 1) -> None:
        """One node more."""
        self.nodes.append(self._cluster.add_node(**_node(cpus)))

    def kill(self, number: int) -> None:
        """Take a node away without a warning."""
        self._cluster.remove_node(self.nodes.pop(number), allow_graceful=False)

    def drain(self, number: int, deadline_s: int) -> None:
        """Give notice that a node will be taken away, as a cloud does of a spot machine."""
        node, command = self.nodes[number].node_id, [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
        told = {
            "address": self.address,
            "node-id": node,
            "reason": "DRAIN_NODE_REASON_PREEMPTION",
            "reason-message": "a test",
            "deadline-remaining-seconds": deadline_s,
        }
        options = [f"--{name}={value}" for name, value in told.items()]
        subprocess.run([*command, *options], check=True, capture_output=True, timeout=120)

    def stop(self) -> None:
        """End every process of it."""
        self._cluster.shutdown()  # type: ignore[no-untyped-call]


@contextmanager
def simulated_cluster(nodes: int) -> Iterator[SimulatedCluster]:
    """For the length of a block."""
    cluster = SimulatedCluster(nodes)
    try:
        yield cluster
    finally:
        cluster.stop()


def _node(cpus: int) -> dict[str, Any]:
    return {"num_cpus": cpus, "object_store_memory": STORE_BYTES, "include_dashboard": False}
