"""Stage 3: the judge, trained on training people in both styles, with enough noise to bear generated pictures."""

import logging
from pathlib import Path

import torch
import torch.nn.functional as F

from nigaoe.core.toy.build.clip import augment
from nigaoe.core.toy.build.dataset import Pictures
from nigaoe.core.toy.build.training import Progress, cosine_lr, optimise
from nigaoe.core.toy.judge import QUESTIONS, Judge

log = logging.getLogger(__name__)

BATCH = 48


def train_judge(photo: Pictures, anime: Pictures, out: Path, steps: int) -> None:
    """Cross-entropy over every question; soft and blurred copies stand in for generated pictures."""
    torch.manual_seed(7)
    judge = Judge()
    parameters = list(judge.parameters())
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.02)
    targets = [
        torch.cat([p.labels, p.scenes, torch.full((len(p.images), 1), i)], 1) for i, p in enumerate((photo, anime))
    ]
    progress = Progress("judge", steps)
    for step in range(steps):
        rows = [torch.randint(len(p.images), (BATCH // 2,)) for p in (photo, anime)]
        x = augment(torch.cat([photo.floats(rows[0]), anime.floats(rows[1])]))
        if torch.rand(()) < 0.4:
            x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
        y = torch.cat([targets[0][rows[0]], targets[1][rows[1]]])
        with torch.autocast("cpu", torch.bfloat16):
            logits = judge(x)
        loss = torch.stack([F.cross_entropy(logits[name].float(), y[:, j]) for j, name in enumerate(QUESTIONS)]).sum()
        optimise(optimizer, loss, parameters, cosine_lr(step, steps, 2e-3))
        progress(step, loss.item())
    judge.save(out)


@torch.no_grad()
def accuracy(judge: Judge, images: torch.Tensor, pictures: Pictures) -> dict[str, float]:
    """Share of right answers per question on pictures [N, 3, H, W] of the people and scenes of `pictures`."""
    answers = judge.answers(images)
    names = list(QUESTIONS)[:-1]
    truth = torch.cat([pictures.labels, pictures.scenes], 1)[: len(images)]
    return {name: (answers[name] == truth[:, j]).float().mean().item() for j, name in enumerate(names)}
