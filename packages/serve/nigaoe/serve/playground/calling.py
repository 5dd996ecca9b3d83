"""The page as a client of the server: what it offers, and what becomes of a request."""

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from nigaoe.core.errors import NigaoeError

_TIMEOUT = httpx.Timeout(30.0, read=600.0)
"""Seconds; a stream is kept alive more often than that."""


@dataclass(frozen=True)
class Offers:
    """What there is to choose from."""

    bases: tuple[str, ...]
    adapters: Mapping[str, tuple[str, ...]]
    """Those of `bases` that each fits."""


class Server:
    """One that answers at an address, as seen with a key."""

    def __init__(self, url: str, key: str = "") -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def offers(self) -> Offers:
        """Ask what there is.

        Raises:
            NigaoeError: It does not answer, or not to this key.
        """
        models, adapters = await self._data("/v1/models"), await self._data("/v1/adapters")
        return Offers(
            tuple(model["id"] for model in models if model["kind"] == "base"),
            {adapter["name"]: tuple(adapter["bases"]) for adapter in adapters},
        )

    async def draw(self, body: Mapping[str, Any], previews: int) -> AsyncGenerator[dict[str, Any]]:
        """Events of `POST /v1/generate`, the last of which is `completed`. Whoever closes this hangs up.

        Raises:
            NigaoeError: The server refused, in its own words, or went away.
        """
        asked = dict(body) | {"stream": True, "partial_images": previews}
        try:
            async with (
                self._client() as client,
                client.stream("POST", "/v1/generate", json=asked) as response,
            ):
                if response.status_code != 200:
                    await response.aread()
                    raise NigaoeError(_reason(response))
                async for line in response.aiter_lines():
                    if not line.startswith("data: "):
                        continue
                    event = json.loads(line.removeprefix("data: "))
                    if event["type"] == "error":
                        raise NigaoeError(event["error"]["message"])
                    yield event
                    if event["type"] == "completed":
                        return
        except httpx.HTTPError as error:
            raise NigaoeError(_no_answer(self._url, error)) from None
        raise NigaoeError(f"{self._url} broke off in the middle of an answer; try again, with the same seed")

    async def _data(self, path: str) -> list[dict[str, Any]]:
        try:
            async with self._client() as client:
                response = await client.get(path)
        except httpx.HTTPError as error:
            raise NigaoeError(_no_answer(self._url, error)) from None
        if response.status_code != 200:
            raise NigaoeError(_reason(response))
        found: list[dict[str, Any]] = response.json()["data"]
        return found

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self._url, headers=self._headers, timeout=_TIMEOUT, trust_env=False)


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {response.status_code}; see its log"


def _no_answer(url: str, error: httpx.HTTPError) -> str:
    return f"{url} does not answer ({type(error).__name__}); see whether the server runs"
