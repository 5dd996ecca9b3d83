"""Pictures that a running server draws, through OpenAI's `/v1/images/edits`: what its users would get."""

import base64
import io
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import httpx
from PIL import Image

from nigaoe.core.errors import ImageError, NigaoeError
from nigaoe.core.images import read_image
from nigaoe.eval.config import ServerTarget
from nigaoe.eval.protocols.protocol import Sample

_WAIT_S = 1.0
_LONGEST_WAIT_S = 30.0
_BUSY = (408, 409, 425, 429, 500, 502, 503, 504)


class ServerUnreachable(NigaoeError):
    """The server does not answer at all."""


class ServerPictures:
    """Asks a server, several orders at a time. What it refuses is a failed sample; one that is busy is asked again."""

    def __init__(self, target: ServerTarget) -> None:
        self.target = target
        key = os.environ.get(target.api_key_env)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(base_url=target.url.rstrip("/"), headers=headers, timeout=target.timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def draw(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[Image.Image | str]:
        """One picture per sample, or the reason why there is none.

        Raises:
            ServerUnreachable: It does not answer, or is too busy for every try.
        """
        with ThreadPoolExecutor(self.target.in_flight) as pool:
            return list(pool.map(self._ask, samples, seeds))

    def _ask(self, sample: Sample, seed: int) -> Image.Image | str:
        answer = self._answer(sample, seed)
        if answer.status_code != 200:
            return f"status {answer.status_code}: {answer.text[:200]}"
        try:
            return read_image(base64.b64decode(answer.json()["data"][0]["b64_json"]), "the answer")
        except (ValueError, KeyError, IndexError, TypeError, ImageError) as error:
            return f"the answer holds no picture ({type(error).__name__}: {str(error)[:100]})"

    def _answer(self, sample: Sample, seed: int) -> httpx.Response:
        """An answer that would be the same if it were asked for again."""
        problem = ""
        for attempt in range(self.target.tries):
            if attempt:
                time.sleep(min(_WAIT_S * 2 ** (attempt - 1), _LONGEST_WAIT_S))
            try:
                answer = self._post(sample, seed)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if answer.status_code not in _BUSY:
                return answer
            problem = f"status {answer.status_code}"
        raise ServerUnreachable(
            f"server {self.target.url!r} does not answer ({problem}, {self.target.tries} tries); start it, or give its "
            "address"
        )

    def _post(self, sample: Sample, seed: int) -> httpx.Response:
        file = io.BytesIO()
        sample.reference.save(file, format="PNG")
        fields = {"prompt": sample.prompt, "seed": str(seed), "response_format": "b64_json"}
        fields |= {name: str(value) for name, value in self.target.fields.items()}
        image = {"image": (f"{sample.id}.png", file.getvalue(), "image/png")}
        return self._client.post("/v1/images/edits", data=fields, files=image)
