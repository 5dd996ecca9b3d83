"""Answers and events as the OpenAI SDK reads them."""

import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from nigaoe.serve.http.answering import encoded
from nigaoe.serve.http.native_schemas import GenerateRequest, GenerateResponse
from nigaoe.serve.http.openai_schemas import (
    CompletedEvent,
    PartialImageEvent,
    PictureData,
    PictureResponse,
    TokensIn,
    TokensOut,
    Usage,
)
from nigaoe.serve.http.sse import Tell, Told
from nigaoe.serve.orders import Drawn, Order, Partial

Stream = Literal["image_generation", "image_edit"]

_WORD = re.compile(r"\w+|[^\w\s]")


def openai_answer(request: GenerateRequest, order: Order, answer: GenerateResponse) -> PictureResponse:
    """A native answer in OpenAI's words."""
    width, height = (int(side) for side in answer.size.split("x"))
    return PictureResponse(
        created=answer.created,
        data=[PictureData(b64_json=one.b64_json, url=one.url, seed=one.seed) for one in answer.images],
        output_format=answer.output_format,
        quality=request.quality,
        size=answer.size,
        usage=usage_of(order, (width, height)),
        base=answer.base,
        adapter=order.image_prompts[0].adapter.name if order.image_prompts else None,
        timings=answer.timings.model_dump(),
        parameters=answer.parameters,
    )


def openai_tell(request: GenerateRequest, order: Order, stream: Stream) -> Tell:
    """What a stream of one of the routes says; of progress OpenAI's says nothing."""

    def tell(event: Told) -> Iterable[Mapping[str, Any]]:
        size = "auto" if order.size is None else f"{order.size[0]}x{order.size[1]}"
        shared: dict[str, Any] = {
            "created_at": int(time.time()),
            "quality": request.quality or "auto",
            "output_format": order.output_format,
        }
        if isinstance(event, Partial):
            yield PartialImageEvent(
                type=f"{stream}.partial_image",
                b64_json=encoded(event.picture),
                partial_image_index=event.index,
                image_index=event.place,
                size=size,
                **shared,
            ).model_dump()
        elif isinstance(event, Drawn):
            usage = usage_of(order, event.size)
            for place, (picture, seed) in enumerate(zip(event.pictures, order.seeds, strict=True)):
                yield CompletedEvent(
                    type=f"{stream}.completed",
                    b64_json=encoded(picture),
                    image_index=place,
                    seed=seed,
                    size=f"{event.size[0]}x{event.size[1]}",
                    usage=usage,
                    **shared,
                ).model_dump()

    return tell


def usage_of(order: Order, size: tuple[int, int]) -> Usage:
    """Tokens, as `Usage` counts them."""
    text = sum(len(_WORD.findall(words)) for words in (order.prompt, order.negative_prompt))
    pictures = sum(len(prompt.pictures) for prompt in order.image_prompts) + (order.init is not None)
    drawn = len(order.seeds) * -(-size[0] // 16) * -(-size[1] // 16)
    seen = 256 * pictures
    return Usage(
        input_tokens=text + seen,
        input_tokens_details=TokensIn(text_tokens=text, image_tokens=seen),
        output_tokens=drawn,
        output_tokens_details=TokensOut(image_tokens=drawn),
        total_tokens=text + seen + drawn,
    )
