"""Training, serving and an evaluation's gauges on one cluster, watched by the real Prometheus as infra/ sets it up.

Every metric that a rule or a panel names must have been shown, and every panel must have had something to draw.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from nigaoe.core.models import locate
from nigaoe.core.toy.portraits import write_portraits
from served_here import ENVIRONMENT, RunningServer, running, until, write_serve_config
from training_runs import start, write_config
from watched_here import Head, Prometheus, Scrape, prometheus, ray_head
from watching_files import (
    DASHBOARDS,
    alerts,
    dashboard,
    load_preview,
    metric_names,
    needs_prometheus,
    queries,
    recorded,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

NOT_ON_A_CPU = {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_nigaoe_train_mfu_ratio"}
"""Ray's and ours of devices that this machine may not have, or whose most nobody knows."""
EMPTY_ON_A_CPU = {"GPUs", "GPU memory", "MFU"}
"""Panels of these alone."""
COLLECT_S = 25
"""Until what was just counted has come to Ray's agent and from there to whoever reads it."""

_EVALUATION = """
import sys, time, ray
from nigaoe.eval.running.progress import ProgressGauges

ray.init(sys.argv[1], log_to_driver=False)
with ProgressGauges("faces", shards=4) as gauges:
    for failed in (0, 1, 0):
        gauges.finished(images=8, failed_samples=failed)
        time.sleep(12)
"""


@dataclass(frozen=True)
class Watched:
    """A cluster on which everything has run."""

    head: Head
    scrape: Scrape
    prometheus: Prometheus | None
    since: float
    """When it began, in seconds since 1970."""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder, since = tmp_path_factory.mktemp("watched"), time.time()
    with ray_head(cpus=8) as head, Scrape(head).going_on() as scrape:
        if shutil.which("prometheus") is None:
            run_everything(head, scrape, folder)
            yield Watched(head, scrape, None, since)
        else:
            with prometheus(head, folder) as watcher:
                run_everything(head, scrape, folder)
                yield Watched(head, scrape, watcher, since)


def run_everything(head: Head, scrape: Scrape, folder: Path) -> None:
    train(head, folder)
    command = [sys.executable, "-c", _EVALUATION, head.address]
    evaluation = subprocess.run(
        command,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    assert evaluation.returncode == 0, evaluation.stdout.decode()
    with running(serve_config(head, folder)) as server:
        serve(replace(server, pid=head.pid), scrape)


def train(head: Head, folder: Path) -> None:
    """A run of a minute or two, with checkpoints."""
    write_portraits(folder / "portraits", people=8, scenes=1, split="train", seed=0)
    cluster = {"num_workers": 1, "address": head.address}
    config = write_config(folder, folder / "run", steps=300, checkpoint_every=100, cluster=cluster)
    values = yaml.safe_load(config.read_text())
    # Encoded anew in every step, which spares the run a preparation.
    values["data"] |= {"cached": False, "source": str(folder / "portraits" / "captions.csv")}
    config.write_text(yaml.safe_dump(values))
    run = start("train", config)
    try:
        output, _ = run.communicate(timeout=400)
    finally:
        run.kill()
    assert run.returncode == 0, output


def serve_config(head: Head, folder: Path) -> Path:
    adapter = Path(locate("toy/adapter", "adapter")) / "adapter.safetensors"
    values: dict[str, Any] = {
        "bases": ["toy/photo"],
        "image_encoder": "toy/image_encoder",
        "adapters": {"demo": str(adapter)},
        "limits": {"steps": 1000, "n": 5000},
        "ray_address": head.address,
    }
    return write_serve_config(folder, values)


def edit(server: RunningServer, seeds: tuple[int, ...]) -> None:
    """Have a face drawn, once for each seed."""
    face = (Path(__file__).parents[2] / "docs" / "images" / "image_prompts.png").read_bytes()
    for seed in seeds:
        form: dict[str, Any] = {"prompt": "a woman", "steps": "4", "seed": str(seed)}
        answer = httpx.post(
            f"{server.url}/v1/images/edits", files={"image": ("face.png", face)}, data=form, timeout=240
        )
        assert answer.status_code == 200, answer.text


def serve(server: RunningServer, scrape: Scrape) -> None:
    """Drawn with a face, refused, and drawn again after the loss of a replica."""
    edit(server, seeds=(1, 1, 2))
    url = f"{server.url}/v1/images/generations"
    # Hours of work.
    late = httpx.post(url, json={"prompt": "a man", "steps": 1000, "n": 5000}, timeout=240)
    assert late.status_code == 429, late.text
    # What a replica counted has to be told before it is killed.
    until(lambda: "ray_nigaoe_rows_in_flight" in scrape.names, 120, "the engine tells nothing")
    time.sleep(COLLECT_S)
    # Prometheus sees a count rise only after it has seen it once.
    edit(server, seeds=(1, 3, 4))
    time.sleep(COLLECT_S)
    events, order = [], {"prompt": "a man", "steps": 200, "stream": True, "partial_images": 3}
    with httpx.stream("POST", url, json=order, timeout=400) as stream:
        for line in stream.iter_lines():
            if line.startswith("event:"):
                events.append(line)
                if len(events) == 1:
                    (engine,) = server.processes("engine")
                    os.kill(engine, signal.SIGKILL)
    assert "completed" in events[-1], events
    time.sleep(COLLECT_S)


def test_every_metric_that_is_watched_is_shown(watched: Watched) -> None:
    asked = {name for query in queries() for name in metric_names(query.expr)} - recorded() - {"up"}
    missing = asked - watched.scrape.names
    assert missing <= NOT_ON_A_CPU
    assert all(name.removeprefix("ray_") in METRICS_GAUGES for name in NOT_ON_A_CPU if name.startswith("ray_node_"))


@needs_prometheus
def test_prometheus_finds_every_node_once_and_evaluates_every_rule(watched: Watched) -> None:
    assert watched.prometheus is not None
    targets = watched.prometheus.get("targets", state="active")["activeTargets"]
    urls = [target["scrapeUrl"] for target in targets]
    assert sorted(urls) == sorted(f"http://{target}/metrics" for target in watched.head.targets())
    assert {target["health"] for target in targets} == {"up"}, json.dumps(targets, indent=1)
    rules = [rule for group in watched.prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == alerts().keys() | recorded()
    assert [rule for rule in rules if rule["health"] != "ok"] == []
    for name in recorded():
        assert watched.prometheus.has_shown(name)
    # One replica was lost, and replaced. Only of its speed may a busy machine think otherwise.
    firing = {rule["name"] for rule in rules if rule.get("state") == "firing"}
    assert firing <= {"NigaoeLatencyOverTarget"}


@needs_prometheus
def test_every_panel_has_something_to_draw(watched: Watched) -> None:
    assert watched.prometheus is not None
    shown: dict[str, bool] = {}
    for query in queries():
        if query.place not in alerts() and not metric_names(query.expr) <= NOT_ON_A_CPU:
            shown[query.place] = shown.get(query.place, False) or watched.prometheus.has_shown(query.expr)
    assert [place for place, has in shown.items() if not has] == []


@needs_prometheus
def test_dashboards_can_be_read(watched: Watched, tmp_path: Path) -> None:
    """As `infra/monitoring/preview.py` draws them; `--basetemp` keeps the pictures."""
    assert watched.prometheus is not None
    preview, empty = load_preview(), {}
    for path in DASHBOARDS:
        board, over = dashboard(path), preview.Window(watched.since, time.time())
        data = preview.answers(watched.prometheus.url, board, over)
        empty[path.stem] = {title for title, series in data.items() if not series}
        preview.save(preview.draw(board, data, over), tmp_path / f"{path.stem}.png")
    titles = {path.stem: {panel["title"] for panel in dashboard(path)["panels"]} for path in DASHBOARDS}
    assert empty == {stem: EMPTY_ON_A_CPU & found for stem, found in titles.items()}
