"""What is asked for comes into memory, what was not asked for longest leaves, and nobody who draws loses anything."""

import asyncio
import gc
import shutil
import weakref
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.bases import Base, load_base
from nigaoe.core.errors import AdapterError, ConfigError
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.serve.config import EngineConfig, ServeConfig
from nigaoe.serve.engine import residency as residency_module
from nigaoe.serve.engine.loading import Encoders, encoder_bytes, require_loadable
from nigaoe.serve.engine.replica import Replica
from nigaoe.serve.engine.warming import make_engine, warm
from nigaoe.serve.orders import AdapterAt, Drawn, Refusal
from served import adapter_file, difference, draw, drawn, last_of, order_of, refused, wait_until

Make = Callable[..., Replica]


@pytest.fixture
def make(engine_config: ServeConfig, sizes: tuple[int, int], encoder: ImageEncoder) -> Make:
    """A replica with room for so many bases and adapters besides its encoder."""

    def of(bases: float, adapters: float, **changes: object) -> Replica:
        room = encoder_bytes(Encoders(encoder, None)) + bases * sizes[0] + adapters * sizes[1]
        bounds = EngineConfig(max_rows=4, max_active_rows=4, memory_gib=room / 2**30)
        return Replica(engine_config.model_copy(update={"engine": bounds, **changes}))

    return of


def test_the_first_base_and_the_adapters_of_the_config_are_there_at_the_start(engine_config: ServeConfig) -> None:
    replica = Replica(engine_config)
    stats = asyncio.run(replica.stats())
    assert stats.bases == ("toy/anime",)
    assert stats.adapters == ("trained",)
    # Warm-up has measured already, so the first order can be told when it will be done.
    assert stats.row_steps_per_s > 0
    drawn(replica, order_of(base="toy/photo"))
    assert set(asyncio.run(replica.stats()).bases) == {"toy/anime", "toy/photo"}
    replica.close()


def test_what_was_not_asked_for_longest_leaves_and_comes_again(
    make: Make, trained: AdapterAt, untrained: AdapterAt
) -> None:
    replica = make(1.0, 1.2)
    engine = weakref.ref(replica._residency.engines()["toy/anime"].base.unet)
    before = drawn(replica, order_of(trained))
    assert isinstance(drawn(replica, order_of(untrained, base="toy/photo")), Drawn)
    stats = asyncio.run(replica.stats())
    assert (stats.bases, stats.adapters) == (("toy/photo",), ("untrained",))
    gc.collect()
    assert engine() is None
    again = drawn(replica, order_of(trained))
    assert difference(before, again) == 0
    stats = asyncio.run(replica.stats())
    assert (stats.bases, stats.adapters) == (("toy/anime",), ("trained",))
    replica.close()


def test_what_is_used_stays_and_who_needs_its_room_waits(make: Make, trained: AdapterAt) -> None:
    replica = make(1.0, 1.2)
    drawn(replica, order_of(base="toy/photo", steps=1))
    drawn(replica, order_of(steps=1))

    async def use() -> Drawn | Refusal:
        async with aclosing(replica.draw(order_of(steps=1000))) as events:  # type: ignore[type-var]
            await anext(events)
            other = asyncio.create_task(last_of(replica, order_of(base="toy/photo", steps=2)))
            # It came later and would take the room that the other one waits for.
            third = asyncio.create_task(last_of(replica, order_of(steps=2)))
            await asyncio.sleep(0.5)
            assert (await replica.stats()).bases == ("toy/anime",)
            assert (await replica.stats()).waiting_rows == 2
            assert not other.done()
            assert not third.done()
        first = await other
        assert isinstance(await third, Drawn)
        return first

    assert isinstance(asyncio.run(use()), Drawn)
    replica.close()


def test_weights_are_read_while_others_are_drawn(engine_config: ServeConfig) -> None:
    replica = Replica(engine_config)

    async def use() -> int:
        async with aclosing(replica.draw(order_of(steps=1000))) as events:  # type: ignore[type-var]
            await anext(events)
            before = (await replica.stats()).unet_calls
            await last_of(replica, order_of(base="toy/photo", steps=1))
            return (await replica.stats()).unet_calls - before

    # More than the one step of that order itself.
    assert asyncio.run(use()) > 3
    replica.close()


def test_a_file_of_another_content_is_refused(engine_replica: Replica, untrained: AdapterAt) -> None:
    wrong = AdapterAt("mine", "0" * 64, untrained.where)
    refusal = refused(engine_replica, order_of(wrong))
    assert refusal.kind == "invalid"
    assert "is not the file that" in refusal.reason
    gone = AdapterAt("gone", "1" * 64, "/nowhere/adapter.safetensors")
    assert "does not exist" in refused(engine_replica, order_of(gone)).reason
    # Neither is remembered as a failure of that name.
    assert drawn(engine_replica, order_of(untrained))


def test_a_failure_to_load_is_not_remembered(engine_replica: Replica, untrained: AdapterAt, tmp_path: Path) -> None:
    late = AdapterAt("late", untrained.sha256, str(tmp_path / "adapter.safetensors"))
    # Under another hash's key it would be in memory already.
    if "untrained" in asyncio.run(engine_replica.stats()).adapters:
        changed = tmp_path / "changed.safetensors"
        state = {key: value + 1e-3 for key, value in load_file(untrained.where).items()}
        save_file(state, changed)
        late = AdapterAt("late", adapter_file(changed).sha256, late.where)
        untrained = adapter_file(changed)
    assert refused(engine_replica, order_of(late)).kind == "invalid"
    shutil.copy(untrained.where, late.where)
    assert drawn(engine_replica, order_of(late))


def test_one_version_stays_one_version(engine_replica: Replica, adapter: IPAdapter, tmp_path: Path) -> None:
    """An adapter is published anew and the old file deleted while orders for both are drawn."""
    path = tmp_path / "adapter.safetensors"
    save_adapter(adapter, path)
    with torch.no_grad():
        changed = IPAdapter.of_state({k: v * 1.5 for k, v in adapter.state_dict().items()}, adapter.variant, "changed")
    save_adapter(changed, tmp_path / "new.safetensors")
    old, new = adapter_file(path), adapter_file(tmp_path / "new.safetensors")
    alone = drawn(engine_replica, order_of(old)), drawn(engine_replica, order_of(new))
    path.unlink()
    both = draw(engine_replica, order_of(old), order_of(new))
    for got, expected in zip(both, alone, strict=True):
        assert isinstance(got, Drawn)
        assert difference(got, expected) <= 1
    assert difference(*alone) > 1


def test_an_adapter_that_cannot_be_read_fails_alone(
    engine_replica: Replica, trained: AdapterAt, untrained: AdapterAt, tmp_path: Path
) -> None:
    """Infinite weights, a missing key, no adapter at all: refused, and whoever is beside it is drawn as ever."""
    state = load_file(untrained.where)
    key = next(key for key in state if key.endswith("to_v_ip.weight"))
    poisoned = {**state, key: torch.full_like(state[key], float("inf"))}
    lacking = {name: value for name, value in state.items() if name != key}
    bad = []
    for name, content in (("poisoned", poisoned), ("lacking", lacking), ("other", {"a": torch.ones(1)})):
        save_file(content, tmp_path / f"{name}.safetensors")
        bad.append(order_of(adapter_file(tmp_path / f"{name}.safetensors", name)))
    alone = drawn(engine_replica, order_of(trained, steps=8))
    *refusals, good = draw(engine_replica, *bad, order_of(trained, steps=8))
    assert [event.kind for event in refusals if isinstance(event, Refusal)] == ["invalid"] * 3
    assert isinstance(good, Drawn)
    assert difference(good, alone) <= 1


def test_few_adapters_more_than_a_replica_keeps(
    engine_config: ServeConfig, adapter: IPAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency_module, "MOST_ADAPTERS", 2)
    replica = Replica(engine_config)
    for i in range(4):
        state = {key: value * (1 + i / 10) for key, value in adapter.state_dict().items()}
        save_file(state, tmp_path / f"{i}.safetensors")
        drawn(replica, order_of(adapter_file(tmp_path / f"{i}.safetensors", str(i)), steps=1))
    wait_until(lambda: asyncio.run(replica.stats()).adapters == ("2", "3"))
    assert asyncio.run(replica.stats()).bases == ("toy/anime",)
    replica.close()


def test_a_budget_without_room_is_told_at_the_start(engine_config: ServeConfig, make: Make) -> None:
    with pytest.raises(ConfigError, match=r"engine.memory_gib 1e-05 has no room for base 'toy/anime' and the adapters"):
        Replica(engine_config.model_copy(update={"engine": EngineConfig(memory_gib=1e-5)}))


def test_an_adapter_that_nothing_here_can_read_is_told_at_the_start(
    engine_config: ServeConfig, tmp_path: Path, base: Base
) -> None:
    with pytest.raises(AdapterError, match="adapter 'trained' and the encoders: it reads CLIP and there is no image"):
        Replica(engine_config.model_copy(update={"image_encoder": None}))
    narrow = IPAdapter.for_unet(base.unet, features={"image_embeds": 64})
    save_adapter(narrow, tmp_path / "adapter.safetensors")
    with pytest.raises(AdapterError, match="adapter 'narrow' and the encoders: .* width 64"):
        Replica(engine_config.model_copy(update={"adapters": {"narrow": tmp_path / "adapter.safetensors"}}))


def test_a_base_for_inpainting_is_warmed_up_too(tiny_base: Callable[[str], Path]) -> None:
    engine = make_engine(load_base(str(tiny_base("sd-inpaint"))), EngineConfig())
    assert warm(engine, EngineConfig()) > 0
    assert engine.active_rows == 0


def test_mistakes_are_found_before_anything_is_loaded(engine_config: ServeConfig, tmp_path: Path) -> None:
    require_loadable(engine_config)
    with pytest.raises(AdapterError, match="does not exist"):
        require_loadable(engine_config.model_copy(update={"adapters": {"demo": tmp_path / "gone.safetensors"}}))
