"""A folder in which the documentation's commands are typed: the checkout's configs, cut down to the toy world."""

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from docs_pages import ROOT, Block, laid_over, typed
from nigaoe.core.models import locate
from served_here import free_port

COMMAND_S, READY_S = 400.0, 400.0
STAND_INS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "toy/photo",
    "dreamlike-art/dreamlike-anime-1.0": "toy/anime",
    "h94/IP-Adapter/models/image_encoder": "toy/image_encoder",
    "openai/clip-vit-large-patch14": "toy/clip",
}
"""Hub id to what stands for it: a folder of that name goes before the hub."""
_ON_A_CPU = {"cluster": {"address": None, "num_workers": 1, "use_gpu": False, "cpus_per_worker": 1, "max_failures": 0}}
_FEW = {"steps": 4, "batch_size": 8, "checkpoint_every": 2, "tracking": {"mode": "offline"}}
_SHORT = {"steps": 4, "precision": "bfloat16", "max_rows": 8}
SMALL: dict[str, dict[str, Any]] = {
    "configs/demo/train.yaml": {**_FEW, "data": {"shard_rows": 16}},
    "configs/demo/eval.yaml": {"workers": 1, "protocol": {"n": 8, "yardstick_n": 8}, "sampling": {"steps": 4}},
    "configs/toy/eval.yaml": {"workers": 1, "protocol": {"n": 8, "yardstick_n": 8}, "sampling": {"steps": 4}},
    "configs/sd15/train.yaml": {**_FEW, **_ON_A_CPU, "data": {"resolution_px": 96}},
    "configs/sd15/eval.yaml": {"workers": 1, "gpus_per_worker": 0, "sampling": _SHORT},
    "configs/demo/serve.yaml": {"defaults": {"steps": 4}},
    "configs/sd15/serve.yaml": {
        "precision": "float32",
        "num_gpus": 0,
        "autoscaling": {"max_replicas": 1},
        "defaults": {"steps": 4},
    },
}
"""What differs of a config here: sizes, and where it runs. Everything else is the checkout's."""


@dataclass
class Terminal:
    """Where somebody types what a page says, one command after the other."""

    folder: Path
    here: dict[str, str]
    """Names in the pages, and what they are called here."""
    port: int
    _server: "subprocess.Popen[bytes] | None" = None

    def type(self, block: Block) -> list[str]:
        """Run a block's commands, in a folder and in an order that are the reader's; returns what each printed.

        A server goes on until the end, and a picture that `curl` asked for has to come.
        """
        said, assigned = [], ""
        for line in typed(block):
            command = self.called_here(line.command)
            if re.fullmatch(r"\w+=\S+|\w+=\".*\"", command):
                assigned += f"{command}\n"
            elif command.startswith("nigaoe serve "):
                self._serve(command)
            else:
                said.append(self._run(assigned + command))
                if command.startswith("curl "):
                    require_a_picture(said[-1])
                require_form(line.shown, said[-1])
        return said

    def python(self, block: Block, before: str = "") -> None:
        """Run a block of Python, after lines that the page leaves out."""
        script = self.folder / "block.py"
        script.write_text(before + self.called_here(block.code))
        self._run(f"python {script.name}")

    def lay(self, config: str, change: Mapping[str, Any]) -> None:
        """Change a config as its reader would."""
        path = self.folder / config
        values = yaml.safe_load(path.read_text())
        # Of two applications of a server the first one is the server's own.
        own = values["applications"][0]["args"] if "applications" in values else values
        own.update(laid_over(own, change))
        path.write_text(yaml.safe_dump(values, sort_keys=False))

    def stop(self) -> None:
        """End the server as Ctrl-C would."""
        if self._server is not None:
            self._server.send_signal(signal.SIGTERM)
            assert self._server.wait(timeout=120) == 0, self._log.read_text()
            self._server = None

    @property
    def _log(self) -> Path:
        return self.folder / "serve.log"

    def called_here(self, text: str) -> str:
        """A text of the pages with the names of this place."""
        for name, here in self.here.items():
            text = text.replace(name, here)
        return text

    def _environment(self) -> dict[str, str]:
        own = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "NIGAOE_CACHE": str(self.folder / "cache"),
        }
        return os.environ | own | {"OMP_NUM_THREADS": "1"}

    def _run(self, command: str) -> str:
        began_s = time.monotonic()
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )
        # Shown where a test fails.
        sys.stderr.write(f"{time.monotonic() - began_s:5.0f} s  $ {command}\n")
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _serve(self, command: str) -> None:
        assert self._server is None, "one server at a time"
        with self._log.open("w") as log:
            self._server = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self._environment(), stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY_S
        while f"serving on http://127.0.0.1:{self.port} " not in self._log.read_text():
            assert self._server.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.2)
        sys.stderr.write(f"{time.monotonic() - deadline + READY_S:5.0f} s  $ {command}\n")


@contextmanager
def terminal(folder: Path, here: Mapping[str, str] | None = None) -> Iterator[Terminal]:
    """Open one in a folder with the configs of the checkout; `here`: more names, and what they are called here."""
    port = free_port()
    ports = {"127.0.0.1:8000": f"127.0.0.1:{port}", "port=8000": f"port={port}"}
    names = {"/mnt/shared": str(folder / "shared"), **ports, **(here or {})}
    opened = Terminal(folder, names, port)
    for hub_id, toy in STAND_INS.items():
        (folder / hub_id).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(locate(toy), folder / hub_id)
    for path in (ROOT / "configs").rglob("*.yaml"):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(opened.called_here(path.read_text()))
    for name, change in SMALL.items():
        opened.lay(name, change)
    for path in folder.glob("configs/*/serve.yaml"):
        values = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump(values | {"http_options": {"host": "127.0.0.1", "port": port}}))
    try:
        yield opened
        opened.stop()
    finally:
        if opened._server is not None:
            opened._server.kill()


def require_a_picture(answer: str) -> None:
    """Hold a server's answer against what OpenAI's clients expect."""
    (item,) = json.loads(answer)["data"]
    with Image.open(io.BytesIO(base64.b64decode(item["b64_json"]))) as picture:
        assert picture.format == "PNG"
        assert len(set(picture.convert("RGB").tobytes())) > 16, "one colour is no picture"


def require_form(shown: str, said: str) -> None:
    """What a page shows is what was printed, other numbers aside; `...` stands for any lines."""
    pattern = ""
    for line in shown.splitlines():
        numbers_aside = re.sub(r"\d+", r"[\\d,]+", re.escape(line))
        pattern += r"(?:.*\n)*" if line == "..." else rf"{numbers_aside} *\n"
    assert re.search(rf"^{pattern}", said, re.MULTILINE), f"shown:\n{shown}\nsaid:\n{said}"
