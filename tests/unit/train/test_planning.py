"""Plans: what is counted on models without weights is what published figures and a real step say."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.bases import Base
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.core.unet_call import UNetCall, run_unet
from nigaoe.train.commands import train
from nigaoe.train.config import TrainConfig
from nigaoe.train.planning.devices import GIB, find_device
from nigaoe.train.planning.measuring import count_flops, measure_activations
from nigaoe.train.planning.plan import TrainingPlan, does_not_fit, fixed_memory, largest_micro_batch, plan, useful_flops
from nigaoe.train.planning.skeleton import Skeleton, build_skeleton
from nigaoe.train.planning.table import duration, settings, size
from training_worlds import SD15, write_settings


def make_config(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "name": "plan",
        "out": "out",
        "base": "toy/photo",
        "image_encoder": "toy/image_encoder",
        "data": {"source": "captions.csv", "prepared": "prepared"},
        "steps": 10,
        "precision": "float32",
    }
    return TrainConfig.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def toy() -> Skeleton:
    return build_skeleton(make_config())


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The settings of Stable Diffusion 1.5 and of ViT-H, and not one weight."""
    folder = tmp_path_factory.mktemp("sd15")
    write_settings(SD15, folder, folder / "image_encoder")
    return folder


@pytest.fixture(scope="module")
def full_size(sd15: Path) -> TrainingPlan:
    return plan(
        make_config(
            base=str(sd15),
            image_encoder=str(sd15 / "image_encoder"),
            steps=100,
            batch_size=64,
            precision="bfloat16",
            ema_decay=0.999,
            cluster={"num_workers": 8, "use_gpu": True},
        )
    )


def test_stable_diffusion_takes_what_was_counted_before(full_size: TrainingPlan) -> None:
    # Counted once by other means: 1663 GFLOP, 0.81 GB a sample, CLIP-L 13, ViT-H 335 and the autoencoder 1117 GFLOP.
    assert full_size.flops.step == pytest.approx(1663e9, rel=0.001)
    assert full_size.flops.text == pytest.approx(13.3e9, rel=0.01)
    assert full_size.flops.encoders == pytest.approx((335 + 1117) * 1e9, rel=0.01)
    assert full_size.activations.sample_bytes == pytest.approx(0.81e9, rel=0.1)
    assert full_size.frozen["UNet"] == 859_520_964
    assert full_size.trainable == 22_319_616
    assert full_size.resolution_px == 512
    assert (full_size.samples, full_size.micro_batch, full_size.accumulation) == (6400, 8, 1)
    assert sum(full_size.checkpoint.values()) == 16 * full_size.trainable
    assert full_size.fixed_memory["UNet (frozen)"] == 2 * 859_520_964
    # 12.8 TFLOP/s of 1677 GFLOP each is what one H100 does in 0.027 s at 40 % of 989 TFLOP/s.
    h100 = find_device("h100")
    assert h100 is not None
    assert full_size.seconds_on(h100) == pytest.approx(6400 / 8 * 1.6768e12 / (0.4 * 989e12), rel=0.01)


def test_the_largest_micro_batch_fits_and_one_more_does_not(full_size: TrainingPlan) -> None:
    memory = 80 * GIB
    largest = largest_micro_batch(full_size, memory)
    assert 64 <= largest <= 110
    usable = 0.95 * (memory - GIB)
    taken = [dataclasses.replace(full_size, micro_batch=largest + more).memory_bytes for more in (0, 1)]
    assert taken[0] <= usable < taken[1]
    assert largest_micro_batch(full_size, 2 * GIB) == 0


def test_who_runs_out_of_memory_is_told_what_fits(full_size: TrainingPlan) -> None:
    fits = str(does_not_fit(full_size, 6 * GIB))
    assert "micro-batch of 8" in fits
    assert "micro_batch_size=2" in fits
    # The estimate would have allowed it, the device did not.
    assert "micro_batch_size=4" in str(does_not_fit(full_size, 80 * GIB))
    nothing = str(does_not_fit(full_size, 2 * GIB))
    assert "not even one sample" in nothing
    assert "gradient_checkpointing=true" in nothing


@pytest.mark.parametrize(
    ("deepspeed", "shares"),
    [
        ({"zero_stage": 1}, {"adapter": 4, "gradients": 4, "optimizer": 12 / 8}),
        ({"zero_stage": 2, "offload": "optimizer"}, {"adapter": 4, "gradients": 4 / 8, "optimizer": 0}),
        ({"zero_stage": 3}, {"adapter": 4 / 8, "gradients": 4 / 8, "optimizer": 12 / 8, "UNet (frozen)": 4 * 100 / 8}),
        ({"zero_stage": 3, "offload": "all"}, {"adapter": 0, "optimizer": 0, "UNet (frozen)": 0}),
    ],
)
def test_zero_splits_what_it_says(deepspeed: dict[str, Any], shares: dict[str, float]) -> None:
    config = make_config(deepspeed=deepspeed, cluster={"num_workers": 8}, ema_decay=0.9)
    parts = fixed_memory(config, {"UNet": 100_000, "text encoder": 10_000}, trainable=1000)
    for part, share in shares.items():
        assert parts.get(part, 0) == 1000 * share
    assert parts["text encoder (frozen)"] == 40_000
    assert parts["average (first worker)"] == 4000


def test_activations_are_those_of_a_real_step(base: Base, encoder: ImageEncoder, toy: Skeleton) -> None:
    """Bytes that autograd keeps in a step on the CPU, against the peak that was counted without weights."""
    adapter = IPAdapter.for_unet(base.unet, features={"image_embeds": encoder.embed_dim})
    known = {x.data_ptr() for module in (adapter, base.unet) for x in module.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    side, length = base.default_size_px // base.vae_factor, base.text_encoder.towers[0].length
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        features = torch.zeros(3, encoder.embed_dim)
        sample, steps = torch.zeros(3, base.latent_channels, side, side), torch.zeros(3, dtype=torch.long)
        text = torch.zeros(3, length, adapter.cross_attention_dim)
        out = run_unet(base.unet, UNetCall(sample, steps, text, image_prompts=(adapter(features),)))
        loss = out.square().mean()
    assert loss.requires_grad
    counted = measure_activations(toy, gradient_checkpointing=False, fused=False).at(3)
    assert sum(kept.values()) <= counted <= 1.25 * sum(kept.values())


def test_checkpointing_trades_memory_for_computation(toy: Skeleton) -> None:
    plain, checkpointed = (measure_activations(toy, gradient_checkpointing=value) for value in (False, True))
    assert checkpointed.sample_bytes < 0.6 * plain.sample_bytes
    flops = count_flops(toy, gradient_checkpointing=True)
    assert 0 < flops.again < flops.step / 2


def test_pictures_that_are_encoded_in_every_step_count() -> None:
    data = {"source": "captions.csv", "prepared": "prepared"}
    online = plan(make_config(data={**data, "cached": False}))
    assert online.flops_per_sample == online.flops.step + online.flops.text + online.flops.encoders
    assert useful_flops(make_config(), online.flops) == online.flops.step + online.flops.text
    assert online.fixed_memory["image encoder (frozen)"] == 4 * online.frozen["image encoder"] > 0


def test_a_dry_run_shows_every_key_and_runs_nothing(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    monkeypatch.setenv("COLUMNS", "80")
    Path("train.yaml").write_text(
        "{name: dry, out: out, base: toy/photo, image_encoder: toy/image_encoder, steps: 30, batch_size: 12,"
        " data: {source: captions.csv, prepared: prepared}}"
    )
    app = typer.Typer()
    app.command()(train)
    arguments = ["train.yaml", "optimizer.lr=0.01", "micro_batch_size=2", "--dry-run", "--device", "a100"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    lines = {line[:26].strip(): line[26:].strip() for line in result.output.splitlines()}
    for key, _, _ in settings(make_config()):
        assert key in lines or f"* {key}" in lines
    assert lines["* optimizer.lr"] == "0.01"
    assert lines["seed"] == "0"
    assert lines["steps"] == "30 of 12 samples (2 workers x 2 at once x 3 times)"
    assert "A100" in lines["time"]
    assert max(map(len, result.output.splitlines())) <= 80
    assert sorted(path.name for path in in_tmp.iterdir()) == ["train.yaml"]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("Tesla V100-SXM2-32GB", "V100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A10G", None),
    ],
)
def test_devices_are_known_by_what_torch_calls_them(said: str, meant: str | None) -> None:
    found = find_device(said)
    assert (found and found.name) == meant


def test_amounts_are_in_units_that_fit() -> None:
    assert [duration(s) for s in (0.2, 59, 3599, 3600 * 26 + 1)] == [
        "0.2 s",
        "59 s",
        "59 min 59 s",
        "1 d 2 h",
    ]
    assert [size(n) for n in (12, 2048, 150 * 2**20, 1.5 * GIB)] == ["12 bytes", "2.0 KiB", "150 MiB", "1.5 GiB"]
