"""Several requests at once, and what there is to see of them while they are drawn."""

import asyncio
import base64
import json
import zipfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from nigaoe.core.errors import NigaoeError
from nigaoe.serve.playground.calling import Server
from nigaoe.serve.playground.settings import Settings

EACH_S = 0.2
"""Seconds between two looks at least: a browser that is told of every step has no time to show one."""


@dataclass
class Drawing:
    """One request."""

    label: str
    settings: Settings
    files: list[Path]
    """Of each picture: a grey one, its last preview, or itself."""
    step: int = 0
    steps: int = 0
    answer: dict[str, Any] | None = None
    """What was understood, and how long it took; of those that are done."""
    failure: str | None = None


@dataclass
class Board:
    """All of them, side by side."""

    drawings: list[Drawing]
    archive: Path | None = None
    """All pictures and their parameters, once they are done."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever there is something new to see."""

    @property
    def pictures(self) -> list[tuple[str, str]]:
        """File and caption."""
        return [
            (str(file), drawing.label or f"seed {drawing.settings.seed + i}")
            for drawing in self.drawings
            if drawing.failure is None
            for i, file in enumerate(drawing.files)
        ]

    @property
    def failures(self) -> list[str]:
        """Why some are missing, each reason once."""
        return list(dict.fromkeys(one.failure for one in self.drawings if one.failure is not None))

    def said(self) -> str:
        """In one line, how far it is."""
        done = [one.answer for one in self.drawings if one.answer is not None]
        under_way = [one for one in self.drawings if one.answer is None and one.failure is None]
        if under_way:
            steps = sum(one.steps for one in self.drawings)
            return f"Drawing, step {sum(one.step for one in self.drawings)} of {steps} …" if steps else "Waiting …"
        count = sum(len(answer["images"]) for answer in done)
        if not count:
            return "Nothing was drawn."
        seconds = max(sum(answer["timings"].values()) for answer in done)
        return f"{count} {'picture' if count == 1 else 'pictures'} in {seconds:.1f} s."


async def draw_together(
    server: Server, asked: Sequence[tuple[str, Settings]], folder: Path, previews: int
) -> AsyncGenerator[Board]:
    """Ask for all at once and look again and again; whoever closes this hangs up on all of them.

    `folder`: where pictures are put; it must stay as long as somebody looks.
    """
    grey = folder / "waiting.png"
    Image.new("L", (64, 64), 200).save(grey)
    board = Board([Drawing(label, settings, [grey] * settings.n) for label, settings in asked])
    tasks = [
        asyncio.create_task(_follow(server, drawing, folder, number, previews, board.changed))
        for number, drawing in enumerate(board.drawings)
    ]
    whole = asyncio.gather(*tasks)
    try:
        while not whole.done():
            yield board
            await asyncio.sleep(EACH_S)
            changed = asyncio.create_task(board.changed.wait())
            waited: set[asyncio.Future[Any]] = {changed, whole}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            board.changed.clear()
        whole.result()
        board.archive = _archived(board, folder)
        yield board
    finally:
        whole.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow(
    server: Server, drawing: Drawing, folder: Path, number: int, previews: int, changed: asyncio.Event
) -> None:
    try:
        async with aclosing(server.draw(drawing.settings.body(), previews)) as events:
            async for event in events:
                match event["type"]:
                    case "progress":
                        drawing.step, drawing.steps = event["step"], event["steps"]
                    case "partial_image":
                        place, which = event["image_index"], event["partial_image_index"]
                        drawing.files[place] = folder / f"preview-{number}-{place}-{which}.png"
                        drawing.files[place].write_bytes(base64.b64decode(event["b64_json"]))
                    case "completed":
                        for place, image in enumerate(event["images"]):
                            drawing.files[place] = folder / f"nigaoe-{number + 1}-{image['seed']}.png"
                            drawing.files[place].write_bytes(base64.b64decode(image.pop("b64_json")))
                        drawing.answer = event
                changed.set()
    except NigaoeError as error:
        drawing.failure = str(error)
        changed.set()


def _archived(board: Board, folder: Path) -> Path | None:
    done = [drawing for drawing in board.drawings if drawing.answer is not None]
    if not done:
        return None
    path = folder / "nigaoe.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for drawing in done:
            for file in drawing.files:
                archive.write(file, file.name)
        told = {file.name: drawing.answer["parameters"] for drawing in done for file in drawing.files}  # type: ignore[index]
        archive.writestr("parameters.json", json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    return path
