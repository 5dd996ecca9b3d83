import asyncio
import hashlib
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from asked import Painter, services_of
from nigaoe.core.errors import ConfigError
from nigaoe.serve.config import Access, KeyConfig, ServeConfig
from nigaoe.serve.http.access import ANYBODY, Keys, Rates
from nigaoe.serve.http.app import create_app
from nigaoe.serve.http.problems import Problem

GENERATIONS = "/v1/images/generations"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def asked(access: Access, *requests: dict[str, Any], client: tuple[str, int] = ("10.0.0.1", 1)) -> list[httpx.Response]:
    config = ServeConfig(bases=["toy/anime"], access=access)

    async def main() -> list[httpx.Response]:
        app = create_app(services_of(config, Painter()))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=client)
        async with httpx.AsyncClient(transport=transport, base_url="http://nigaoe") as http:
            return [await http.request(**request) for request in requests]

    return asyncio.run(main())


def post(key: str | None = None, **headers: str) -> dict[str, Any]:
    bearer = {} if key is None else {"authorization": f"Bearer {key}"}
    return {"method": "POST", "url": GENERATIONS, "json": {"prompt": "p"}, "headers": headers | bearer}


def get(path: str) -> dict[str, Any]:
    return {"method": "GET", "url": path}


def test_without_keys_everybody_may_ask() -> None:
    (response,) = asked(Access(), post())
    assert response.status_code == 200
    assert Keys(Access(), {}).caller(None) is ANYBODY


def test_a_key_is_needed_where_there_are_keys() -> None:
    access = Access(keys=[KeyConfig(name="anna", sha256=digest("secret"), priority=5)])
    right, wrong, none, basic = asked(
        access, post("secret"), post("Secret"), post(), post(authorization="Basic secret")
    )
    assert right.status_code == 200
    for response in (wrong, none, basic):
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.headers["x-request-id"]
    caller = Keys(access, {}).caller("Bearer secret")
    assert (caller.name, caller.priority, caller.may_manage) == ("anna", 5, False)


def test_health_and_documentation_are_free_and_all_below_v1_is_not() -> None:
    access = Access(keys=[KeyConfig(name="anna", sha256=digest("secret"))])
    paths = ["/healthz", "/readyz", "/docs", "/openapi.json", "/v1/models", "/v1/nothing", "/v1/files/img_0"]
    statuses = [response.status_code for response in asked(access, *map(get, paths))]
    assert statuses[:6] == [200, 200, 200, 200, 401, 401]
    assert statuses[6] != 401


def test_keys_come_from_the_environment_too() -> None:
    keys = Keys(Access(), {"NIGAOE_API_KEYS": f"anna:{digest('a')}, ben:{digest('b')}"})
    assert keys.caller("Bearer b").name == "ben"
    with pytest.raises(ConfigError, match="NIGAOE_API_KEYS does not hold keys"):
        Keys(Access(), {"NIGAOE_API_KEYS": "secret"})


def test_a_file_of_keys_is_read_again_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, now = tmp_path / "keys.yaml", 0.0
    path.write_text("")
    keys = Keys(Access(keys_file=path), {}, clock=lambda: now)
    # An empty file lets nobody in.
    with pytest.raises(Problem):
        keys.caller("Bearer a")
    path.write_text(f"- {{name: anna, sha256: {digest('a')}, may_manage: true}}")
    now = 5.0
    assert keys.caller("Bearer a").may_manage
    path.write_text("- {name: anna, sha2")
    now = 10.0
    with caplog.at_level(logging.ERROR):
        assert keys.caller("Bearer a").name == "anna"
    assert "keys were not read again" in caplog.text
    path.write_text("[]")
    now = 15.0
    with pytest.raises(Problem) as caught:
        keys.caller("Bearer a")
    assert caught.value.status == 401


@pytest.mark.parametrize("text", ["just text", "- {name: a}", "- {name: a, sha256: secret}", "a: [", "- {rate: x}"])
def test_a_file_of_something_else_is_refused_at_the_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys.yaml").write_text(text)
    with pytest.raises(ConfigError, match="keys_file") as caught:
        Keys(Access(keys_file=tmp_path / "keys.yaml"), {})
    assert "secret" not in str(caught.value)


def test_rates_are_counted_for_each_key_or_address() -> None:
    access = Access(
        keys=[
            KeyConfig(name="anna", sha256=digest("a")),
            KeyConfig(name="ben", sha256=digest("b"), rate="1/minute"),
        ],
        rate="2/minute",
    )
    responses = asked(access, post("a"), post("b"), post("a"), post("b"), post("a"))
    assert [response.status_code for response in responses] == [200, 200, 200, 429, 429]
    error = responses[-1].json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert 1 <= int(responses[-1].headers["retry-after"]) <= 60
    assert [r.status_code for r in asked(Access(rate="1/minute"), post(), post(), get("/healthz"))] == [200, 429, 200]


@pytest.mark.parametrize("access", [Access(rate="often"), Access(rate_storage="nothing://here")])
def test_rates_that_are_none_are_refused_at_the_start(access: Access) -> None:
    with pytest.raises(ConfigError, match="mend it|cannot be used"):
        Rates(access)


def test_request_ids_are_echoed_if_sane() -> None:
    sane, long, odd, none = asked(
        Access(),
        post(**{"x-request-id": "abc-1.2_3"}),
        post(**{"x-request-id": "a" * 200}),
        post(**{"x-request-id": "a b\tc"}),
        post(),
    )
    assert sane.headers["x-request-id"] == "abc-1.2_3"
    others = {response.headers["x-request-id"] for response in (long, odd, none)}
    assert len(others) == 3
    assert all(name.startswith("req_") for name in others)


def test_other_origins_may_ask_only_where_that_is_configured() -> None:
    preflight = {
        "method": "OPTIONS",
        "url": GENERATIONS,
        "headers": {"origin": "https://a.example", "access-control-request-method": "POST"},
    }
    closed, simple = asked(Access(), preflight, post(origin="https://a.example"))
    assert closed.status_code == 405
    assert "access-control-allow-origin" not in simple.headers
    keys = [KeyConfig(name="anna", sha256=digest("a"))]
    access = Access(keys=keys, cors_origins=["https://a.example"])
    opened, refused = asked(access, preflight, post(origin="https://a.example"))
    assert opened.status_code == 200
    assert opened.headers["access-control-allow-origin"] == "https://a.example"
    # A page must be able to read that its key is missing.
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://a.example"


def test_answers_carry_headers_of_security() -> None:
    drawn, docs = asked(Access(), post(), get("/docs"))
    assert drawn.headers["x-content-type-options"] == docs.headers["x-content-type-options"] == "nosniff"
    assert drawn.headers["content-security-policy"].startswith("default-src 'none'")
    assert "content-security-policy" not in docs.headers


def test_floods_of_headers_are_refused() -> None:
    many, large, enough = asked(
        Access(),
        post(**{f"x-h{i}": "v" for i in range(120)}),
        post(**{"x-large": "v" * 40_000}),
        post(**{f"x-h{i}": "v" for i in range(50)}),
    )
    assert [many.status_code, large.status_code, enough.status_code] == [431, 431, 200]
    assert many.json()["error"]["code"] == "request_head_too_large"


def test_every_request_has_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="nigaoe.serve.http.front"):
        asked(Access(), post(**{"x-request-id": "known"}), get("/v1/models/nothing"), get("/nothing/5"))
    lines = [vars(record) for record in caplog.records if record.message == "request answered"]
    told = [(line["method"], line["route"], line["status"], line["caller"]) for line in lines]
    assert told == [
        ("POST", GENERATIONS, 200, "anonymous"),
        ("GET", "/v1/models/{name:path}", 404, "anonymous"),
        ("GET", "unknown", 404, "unknown"),
    ]
