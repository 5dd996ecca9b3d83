"""Files: formats, what a PNG says of itself, previews, the safety hook."""

import asyncio
import importlib.util
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nigaoe.core.errors import ConfigError
from nigaoe.serve.config import ServeConfig
from nigaoe.serve.engine.finishing import Finisher, as_automatic1111, encode
from nigaoe.serve.engine.replica import Replica
from nigaoe.serve.orders import AdapterAt, Drawn, Partial, Refusal
from served import difference, drawn, events_of, last_of, order_of, person, pixels


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_pictures_are_encoded(engine_replica: Replica, kind: Any) -> None:
    (file,) = drawn(engine_replica, order_of(output_format=kind, quality=0)).pictures
    with Image.open(io.BytesIO(file)) as image:
        assert image.format == kind.upper()
        assert image.size == (96, 96)


def test_quality_counts() -> None:
    picture = Image.fromarray(person(1).pixels)
    for kind in ("jpeg", "webp"):
        assert len(encode(picture, kind, 5)) < len(encode(picture, kind, 95))


def test_a_png_says_how_it_came_about(engine_replica: Replica) -> None:
    parameters = json.dumps({"prompt": "絵, a woman", "seeds": [3, 4]}, ensure_ascii=False)
    order = order_of(
        prompt="絵, a woman", negative_prompt="hat", seeds=(3, 4), parameters=parameters, init=person(1), steps=5
    )
    for seed, file in zip((3, 4), drawn(engine_replica, order).pictures, strict=True):
        with Image.open(io.BytesIO(file)) as image:
            assert image.text["nigaoe"] == parameters  # type: ignore[attr-defined]
            assert image.text["parameters"] == (  # type: ignore[attr-defined]
                "絵, a woman\nNegative prompt: hat\n"
                f"Steps: 5, Sampler: DDIM, CFG scale: 3, Seed: {seed}, Size: 96x96, Model: toy/anime, "
                "Denoising strength: 0.8"
            )


def test_a_base_with_a_comma_in_its_name_breaks_no_list() -> None:
    assert ', Model: "a, b"' in as_automatic1111(order_of(base="a, b"), 0, (8, 8))


def test_previews_come_while_it_is_drawn_and_change_nothing(engine_replica: Replica, trained: AdapterAt) -> None:
    order = order_of(trained, seeds=(1, 2), steps=12, output_format="jpeg", quality=95)
    *before, last = asyncio.run(events_of(engine_replica, replace(order, partial_images=3)))
    previews = [event for event in before if isinstance(event, Partial)]
    assert sorted((event.place, event.index) for event in previews) == [(p, i) for p in (0, 1) for i in range(3)]
    assert [event.index for event in previews if event.place == 1] == [0, 1, 2]
    assert isinstance(last, Drawn)
    plain = drawn(engine_replica, order)
    assert difference(last, plain) <= 1
    for place, picture in enumerate(pixels(last)):
        own = pixels([event for event in previews if event.place == place])
        distances = [float(np.abs(preview - picture).mean()) for preview in own]
        assert own[0].shape == picture.shape
        # They approach the picture, and the last of them shows it already.
        assert distances[0] > distances[2]
        assert distances[2] < 25


def test_who_did_not_ask_is_shown_nothing(engine_replica: Replica) -> None:
    async def both() -> tuple[list[Any], list[Any]]:
        return await asyncio.gather(
            events_of(engine_replica, order_of(steps=12, partial_images=2)),
            events_of(engine_replica, order_of(steps=12, seeds=(5,))),
        )

    shown, not_shown = asyncio.run(both())
    assert sum(isinstance(event, Partial) for event in shown) == 2
    assert not any(isinstance(event, Partial) for event in not_shown)


def upside_down(image: Image.Image) -> Image.Image | None:
    """A hook that withholds what is bright."""
    if np.asarray(image).mean() > 250:
        return None
    return image.transpose(Image.Transpose.ROTATE_180)


def nothing_passes(image: Image.Image) -> None:
    return None


def breaks(image: Image.Image) -> Image.Image:
    raise RuntimeError("secret")


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with the hooks of this file; importlib gives this file none that can be imported."""
    import sys
    import types

    module = types.ModuleType("served_hooks")
    for hook in (upside_down, nothing_passes, breaks):
        setattr(module, hook.__name__, hook)
    monkeypatch.setitem(sys.modules, "served_hooks", module)
    return "served_hooks"


def test_the_safety_hook_sees_every_picture(engine_config: ServeConfig, engine_replica: Replica, hooks: str) -> None:
    order = order_of(seeds=(1, 2), steps=8, partial_images=1)
    plain = drawn(engine_replica, order)
    replica = Replica(engine_config.model_copy(update={"safety": f"{hooks}:upside_down"}))
    turned = drawn(replica, order)
    for a, b in zip(pixels(plain), pixels(turned), strict=True):
        assert np.abs(a[::-1, ::-1] - b).max() <= 1

    replica._finisher = Finisher(f"{hooks}:nothing_passes", None)
    events = asyncio.run(events_of(replica, order))
    assert not any(isinstance(event, Partial) for event in events)
    assert events[-1] == Refusal(
        "invalid", "a picture was withheld by this server's safety check; ask for something else"
    )
    replica._finisher = Finisher(f"{hooks}:breaks", None)
    # What could not be checked is not handed out.
    broken = asyncio.run(last_of(replica, order))
    assert isinstance(broken, Refusal)
    assert broken.kind == "failed"
    assert "secret" not in broken.reason
    replica.close()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nowhere.at_all:hook", "safety 'nowhere.at_all:hook' cannot be loaded .*; give 'module:function'"),
        ("json:hook", "safety 'json:hook' cannot be loaded .*; give 'module:function'"),
        ("json", "cannot be loaded"),
        ("", "cannot be loaded"),
        ("json:__name__", "is of type str; give a function of one picture"),
    ],
)
def test_a_hook_that_is_none_is_told_at_the_start(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Finisher(address, None)


@pytest.mark.skipif(importlib.util.find_spec("imwatermark") is not None, reason="invisible-watermark is installed")
def test_a_watermark_without_its_package_is_told_at_the_start() -> None:
    with pytest.raises(ConfigError, match="needs the package invisible-watermark, which is not installed here; "):
        Finisher(None, "ours")
