"""The picture that a request starts from, its mask, and the masks of its image prompts: all of one size."""

from dataclasses import dataclass, replace
from functools import lru_cache, partial

from nigaoe.core.errors import BaseModelError
from nigaoe.serve.config import Limits
from nigaoe.serve.http.native_schemas import GenerateRequest
from nigaoe.serve.http.pictures import decoded, fitted, size_of
from nigaoe.serve.http.problems import invalid_value
from nigaoe.serve.http.prompting import Names, mask_upload, upload
from nigaoe.serve.http.resolving import only_with
from nigaoe.serve.orders import ImagePromptOrder, Picture
from nigaoe.serve.services import Services

Size = tuple[int, int]
"""Width and height, px."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """What is drawn on."""

    size: Size | None
    """None: the base's own, which nothing here depends on."""
    init: Picture | None
    mask: Picture | None
    """White where it is drawn anew."""
    prompts: tuple[ImagePromptOrder, ...]


async def canvas_of(
    request: GenerateRequest,
    prompts: tuple[ImagePromptOrder, ...],
    base: str,
    asked: Size | None,
    services: Services,
    called: Names,
    *,
    clear_is_white: bool,
) -> Canvas:
    """Decode what is drawn on and scale everything to the size that is drawn.

    Raises:
        Problem: 400 for pictures that cannot be read or do not belong together.
    """
    init_name, mask_name = (called.get(name, name) for name in ("init_image", "inpaint_mask"))
    init, mask = None, None
    if request.init_image is not None:
        init = await upload(services, request.init_image, init_name)
    elif request.inpaint_mask is not None:
        raise only_with(mask_name, init_name)
    elif request.strength is not None:
        raise only_with("strength", init_name)
    if request.inpaint_mask is not None:
        assert init is not None
        mask = await mask_upload(services, request.inpaint_mask, mask_name, clear_is_white=clear_is_white)
        if size_of(mask) != size_of(init):
            ours, theirs = (f"{width}x{height} px" for width, height in (size_of(mask), size_of(init)))
            raise invalid_value(mask_name, f"{mask_name} is {ours} and {init_name} {theirs}; send both of one size")
    masked = any(prompt.mask is not None for prompt in prompts)
    if init is None and not masked:
        return Canvas(asked, None, None, prompts)
    own = None if init is None else size_of(init)
    limits = services.config.limits
    size = asked or await decoded(services, partial(_drawable, base, own, limits))
    return await decoded(services, partial(_scaled, size, init, mask, prompts))


def nearest(size: Size, multiple: int, most: Size) -> Size:
    """The size of about that shape whose sides are multiples, and at most those given."""
    shrink = min(1.0, most[0] / size[0], most[1] / size[1])
    width, height = (
        min(max(multiple, round(side * shrink / multiple) * multiple), max(multiple, limit // multiple * multiple))
        for side, limit in zip(size, most, strict=True)
    )
    return width, height


def _drawable(base: str, own: Size | None, limits: Limits) -> Size | None:
    """The size nearest to a picture's own that a base draws, or else the base's own."""
    try:
        default, multiple = _outline(base)
    except BaseModelError:
        # Its settings are where the replicas are, and not here; they say whether the picture's own size will do.
        return own
    return (default, default) if own is None else nearest(own, multiple, (limits.width, limits.height))


@lru_cache(maxsize=64)
def _outline(base: str) -> tuple[int, int]:
    # It imports torch, which requests of text and faces do without.
    from nigaoe.core.base_parts import read_outline

    outline = read_outline(base)
    return outline.default_size_px, outline.size_multiple


def _scaled(
    size: Size | None, init: Picture | None, mask: Picture | None, prompts: tuple[ImagePromptOrder, ...]
) -> Canvas:
    if size is None:
        return Canvas(None, init, mask, prompts)
    return Canvas(
        size,
        None if init is None else fitted(init, size),
        None if mask is None else fitted(mask, size),
        tuple(p if p.mask is None else replace(p, mask=fitted(p.mask, size)) for p in prompts),
    )
