"""Image prompts of a request as a replica takes them: adapters looked up, uploads decoded, embeddings fetched."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from nigaoe.serve.catalog import UnknownAdapter
from nigaoe.serve.http.native_schemas import GenerateRequest, ImagePromptRequest
from nigaoe.serve.http.pictures import decoded, digest_of, read_mask, read_upload
from nigaoe.serve.http.problems import Problem, invalid_value
from nigaoe.serve.http.resolving import only_with, within
from nigaoe.serve.orders import AdapterAt, ImagePromptOrder, Picture
from nigaoe.serve.services import Services
from nigaoe.serve.stores.ids import UnknownObject

Names = Mapping[str, str]
"""How fields are called by whoever asked in another shape than ours."""


async def adapter_of(services: Services, name: str | None, param: str) -> AdapterAt:
    """The version of an adapter that holds now.

    Raises:
        Problem: 404.
    """
    try:
        return await services.catalog.find(name)
    except UnknownAdapter as error:
        if name is None:
            message = "pictures need an adapter and this server has none; leave them out"
            raise invalid_value(param, message) from None
        raise Problem(404, "model_not_found", str(error), param) from None


async def prompt_order(
    request: ImagePromptRequest, services: Services, place: int, called: Names
) -> tuple[ImagePromptOrder, dict[str, Any]]:
    """One image prompt, and its parameters as they are told.

    Raises:
        Problem: 400 for what contradicts itself, is out of bounds or cannot be read; 404 for an unknown name.
    """

    def named(field: str) -> str:
        own = f"image_prompts.{place}.{field}"
        return called.get(own, own)

    limits, defaults = services.config.limits, services.config.defaults
    scale = defaults.adapter_scale if request.scale is None else request.scale
    within(named("scale"), scale, -1.0, limits.adapter_scale)
    _require_consistent(request, named)
    adapter = await adapter_of(services, request.adapter, named("adapter"))
    pictures = await asyncio.gather(
        *(upload(services, data, named(f"images.{i}")) for i, data in enumerate(request.images))
    )
    negative = None if request.negative is None else await upload(services, request.negative, named("negative"))
    mask = None if request.mask is None else await mask_upload(services, request.mask, named("mask"))
    embeddings = None if request.embedding is None else await _embeddings(services, request.embedding, named)
    values = request.model_dump(exclude={"adapter", "images", "embedding", "negative", "scale", "mask"})
    order = ImagePromptOrder(
        adapter=adapter,
        pictures=tuple(pictures),
        embeddings=embeddings,
        negative=negative,
        mask=mask,
        crop=request.crop,
        crop_position=(request.crop_position[0], request.crop_position[1]),
        scale=scale,
        layers=tuple(request.layers) if isinstance(request.layers, list) else request.layers,
        sides=request.sides,
        combination=request.combination,
        weights=None if request.weights is None else tuple(request.weights),
        start=request.start,
        end=request.end,
        shortcut_scale=request.shortcut_scale,
        lora_scale=request.lora_scale,
        noise=request.noise,
        noise_strength=request.noise_strength,
        noise_blur=request.noise_blur,
    )
    told = {"adapter": adapter.name, "adapter_sha256": adapter.sha256, "scale": scale} | values
    told |= {"images": [digest_of(data) for data in request.images], "embedding": request.embedding}
    told |= {key: None if (data := getattr(request, key)) is None else digest_of(data) for key in ("negative", "mask")}
    return order, {key: value for key, value in told.items() if value not in (None, [])}


async def upload(services: Services, data: bytes, name: str) -> Picture:
    """A picture, decoded.

    Raises:
        Problem: 400.
    """
    return await decoded(services, partial(read_upload, data, name, services.config.limits))


async def mask_upload(services: Services, data: bytes, name: str, *, clear_is_white: bool = False) -> Picture:
    """A mask, decoded.

    Raises:
        Problem: 400.
    """
    read = partial(read_mask, data, name, services.config.limits, clear_is_white=clear_is_white)
    return await decoded(services, read)


def require_few(request: GenerateRequest, services: Services, called: Names) -> None:
    """Refuse more pictures or image prompts than one request may have.

    Raises:
        Problem: 400.
    """
    limits, prompts = services.config.limits, request.image_prompts
    if len(prompts) > limits.image_prompts:
        name = called.get("image_prompts", "image_prompts")
        most = limits.image_prompts
        raise invalid_value(name, f"{len(prompts)} {name} were sent, more than the {most} allowed; send fewer")
    uploads = [request.init_image, request.inpaint_mask]
    for prompt in prompts:
        uploads += [*prompt.images, prompt.negative, prompt.mask]
    count = sum(data is not None for data in uploads)
    if count > limits.images:
        name = called.get("image_prompts.0.images.0", "image_prompts")
        raise invalid_value(name, f"{count} pictures were sent, more than the {limits.images} allowed; send fewer")


def _require_consistent(request: ImagePromptRequest, named: Any) -> None:
    if request.images and request.embedding is not None:
        raise invalid_value(named("embedding"), "images and an embedding were both given; send one of them")
    if not request.images and request.embedding is None:
        raise Problem(
            400,
            "missing_required_parameter",
            f"{named('images')} is missing; an adapter needs a picture or an embedding, so send one",
            named("images"),
        )
    if request.embedding is not None and request.negative is not None:
        raise invalid_value(named("negative"), "an embedding holds its own negative; leave negative out")
    if request.weights is not None and request.images and len(request.weights) != len(request.images):
        count, wanted = len(request.weights), len(request.images)
        raise invalid_value(named("weights"), f"{count} weights were sent for {wanted} images; send one for each")
    if request.start >= request.end:
        window = f"start {request.start:g} and end {request.end:g}"
        raise invalid_value(named("start"), f"{window} are no window in [0, 1]; choose start below end")
    if request.noise is None and request.model_fields_set & {"noise_strength", "noise_blur"}:
        raise only_with(named("noise_strength"), "noise")


async def _embeddings(services: Services, name: str, named: Any) -> bytes:
    try:
        return await services.objects.embeddings.get(name)
    except UnknownObject:
        message = f"embedding {name[:80]!r} is not here; post its pictures to /v1/embeddings/images"
        raise Problem(404, "embedding_not_found", message, named("embedding")) from None
