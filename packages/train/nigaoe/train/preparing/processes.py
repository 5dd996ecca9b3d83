"""The workers as actors of Ray Data, which send what they have and say what went wrong."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from nigaoe.core.errors import NigaoeError
from nigaoe.train.preparing.attempts import attempt
from nigaoe.train.preparing.recipe import Recipe
from nigaoe.train.preparing.workers import Decoder, ShardEncoder

Batch = dict[str, Any]
"""Of one row, as Ray Data gives and takes them."""


class Told(BaseModel):
    """What is known of a shard on its way."""

    file: str
    rows: int
    bad: list[str] = []
    """A line for each row that cannot be used."""
    failure: str | None = None
    """A sentence, where it is not the rows' fault. Ray would wrap an exception in pages of its own."""


Work = Callable[[Told, bytes], bytes]
"""One step of a shard: what is known of it and what was sent, to what is sent on."""


class _Process(ABC):
    """A worker that never raises."""

    def __init__(self, recipe: Recipe, folder: Path, max_failures: int) -> None:
        self._folder, self._max_failures = folder, max_failures
        self._work: Work | None = None
        self._failure: str | None = None
        try:
            self._work = self._load(recipe)
        except Exception as error:
            self._failure = _sentence(error)

    def __call__(self, batch: Batch) -> Batch:
        """One step, unless an earlier one went wrong."""
        told, content = Told.model_validate_json(str(batch["told"][0])), b""
        if self._work is None:
            told.failure = told.failure or self._failure
        elif not told.bad and not told.failure:
            try:
                with attempt(self._folder, told.file, self._max_failures):
                    content = self._work(told, bytes(batch["content"][0]))
            except Exception as error:
                told.failure = _sentence(error)
        return {"told": [told.model_dump_json()], "content": [content]}

    @abstractmethod
    def _load(self, recipe: Recipe) -> Work:
        """Load what the work needs."""


class DecodingProcess(_Process):
    """On a CPU."""

    def _load(self, recipe: Recipe) -> Work:
        # Ray hides no GPU from processes that asked for none, and a context in each would take its memory.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(1)
        decoder = Decoder(recipe)

        def work(told: Told, content: bytes) -> bytes:
            decoded, told.bad = decoder.decode(content)
            return decoded

        return work


class EncodingProcess(_Process):
    """On a GPU where the config asks for them."""

    def _load(self, recipe: Recipe) -> Work:
        encoder = ShardEncoder(recipe, self._folder)

        def work(told: Told, content: bytes) -> bytes:
            encoder.write(told.file, content)
            return b""

        return work


def _sentence(error: Exception) -> str:
    """Our own as they are; of all others the kind and the first line."""
    if isinstance(error, NigaoeError):
        return str(error)
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
