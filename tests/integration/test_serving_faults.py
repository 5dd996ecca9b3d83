"""Two engines and two ingresses under load, and all that happens to servers: nobody goes without the right picture."""

import base64
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from asked import picture_file, pixels_of
from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.registry import Registry
from nigaoe.core.transfers import sha256_of
from nigaoe.serve.cards import manifest_of_file
from nigaoe.serve.catalog import FRESH_S
from served_here import RunningServer, running, until, write_serve_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CLIENTS = 6
ANSWERS = 15
"""To be seen after each fault."""
MOST_S = 300.0
FACE = base64.b64encode(picture_file()).decode()
KINDS: dict[str, dict[str, Any]] = {
    "words": {"seed": 1, "steps": 12},
    "two": {"seed": 2, "steps": 10, "n": 2, "image": FACE, "adapter": "demo"},
    "uploaded": {"seed": 3, "steps": 14, "image": FACE, "adapter": "mine", "adapter_scale": 0.6},
    "photo": {"seed": 4, "steps": 8, "base": "toy/photo", "size": "64x96", "guidance_scale": 1.0},
    "quick": {"seed": 5, "steps": 2, "image": FACE, "adapter": "demo", "output_format": "webp"},
    "long": {"seed": 6, "steps": 40, "negative_prompt": "glasses"},
}
LEAVING: dict[str, Any] = {"seed": 7, "steps": 10, "image": FACE, "adapter": "leaving"}


@dataclass(frozen=True)
class Answer:
    """What a client got in the end."""

    kind: str
    began: float
    ended: float
    retries: int
    """What the SDK did by itself."""
    difference: int | None
    """From the same request asked alone, grey levels; None: no picture."""
    status: int
    """0: no answer."""
    message: str = ""


class Load:
    """A closed loop of clients; each is the unmodified SDK, which tries twice more what may be tried again."""

    def __init__(self, url: str, kinds: dict[str, dict[str, Any]], expected: dict[str, list[np.ndarray]]) -> None:
        self._url, self._kinds, self._expected = url, kinds, expected
        self._enough = threading.Event()
        self.answers: list[Answer] = []

    @contextmanager
    def going(self, clients: int = CLIENTS) -> Iterator["Load"]:
        """Ask all the while; what was begun is asked to its end."""
        with ThreadPoolExecutor(clients) as pool:
            loops = [pool.submit(self._ask_again_and_again, number) for number in range(clients)]
            try:
                yield self
            finally:
                self._enough.set()
        for loop in loops:
            loop.result()

    def wait_for_more(self, count: int = ANSWERS) -> None:
        """Wait for answers that are still to come to requests that are still to be made."""
        now = time.monotonic()
        until(lambda: sum(a.began > now for a in list(self.answers)) >= count, MOST_S, "the clients have stopped")

    def _ask_again_and_again(self, number: int) -> None:
        rng = random.Random(number)
        with openai.OpenAI(base_url=f"{self._url}/v1", api_key="x", timeout=240) as client:
            while not self._enough.is_set():
                kind = rng.choice(list(self._kinds))
                self.answers.append(self._asked(client, kind))

    def _asked(self, client: openai.OpenAI, kind: str) -> Answer:
        began = time.monotonic()
        try:
            raw = client.images.with_raw_response.generate(prompt="a woman, anime", extra_body=self._kinds[kind])
        except openai.APIStatusError as error:
            return Answer(kind, began, time.monotonic(), 0, None, error.status_code, str(error))
        except openai.APIConnectionError as error:
            return Answer(kind, began, time.monotonic(), 0, None, 0, repr(error))
        pictures = [pixels_of(base64.b64decode(item.b64_json or "")) for item in raw.parse().data or []]
        pairs = zip(self._expected[kind], pictures, strict=True)
        difference = max(int(np.abs(one - other).max()) for one, other in pairs)
        return Answer(kind, began, time.monotonic(), raw.retries_taken, difference, 200)


def alone(url: str, body: dict[str, Any]) -> list[np.ndarray]:
    """What a request gives when nobody else asks."""
    answer = httpx.post(f"{url}/v1/images/generations", json={"prompt": "a woman, anime"} | body, timeout=240)
    assert answer.status_code == 200, answer.text
    return [pixels_of(base64.b64decode(item["b64_json"])) for item in answer.json()["data"]]


def require_right(answers: list[Answer]) -> None:
    """Every one a picture, and the right one."""
    wrong = [answer for answer in answers if answer.status != 200 or answer.difference is None or answer.difference > 1]
    assert not wrong, wrong[:5]


def figures(answers: list[Answer]) -> str:
    """For who reads the log of a test."""
    seconds = sorted(answer.ended - answer.began for answer in answers)
    retries, statuses = sum(answer.retries for answer in answers), sorted({answer.status for answer in answers})
    worst = max((answer.difference or 0 for answer in answers), default=0)
    return (
        f"{len(answers)} answers {statuses}, {retries} retries by clients, largest difference {worst} grey levels, "
        f"median {seconds[len(seconds) // 2]:.1f} s, slowest {seconds[-1]:.1f} s"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, adapter: IPAdapter) -> Path:
    """With an adapter of the config and two of the registry."""
    path: Path = tmp_path_factory.mktemp("faults")
    save_adapter(adapter, path / "demo.safetensors")
    registry = Registry(str(path / "registry"))
    for name in ("mine", "leaving"):
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.mul_(1.01)
        file = path / f"{name}.safetensors"
        save_adapter(adapter, file)
        registry.publish(file, manifest_of_file(name, file))
    return path


@pytest.fixture(scope="module")
def config(folder: Path) -> Path:
    return write_serve_config(
        folder,
        {
            "bases": ["toy/anime", "toy/photo"],
            "image_encoder": "toy/image_encoder",
            "adapters": {"demo": str(folder / "demo.safetensors")},
            "defaults": {"steps": 4, "guidance_scale": 3.0},
            "limits": {"n": 4},
            "autoscaling": {"min_replicas": 2, "max_replicas": 2, "cold_start_s": 1},
            "ingresses": 2,
        },
    )


@pytest.fixture(scope="module")
def server(config: Path) -> Iterator[RunningServer]:
    with running(config) as server:
        until(lambda: len(server.processes("engine")) == 2, MOST_S, "two engines did not start")
        until(lambda: len(server.processes("ingress")) == 2, MOST_S, "two ingresses did not start")
        yield server


@pytest.fixture(scope="module")
def expected(server: RunningServer) -> dict[str, list[np.ndarray]]:
    return {kind: alone(server.url, body) for kind, body in (KINDS | {"leaving": LEAVING}).items()}


def test_a_poisoned_adapter_spoils_nobody_elses_picture(
    server: RunningServer, folder: Path, expected: dict[str, list[np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Put into the registry past all checks."""
    weights = load_file(folder / "demo.safetensors")
    for key, tensor in weights.items():
        if "to_v_ip" in key:
            tensor[0, 0] = float("inf")
    poisoned = folder / "poisoned.safetensors"
    save_file(weights, poisoned)
    clean = manifest_of_file("poisoned", folder / "demo.safetensors")
    Registry(str(folder / "registry")).publish(poisoned, clean.model_copy(update={"sha256": sha256_of(str(poisoned))}))
    time.sleep(FRESH_S + 0.5)
    engines = server.processes("engine")
    statuses = []
    with Load(server.url, KINDS, expected).going() as load:
        load.wait_for_more(3)
        for _ in range(6):
            body = {"prompt": "p", "seed": 1, "steps": 10, "image": FACE, "adapter": "poisoned"}
            answer = httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=240)
            statuses.append(answer.status_code)
            assert answer.status_code in {400, 500}, answer.text
            assert answer.status_code == 400 or answer.headers["x-should-retry"] == "false"
            assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
        load.wait_for_more(3)
    require_right(load.answers)
    assert server.processes("engine") == engines
    with capsys.disabled():
        sys.stdout.write(f"\npoisoned: {statuses}; beside it {figures(load.answers)}\n")


def test_losses_and_changes_cost_nobody_an_answer(
    server: RunningServer,
    config: Path,
    expected: dict[str, list[np.ndarray]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    phases: list[tuple[str, int]] = []
    load = Load(server.url, KINDS, expected)
    leavers = Load(server.url, {"leaving": LEAVING}, expected)

    def killed(kind: Any) -> None:
        lost = min(server.processes(kind))
        os.kill(lost, signal.SIGKILL)
        load.wait_for_more()
        until(lambda: len(server.processes(kind) - {lost}) == 2, MOST_S, f"the {kind} did not come back")
        load.wait_for_more()

    with load.going():
        load.wait_for_more()
        phases.append(("undisturbed", len(load.answers)))
        killed("engine")
        phases.append(("an engine killed", len(load.answers)))
        killed("ingress")
        phases.append(("an ingress killed", len(load.answers)))
        redeployed(server, config)
        load.wait_for_more()
        phases.append(("another config", len(load.answers)))
        with leavers.going(2):
            leavers.wait_for_more(4)
            asked_at = time.monotonic()
            gone = httpx.delete(f"{server.url}/v1/adapters/leaving", timeout=60)
            assert gone.status_code == 200, gone.text
            gone_at = time.monotonic()
            time.sleep(FRESH_S + 1)
            leavers.wait_for_more(4)
        load.wait_for_more()
        phases.append(("an adapter deleted", len(load.answers)))

    lines, first = [], 0
    for name, last in phases:
        lines.append(f"{name}: {figures(load.answers[first:last])}")
        first = last
    lines.append(f"the adapter that was deleted: {figures(leavers.answers)}")
    lines.append(f"drawn again by the server: {sum(server.values('nigaoe_retries_total')):.0f}")
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")
    require_right(load.answers)
    # Right up to the end, and then not there; whoever came between found one or the other.
    require_right([answer for answer in leavers.answers if answer.status != 404])
    assert all(answer.status == 200 for answer in leavers.answers if answer.ended < asked_at)
    assert all(answer.status == 404 for answer in leavers.answers if answer.began > gone_at + FRESH_S + 0.5)
    assert {answer.status for answer in leavers.answers} == {200, 404}


def redeployed(server: RunningServer, config: Path) -> None:
    """Let all processes be replaced by those of a config that allows one picture more."""
    five = {"prompt": "p", "steps": 1, "n": 5, "size": "64x64"}

    def status() -> int:
        # By a connection of its own each time, to whichever ingress it is.
        return httpx.post(f"{server.url}/v1/images/generations", json=five, timeout=240).status_code

    before = server.processes("engine") | server.processes("ingress")
    assert status() == 400
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    values["limits"]["n"] = 5
    server.deploy(write_serve_config(config.parent, values, "other.yaml"))
    until(
        lambda: not before & (server.processes("engine") | server.processes("ingress")),
        MOST_S,
        "processes of the old config go on",
    )
    assert [status() for _ in range(6)] == [200] * 6
