"""Load tests of a real server: uvicorn on a free port of this machine."""

import asyncio
import base64
import io
import json
import socket
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image

from nigaoe.core.config import parse_config
from nigaoe.core.errors import NigaoeError
from nigaoe.serve.loadtest.results import LoadResult, percentile
from nigaoe.serve.loadtest.running import run, run_and_report
from nigaoe.serve.loadtest.workload import Workload

ANSWER_S = 0.05


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def application(seen: dict[str, Any]) -> FastAPI:
    app = FastAPI()
    seen |= {"now": 0, "most": 0, "forms": [], "bodies": []}

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/good")
    async def good(request: Request) -> dict[str, Any]:
        seen["now"] += 1
        seen["most"] = max(seen["most"], seen["now"])
        seen["bodies"].append(await request.json())
        await asyncio.sleep(ANSWER_S)
        seen["now"] -= 1
        return {"data": [{"b64_json": base64.b64encode(picture()).decode()}]}

    @app.post("/form")
    async def form(request: Request) -> Response:
        async with request.form() as fields:
            image = fields["image"]
            assert not isinstance(image, str)
            seen["forms"].append((fields["prompt"], fields["steps"], await image.read()))
        return Response(picture(), media_type="image/png")

    @app.post("/busy")
    async def busy() -> Response:
        return JSONResponse({"error": {"message": "later", "code": "overloaded"}}, 429)

    @app.post("/broken")
    async def broken() -> dict[str, Any]:
        return {"data": [{"b64_json": base64.b64encode(picture()[:40]).decode()}]}

    @app.post("/slow")
    async def slow() -> None:
        await asyncio.sleep(30)

    return app


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    return {}


@pytest.fixture(scope="module")
def url(seen: dict[str, Any]) -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(application(seen), log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


def asked(url: str, **values: Any) -> LoadResult:
    known: dict[str, Any] = {"kinds": [{"name": "good", "path": "/good", "body": {"seed": "{seed}"}}]}
    return asyncio.run(run(parse_config(known | values, Workload, "test"), url))


def test_closed_loop_keeps_so_many_under_way(url: str, seen: dict[str, Any]) -> None:
    seen["most"] = 0
    seen["bodies"].clear()
    result = asked(url, requests=24, warm_up=2, load={"kind": "closed", "concurrency": 6})
    assert seen["most"] == 6
    assert result.total.succeeded == result.total.images == 24
    assert result.total.latency is not None
    assert result.total.latency.p50 >= ANSWER_S
    assert result.images_per_s == pytest.approx(24 / result.seconds)
    assert 24 / result.seconds < 6 / ANSWER_S
    # The warm-up's come first and are not counted; none is sent twice.
    assert len({body["seed"] for body in seen["bodies"]}) == 26
    assert len(result.latencies["good"]) == 24


def test_open_loop_sends_when_it_is_time_not_when_there_are_answers(url: str) -> None:
    load = {"kind": "open", "rate_per_s": 100}
    result = asked(url, requests=50, load=load)
    due = [moment for moment, _ in result.latencies["good"]]
    assert due == sorted(due)
    # Half a second for 50 at 100 a second, though each takes 0.05 s.
    assert 0.25 < due[-1] < 1.0
    assert [moment for moment, _ in asked(url, requests=50, load=load).latencies["good"]] == due


def test_a_test_ends_after_its_duration(url: str) -> None:
    for load in ({"kind": "closed", "concurrency": 2}, {"kind": "open", "rate_per_s": 20}):
        result = asked(url, duration_s=0.5, load=load)
        assert 0.3 < result.seconds < 5
        assert result.total.requests == result.total.succeeded > 2


def test_every_failure_is_counted_by_its_kind(url: str) -> None:
    kinds = [{"name": path, "path": f"/{path}"} for path in ("good", "busy", "broken", "nowhere")]
    # FastAPI's own 404 has no code of ours.
    result = asked(url, requests=40, kinds=kinds, load={"kind": "closed", "concurrency": 20})
    sent = Counter({group.name: group.requests for group in result.kinds})
    assert min(sent.values()) > 0
    assert result.total.errors == {
        "429 overloaded": sent["busy"],
        "not a picture": sent["broken"],
        "404": sent["nowhere"],
    }
    assert result.total.succeeded == sent["good"]
    late = asked(url, requests=1, timeout_s=0.5, kinds=[{"name": "slow", "path": "/slow"}])
    assert late.total.errors == {"timeout": 1}


def test_forms_carry_pictures(url: str, seen: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "face.png").write_bytes(picture())
    kind = {
        "name": "edit",
        "path": "/form",
        "files": {"image": "{picture}"},
        "body": {"prompt": "{prompt}"},
        "choices": {"steps": [7]},
    }
    result = asked(url, requests=2, kinds=[kind], pictures=[str(tmp_path / "face.png")], prompts=["who"])
    assert result.total.succeeded == 2
    assert seen["forms"] == [("who", "7", picture())] * 2


def test_the_report_is_written_and_printed(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = [{"name": "good", "path": "/good"}, {"name": "<busy>", "path": "/busy"}]
    run_and_report(parse_config({"requests": 12, "kinds": kinds}, Workload, "test"), url, tmp_path / "out")
    printed = capsys.readouterr().out
    assert "p95 s" in printed
    assert "429 overloaded" in printed
    read = LoadResult.model_validate_json((tmp_path / "out/result.json").read_text())
    assert read.workload["seed"] == 0
    assert json.loads((tmp_path / "out/result.json").read_text())["url"] == url
    drawing = ElementTree.fromstring((tmp_path / "out/latency.svg").read_text())
    texts = [element.text for element in drawing.iter() if element.tag.endswith("text")]
    assert any((text or "").startswith("good (") for text in texts)


def test_nobody_there_is_one_sentence() -> None:
    with pytest.raises(NigaoeError, match="does not answer"):
        asked("http://127.0.0.1:9", requests=1)


def test_percentiles_are_numpys() -> None:
    import numpy as np

    values = [3.0, 1.0, 9.0, 4.0, 4.5]
    for share in (0.0, 0.5, 0.95, 1.0):
        assert percentile(values, share) == pytest.approx(float(np.quantile(values, share)))
