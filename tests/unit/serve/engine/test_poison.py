"""What runs into numbers that are none fails alone; rows beside it keep every digit."""

import asyncio
from typing import Any

import pytest
import torch

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.bases import Base
from nigaoe.core.engine.engine import FINITE_EVERY, Engine
from nigaoe.core.engine.rows import Generation
from nigaoe.core.errors import AdapterError
from nigaoe.core.image_prompts.features import embedding_features
from nigaoe.core.image_prompts.prompt import guided_image_prompts
from nigaoe.serve.config import ServeConfig
from nigaoe.serve.engine.replica import Replica
from nigaoe.serve.orders import AdapterAt, Drawn, Refusal
from served import difference, draw, drawn, last_of, order_of


def test_pictures_that_become_no_numbers_fail_alone(engine_replica: Replica, trained: AdapterAt) -> None:
    """Guidance of 1e30 ends in numbers that are none; both pictures do so in the same step."""
    good = order_of(trained, steps=12)
    alone = drawn(engine_replica, good)
    bad, beside = draw(engine_replica, order_of(seeds=(1, 2), steps=9, guidance_scale=1e30), good)
    assert isinstance(bad, Refusal)
    assert bad.kind == "failed"
    assert "ran into numbers that are none" in bad.reason
    assert isinstance(beside, Drawn)
    assert difference(beside, alone) <= 1
    engine_replica.check_health()


def test_latents_that_are_no_numbers_are_found_before_the_end(engine_replica: Replica, trained: AdapterAt) -> None:
    good = order_of(trained, steps=30)
    alone = drawn(engine_replica, good)

    async def use() -> tuple[Drawn | Refusal, Drawn | Refusal, int]:
        beside = asyncio.create_task(last_of(engine_replica, good))
        bad = asyncio.create_task(last_of(engine_replica, order_of(id="bad", steps=900)))
        while (await engine_replica.stats()).active_rows < 2:
            await asyncio.sleep(0.001)

        def poison() -> None:
            engine = engine_replica._residency.engines()["toy/anime"]
            (row,) = [row for row in engine._active if row.generation.steps == 900]
            row.latents[0, 0, 0] = float("nan")

        await asyncio.wrap_future(engine_replica._thread.call(poison))
        before = (await engine_replica.stats()).unet_calls
        ended = await bad
        steps = (await engine_replica.stats()).unet_calls - before
        return await beside, ended, steps

    beside, bad, steps = asyncio.run(use())
    assert isinstance(bad, Refusal)
    assert bad.kind == "failed"
    assert steps <= FINITE_EVERY + 3
    assert isinstance(beside, Drawn)
    assert difference(beside, alone) <= 1


def test_latents_beside_poison_keep_their_digits(base: Base, adapter: IPAdapter) -> None:
    embeds = torch.randn(1, adapter.embed_dim, generator=torch.Generator().manual_seed(1))
    (prompt,) = guided_image_prompts(adapter, embedding_features(embeds))
    generation = Generation(prompt="a man", seed=1, steps=12, guidance_scale=3.0, image_prompts=(prompt,))

    def latents(*, poisoned: bool) -> torch.Tensor:
        engine = Engine(base)
        bad = engine.submit(Generation(prompt="x", seed=2, steps=40))
        own = engine.submit(generation)
        if poisoned:
            engine._active[0].latents[:] = float("nan")
        failed: dict[int, Any] = {}
        for _ in range(9):
            failed |= engine.step().failures
        assert set(failed) == ({bad} if poisoned else set())
        return next(row.latents for row in engine._active if row.id == own)

    assert (latents(poisoned=True) - latents(poisoned=False)).abs().max() < 1e-5


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_adapter_whose_keys_and_values_are_no_numbers_fails_alone(
    engine_config: ServeConfig, trained: AdapterAt, untrained: AdapterAt, value: float
) -> None:
    """The file was whole; the weights became so in memory."""
    replica = Replica(engine_config)
    drawn(replica, order_of(untrained, steps=1))
    (spoilt,) = [
        entry.future.result().thing
        for key, entry in replica._residency._entries.items()
        if key == ("adapter", untrained.sha256)
    ]
    assert isinstance(spoilt, IPAdapter)
    with torch.no_grad():
        next(iter(spoilt.cross_layers.values())).to_v_ip.weight[0, 0] = value
    good = order_of(trained, steps=8)
    alone = drawn(replica, good)
    bad, beside = draw(replica, order_of(untrained, steps=8), good)
    assert isinstance(bad, Refusal)
    assert bad.kind == "invalid"
    assert "values that are not numbers" in bad.reason
    assert isinstance(beside, Drawn)
    assert difference(beside, alone) <= 1
    replica.close()


def test_a_failure_of_nobodys_fault_says_so_without_its_insides(
    engine_replica: Replica, trained: AdapterAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(engine_replica._residency.conditioner, "prompt", broken)
    bad, good = draw(engine_replica, order_of(trained), order_of())
    assert bad == Refusal("failed", "the order could not be drawn (KeyError); see the log of this replica")
    assert isinstance(good, Drawn)


def test_adapters_of_another_architecture_are_refused(
    engine_replica: Replica, tmp_path_factory: pytest.TempPathFactory, untrained: AdapterAt
) -> None:
    from safetensors.torch import load_file, save_file

    from served import adapter_file, refused

    state = {key: value for key, value in load_file(untrained.where).items() if not key.startswith("ip_adapter.1.")}
    path = tmp_path_factory.mktemp("other") / "adapter.safetensors"
    save_file(state, path)
    refusal = refused(engine_replica, order_of(adapter_file(path, "other")))
    assert refusal.kind == "invalid"
    assert refusal.reason.startswith("adapter 'other' does not fit base 'toy/anime': the adapter has 6 layers")
    assert AdapterError.__name__ not in refusal.reason
