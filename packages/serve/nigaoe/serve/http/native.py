"""The native API's requests as orders, and its answers. Every other way to ask comes through here."""

import base64
import json
import time
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from nigaoe.serve.http.access import Caller
from nigaoe.serve.http.canvas import canvas_of
from nigaoe.serve.http.native_schemas import (
    GeneratedPicture,
    GenerateRequest,
    GenerateResponse,
    ImagePromptRequest,
    TimingsBody,
)
from nigaoe.serve.http.pictures import digest_of
from nigaoe.serve.http.prompting import Names, prompt_order, require_few
from nigaoe.serve.http.resolving import base_of, require_short, seeds_of, size_of_text, steps_of, within
from nigaoe.serve.orders import Drawn, Order
from nigaoe.serve.services import Services

__all__ = ["GenerateRequest", "GenerateResponse", "ImagePromptRequest", "native_answer", "native_order"]

STRENGTH = 0.8
"""Where a request with `init_image` says nothing; diffusers' own."""
_OWN_NAMES: Names = MappingProxyType({})


async def native_order(
    request: GenerateRequest,
    services: Services,
    caller: Caller,
    request_id: str,
    *,
    called: Names = _OWN_NAMES,
    clear_is_white: bool = False,
) -> Order:
    """Fill in defaults, look names up, keep to the limits, decode what was uploaded.

    Args:
        request: What was asked for.
        services: Of this ingress.
        caller: Who asked; their priority goes along.
        request_id: For logs.
        called: Names of fields in messages, where they are not ours.
        clear_is_white: How the transparency of `inpaint_mask` is read, see `read_mask`.

    Raises:
        Problem: 400 for a value out of bounds or a picture that cannot be read, 404 for an unknown name.
    """
    limits = services.config.limits
    for name in ("prompt", "negative_prompt"):
        require_short(name, getattr(request, name), limits)
    base = base_of(request.base, services.config)
    seeds = seeds_of(request, limits)
    steps, guidance_scale, sampler = steps_of(request, services.config)
    size = size_of_text(request.size, limits)
    within("partial_images", request.partial_images, 0, limits.partial_images)
    require_few(request, services, called)
    prompts, told = [], []
    for place, prompt in enumerate(request.image_prompts):
        order, parameters = await prompt_order(prompt, services, place, called)
        prompts.append(order)
        told.append(parameters)
    canvas = await canvas_of(request, tuple(prompts), base, size, services, called, clear_is_white=clear_is_white)
    strength = STRENGTH if request.strength is None else request.strength
    parameters = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "base": base,
        "seeds": list(seeds),
        "steps": steps,
        "guidance_scale": guidance_scale,
        "sampler": sampler,
        "size": "auto" if canvas.size is None else f"{canvas.size[0]}x{canvas.size[1]}",
        "image_prompts": told,
    }
    if request.init_image is not None:
        parameters |= {"init_image": digest_of(request.init_image), "strength": strength}
    if request.inpaint_mask is not None:
        parameters["inpaint_mask"] = digest_of(request.inpaint_mask)
    return Order(
        id=request_id,
        base=base,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        seeds=seeds,
        steps=steps,
        guidance_scale=guidance_scale,
        sampler=sampler,
        size=canvas.size,
        image_prompts=canvas.prompts,
        init=canvas.init,
        strength=strength,
        inpaint_mask=canvas.mask,
        priority=caller.priority,
        deadline_s=limits.request_s,
        partial_images=request.partial_images if request.stream else 0,
        output_format=request.output_format,
        quality=request.output_compression,
        parameters=json.dumps(parameters, ensure_ascii=False),
    )


def native_answer(order: Order, drawn: Drawn, urls: Sequence[str] | None = None) -> GenerateResponse:
    """The answer to an order; `urls`: where its pictures are, instead of the pictures themselves."""
    if urls is None:
        encoded = [base64.b64encode(picture).decode("ascii") for picture in drawn.pictures]
        images = [GeneratedPicture(b64_json=text, seed=seed) for text, seed in zip(encoded, order.seeds, strict=True)]
    else:
        images = [GeneratedPicture(url=url, seed=seed) for url, seed in zip(urls, order.seeds, strict=True)]
    size = f"{drawn.size[0]}x{drawn.size[1]}"
    parameters: dict[str, Any] = json.loads(order.parameters) if order.parameters else {}
    timings = drawn.timings
    return GenerateResponse(
        id=order.id,
        created=int(time.time()),
        images=images,
        base=order.base,
        size=size,
        output_format=order.output_format,
        timings=TimingsBody(
            queued=timings.queued, encoded=timings.encoded, stepped=timings.stepped, decoded=timings.decoded
        ),
        parameters=parameters | {"size": size},
    )
