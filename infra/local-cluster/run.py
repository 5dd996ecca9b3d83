"""A cluster of several nodes on this machine, and on it what operators do: prepare, train, evaluate, promote, serve.

One worker node is killed while it trains. The last lines say what was checked; it exits with 1 if anything was lost.
"""

import argparse
import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
import yaml
from checking import Checks, ask
from nodes import HOST, LocalCluster, free_ports, is_answering
from PIL import Image

from nigaoe.core.manifests import read_adapter_manifest
from nigaoe.core.registry import Registry
from nigaoe.core.reports import read_report
from nigaoe.core.transfers import sha256_of
from nigaoe.train.watching.history import read_history

PEOPLE, SCENES, HELD_OUT = 12, 2, 4
STEPS, CHECKPOINT_EVERY, KILL_AT = 200, 20, 50
COMMAND_S = 900
SIDE_PX = 96


def main() -> None:
    """Run everything in a folder, which may be there already."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=Path("runs/local-cluster"))
    out = parser.parse_args().out.resolve()
    if (out / "train").exists():
        sys.exit(f"{out} holds an earlier run, which this one would go on with; remove it or name another folder")
    out.mkdir(parents=True, exist_ok=True)
    # So that the nodes are ended whoever ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    write_configs(out)
    nigaoe("toy", "portraits", out / "portraits", "--people", PEOPLE, "--scenes", SCENES)
    nigaoe("toy", "portraits", out / "stranger", "--people", 1, "--scenes", 1, "--split", "heldout")
    checks = Checks("Checked on a head and two worker nodes, one of which was killed in training:")
    with LocalCluster() as cluster:
        say(f"head node, with its dashboard at {cluster.address}")
        for _ in range(2):
            cluster.add_worker()
        prepare(cluster, out, checks)
        train(cluster, out, checks)
        evaluate(cluster, out, checks)
        promote(out, checks)
        serve(cluster, out, checks)
        nigaoe("status", "--address", cluster.address)
    checks.add(all(p.poll() is not None for p in cluster.processes), "nodes ended by their ids", len(cluster.processes))
    sys.exit(0 if checks.show() else 1)


def prepare(cluster: LocalCluster, out: Path, checks: Checks) -> None:
    """Encode the pictures, and have the manifest brought back."""
    # One process that decodes and one that encodes: two nodes of one CPU have room for no more.
    submit(cluster, "prepare", out / "train.yaml", "cluster.num_workers=1", "--fetch", out / "fetched/prepare")
    rows = json.loads((out / "fetched/prepare/manifest.json").read_bytes())["rows"]
    checks.add(rows == PEOPLE * SCENES, "pictures prepared, by the manifest that came back", rows)


def train(cluster: LocalCluster, out: Path, checks: Checks) -> None:
    """Train with a worker on each node, and kill one of the nodes."""
    with following(cluster, "train", out / "train.yaml", "--fetch", out / "fetched/train") as job:
        wait_until(lambda: read_history(out / "train").step > 0, "the first step", job)
        running = [one for one in status(cluster)["jobs"] if one["state"] == "running"]
        kinds = [one["kind"] for one in running]
        checks.add(kinds == ["train"], "jobs that run, by `nigaoe status`", kinds)
        wait_until(lambda: read_history(out / "train").step >= KILL_AT, f"step {KILL_AT}", job)
        before = read_history(out / "train").step
        say(f"killed a worker node at step {before}, raylet {cluster.kill_worker(0)}")
        # As an autoscaler would.
        cluster.add_worker()
        checks.add(job.wait(COMMAND_S) == 0, "exit code of the training job", job.returncode)
    history = read_history(out / "train")
    starts = [(start.step, start.world_size) for start in history.starts]
    went_on = history.restarts[0] if history.restarts else 0
    checks.add(went_on > 0 and went_on % CHECKPOINT_EVERY == 0, "training went on from a checkpoint", starts)
    steps = [line["step"] for line in history.lines]
    whole = len(steps) == len(set(steps)) and steps == sorted(steps) and history.step == STEPS
    checks.add(whole, f"steps of {STEPS}, each counted once", history.step)
    trained, brought = sha256_of(str(out / "train/adapter.safetensors")), out / "fetched/train/adapter.safetensors"
    checks.add(sha256_of(str(brought)) == trained, "adapter that came back is the one trained", trained[:12])
    checks.add(read_adapter_manifest(out / "train/adapter.json").training is not None, "its manifest", "whole")
    states = [node["state"] for node in status(cluster)["nodes"]]
    checks.add(states.count("dead") == 1 and states.count("alive") == 3, "nodes by `nigaoe status`", states)


def evaluate(cluster: LocalCluster, out: Path, checks: Checks) -> None:
    """Evaluate the adapter on both remaining worker nodes, and have the report brought back."""
    submit(cluster, "eval", out / "eval.yaml", "--fetch", out / "fetched/eval")
    report = read_report(out / "fetched/eval/report.json")
    samples = {cell.name: cell.n for cell in report.cells}
    checks.add(
        samples["photo-adapter"] == samples["anime-adapter"] == HELD_OUT, "people evaluated in each style", samples
    )
    digest = sha256_of(str(out / "train/adapter.safetensors"))
    checks.add(report.adapters.get("local") == digest, "the report is of this adapter", digest[:12])
    checks.add((out / "fetched/eval/report.html").stat().st_size > 10_000, "its page came back", "report.html")


def promote(out: Path, checks: Checks) -> None:
    """Publish the adapter by its report: not past a gate that it misses, but past one that it reaches."""
    arguments = (out / "train", out / "fetched/eval/report.json")
    refused = nigaoe("promote", *arguments, out / "gate-high.yaml", "--registry", out / "registry", expected=2)
    checks.add(refused == 2, "exit code of a promotion past a gate that is missed", refused)
    nigaoe("promote", *arguments, out / "gate.yaml", "--registry", out / "registry")
    (entry,) = Registry(str(out / "registry")).entries()
    digest = sha256_of(str(out / "train/adapter.safetensors"))
    checks.add(entry.sha256 == digest, "adapter in the registry is the one trained", f"{entry.name} {digest[:12]}")


def serve(cluster: LocalCluster, out: Path, checks: Checks) -> None:
    """Deploy a server of that registry on the same cluster, and ask it for one picture."""
    (port,) = free_ports(1)
    done = subprocess.run(
        [*command(), "serve-config", str(out / "serve.yaml"), f"port={port}"],
        check=True,
        capture_output=True,
        text=True,
    )
    # One machine has each port once.
    deployed = yaml.safe_load(done.stdout) | {"proxy_location": "HeadOnly"}
    (out / "deploy.yaml").write_text(yaml.safe_dump(deployed, sort_keys=False))
    say("serve deploy deploy.yaml")
    tool = str(Path(sys.executable).with_name("serve"))
    subprocess.run([tool, "deploy", str(out / "deploy.yaml"), "--address", cluster.address], check=True, timeout=120)
    wait_until(lambda: is_answering(f"http://{HOST}:{port}/healthz"), "the server", None)
    picture = ask(f"http://{HOST}:{port}", next((out / "stranger").glob("*.jpg")), "local", SIDE_PX)
    (out / "answer.png").write_bytes(picture)
    size = Image.open(io.BytesIO(picture)).size
    checks.add(size == (SIDE_PX, SIDE_PX), "a picture was served with it", f"{size[0]}x{size[1]} px, answer.png")
    replicas = {one["name"]: one["replicas"] for one in status(cluster)["deployments"]}
    checks.add(bool(replicas) and all(replicas.values()), "replicas by `nigaoe status`", replicas)


def write_configs(out: Path) -> None:
    """Small ones of every kind."""
    cell = {"metric": "attribute.mean", "at": ">=", "counts": "value", "min_n": HELD_OUT}
    # So few people say nothing of an adapter; that the gate is obeyed is what shows.
    gates = {"gate": 0.05, "gate-high": 1.01}
    relaxed = {"checks": True, "no_flags": False}
    written: dict[str, Any] = {
        "train": {
            "name": "local",
            "out": str(out / "train"),
            "base": "toy/photo",
            "image_encoder": "toy/image_encoder",
            "data": {
                "source": str(out / "portraits/captions.csv"),
                "prepared": str(out / "prepared"),
                "shard_rows": 8,
                "reference": "other",
            },
            "steps": STEPS,
            "batch_size": 4,
            "ema_decay": 0.9,
            "checkpoint_every": CHECKPOINT_EVERY,
            "optimizer": {"lr": 2e-3},
            "tracking": {"mode": "disabled"},
            "cluster": {"num_workers": 2, "min_workers": 1, "max_failures": 3},
        },
        "eval": {
            "title": "A local cluster",
            "out": str(out / "eval"),
            "protocol": {"kind": "toy", "n": HELD_OUT, "yardstick_n": HELD_OUT},
            "adapters": {"local": str(out / "train")},
            "sampling": {"steps": 2, "max_rows": 4},
            "shard_size": 2,
            "pictures": 2,
            "workers": 2,
            "cache": str(out / "cache"),
        },
        "serve": {
            "bases": ["toy/anime"],
            "image_encoder": "toy/image_encoder",
            "playground": False,
            "limits": {"width": 192, "height": 192},
            "storage": {"registry": str(out / "registry"), "objects": str(out / "objects")},
        },
        **{
            name: {"thresholds": [{"cell": "photo-adapter", "bound": bound, **cell}], "require": relaxed}
            for name, bound in gates.items()
        },
    }
    for name, values in written.items():
        (out / f"{name}.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def submit(cluster: LocalCluster, *arguments: object) -> None:
    """Submit a job and follow it to its end."""
    nigaoe("submit", *arguments, "--address", cluster.address)


@contextlib.contextmanager
def following(cluster: LocalCluster, *arguments: object) -> Iterator["subprocess.Popen[bytes]"]:
    """Submit a job and follow it beside what else is done."""
    words = [*command(), "submit", *map(str, arguments), "--address", cluster.address]
    say(" ".join(["nigaoe", *words[len(command()) :]]))
    process = subprocess.Popen(words)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def status(cluster: LocalCluster) -> dict[str, Any]:
    """What `nigaoe status` says."""
    words = [*command(), "status", "--json", "--address", cluster.address]
    said: dict[str, Any] = json.loads(subprocess.run(words, check=True, capture_output=True, timeout=120).stdout)
    return said


def nigaoe(*arguments: object, expected: int = 0) -> int:
    """Run a command as a user would; one that ends otherwise than expected ends everything."""
    say(" ".join(["nigaoe", *map(str, arguments)]))
    done = subprocess.run([*command(), *map(str, arguments)], timeout=COMMAND_S)
    if done.returncode != expected:
        sys.exit(f"nigaoe {arguments[0]} ended with {done.returncode}, not {expected}")
    return done.returncode


def command() -> list[str]:
    """`nigaoe`, of this very environment."""
    return [sys.executable, "-m", "nigaoe.core.cli"]


def wait_until(is_so: Callable[[], bool], what: str, job: "subprocess.Popen[bytes] | None") -> None:
    """Wait for something; a job that ends before it ends everything."""
    deadline = time.monotonic() + COMMAND_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if is_so():
                return
        if job is not None and job.poll() is not None:
            sys.exit(f"the job ended with {job.returncode} before {what}")
        time.sleep(0.1)
    sys.exit(f"{what} did not come within {COMMAND_S} s")


def say(text: str) -> None:
    """What is done next."""
    typer.echo(f"\n$ {text}")


if __name__ == "__main__":
    main()
