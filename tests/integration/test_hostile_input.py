"""What strangers may send: thousands of damaged files, bombs, floods, paths that lead out; and the document, fuzzed.

The real application in one process. A painter stands in for the engine where only what comes before it is asked for.
"""

import asyncio
import base64
import gzip
import io
import json
import logging
import os
import re
import socket
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from asked import Painter, picture_file, services_of, serving
from damaged import Damage, damaged_adapters, damaged_pictures
from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.registry import Registry
from nigaoe.serve.cards import manifest_of_file
from nigaoe.serve.config import Defaults, Limits, ServeConfig, Storage
from nigaoe.serve.http.app import create_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PICTURES = int(os.environ.get("NIGAOE_PICTURES", "6000"))
ADAPTERS = int(os.environ.get("NIGAOE_ADAPTERS", "2000"))
EXAMPLES = int(os.environ.get("NIGAOE_EXAMPLES", "150"))
"""Less of each while the tests themselves are written."""
MOST_S = 20.0
"""For one answer, on a machine that does other things besides."""
MOST_BYTES_EACH = 1024
"""Slope of the memory of this process; a decoded picture that is not let go would be 5760."""
MOST_LATER_BYTES = 64_000_000
EDITS, GENERATE, JOBS, EMBEDDINGS = "/v1/images/edits", "/v1/generate", "/v1/jobs", "/v1/embeddings/images"

Use = Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]


class Forgetful(Painter):
    """Keeps no order, for what is kept would count as lost memory."""

    async def draw(self, order: Any) -> AsyncIterator[Any]:
        async for event in super().draw(order):
            self.orders.clear()
            yield event


@pytest.fixture
def config(tmp_path: Path, whole: Path) -> ServeConfig:
    return ServeConfig(
        bases=["toy/anime", "toy/photo"],
        image_encoder="toy/image_encoder",
        adapters={"demo": whole},
        defaults=Defaults(steps=1),
        limits=Limits(body_mb=2, n=2, steps=10, width=128, height=128, adapter_mb=20, image_pixels=4_000_000),
        storage=Storage(registry=str(tmp_path / "registry"), objects=str(tmp_path / "objects")),
    )


@pytest.fixture(autouse=True)
def unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest would keep a line of the log for each request, with all that led to it, and that would count as lost."""
    monkeypatch.setattr(logging.getLogger("nigaoe"), "propagate", False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, adapter: IPAdapter) -> Path:
    """An adapter as it should be."""
    path: Path = tmp_path_factory.mktemp("whole") / "adapter.safetensors"
    save_adapter(adapter, path, dtype=torch.bfloat16)
    return path


@asynccontextmanager
async def client_of(config: ServeConfig) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(services_of(config, Forgetful()))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://nigaoe") as client,
    ):
        yield client


def ask(config: ServeConfig, use: Use) -> Any:
    async def main() -> Any:
        async with client_of(config) as client:
            return await use(client)

    return asyncio.run(main())


def problem(answer: httpx.Response, status: int, code: str | None = None) -> str:
    """What an answer complains of."""
    assert answer.status_code == status, f"{answer.request.method} {answer.request.url}: {answer.text[:300]}"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert code is None or error["code"] == code
    assert "Traceback" not in answer.text
    return str(error["message"])


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Watched:
    """How long answers took, what they were, and what they left behind."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.codes: Counter[int] = Counter()
        self.resident: list[int] = []

    async def send(self, sending: Coroutine[Any, Any, httpx.Response], damage: Damage, allowed: set[int]) -> None:
        """One request, whose answer is due."""
        began = time.perf_counter()
        async with asyncio.timeout(MOST_S):
            answer = await sending
        self.seconds.append(time.perf_counter() - began)
        self.codes[answer.status_code] += 1
        self.resident.append(resident_bytes())
        assert answer.status_code in allowed, f"{damage.name}: {answer.status_code} {answer.text[:300]}"
        if answer.status_code >= 400:
            problem(answer, answer.status_code)

    @property
    def bytes_each(self) -> float:
        """How the memory grows in the second half: the median of ten parts, for the allocator takes it in leaps."""
        later = np.array(self.resident[len(self.resident) // 2 :], float)
        return float(np.median([(part[-1] - part[0]) / len(part) for part in np.array_split(later, 10)]))

    @property
    def later_bytes(self) -> int:
        """By how much the memory grows in the second half, leaps and all."""
        return self.resident[-1] - self.resident[len(self.resident) // 2]

    def told(self, what: str) -> str:
        """For who reads the log of a test."""
        slowest = 1000 * max(self.seconds)
        return (
            f"{len(self.seconds)} {what}: {dict(sorted(self.codes.items()))}, slowest {slowest:.0f} ms, median "
            f"{1000 * float(np.median(self.seconds)):.1f} ms, memory {self.bytes_each:+.0f} bytes each, "
            f"{self.later_bytes / 1e6:+.1f} MB in the second half"
        )


def test_damaged_pictures_are_refused_or_drawn(config: ServeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    watched = Watched()

    async def use(client: httpx.AsyncClient) -> None:
        for number, damage in enumerate(damaged_pictures(PICTURES, seed=5)):
            text = base64.b64encode(damage.data).decode()
            match number % 4:
                case 0:
                    sending = client.post(EDITS, files={"image": ("a.png", damage.data)}, data={"prompt": "p"})
                case 1:
                    body = {"init_image": text, "inpaint_mask": text, "strength": 0.5, "size": "64x64"}
                    sending = client.post(GENERATE, json=body)
                case 2:
                    sending = client.post(EMBEDDINGS, json={"images": [text]})
                case _:
                    files = {name: (f"{name}.png", damage.data) for name in ("image", "mask")}
                    sending = client.post(EDITS, files=files, data={"prompt": "p"})
            await watched.send(sending, damage, {200, 201, 400})

    ask(config, use)
    with capsys.disabled():
        sys.stdout.write(f"\n{watched.told('damaged pictures')}\n")
    assert watched.codes[200] + watched.codes[201] > PICTURES // 50
    assert watched.codes[400] > PICTURES // 4
    assert PICTURES < 1000 or watched.bytes_each < MOST_BYTES_EACH
    assert watched.later_bytes < MOST_LATER_BYTES


def test_damaged_adapters_are_refused_or_whole(
    config: ServeConfig, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = Watched()

    async def use(client: httpx.AsyncClient) -> None:
        for damage in damaged_adapters(whole.read_bytes(), ADAPTERS, seed=6):
            await watched.send(client.put("/v1/adapters/mine", content=damage.data), damage, {201, 400})
        listed = await client.get("/v1/adapters")
        assert {one["name"] for one in listed.json()["data"]} <= {"demo", "mine"}

    ask(config, use)
    with capsys.disabled():
        sys.stdout.write(f"\n{watched.told('damaged adapters')}\n")
    assert watched.codes[400] > ADAPTERS // 2
    assert ADAPTERS < 1000 or watched.bytes_each < MOST_BYTES_EACH
    assert watched.later_bytes < MOST_LATER_BYTES
    assert not list(Path(tempfile.gettempdir()).glob(f"nigaoe-upload-*-{os.getpid()}"))


WAYS_OUT = [
    "..",
    "../../secret",
    "..%2f..%2fsecret",
    "%2e%2e%2f%2e%2e%2fsecret",
    "..%252f..%252fsecret",
    "....//....//secret",
    "..%5c..%5csecret",
    "%2fetc%2fpasswd",
    "file:%2f%2f%2fetc%2fpasswd",
    "s3:%2f%2fbucket%2fkey",
    "secret%00.png",
    "secret%0d%0ax-evil:%201",
    "~root",
    "%c0%ae%c0%ae%c0%afsecret",
    "png_../../../../../../secret0000000000",
    "job_" + "%2e%2e%2f" * 10 + "00",
    "adapter.json",
    "versions",
    "%F0%9F%98%80",
    "a" * 5000,
]


def test_no_name_leads_out_of_a_folder(config: ServeConfig, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the secret", encoding="ascii")
    (tmp_path / "objects").mkdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    async def use(client: httpx.AsyncClient) -> None:
        for name in WAYS_OUT:
            plain = name.replace("%2f", "/").replace("%2e", ".").replace("%5c", "\\").replace("%00", "\0")
            sent = [
                await client.request(method, f"/v1/{path}{name}{tail}", content=content)
                for method, path, tail, content in (
                    ("GET", "files/", "", None),
                    ("GET", "jobs/", "", None),
                    ("DELETE", "jobs/", "", None),
                    ("POST", "jobs/", "/cancel", None),
                    ("GET", "adapters/", "", None),
                    ("DELETE", "adapters/", "", None),
                    ("GET", "models/", "", None),
                )
            ]
            sent += [
                await client.post(GENERATE, json=body)
                for body in (
                    {"base": plain},
                    {"image_prompts": [{"adapter": plain, "embedding": f"emb_{'0' * 32}"}]},
                    {"image_prompts": [{"embedding": plain}]},
                    {"image_prompts": [{"images": [plain]}]},
                    {"quality": plain},
                )
            ]
            for answer in sent:
                assert answer.status_code in {400, 404, 405}, f"{answer.request.url}: {answer.text[:200]}"
                problem(answer, answer.status_code)
                assert "the secret" not in answer.text
                assert "x-evil" not in answer.headers
            file = {"image": (plain, picture_file())}
            headers = {"x-request-id": plain.encode("unicode_escape").decode()}
            drawn = await client.post("/v1/images/variations", files=file, headers=headers)
            assert drawn.status_code in {200, 400, 404}, drawn.text
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        for name in WAYS_OUT:
            answer = await client.put(f"/v1/adapters/{name}", content=whole.read_bytes())
            assert answer.status_code in {201, 400, 404, 405}, answer.text
        made = {one["name"] for one in (await client.get("/v1/adapters")).json()["data"]}
        # Odd names, and no more than names.
        assert made <= {"demo", "adapter.json", "versions"}

    ask(config, use)
    assert (tmp_path / "secret").read_text(encoding="ascii") == "the secret"
    assert {path.name for path in tmp_path.iterdir()} <= {"secret", "objects", "registry"}


def test_links_in_a_registry_show_nothing_and_hang_nobody(config: ServeConfig, whole: Path, tmp_path: Path) -> None:
    """Whoever may write there is trusted with its adapters, and with nothing else of the machine."""
    registry, secret = tmp_path / "registry", tmp_path / "secret.json"
    secret.write_text('{"password": "the secret"}', encoding="ascii")
    Registry(str(registry)).publish(whole, manifest_of_file("good", whole))
    for name, target in {
        "secret": secret,
        "passwords": Path("/etc/passwd"),
        "endless": Path("/dev/zero"),
        "nowhere": tmp_path / "nowhere",
        "folder": tmp_path,
    }.items():
        (registry / name).mkdir()
        (registry / name / "adapter.json").symlink_to(target)
    (registry / "loop").symlink_to(registry)
    (registry / "circle").mkdir()
    (registry / "circle" / "adapter.json").symlink_to(registry / "circle" / "adapter.json")
    (registry / "pipe").mkdir()
    os.mkfifo(registry / "pipe" / "adapter.json")

    async def use(client: httpx.AsyncClient) -> None:
        async with asyncio.timeout(MOST_S):
            listed = await client.get("/v1/adapters")
            assert [one["name"] for one in listed.json()["data"]] == ["demo", "good"]
            for name in ("secret", "passwords", "endless", "nowhere", "folder", "circle", "pipe", "loop"):
                answer = await client.get(f"/v1/adapters/{name}")
                problem(answer, 404, "model_not_found")
                assert "the secret" not in answer.text
                assert "root:" not in answer.text

    ask(config, use)


def test_what_is_uploaded_or_deleted_through_a_link_leaves_the_rest_of_the_machine(
    config: ServeConfig, whole: Path, tmp_path: Path
) -> None:
    outside, registry = tmp_path / "outside", tmp_path / "registry"
    outside.mkdir()
    registry.mkdir()
    (outside / "adapter.json").write_text("{}", encoding="ascii")
    (outside / "adapter.safetensors").write_bytes(b"precious")
    (registry / "link").symlink_to(outside)

    async def use(client: httpx.AsyncClient) -> None:
        put = await client.put("/v1/adapters/link", content=whole.read_bytes())
        deleted = await client.delete("/v1/adapters/link")
        assert {put.status_code, deleted.status_code} <= {400, 404}, (put.text, deleted.text)

    ask(config, use)
    assert (outside / "adapter.json").read_text(encoding="ascii") == "{}"
    assert (outside / "adapter.safetensors").read_bytes() == b"precious"
    assert sorted(path.name for path in outside.iterdir()) == ["adapter.json", "adapter.safetensors"]


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 2) -> bytes:
    """A PNG of these chunks."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    packed = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, *chunks, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that unfold to much."""
    zeros = zlib.compress(bytes(50_000_000), 9)
    yield (
        "10,000 px a side, whole",
        png(10_000, 10_000, b"IDAT" + zlib.compress(bytes(1251 * 10_000), 9), bits=1, colour=0),
    )
    yield "10,000 px a side, a header", png(10_000, 10_000, b"IDAT" + zlib.compress(bytes(100)))
    yield "the widest", png(2**31 - 1, 2**31 - 1, b"IDAT" + zlib.compress(bytes(100)))
    yield "text", png(8, 8, b"zTXta\0\0" + zeros, b"IDAT" + zlib.compress(bytes(200)))
    yield "a colour profile", png(8, 8, b"iCCPa\0\0" + zeros, b"IDAT" + zlib.compress(bytes(100)))
    # Motion JPEG's cousin: an APNG that claims frames without end.
    yield "frames", png(4000, 4000, b"acTL" + struct.pack(">II", 2**31 - 1, 0), b"IDAT" + zlib.compress(bytes(100)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(50_000_000))
    yield "zip", buffer.getvalue()
    yield "gzip", gzip.compress(bytes(50_000_000))


def test_bombs_are_refused_before_they_unfold(config: ServeConfig) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        for name, bomb in bombs():
            before = resident_bytes()
            text = base64.b64encode(bomb).decode()
            answers = [
                await client.post(EDITS, files={"image": ("a.png", bomb)}, data={"prompt": "p"}),
                await client.post(EMBEDDINGS, json={"images": [text]}),
                await client.post(JOBS, json={"prompt": "p", "init_image": text}),
                await client.put("/v1/adapters/mine", content=bomb),
            ]
            assert [answer.status_code for answer in answers] == [400] * 4, name
            assert resident_bytes() - before < 100e6, name
        # What is said to be compressed is not unpacked.
        headers = {"content-encoding": "gzip", "content-type": "application/json"}
        packed = gzip.compress(b'{"prompt": "' + b"p" * 50_000_000 + b'"}')
        problem(await client.post(GENERATE, content=packed, headers=headers), 400, "invalid_json")

    ask(config, use)


def test_bodies_of_100_mb_are_refused_while_they_come(config: ServeConfig) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 10**6
            yield bytes(10**6)

    json_type, form_type = {"content-type": "application/json"}, {"content-type": "multipart/form-data; boundary=x"}

    async def use(client: httpx.AsyncClient) -> None:
        nonlocal sent
        for method, path, headers, most in (
            ("POST", GENERATE, json_type, 3),
            ("POST", JOBS, json_type, 3),
            ("POST", EMBEDDINGS, json_type, 3),
            ("POST", EMBEDDINGS, form_type, 3),
            ("POST", "/v1/images/generations", json_type, 3),
            ("POST", EDITS, form_type, 3),
            ("POST", "/v1/images/variations", form_type, 3),
            ("PUT", "/v1/adapters/mine", {}, 21),
        ):
            sent, before = 0, resident_bytes()
            answer = await client.request(method, path, content=endless(), headers=headers)
            assert sent <= most * 10**6, path
            assert resident_bytes() - before < 50e6, path
            if headers is form_type:
                assert answer.status_code in {400, 413}
            else:
                problem(answer, 413, "request_too_large")
            declared = headers | {"content-length": str(100_000_000)}
            problem(await client.request(method, path, content=b"x", headers=declared), 413, "request_too_large")

    ask(config, use)


def said(url: str, head: str, body: Iterator[bytes] | None = None, pause_s: float = 0.0) -> tuple[int, float]:
    """Status of what is answered to raw bytes, and the seconds until then; 0: the connection was closed."""
    host, port = url.removeprefix("http://").split(":")
    began = time.perf_counter()
    with socket.create_connection((host, int(port)), timeout=MOST_S) as connection:
        connection.sendall(head.encode("latin-1"))
        connection.settimeout(pause_s or MOST_S)
        answer = b""
        for part in body or ():
            try:
                connection.sendall(part)
                answer = connection.recv(4096)
                break
            except TimeoutError:
                continue
            except OSError:
                break
        connection.settimeout(MOST_S)
        if not answer:
            try:
                answer = connection.recv(4096)
            except ConnectionError:
                answer = b""
    found = re.match(rb"HTTP/1\.1 (\d+)", answer)
    return int(found[1]) if found else 0, time.perf_counter() - began


def drops() -> Iterator[bytes]:
    """A body that is a form, and a whole lot of nothing for whoever reads anything else."""
    yield b'--x\r\ncontent-disposition: form-data; name="prompt"\r\n\r\n'
    for _ in range(900):
        yield b"-"


def test_slow_bodies_are_given_up(config: ServeConfig) -> None:
    hasty = config.model_copy(update={"limits": config.limits.model_copy(update={"body_s": 1.0})})
    with serving(create_app(services_of(hasty, Painter()))) as url:
        for path, kind in (
            (GENERATE, "application/json"),
            (JOBS, "application/json"),
            (EDITS, "multipart/form-data; boundary=x"),
            (EMBEDDINGS, "application/json"),
        ):
            head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: {kind}\r\ncontent-length: 1000\r\n\r\n"
            status, seconds = said(url, head, drops(), pause_s=0.05)
            assert status == 408, path
            assert seconds < 10
        head = "PUT /v1/adapters/mine HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n"
        status, seconds = said(url, head, drops(), pause_s=0.05)
        assert status == 408
        assert seconds < 10
        # And others are answered all the while.
        slow = []
        host, port = url.removeprefix("http://").split(":")
        for _ in range(50):
            connection = socket.create_connection((host, int(port)), timeout=MOST_S)
            head = (
                f"POST {GENERATE} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{{"
            )
            connection.sendall(head.encode("ascii"))
            slow.append(connection)
        try:
            answer = httpx.post(f"{url}/v1/generate", json={"prompt": "p"}, timeout=MOST_S)
            assert answer.status_code == 200
        finally:
            for connection in slow:
                connection.close()


def test_floods_of_headers_are_refused(config: ServeConfig) -> None:
    with serving(create_app(services_of(config, Painter()))) as url:
        for name, headers, statuses in (
            ("many", "".join(f"x-{number}: 1\r\n" for number in range(200)), {431}),
            ("long", f"x-long: {'a' * 40_000}\r\n", {431}),
            # More than the server in front of the application reads.
            ("longer", f"x-long: {'a' * 2_000_000}\r\n", {0, 400, 431}),
            ("no number", "content-length: -1\r\n", {400}),
            ("two lengths", "content-length: 1\r\ncontent-length: 2\r\n", {400}),
            ("folded", "x-a: b\r\n c\r\n", {200, 400}),
            ("no name", ": b\r\n", {400}),
            ("a space", "x-a : b\r\n", {400}),
            ("zeros", "x-a: \0\r\n", {400}),
        ):
            status, seconds = said(url, f"GET /v1/models HTTP/1.1\r\nhost: a\r\n{headers}\r\n")
            assert status in statuses, f"{name}: {status}"
            assert seconds < 10
        status, _ = said(url, f"GET /v1/models?{'a' * 40_000} HTTP/1.1\r\nhost: a\r\n\r\n")
        assert status == 431
        assert httpx.get(f"{url}/v1/models").status_code == 200


def test_odd_forms_and_numbers_are_refused(config: ServeConfig) -> None:
    form = {"content-type": "multipart/form-data; boundary=x"}

    async def use(client: httpx.AsyncClient) -> None:
        for body in (
            b"",
            b"--x",
            b"--x--\r\n",
            b"--x\r\n\r\n\r\n--x--\r\n",
            b'--x\r\ncontent-disposition: form-data; name="image"; filename="../../a"\r\n\r\n\r\n--x--\r\n',
            b'--x\r\ncontent-disposition: form-data; name="\xff\xfe"\r\n\r\n\xff\r\n--x--\r\n',
            b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\nb\r\n' * 1000 + b"--x--\r\n",
            b'--x\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\nb\r\n' * 50 + b"--x--\r\n",
            b"--x\r\n" + b"x-a: b\r\n" * 10_000 + b"\r\n\r\n--x--\r\n",
        ):
            problem(await client.post(EDITS, content=body, headers=form), 400)
        for kind in (
            "multipart/form-data",
            "multipart/form-data; boundary=",
            'multipart/form-data; boundary="',
            "x" * 999,
        ):
            answer = await client.post(EDITS, content=b"--x--\r\n", headers={"content-type": kind})
            assert answer.status_code in {400, 415}, answer.text
        for text in (
            '{"seed": 1e999}',
            '{"steps": 9' + "9" * 5000 + "}",
            '{"n": -1}',
            '{"size": "' + "9" * 5000 + 'x64"}',
        ):
            content = {"content": text, "headers": {"content-type": "application/json"}}
            problem(await client.post(GENERATE, **content), 400)  # type: ignore[arg-type]
            problem(await client.post(JOBS, **content), 400)  # type: ignore[arg-type]
        problem(await client.post(GENERATE, json={"image_prompts": [{}] * 10_000}), 400)
        problem(await client.post(GENERATE, json={"seeds": list(range(100_000))}), 400)
        problem(await client.post(GENERATE, content=json.dumps({"a" * 100_000: 1})), 415)

    ask(config, use)


FUZZED = ServeConfig.model_validate(
    {
        "bases": ["toy/anime", "toy/photo"],
        "image_encoder": "toy/image_encoder",
        "adapters": {"demo": "toy/adapter"},
        "defaults": Defaults(steps=2),
        "limits": Limits(n=2, steps=10, width=64, height=64, request_s=5.0),
        "storage": Storage(objects=tempfile.mkdtemp(), registry=tempfile.mkdtemp()),
    }
)
schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(services_of(FUZZED, Forgetful()))).include(
    path_regex=r"^/(v1/.*|healthz|readyz)$"
)


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_route_answers_as_the_document_says(case: "schemathesis.Case[Any]") -> None:
    case.call_and_validate(
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ]
    )


def test_the_pictures_of_this_file_can_be_read() -> None:
    assert Image.open(io.BytesIO(next(iter(damaged_pictures(1, seed=0))).whole)).size == (48, 40)
