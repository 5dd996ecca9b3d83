"""Pictures that others have made: read from a folder, or asked of a server."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nigaoe.core.errors import DataError, ImageError
from nigaoe.eval.config import ServerTarget
from nigaoe.eval.making import server_pictures
from nigaoe.eval.making.folder_pictures import METADATA, FolderPictures
from nigaoe.eval.making.server_pictures import ServerPictures, ServerUnreachable
from nigaoe.eval.protocols.protocol import Sample


def _sample(name: str, prompt: str = "a person") -> Sample:
    return Sample(name, name, Image.new("RGB", (40, 40), "red"), prompt)


def _png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def _folder(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_bytes(_png("blue"))
    return path


def test_a_folder_is_read_by_sample(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "theirs", "a.png", "b.jpg")
    (folder / "b.jpg").write_bytes(b"torn")
    found = FolderPictures.open(folder)
    assert found.read(_sample("a")).getpixel((0, 0)) == (0, 0, 255)
    with pytest.raises(ImageError, match=r"b\.jpg"):
        found.read(_sample("b"))
    with pytest.raises(ImageError, match=r"there is no picture c\.png"):
        found.read(_sample("c"))
    assert found.prompts == {}
    assert found.fingerprint("c") == "missing"
    before = found.fingerprint("a")
    (folder / "a.png").write_bytes(_png("green"))
    assert FolderPictures.open(folder).fingerprint("a") != before


def test_a_prompt_that_was_not_drawn_from_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "theirs", "a.png")
    (folder / METADATA).write_text(json.dumps({"file_name": "a.png", "prompt": "a hat"}) + "\n")
    found = FolderPictures.open(folder)
    found.require_prompt("a", "a hat")
    with pytest.raises(DataError, match="was drawn from 'a hat' and would be scored against 'a person'"):
        found.require_prompt("a", "a person")


def test_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        FolderPictures.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no PNG"):
        FolderPictures.open(_folder(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"'a\.jpg' and 'a\.png'; keep one"):
        FolderPictures.open(_folder(tmp_path / "twice", "a.png", "a.jpg"))
    folder = _folder(tmp_path / "words", "a.png")
    (folder / METADATA).write_text('{"file_name": "a.png"}\n')
    with pytest.raises(DataError, match="line 1 is no JSON object"):
        FolderPictures.open(folder)


class _Server(ThreadingHTTPServer):
    asked: list[dict[str, Any]]
    statuses: list[int]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append({"path": self.path, "body": body, "key": self.headers.get("Authorization")})
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        picture = {"b64_json": base64.b64encode(_png("green")).decode()}
        answer: dict[str, Any] = {"data": [picture]} if status == 200 else {"no": 1}
        if status == 299:
            status, answer = 200, {"data": []}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    one = _Server(("127.0.0.1", 0), _Handler)
    one.asked, one.statuses = [], []
    thread = threading.Thread(target=one.serve_forever)
    thread.start()
    yield one
    one.shutdown()
    one.server_close()
    thread.join()


def _target(server: _Server, **values: Any) -> ServerTarget:
    url = f"http://127.0.0.1:{server.server_address[1]}"
    return ServerTarget.model_validate({"url": url, "like": "x", "in_flight": 1, **values})


def test_a_server_is_asked_for_each_sample(server: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGAOE_API_KEY", "secret")
    with ServerPictures(_target(server, fields={"base": "toy/anime", "scale": 0.5})) as pictures:
        (picture,) = pictures.draw([_sample("a", "a hat")], [7])
    assert isinstance(picture, Image.Image)
    assert picture.getpixel((0, 0)) == (0, 128, 0)
    (order,) = server.asked
    assert (order["path"], order["key"]) == ("/v1/images/edits", "Bearer secret")
    for said in (b"a hat", b'name="seed"', b"7", b"toy/anime", b"0.5", b"\x89PNG"):
        assert said in order["body"]


def test_a_busy_server_is_asked_again_and_a_refusal_is_a_failed_sample(
    server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_pictures, "_WAIT_S", 0.01)
    server.statuses = [429, 503, 200, 400, 299]
    with ServerPictures(_target(server)) as pictures:
        drawn, refused, empty = pictures.draw([_sample("a"), _sample("b"), _sample("c")], [1, 2, 3])
    assert isinstance(drawn, Image.Image)
    assert refused == 'status 400: {"no": 1}'
    assert isinstance(empty, str)
    assert "holds no picture" in empty
    assert len(server.asked) == 5


def test_a_server_that_stays_busy_or_is_not_there_ends_the_run(
    server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_pictures, "_WAIT_S", 0.01)
    server.statuses = [503, 503]
    with ServerPictures(_target(server, tries=2)) as pictures, pytest.raises(ServerUnreachable, match="status 503"):
        pictures.draw([_sample("a")], [1])
    gone = ServerTarget(url="http://127.0.0.1:9", like="x", tries=2)
    with ServerPictures(gone) as pictures, pytest.raises(ServerUnreachable, match="does not answer"):
        pictures.draw([_sample("a")], [1])
