"""The engine: rows of any seed, adapter, scale, guidance, sampler, step count and timestep, stepped in one UNet call.

A row joins between any two steps and leaves when it is done. It belongs to one thread; callers on other threads queue.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL import Image

from nigaoe.core.attention import text_keys_values
from nigaoe.core.bases import Base
from nigaoe.core.caches import CacheStats, TensorCache
from nigaoe.core.engine.batch import Batch, BatchKey, batch_key, pack
from nigaoe.core.engine.controls import with_controls
from nigaoe.core.engine.previews import previews
from nigaoe.core.engine.rows import Generation, GuidedImagePrompt, Row, RowText, drawn_once
from nigaoe.core.engine.runners import best_runner
from nigaoe.core.engine.starts import skipped_steps, start
from nigaoe.core.engine.turns import Turns
from nigaoe.core.engine.validation import Size, regions, validated_size
from nigaoe.core.errors import GenerationError, RequestError
from nigaoe.core.pixels import as_pictures, to_tensor
from nigaoe.core.samplers.plan import SamplingPlan, affine_step
from nigaoe.core.samplers.registry import SAMPLERS
from nigaoe.core.unet_call import Runner, UNetCall

log = logging.getLogger(__name__)

FINITE_EVERY = 8
"""Steps between two looks at whether latents are numbers still: on a GPU a look waits for all that is under way."""

TEXT_CACHE_BYTES = 512 * 2**20
"""Some 65 prompts of SD 1.5 in float32, keys and values with them; twice as many in half precision."""


@dataclass(frozen=True)
class Stepped:
    """What one step brought, by ticket."""

    pictures: dict[int, Image.Image] = field(default_factory=dict)
    failures: dict[int, GenerationError] = field(default_factory=dict)
    """Rows that could not go on, each for a reason of its own."""
    rows: tuple[int, ...] = ()
    """Whose turn it was; none where there was nothing left but to decode."""


class Engine:
    """Steps rows on one base. `max_rows` bounds a UNet call (a guided row counts once)."""

    def __init__(self, base: Base, max_rows: int = 16, *, runner: Runner | None = None, decode_rows: int = 4) -> None:
        """`runner`: how the UNet is called; None: `best_runner`. `decode_rows`: most pictures decoded between steps."""
        for name, count in (("max_rows", max_rows), ("decode_rows", decode_rows)):
            if count < 1:
                raise RequestError(f"{name} {count} lets no picture through; give at least 1")
        self.base, self.max_rows = base, max_rows
        self._runner, self._decode_rows = runner or best_runner(base.unet), decode_rows
        self._dtype = next(base.unet.parameters()).dtype
        self._active: list[Row] = []
        self._undecoded: list[Row] = []
        self._turns = Turns()
        self._next_id = 0
        self._steps = 0
        self._batch: tuple[BatchKey, Batch] | None = None
        self._texts: TensorCache[RowText] = TensorCache(TEXT_CACHE_BYTES)
        self._plans: dict[tuple[str, int, int], SamplingPlan] = {}

    def submit(self, generation: Generation, *, priority: int = 0) -> int:
        """Let a picture join; returns its ticket. Where not all fit into a call, higher priorities are stepped first.

        Raises:
            RequestError: A size, step count, guidance or picture that the base cannot do.
            AdapterError: An image prompt for another base.
        """
        generation = replace(generation, image_prompts=tuple(self._placed(p) for p in generation.image_prompts))
        size = validated_size(self.base, generation)
        plan = self._plan(generation)
        generator = torch.Generator("cpu").manual_seed(generation.seed)
        begin = start(self.base, generation, plan, size, generator)
        text = self._text(generation.prompt)
        device = self.base.device
        row = Row(
            id=self._next_id,
            generation=generation,
            plan=plan,
            latents=begin.latents,
            generator=generator,
            text=text,
            negative_text=self._text(generation.negative_prompt, True) if generation.is_guided else text,
            regions=tuple(regions(self.base, prompt.mask, size) for prompt in generation.image_prompts),
            control_images=tuple((to_tensor(c.image).to(device) + 1) / 2 for c in generation.controls),
            time_ids=_time_ids(generation, size).to(device) if self.base.is_xl else None,
            extra_channels=begin.extra_channels,
            inpainting=begin.inpainting,
            priority=priority,
        )
        self._next_id += 1
        self._active.append(row)
        return row.id

    def cancel(self, ticket: int) -> None:
        """Let a picture leave; unknown tickets are ignored, for it may just have finished."""
        self._active = [row for row in self._active if row.id != ticket]
        self._undecoded = [row for row in self._undecoded if row.id != ticket]
        self._batch = None

    @property
    def pending_row_steps(self) -> int:
        """UNet steps still to be taken, over all rows."""
        return sum(row.steps_left for row in self._active)

    @property
    def active_rows(self) -> int:
        """Rows not yet finished, those that wait for the autoencoder counted."""
        return len(self._active) + len(self._undecoded)

    @property
    def text_cache(self) -> CacheStats:
        """Figures of the memory for prompts."""
        return self._texts.stats

    def progress(self) -> dict[int, tuple[int, int]]:
        """Steps taken and steps in all, by ticket."""
        return {row.id: (row.position, len(row.plan)) for row in [*self._active, *self._undecoded]}

    @torch.no_grad()
    def step(self) -> Stepped:
        """Take one step of the rows whose turn it is, and decode some that are done; returns what this finished."""
        rows = self._turns.next(self._active, self.max_rows)
        failures = self._advance(rows)
        if failures and len(failures) == len(rows):
            self._require_working(rows[0])
        failures |= self._not_finite([row for row in rows if row.id not in failures])
        done = [row for row in rows if row.is_done and row.id not in failures]
        if done or failures:
            # Nobody's prompt or face outlives its picture.
            self._batch = None
            self._active = [row for row in self._active if row not in done and row.id not in failures]
        self._undecoded += done
        decoded = self._decode_some()
        return Stepped(decoded.pictures, failures | decoded.failures, tuple(row.id for row in rows))

    def preview(self, tickets: Iterable[int]) -> dict[int, Image.Image]:
        """What these pictures seem to become, as far as they have begun; it costs a part of what decoding does."""
        wanted = set(tickets)
        return previews(self.base, [row for row in [*self._active, *self._undecoded] if row.id in wanted])

    def generate(
        self, generations: Sequence[Generation], on_step: Callable[[int], None] | None = None
    ) -> list[Image.Image]:
        """Make all of these and return them in order. `on_step` hears how many are finished.

        Raises:
            RequestError: Somebody else's pictures are under way, whose results would be lost.
            GenerationError: One of them failed.
        """
        if self.active_rows:
            raise RequestError(
                f"{self.active_rows} pictures are under way here; step them to their end, or use an engine of your own"
            )
        tickets: list[int] = []
        pictures: dict[int, Image.Image] = {}
        try:
            for generation in generations:
                tickets.append(self.submit(generation))
            while not set(tickets) <= pictures.keys():
                stepped = self.step()
                for ticket in stepped.failures.keys() & set(tickets):
                    raise stepped.failures[ticket]
                pictures |= stepped.pictures
                if on_step is not None:
                    on_step(len(pictures.keys() & set(tickets)))
        finally:
            for ticket in tickets:
                self.cancel(ticket)
        return [pictures[ticket] for ticket in tickets]

    def _advance(self, rows: tuple[Row, ...]) -> dict[int, GenerationError]:
        """One step of these, or if that fails of each half: those that fail, fail alone."""
        if not rows:
            return {}
        failure = None
        try:
            self._step_rows(self._packed(rows))
        except Exception as error:
            failure = self._failed(rows, error)
        # Out of the `except` block, whose frames hold the memory of the call that failed.
        self._batch = None if failure else self._batch
        if failure is None:
            return {}
        if len(rows) == 1:
            return {rows[0].id: failure}
        half = len(rows) // 2
        return self._advance(rows[:half]) | self._advance(rows[half:])

    def _not_finite(self, rows: Sequence[Row]) -> dict[int, GenerationError]:
        """Rows that ran into numbers that are none: they fail before they cost more steps or the autoencoder's time."""
        self._steps += 1
        if not rows or (self._steps % FINITE_EVERY and not any(row.is_done for row in rows)):
            return {}
        is_finite = torch.isfinite(torch.stack([row.latents for row in rows])).flatten(1).all(1).tolist()
        return {row.id: self._no_numbers(row) for row, is_fine in zip(rows, is_finite, strict=True) if not is_fine}

    def _no_numbers(self, row: Row) -> GenerationError:
        return GenerationError(
            f"picture with seed {row.generation.seed} ran into numbers that are none; lower its scales or "
            f"guidance, or use a precision with more room than {self.base.precision}"
        )

    def _require_working(self, row: Row) -> None:
        """Let the error through if the UNet fails without anything of a request's: then no row is at fault.

        A device that does nothing any more, or has no memory for one row, would fail every request to come.
        """
        latents, extra = row.latents, row.extra_channels
        sample = torch.zeros_like(latents if extra is None else torch.cat([latents, extra]))
        states, pooled = row.text.encoded
        call = UNetCall(
            sample=sample[None],
            timesteps=torch.zeros(1, device=latents.device),
            text_states=torch.zeros_like(states),
            pooled=None if pooled is None else torch.zeros_like(pooled),
            time_ids=None if row.time_ids is None else torch.zeros_like(row.time_ids)[None],
        )
        self._runner(self.base.unet, call)

    def _failed(self, rows: Sequence[Row], error: Exception) -> GenerationError:
        """What to say of it."""
        if len(rows) == 1:
            log.warning("a picture failed", exc_info=error)
        failure = GenerationError(f"picture with seed {rows[0].generation.seed} could not be drawn: {error}")
        failure.__cause__ = error.with_traceback(None)
        return failure

    def _placed(self, prompt: GuidedImagePrompt) -> GuidedImagePrompt:
        """Where the base is and in its precision, once and not in every layer of every step."""
        return prompt._replace(
            conditional=prompt.conditional.to(self.base.device, self._dtype),
            unconditional=prompt.unconditional.to(self.base.device, self._dtype),
        )

    def _packed(self, rows: tuple[Row, ...]) -> Batch:
        key = batch_key(rows)
        if self._batch is None or self._batch[0] != key:
            self._batch = key, pack(rows)
        return self._batch[1]

    def _step_rows(self, batch: Batch) -> None:
        rows, device = batch.rows, self.base.device
        steps = [row.coefficients for row in rows]
        latents = torch.stack([row.latents for row in rows])
        scale = torch.tensor([step.scale for step in steps], device=device).view(-1, 1, 1, 1)
        call = with_controls(batch.call(latents * scale), batch)
        prediction = batch.guided(self._runner(self.base.unet, call))
        before = torch.stack([row.latents if row.previous_x0 is None else row.previous_x0 for row in rows])
        with drawn_once(rows):
            is_noisy = any(step.n for step in steps)
            noise = torch.stack([row.fresh_noise() for row in rows]) if is_noisy else torch.zeros_like(latents)
            latents, x0 = affine_step(latents, prediction, before, noise, steps)
            arrived = [row.arrived(x) for row, x in zip(rows, latents, strict=True)]
        for row, x, seen in zip(rows, arrived, x0, strict=True):
            row.latents, row.previous_x0 = x, seen
            row.position += 1

    def _decode_some(self) -> Stepped:
        """A few at a time: those who are still being drawn wait no longer for the autoencoder than for a step."""
        shape = self._undecoded[0].latents.shape if self._undecoded else None
        chosen = [row for row in self._undecoded if row.latents.shape == shape][: self._decode_rows]
        self._undecoded = [row for row in self._undecoded if row not in chosen]
        return self._decode(chosen) if chosen else Stepped()

    def _decode(self, rows: list[Row]) -> Stepped:
        pixels = failure = None
        try:
            pixels = self.base.decode_pixels(torch.stack([row.latents for row in rows]))
        except Exception as error:
            failure = self._failed(rows, error)
        if failure is not None and len(rows) == 1:
            return Stepped(failures={rows[0].id: failure})
        if pixels is None:
            halves = self._decode(rows[: len(rows) // 2]), self._decode(rows[len(rows) // 2 :])
            return Stepped(halves[0].pictures | halves[1].pictures, halves[0].failures | halves[1].failures)
        stepped = Stepped()
        for row, picture, own in zip(rows, as_pictures(pixels), pixels, strict=True):
            if bool(torch.isfinite(own).all()):
                stepped.pictures[row.id] = Image.fromarray(picture.numpy())
            else:
                stepped.failures[row.id] = self._no_numbers(row)
        return stepped

    def _text(self, prompt: str, is_negative: bool = False) -> RowText:
        def encode() -> RowText:
            encoder = self.base.text_encoder
            encoded = encoder.encode_negative([prompt]) if is_negative else encoder.encode([prompt])
            return RowText(encoded, text_keys_values(self.base.cross_attention, encoded.states.to(self._dtype)))

        is_zero = is_negative and not prompt and self.base.text_encoder.empty_is_zero
        return self._texts.get((prompt, is_zero), encode)

    def _plan(self, generation: Generation) -> SamplingPlan:
        key = (generation.sampler, generation.steps, skipped_steps(generation))
        if key not in self._plans:
            if len(self._plans) >= 64:
                self._plans.pop(next(iter(self._plans)))
            self._plans[key] = SAMPLERS[generation.sampler](self.base.schedule, *key[1:])
        return self._plans[key]


def _time_ids(generation: Generation, size: Size) -> torch.Tensor:
    width, height = size
    original = generation.original_size or (height, width)
    return torch.tensor([*original, *generation.crop_top_left, height, width], dtype=torch.float32)
