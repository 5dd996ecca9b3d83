"""Requests and answers in the shape of the OpenAI Images API, and what this server adds to it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from nigaoe.serve.http.native_schemas import LayerPreset, Scale, Seed, Share
from nigaoe.serve.http.pictures import ImageBytes
from nigaoe.serve.orders import Combination, Crop, OutputFormat, Sampler, Sides


class AdapterItem(BaseModel):
    """One of `adapters`: as an image prompt of `/v1/generate`, with `name` for `adapter`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str | None = None
    """Of the adapter; left out: the server's default."""
    image: ImageBytes | None = None
    """Left out, with `images` and `embedding`: the pictures of the request itself."""
    images: list[ImageBytes] | None = None
    embedding: str | None = None
    negative: ImageBytes | None = None
    scale: Scale | None = None
    layers: LayerPreset | list[Scale] | None = None
    layer_scales: LayerPreset | list[Scale] | None = None
    """The same as `layers`."""
    sides: Sides = "v"
    combination: Combination = "concat"
    weights: list[Scale] | None = None
    start: Share = 0.0
    end: Share = 1.0
    mask: ImageBytes | None = None
    crop: Crop = "centre"


class PictureRequest(BaseModel):
    """The fields that all three routes share. Those of OpenAI that mean nothing here are accepted and do nothing."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    model: str | None = None
    """Name of a base or of an adapter, as `/v1/models` lists them; left out: the server's defaults."""
    n: Annotated[int, Field(ge=1)] | None = None
    size: str | None = None
    """`WIDTHxHEIGHT` in pixels; `auto`: that of the picture that is changed, or else the base's own."""
    quality: str | None = None
    """A preset of steps and sampler: `low`, `medium`, `high`, `auto` and those that the server adds."""
    response_format: Literal["b64_json", "url"] | None = None
    output_format: OutputFormat | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    """Quality of JPEG and WebP."""
    background: Literal["transparent", "opaque", "auto"] | None = None
    """Pictures are always opaque."""
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0)] | None = None
    """Previews while it is drawn, with `stream`."""
    user: str | None = None
    safety_identifier: str | None = None

    negative_prompt: str | None = None
    base: str | None = None
    adapter: str | None = None
    adapter_scale: FiniteFloat | None = None
    """How strongly the pictures count; 0 ignores them."""
    ip_adapter_scale: FiniteFloat | None = None
    """The same as `adapter_scale`."""
    adapters: list[AdapterItem] | None = None
    """Several adapters, or one of which more is to be said. In a form: a JSON string, or fields `adapters[][name]`."""
    embedding: str | None = None
    """In place of pictures: the id that `POST /v1/embeddings/images` gave."""
    seed: Seed | None = None
    """Picture i is drawn from seed + i. Left out: random, and told in the answer."""
    steps: Annotated[int, Field(ge=1)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1)] | None = None
    """The same as `steps`."""
    guidance_scale: Annotated[FiniteFloat, Field(ge=0)] | None = None
    sampler: Sampler | None = None
    scheduler: Sampler | None = None
    """The same as `sampler`."""
    strength: Share | None = None
    """Start from the first picture, and leave so much of the run to draw over it."""


class GenerationRequest(PictureRequest):
    """`POST /v1/images/generations`."""

    prompt: str
    image: ImageBytes | list[ImageBytes] | None = None
    """What the result should resemble, as base64 or data URL; left out: text alone."""
    images: list[ImageBytes] | None = None
    """The same as `image`."""
    mask: ImageBytes | None = None
    """As in `/v1/images/edits`."""


class EditRequest(PictureRequest):
    """`POST /v1/images/edits`, apart from the files: `image` or several `image[]`, and `mask`."""

    prompt: str
    input_fidelity: Literal["high", "low"] | None = None
    """In place of `adapter_scale`: 1 or 0.5."""


class VariationRequest(PictureRequest):
    """`POST /v1/images/variations`, apart from the file: `image`."""

    prompt: str | None = None
    """Empty, as in the original; this server takes one too."""


class PictureData(BaseModel):
    """One picture."""

    b64_json: str | None = None
    url: str | None = None
    seed: int


class TokensIn(BaseModel):
    """Of the request."""

    text_tokens: int
    image_tokens: int


class TokensOut(BaseModel):
    """Of the answer."""

    text_tokens: int = 0
    image_tokens: int


class Usage(BaseModel):
    """Words and punctuation marks of the prompts; 256 for each picture sent; one for 16 x 16 px of each drawn."""

    input_tokens: int
    input_tokens_details: TokensIn
    output_tokens: int
    output_tokens_details: TokensOut
    total_tokens: int


class PictureResponse(BaseModel):
    """The answer of all three routes."""

    created: int
    """Unix seconds."""
    data: list[PictureData]
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    quality: str | None = None
    size: str
    usage: Usage
    base: str
    adapter: str | None = None
    timings: dict[str, float]
    """Seconds."""
    parameters: dict[str, Any]
    """As in the answer of `/v1/generate`."""


class PartialImageEvent(BaseModel):
    """A preview."""

    type: Literal["image_generation.partial_image", "image_edit.partial_image"]
    b64_json: str
    partial_image_index: int
    image_index: int
    """Of the picture among all that were asked for."""
    created_at: int
    size: str
    quality: str
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat


class CompletedEvent(BaseModel):
    """A finished picture."""

    type: Literal["image_generation.completed", "image_edit.completed"]
    b64_json: str
    image_index: int
    seed: int
    created_at: int
    size: str
    quality: str
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    usage: Usage
    """Of all pictures together."""


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
