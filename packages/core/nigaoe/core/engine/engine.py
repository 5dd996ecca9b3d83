"""The engine: rows of any seed, scale, guidance, step count and timestep, stepped in one UNet call.

A row joins between any two steps and leaves when it is done. It belongs to one thread; callers on other threads queue.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from nigaoe.core.attention import ImagePrompt
from nigaoe.core.bases import Base
from nigaoe.core.engine.rows import Generation, Row, stack_image_prompts
from nigaoe.core.errors import RequestError
from nigaoe.core.samplers.plan import SamplingPlan, affine_step
from nigaoe.core.samplers.registry import SAMPLERS


@dataclass(frozen=True)
class _Batch:
    """What stays the same while the same rows are stepped: built once, not per step."""

    rows: tuple[Row, ...]
    owner: Tensor
    """int64 [P]: which row each UNet row belongs to; guided rows own two."""
    unconditional: Tensor
    """int64 [rows]: UNet row of the unconditional prediction (its own when unguided)."""
    conditional: Tensor
    guidance: Tensor
    """float32 [rows, 1, 1, 1]."""
    text: Tensor
    image_prompt: ImagePrompt | None


class Engine:
    """Steps rows on one base. `max_rows` bounds a UNet call (a guided row counts once)."""

    def __init__(self, base: Base, max_rows: int = 16) -> None:
        self.base, self.max_rows = base, max_rows
        self._active: list[Row] = []
        self._next_id = 0
        self._batch: _Batch | None = None
        self._text_cache: dict[str, Tensor] = {}
        self._plans: dict[tuple[str, int], SamplingPlan] = {}

    def submit(self, generation: Generation) -> int:
        """Let a picture join; returns its ticket.

        Raises:
            RequestError: A size, step count or guidance that the base cannot do.
        """
        width, height = self._validated_size(generation)
        factor, channels = self.base.vae_factor, self.base.latent_channels
        plan = self._plan(generation)
        # On the CPU: what a seed gives must not depend on the device, nor on who else is in the batch.
        generator = torch.Generator("cpu").manual_seed(generation.seed)
        noise = torch.randn((channels, height // factor, width // factor), generator=generator)
        row = Row(
            id=self._next_id,
            generation=generation,
            plan=plan,
            latents=(noise * plan.initial_sigma).to(self.base.device),
            generator=generator,
            text=self._text(generation.prompt),
            negative_text=self._text(generation.negative_prompt),
        )
        self._next_id += 1
        self._active.append(row)
        return row.id

    def cancel(self, ticket: int) -> None:
        """Let a picture leave; unknown tickets are ignored, for it may just have finished."""
        self._active = [row for row in self._active if row.id != ticket]
        self._batch = None

    @property
    def pending_row_steps(self) -> int:
        """UNet steps still to be taken, over all rows."""
        return sum(row.steps_left for row in self._active)

    @property
    def active_rows(self) -> int:
        """Rows not yet finished."""
        return len(self._active)

    def progress(self) -> dict[int, tuple[int, int]]:
        """Steps taken and steps in all, by ticket."""
        return {row.id: (row.position, len(row.plan)) for row in self._active}

    @torch.no_grad()
    def step(self) -> dict[int, Image.Image]:
        """Take one step of the rows whose turn it is; returns the pictures that this finished, by ticket."""
        batch = self._next_batch()
        if batch is None:
            return {}
        self._advance(batch)
        finished = [row for row in batch.rows if row.is_done]
        if not finished:
            return {}
        self._active = [row for row in self._active if not row.is_done]
        # Nobody's prompt or face outlives its picture.
        self._batch = None
        pixels = self.base.decode(torch.stack([row.latents for row in finished]))
        return {row.id: Image.fromarray(p.numpy()) for row, p in zip(finished, pixels, strict=True)}

    def generate(
        self, generations: Sequence[Generation], on_step: Callable[[int], None] | None = None
    ) -> list[Image.Image]:
        """Make all of these and return them in order. `on_step` hears how many are finished."""
        tickets: list[int] = []
        pictures: dict[int, Image.Image] = {}
        try:
            for generation in generations:
                tickets.append(self.submit(generation))
            while not set(tickets) <= pictures.keys():
                pictures |= self.step()
                if on_step is not None:
                    on_step(len(pictures.keys() & set(tickets)))
        finally:
            for ticket in tickets:
                self.cancel(ticket)
        return [pictures[ticket] for ticket in tickets]

    def _next_batch(self) -> _Batch | None:
        if not self._active:
            return None
        shape = self._active[0].latents.shape
        rows = tuple([row for row in self._active if row.latents.shape == shape][: self.max_rows])
        if self._batch is None or self._batch.rows != rows:
            self._batch = _pack(rows)
        return self._batch

    def _advance(self, batch: _Batch) -> None:
        rows, device = batch.rows, self.base.device
        steps = [row.coefficients for row in rows]
        latents = torch.stack([row.latents for row in rows])
        t = torch.tensor([row.timestep for row in rows], device=device)
        scale = torch.tensor([step.scale for step in steps], device=device).view(-1, 1, 1, 1)
        kwargs = {} if batch.image_prompt is None else {"image_prompt": batch.image_prompt}
        with self.base.autocast():
            prediction = self.base.unet(
                (latents * scale)[batch.owner],
                t[batch.owner],
                encoder_hidden_states=batch.text,
                cross_attention_kwargs=kwargs or None,
                return_dict=False,
            )[0].float()
        unconditional, conditional = prediction[batch.unconditional], prediction[batch.conditional]
        guided = unconditional + batch.guidance * (conditional - unconditional)
        before = torch.stack([row.latents if row.previous_x0 is None else row.previous_x0 for row in rows])
        is_noisy = any(step.n for step in steps)
        noise = torch.stack([row.fresh_noise() for row in rows]) if is_noisy else torch.zeros_like(latents)
        latents, x0 = affine_step(latents, guided, before, noise, steps)
        for row, x, seen in zip(rows, latents, x0, strict=True):
            row.latents, row.previous_x0 = x, seen
            row.position += 1

    def _text(self, prompt: str) -> Tensor:
        if prompt not in self._text_cache:
            if len(self._text_cache) >= 256:
                self._text_cache.pop(next(iter(self._text_cache)))
            self._text_cache[prompt] = self.base.encode_text([prompt])[0]
        return self._text_cache[prompt]

    def _plan(self, generation: Generation) -> SamplingPlan:
        limit, key = self.base.schedule.num_train_timesteps, (generation.sampler, generation.steps)
        if not 1 <= generation.steps <= limit:
            raise RequestError(
                f"steps {generation.steps} is outside [1, {limit}] of this base; choose a number between"
            )
        if generation.sampler not in SAMPLERS:
            raise RequestError(f"there is no sampler {generation.sampler!r}; choose one of {', '.join(SAMPLERS)}")
        if key not in self._plans:
            if len(self._plans) >= 64:
                self._plans.pop(next(iter(self._plans)))
            self._plans[key] = SAMPLERS[generation.sampler](self.base.schedule, generation.steps)
        return self._plans[key]

    def _validated_size(self, generation: Generation) -> tuple[int, int]:
        base = self.base
        width, height = generation.width or base.default_size_px, generation.height or base.default_size_px
        multiple = base.vae_factor * 2 ** (len(base.unet.config.block_out_channels) - 1)
        for name, side in (("width", width), ("height", height)):
            if side <= 0 or side % multiple:
                raise RequestError(
                    f"{name} {side} is not a positive multiple of {multiple}, which base {base.name!r} needs"
                )
        if not math.isfinite(generation.guidance_scale):
            raise RequestError(
                f"guidance_scale {generation.guidance_scale} is not a number; give one, 1 for no guidance"
            )
        return width, height


def _pack(rows: tuple[Row, ...]) -> _Batch:
    owner: list[int] = []
    unconditional: list[int] = []
    conditional: list[int] = []
    text: list[Tensor] = []
    prompts: list[ImagePrompt | None] = []
    for i, row in enumerate(rows):
        image = row.generation.image_prompt
        if row.is_guided:
            unconditional.append(len(owner))
            owner.append(i)
            text.append(row.negative_text)
            prompts.append(image.unconditional if image else None)
        conditional.append(len(owner))
        if not row.is_guided:
            unconditional.append(len(owner))
        owner.append(i)
        text.append(row.text)
        prompts.append(image.conditional if image else None)
    device = rows[0].latents.device
    guidance = torch.tensor([row.generation.guidance_scale for row in rows], device=device)
    return _Batch(
        rows=rows,
        owner=torch.tensor(owner, device=device),
        unconditional=torch.tensor(unconditional, device=device),
        conditional=torch.tensor(conditional, device=device),
        guidance=guidance.view(-1, 1, 1, 1),
        text=torch.stack(text),
        image_prompt=stack_image_prompts(prompts),
    )
