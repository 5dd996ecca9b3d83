"""OpenAI's requests in the words of the native API, so that there is one way to an order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nigaoe.serve.http.native_schemas import GenerateRequest, ImagePromptRequest
from nigaoe.serve.http.openai_schemas import AdapterItem, EditRequest, PictureRequest
from nigaoe.serve.http.problems import invalid_value
from nigaoe.serve.http.prompting import adapter_of
from nigaoe.serve.http.resolving import only_with
from nigaoe.serve.services import Services

FIDELITY_SCALES = {"low": 0.5, "high": 1.0}
"""What the authors of IP-Adapter advise: 1 for the picture alone, 0.5 with a text."""


@dataclass(frozen=True)
class Wish:
    """A native request, and how its fields were called by whoever asked."""

    request: GenerateRequest
    called: dict[str, str]


async def wish_of(
    request: PictureRequest, prompt: str, images: Sequence[bytes], mask: bytes | None, services: Services
) -> Wish:
    """Say a request in native words.

    Pictures are references for adapters. With `mask` or `strength` the first one is what is drawn on; it is a reference
    too where there is no other and something is said of adapters.

    Raises:
        Problem: 400 for fields that contradict each other, 404 for an unknown model.
    """
    base, adapter = await _names(request, services)
    scale = _one_of(request, "adapter_scale", "ip_adapter_scale")
    if isinstance(request, EditRequest) and request.input_fidelity is not None and scale is None:
        scale = FIDELITY_SCALES[request.input_fidelity]
    says_adapter = adapter is not None or scale is not None or bool(request.adapters)
    references, canvas = list(images), None
    if mask is not None or request.strength is not None:
        if not images:
            raise only_with("mask" if mask is not None else "strength", "a picture, as image")
        canvas = references.pop(0)
        references = references or ([canvas] if says_adapter else [])
    prompts, called = _prompts(request, references, adapter, scale, offset=len(images) - len(references))
    called |= {"init_image": "image", "inpaint_mask": "mask", "image_prompts": "adapters"}
    wish = GenerateRequest(
        prompt=prompt,
        negative_prompt=request.negative_prompt or "",
        base=base,
        image_prompts=prompts,
        init_image=canvas,
        # A mask says where; all of the run may be drawn there.
        strength=request.strength if request.strength is not None or mask is None else 1.0,
        inpaint_mask=mask,
        n=request.n,
        seed=request.seed,
        quality=request.quality,
        steps=_one_of(request, "steps", "num_inference_steps"),
        guidance_scale=request.guidance_scale,
        sampler=_one_of(request, "sampler", "scheduler"),
        size=request.size,
        output_format=request.output_format or "png",
        output_compression=90 if request.output_compression is None else request.output_compression,
        response_format=request.response_format or "b64_json",
        stream=bool(request.stream),
        partial_images=request.partial_images or 0,
    )
    return Wish(wish, called)


def _prompts(
    request: PictureRequest, references: list[bytes], adapter: str | None, scale: float | None, offset: int
) -> tuple[list[ImagePromptRequest], dict[str, str]]:
    called: dict[str, str] = {}
    items = request.adapters
    if items is None:
        if not references and request.embedding is None:
            if adapter is not None or scale is not None:
                raise only_with("adapter" if adapter is not None else "adapter_scale", "a picture, as image")
            return [], called
        items = [AdapterItem(name=adapter, scale=_native_scale(scale))]
        called = {"image_prompts.0.scale": "adapter_scale", "image_prompts.0.adapter": "adapter"}
    elif adapter is not None or scale is not None:
        raise invalid_value("adapters", "adapters and adapter or adapter_scale were both given; send one of them")
    prompts = []
    for place, item in enumerate(items):
        own = f"image_prompts.{place}"
        called |= {f"{own}.{ours}": f"adapters.{place}.{ours}" for ours in ImagePromptRequest.model_fields} | called
        images = [*([] if item.image is None else [item.image]), *(item.images or [])]
        embedding = item.embedding
        if not images and embedding is None:
            images, embedding = references, request.embedding
            names = ["image"] if len(images) + offset == 1 else [f"image {i + offset + 1}" for i in range(len(images))]
            called |= {f"{own}.images.{i}": name for i, name in enumerate(names)} | {f"{own}.images": "image"}
        if item.layers is not None and item.layer_scales is not None:
            raise invalid_value("adapters", "layers and layer_scales were both given; send one of them")
        prompts.append(
            ImagePromptRequest(
                adapter=item.name,
                images=images,
                embedding=embedding,
                negative=item.negative,
                scale=item.scale,
                layers=item.layers if item.layers is not None else item.layer_scales,
                sides=item.sides,
                combination=item.combination,
                weights=item.weights,
                start=item.start,
                end=item.end,
                mask=item.mask,
                crop=item.crop,
            )
        )
    return prompts, called


async def _names(request: PictureRequest, services: Services) -> tuple[str | None, str | None]:
    """Of base and adapter; `model` is one or the other."""
    base, adapter, model = request.base, request.adapter, request.model
    if model is None:
        return base, adapter
    if model in services.config.bases:
        return _agreed("base", base, model), adapter
    found = await adapter_of(services, model, "model")
    return base, _agreed("adapter", adapter, found.name)


def _agreed(param: str, own: str | None, model: str) -> str:
    if own not in (None, model):
        raise invalid_value(param, f"{param} {own!r} and model {model!r} differ; send one of them")
    return model


def _native_scale(scale: float | None) -> float | None:
    if scale is not None and not -1 <= scale <= 5:
        raise invalid_value("adapter_scale", f"adapter_scale {scale:g} is outside [-1, 5]; choose a value within")
    return scale


def _one_of(request: PictureRequest, ours: str, alias: str) -> Any:
    """The value of a field that has two names."""
    first, second = getattr(request, ours), getattr(request, alias)
    if first is not None and second is not None and first != second:
        raise invalid_value(alias, f"{ours} {first} and {alias} {second} differ; send one of them")
    return second if first is None else first
