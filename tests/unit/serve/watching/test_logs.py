import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from nigaoe.serve.watching.logs import bound, configure, current_request_id

log = logging.getLogger("nigaoe.serve.somewhere")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    logger = logging.getLogger("nigaoe")
    before = (logger.handlers, logger.level, logger.propagate)
    stream = io.StringIO()
    yield stream
    logger.handlers, logger.level, logger.propagate = before


def test_each_line_is_an_object_with_the_id_of_its_request(stream: io.StringIO) -> None:
    configure("json", stream=stream)

    async def request(name: str) -> None:
        with bound(name):
            await asyncio.sleep(0)
            log.info("drawn %d", 2, extra={"rows": 2, "where": {"a": 1}})
            await asyncio.to_thread(log.info, "encoded")

    async def main() -> None:
        await asyncio.gather(*(request(f"req_{number}") for number in range(5)))

    asyncio.run(main())
    log.info("outside")
    log.info("told", extra={"request_id": "given"})
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert sorted(line["request_id"] for line in lines[:10]) == sorted(f"req_{n}" for n in range(5) for _ in range(2))
    drawn = next(line for line in lines if line["message"] == "drawn 2")
    assert drawn["rows"] == 2
    assert drawn["where"] == {"a": 1}
    assert drawn["level"] == "INFO"
    assert drawn["logger"] == "nigaoe.serve.somewhere"
    assert drawn["time"].endswith("Z")
    assert "request_id" not in lines[10]
    assert lines[11]["request_id"] == "given"
    assert current_request_id() is None


def test_what_cannot_be_json_and_tracebacks_stay_on_one_line(stream: io.StringIO) -> None:
    configure("json", stream=stream)
    try:
        raise ValueError("a\nb")
    except ValueError:
        log.exception("went\nwrong", extra={"thing": object()})
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: a" in json.loads(line)["exception"]


def test_text_is_for_people(stream: io.StringIO) -> None:
    configure("text", stream=stream)
    with bound("req_1"):
        log.warning("replica lost", extra={"attempt": 2})
    assert stream.getvalue().endswith("WARNING nigaoe.serve.somewhere req_1: replica lost attempt=2\n")


def test_configuring_again_does_not_double_lines(stream: io.StringIO) -> None:
    configure("json", stream=stream)
    configure("json", stream=stream)
    log.info("once")
    log.debug("not at all")
    assert len(stream.getvalue().splitlines()) == 1
