"""Requests and answers in the shape of the OpenAI Images API, and what this server adds to it.

Scalars may come as strings: a multipart form knows nothing else.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from nigaoe.serve.orders import OutputFormat


class PictureRequest(BaseModel):
    """The fields that both routes share."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    prompt: str
    negative_prompt: str = ""
    model: str | None = None
    """Name of a base or of an adapter, as `/v1/models` lists them."""
    base: str | None = None
    adapter: str | None = None
    adapter_scale: FiniteFloat | None = None
    """How strongly the picture counts; 0 ignores it."""
    n: int = 1
    size: str | None = None
    """`WIDTHxHEIGHT` in pixels; `auto`: the size that the base was trained on."""
    seed: int | None = Field(None, ge=0, le=2**62)
    """Picture i is drawn from seed + i. Left out: random, and told in the answer."""
    steps: int | None = None
    guidance_scale: FiniteFloat | None = None
    response_format: str | None = None
    """`b64_json` and nothing else."""
    output_format: OutputFormat = "png"
    output_compression: int = Field(90, ge=0, le=100)
    """Quality of JPEG and WebP."""
    stream: bool = False
    """Only false."""
    partial_images: int | None = None
    """Only 0."""

    # OpenAI's own, of no meaning here; clients written for it may send them.
    quality: Any = None
    background: Any = None
    moderation: Any = None
    style: Any = None
    user: Any = None
    safety_identifier: Any = None


class GenerationRequest(PictureRequest):
    """`POST /v1/images/generations`."""

    image: str | None = None
    """A picture as base64 or data URL; left out: text alone."""


class EditRequest(PictureRequest):
    """`POST /v1/images/edits`, apart from the file itself."""

    input_fidelity: Any = None
    """OpenAI's own, of no meaning here; see `adapter_scale`."""


class PictureData(BaseModel):
    """One picture."""

    b64_json: str
    seed: int


class PictureResponse(BaseModel):
    """The answer of both routes."""

    created: int
    """Unix seconds."""
    data: list[PictureData]
    output_format: OutputFormat
    size: str
    base: str
    adapter: str | None


class ModelCard(BaseModel):
    """A base or an adapter."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "nigaoe"
    kind: Literal["base", "adapter"]


class ModelList(BaseModel):
    """`GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """`GET /healthz`: `busy` if every place is taken, and then without figures."""

    status: Literal["ok", "busy"]
    active_rows: int | None = None
    pending_row_steps: int | None = None
    unet_calls: int | None = None
