"""One request of a load test: sent, answered, and its pictures looked at."""

import base64
import binascii
import io
import json
from typing import Any

import httpx
from PIL import Image

from nigaoe.serve.loadtest.workload import Shot


async def ask(client: httpx.AsyncClient, shot: Shot) -> tuple[int, str | None]:
    """Send a request; how many pictures came, and what went wrong if anything did."""
    try:
        if shot.files:
            form = {key: value if isinstance(value, str) else json.dumps(value) for key, value in shot.body.items()}
            files = {key: (f"{key}.png", content) for key, content in shot.files.items()}
            response = await client.post(shot.kind.path, data=form, files=files)
        else:
            response = await client.post(shot.kind.path, json=shot.body)
    except httpx.TimeoutException:
        return 0, "timeout"
    except httpx.HTTPError as error:
        return 0, f"connection ({type(error).__name__})"
    if response.status_code != 200:
        return 0, f"{response.status_code} {_code(response)}".strip()
    return pictures_of(response, shot.kind.images)


def pictures_of(response: httpx.Response, expected: int) -> tuple[int, str | None]:
    """How many whole pictures an answer has, itself one or JSON with `b64_json` anywhere; and what is wrong with it."""
    if response.headers.get("content-type", "").startswith("image/"):
        files = [response.content]
    else:
        try:
            files = [base64.b64decode(text, validate=True) for text in _found(response.json())]
        except (ValueError, binascii.Error):
            return 0, "not JSON with base64"
    if len(files) != expected:
        return 0, f"{len(files)} pictures instead of {expected}"
    for content in files:
        try:
            with Image.open(io.BytesIO(content)) as picture:
                picture.load()
        except (OSError, ValueError, SyntaxError):
            return 0, "not a picture"
    return len(files), None


def _found(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = value.get("b64_json")
        return ([own] if isinstance(own, str) else []) + [text for inner in value.values() for text in _found(inner)]
    return [text for inner in value for text in _found(inner)] if isinstance(value, list) else []


def _code(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""
