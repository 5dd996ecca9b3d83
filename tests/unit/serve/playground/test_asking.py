"""The page's side of a request, against a real server in front of a backend without models."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest

from asked import Painter, picture_file, pixels_of, services_of, serving, wait_until
from nigaoe.core.errors import NigaoeError
from nigaoe.core.models import locate
from nigaoe.serve.config import Access, KeyConfig, ServeConfig, Storage
from nigaoe.serve.http.app import create_app
from nigaoe.serve.orders import Refusal
from nigaoe.serve.playground.board import Board, draw_together
from nigaoe.serve.playground.calling import Server
from nigaoe.serve.playground.settings import Settings
from nigaoe.serve.playground.snippets import curl, python

KEY = "ngo_secret"
PREVIEWS = 3


@contextmanager
def asked(folder: Path, painter: Painter, access: Access | None = None) -> Iterator[str]:
    config = ServeConfig(
        bases=["toy/anime", "toy/photo"],
        image_encoder="toy/image_encoder",
        adapters={"demo": Path(locate("toy/adapter", "adapter")) / "adapter.safetensors"},
        storage=Storage(objects=str(folder / "objects")),
        access=access or Access(),
    )
    with serving(create_app(services_of(config, painter))) as url:
        yield url


@pytest.fixture
def face(tmp_path: Path) -> Path:
    path = tmp_path / 'it\'s, a "face"; $(no).jpg'
    path.write_bytes(picture_file())
    return path


def boards(url: str, folder: Path, *settings: Settings) -> list[tuple[str, list[str], Board]]:
    """What was said and shown at each look."""

    async def all_of() -> list[tuple[str, list[str], Board]]:
        found = []
        async with aclosing(draw_together(Server(url), [("", one) for one in settings], folder, PREVIEWS)) as seen:
            async for board in seen:
                found.append((board.said(), [Path(path).name for path, _ in board.pictures], board))
        return found

    return asyncio.run(all_of())


def test_offers_are_bases_and_the_adapters_that_fit_them(tmp_path: Path) -> None:
    with asked(tmp_path, Painter()) as url:
        offers = asyncio.run(Server(url).offers())
    assert offers.bases == ("toy/anime", "toy/photo")
    assert offers.adapters == {"demo": ("toy/anime", "toy/photo")}


def test_previews_come_before_pictures_and_files_say_what_they_are(tmp_path: Path, face: Path) -> None:
    with asked(tmp_path, Painter(step_s=0.1)) as url:
        some = Settings("p", seed=7, n=2, face=face, adapter="demo", steps=12)
        seen = boards(url, tmp_path, some, Settings("p", seed=300, steps=12))
    shown = [name for _, names, _ in seen for name in names]
    assert "waiting.png" in shown
    assert any(name.startswith("preview-0-1-") for name in shown)
    assert any(said.startswith("Drawing, step") for said, _, _ in seen)
    said, names, board = seen[-1]
    assert said.startswith("3 pictures in")
    assert names == ["nigaoe-1-7.png", "nigaoe-1-8.png", "nigaoe-2-300.png"]
    assert pixels_of((tmp_path / names[1]).read_bytes())[0, 0].tolist() == [8, 0, 0]
    assert board.archive is not None
    with zipfile.ZipFile(board.archive) as archive:
        told = json.loads(archive.read("parameters.json"))
        assert archive.read(names[0]) == (tmp_path / names[0]).read_bytes()
    assert [told[name]["seeds"] for name in names] == [[7, 8], [7, 8], [300]]


def test_one_that_fails_takes_none_of_the_others_along(tmp_path: Path) -> None:
    too_long = Settings("p", seed=1, steps=100_000)
    with asked(tmp_path, Painter()) as url:
        _, names, some = boards(url, tmp_path, too_long, Settings("p", seed=2))[-1]
        said, nothing, none = boards(url, tmp_path, too_long)[-1]
    assert names == ["nigaoe-2-2.png"]
    assert len(some.failures) == 1
    assert "steps" in some.failures[0]
    assert (said, nothing, none.archive) == ("Nothing was drawn.", [], None)


def test_a_failure_in_the_middle_of_a_stream_is_said(tmp_path: Path) -> None:
    with asked(tmp_path, Painter(ending=Refusal("failed", "the weights are broken"), silent_s=2.5)) as url:
        *_, (_, _, board) = boards(url, tmp_path, Settings("p", seed=1))
    assert len(board.failures) == 1


def test_who_closes_hangs_up_on_all(tmp_path: Path) -> None:
    painter = Painter(step_s=0.1)

    async def leave(url: str) -> None:
        settings = [("", Settings("p", seed=seed, steps=100)) for seed in (1, 2)]
        async with aclosing(draw_together(Server(url), settings, tmp_path, PREVIEWS)) as seen:
            async for _ in seen:
                if painter.steps > 4:
                    break

    with asked(tmp_path, painter) as url:
        asyncio.run(leave(url))
        wait_until(lambda: painter.left == 2 and painter.active == 0)


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(NigaoeError, match="does not answer"):
        asyncio.run(Server("http://127.0.0.1:9").offers())


def test_a_key_is_passed_on(tmp_path: Path) -> None:
    keys = [KeyConfig(name="me", sha256=hashlib.sha256(KEY.encode()).hexdigest())]
    with asked(tmp_path, Painter(), Access(keys=keys)) as url:
        assert asyncio.run(Server(url, KEY).offers()).bases
        with pytest.raises(NigaoeError, match="key"):
            asyncio.run(Server(url).offers())


@pytest.mark.parametrize("with_face", [False, True])
def test_what_can_be_copied_asks_for_the_same(tmp_path: Path, face: Path, with_face: bool) -> None:
    settings = Settings(
        'it\'s "quoted" $HOME `date` \\n 日本',
        seed=7,
        face=face if with_face else None,
        negative_prompt="@glasses",
        base="toy/photo",
        adapter="demo",
        scale=0.3,
        steps=5,
        guidance_scale=2.0,
        sampler="euler",
        size="64x96",
        n=2,
    )
    painter = Painter()
    commands: list[Callable[[str], list[str]]] = [
        lambda url: ["sh", "-c", curl(settings, url, with_key=True)],
        lambda url: [sys.executable, "-c", python(settings, url, with_key=True)],
    ]
    environment = os.environ | {"NIGAOE_API_KEY": KEY}
    with asked(tmp_path, painter) as url:
        *_, (_, _, board) = boards(url, tmp_path, settings)
        for command in commands:
            subprocess.run(command(url), cwd=tmp_path, check=True, timeout=60, env=environment)
    assert not board.failures
    assert "data" in json.loads((tmp_path / "answer.json").read_text())
    assert pixels_of((tmp_path / "8.png").read_bytes())[0, 0].tolist() == [8, 0, 0]
    ours, *copied = [json.loads(order.parameters) for order in painter.orders]
    assert len(copied) == 2
    assert all(other == ours for other in copied)
