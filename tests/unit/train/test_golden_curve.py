"""Twenty steps on the toy world, loss by loss: whatever changes what is learnt shows here.

Where that was meant, write the new curve with `python tests/unit/train/test_golden_curve.py`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from nigaoe.core.bases import load_base
from nigaoe.core.toy.portraits import write_portraits
from nigaoe.train.config import TrainConfig
from nigaoe.train.running.engines import learning_rate, make_optimizer
from nigaoe.train.running.loop import new_adapter
from nigaoe.train.running.objective import AdapterObjective
from nigaoe.train.samples.online import OnlineDataset
from nigaoe.train.samples.shares import Shares

GOLDEN = Path(__file__).parents[2] / "golden" / "loss_curve.json"
STEPS = 20


def losses(folder: Path) -> list[float]:
    """Of each step: the base variant, epsilon, drops, a warm-up and a cosine."""
    write_portraits(folder, people=12, scenes=2, split="train", seed=0)
    config = TrainConfig.model_validate(
        {
            **{"name": "golden", "out": str(folder), "base": "toy/photo", "image_encoder": "toy/image_encoder"},
            "data": {
                **{"source": str(folder / "captions.csv"), "prepared": str(folder), "reference": "other"},
                **{"cached": False, "views": 2, "augment": ["flip"]},
            },
            **{"steps": STEPS, "batch_size": 4, "optimizer": {"lr": 2e-3, "warmup_steps": 5, "schedule": "cosine"}},
        }
    )
    base = load_base(config.base)
    data = OnlineDataset.open(config, base)
    adapter = new_adapter(config, base, data.features.widths)
    objective = AdapterObjective(adapter, base, config.drop, data.features.unconditional)
    optimizer = make_optimizer(adapter, config.optimizer, torch.device("cpu"))
    shares = Shares(config, data, base.schedule.num_train_timesteps)
    seen = []
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = learning_rate(step, STEPS, config.optimizer)
        ((batch, draws, _),) = shares.at(step).parts
        loss = objective(batch, draws)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapter.parameters(), config.optimizer.max_grad_norm)
        optimizer.step()
        seen.append(float(loss.detach()))
    return seen


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_the_loss_of_every_step_is_that_of_before(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # Another processor rounds otherwise, and twenty steps carry that on.
    assert losses(tmp_path) == pytest.approx(json.loads(GOLDEN.read_text()), rel=2e-3)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with TemporaryDirectory() as scratch:
        GOLDEN.write_text(json.dumps(losses(Path(scratch)), indent=1) + "\n")
