"""Engines, with the slow first calls behind them."""

import time
from dataclasses import replace

from PIL import Image

from nigaoe.core.bases import Base
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.rows import Generation
from nigaoe.core.engine.runners import ROW_COUNTS, make_runner
from nigaoe.serve.config import EngineConfig


def make_engine(base: Base, config: EngineConfig) -> Engine:
    """An engine as a config wants it."""
    runner = None if config.runner is None else make_runner(config.runner, base.unet)
    return Engine(base, config.max_rows, runner=runner)


def warm(engine: Engine, config: EngineConfig) -> float:
    """Make the first calls, which compile and allocate; returns the seconds of a later one, of one row."""
    side = engine.base.default_size_px
    grey = Image.new("RGB", (side, side), "grey") if engine.base.is_inpainting else None
    mask = None if grey is None else Image.new("L", grey.size, 255)
    once = Generation(prompt="", steps=1, init_image=grey, inpaint_mask=mask, strength=1.0)
    if config.runner in ("compiled", "graphed"):
        # The largest first, for graphs share one pool of memory.
        for count in reversed(ROW_COUNTS):
            if count // 2 <= config.max_rows:
                engine.generate([once] * max(1, count // 2))
    engine.generate([once])
    engine.submit(replace(once, steps=2))
    began = time.monotonic()
    engine.step()
    seconds = time.monotonic() - began
    engine.step()
    return seconds
