"""The published document, and whatever can be made of it sent to the server."""

import tempfile
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from asked import Painter, services_of
from nigaoe.serve.config import Defaults, Limits, ServeConfig, Storage
from nigaoe.serve.http.app import create_app

CONFIG = ServeConfig.model_validate(
    {
        "bases": ["toy/anime", "toy/photo"],
        "image_encoder": "toy/image_encoder",
        "adapters": {"demo": "toy/adapter"},
        "defaults": Defaults(steps=2),
        "limits": Limits(n=2, steps=10, width=64, height=64, request_s=5.0),
        "storage": Storage(objects=tempfile.mkdtemp()),
    }
)
APP = create_app(services_of(CONFIG, Painter()))
OURS = r"^/(v1/(images/.*|models.*|generate|embeddings/images|files/.*)|healthz|readyz)$"
schema = schemathesis.openapi.from_asgi("/openapi.json", APP).include(path_regex=OURS)


@schema.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_the_document_allows_or_forbids_is_answered_as_it_says(case: "schemathesis.Case[Any]") -> None:
    case.call_and_validate(
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ]
    )


def test_the_document_tells_bodies_that_are_read_by_hand() -> None:
    document = APP.openapi()
    paths, schemas = document["paths"], document["components"]["schemas"]
    form = paths["/v1/images/edits"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["allOf"][0] == {"$ref": "#/components/schemas/EditRequest"}
    assert form["allOf"][1]["properties"].keys() == {"image", "image[]", "mask"}
    native = paths["/v1/generate"]["post"]
    assert native["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("GenerateRequest")
    assert native["responses"]["200"]["content"].keys() == {"application/json", "text/event-stream"}
    assert schemas["ImagePromptRequest"]["properties"]["crop"]["enum"] == ["centre", "pad", "resize", "tile", "face"]
    described = [field for field in schemas["ImagePromptRequest"]["properties"].values() if "description" in field]
    assert len(described) > 12
    assert "422" not in str([operation["responses"].keys() for path in paths.values() for operation in path.values()])


def test_every_reference_of_the_document_leads_somewhere() -> None:
    document = APP.openapi()

    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*(references(value) for value in node.values()))
        return set().union(*(references(value) for value in node)) if isinstance(node, list) else set()

    found = references(document)
    assert len(found) > 10
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_it_is_published(path: str) -> None:
    from starlette.testclient import TestClient

    assert TestClient(APP).get(path).status_code == 200
