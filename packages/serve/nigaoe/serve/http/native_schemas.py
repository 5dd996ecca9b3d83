"""What `POST /v1/generate` takes and gives: everything that an image prompt can say, in the words of nigaoe.core."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from nigaoe.serve.http.pictures import ImageBytes
from nigaoe.serve.orders import Combination, Crop, NoiseKind, OutputFormat, Sampler, Sides

LayerPreset = Literal[
    "linear",
    "ease_in",
    "ease_out",
    "ease_in_out",
    "reverse_in_out",
    "weak_input",
    "weak_middle",
    "weak_output",
    "strong_middle",
    "style",
    "composition",
    "style_and_composition",
    "strong_style",
    "strong_style_and_composition",
    "style_precise",
    "composition_precise",
]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Scale = Annotated[FiniteFloat, Field(ge=-1, le=5)]
Seed = Annotated[int, Field(ge=0, le=2**62)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class ImagePromptRequest(_Body):
    """Pictures of somebody or something, for one adapter."""

    adapter: str | None = None
    """As `/v1/adapters` lists it; left out: the server's default."""
    images: list[ImageBytes] = []
    """What the result should resemble."""
    embedding: str | None = None
    """In place of images: the id that `POST /v1/embeddings/images` gave."""
    negative: ImageBytes | None = None
    """What the result should not resemble."""
    scale: Scale | None = None
    """How strongly it counts; 0 ignores it."""
    layers: LayerPreset | list[Scale] | None = None
    """By what each cross-attention layer multiplies the scale: a preset, or a factor for each layer."""
    sides: Sides = "v"
    """What the scale multiplies: values; keys and values; both, less in narrow layers; keys and the mean of values."""
    combination: Combination = "concat"
    """How several images become one prompt."""
    weights: list[Scale] | None = None
    """Of each image."""
    start: Share = 0.0
    """Share of the run before which it is silent."""
    end: Share = 1.0
    """Share of the run after which it is silent."""
    mask: ImageBytes | None = None
    """Where it applies: grey, white where it does; scaled to the result's size."""
    crop: Crop = "centre"
    """How images become square; `face` needs a face encoder."""
    crop_position: Annotated[list[Share], Field(min_length=2, max_length=2)] = [0.5, 0.5]
    """Of the square that `centre` cuts, x and y: (0.5, 0) is the top."""
    shortcut_scale: Scale = 1.0
    """FaceID-Plus v2: how much of the face's CLIP features is added to its identity."""
    lora_scale: Scale = 1.0
    """FaceID: how much of its LoRA."""
    noise: NoiseKind | None = None
    """A negative made of noise, of `negative` or of the first image."""
    noise_strength: Share = 0.5
    noise_blur: Annotated[FiniteFloat, Field(ge=0, le=32)] = 0.0
    """Standard deviation in pixels."""


class GenerateRequest(_Body):
    """`POST /v1/generate`."""

    prompt: str = ""
    negative_prompt: str = ""
    base: str | None = None
    """As `/v1/models` lists it; left out: the server's default."""
    image_prompts: list[ImagePromptRequest] = []
    """Each is attended to on its own."""
    init_image: ImageBytes | None = None
    """Start from this picture instead of noise alone; scaled to `size`, whose default is its own."""
    strength: Share | None = None
    """How much of the run is left to draw over `init_image`; 1 forgets all but its layout. 0.8 where left out."""
    inpaint_mask: ImageBytes | None = None
    """Draw only where it is white; grey, of the size of `init_image`."""
    n: Annotated[int, Field(ge=1)] | None = None
    """How many pictures; 1 where neither this nor `seeds` says."""
    seed: Seed | None = None
    """Picture i is drawn from seed + i. Left out: random, and told in the answer."""
    seeds: list[Seed] | None = None
    """In place of `n` and `seed`: one for each picture."""
    quality: str | None = None
    """A preset of steps and sampler, which fields of their own override."""
    steps: Annotated[int, Field(ge=1)] | None = None
    guidance_scale: Annotated[FiniteFloat, Field(ge=0)] | None = None
    """Up to 1: none, at half the cost."""
    sampler: Sampler | None = None
    size: str | None = None
    """`WIDTHxHEIGHT` in pixels; `auto` or left out: the size that the base was trained on."""
    output_format: OutputFormat = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] = 90
    """Quality of JPEG and WebP."""
    response_format: Literal["b64_json", "url"] = "b64_json"
    """`url`: the pictures are kept for a while and fetched by address."""
    stream: bool = False
    """Answer with server-sent events: `progress`, `partial_image`, `completed`, `error`."""
    partial_images: Annotated[int, Field(ge=0)] = 0
    """Previews of each picture while it is drawn; with `stream`."""


class GeneratedPicture(BaseModel):
    """One picture; `b64_json` or `url`, as was asked for."""

    b64_json: str | None = None
    url: str | None = None
    seed: int


class TimingsBody(BaseModel):
    """Seconds."""

    queued: float
    encoded: float
    """Prompts and pictures."""
    stepped: float
    decoded: float


class GenerateResponse(BaseModel):
    """The answer of `POST /v1/generate`, and the last event of its stream."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: Literal["completed"] = "completed"
    id: str
    """Of the request."""
    created: int
    """Unix seconds."""
    images: list[GeneratedPicture]
    base: str
    size: str
    output_format: OutputFormat
    timings: TimingsBody
    parameters: dict[str, Any]
    """The request as it was understood, every default filled in; uploads by their hashes. PNG files hold the same."""


class ProgressEvent(BaseModel):
    """Steps taken by the picture that is farthest behind."""

    type: Literal["progress"] = "progress"
    step: int
    steps: int


class PartialEvent(BaseModel):
    """A preview."""

    type: Literal["partial_image"] = "partial_image"
    b64_json: str
    image_index: int
    """Of the picture among all."""
    partial_image_index: int
    """Of this picture's previews."""
