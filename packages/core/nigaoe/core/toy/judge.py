"""The judge: a small network that names what it sees in a toy picture. It never took part in making one."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nigaoe.core.toy.people import ATTRIBUTES, SCENE

QUESTIONS: dict[str, tuple[str, ...]] = {**ATTRIBUTES, **SCENE, "medium": ("photo", "anime")}
"""Everything that the judge answers, in the order of its heads."""


class Judge(nn.Module):
    """Images [B, 3, 96, 96] in [-1, 1] to features [B, 192] and from them to an answer per question."""

    def __init__(self) -> None:
        super().__init__()
        channels = (3, 24, 48, 80, 112)
        layers: list[nn.Module] = []
        for a, b in zip(channels[:-1], channels[1:], strict=True):
            layers += [nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(8, b), nn.SiLU()]
            layers += [nn.Conv2d(b, b, 3, 1, 1), nn.GroupNorm(8, b), nn.SiLU()]
        self.trunk = nn.Sequential(*layers, nn.AvgPool2d(2))
        self.neck = nn.Linear(112 * 3 * 3, 192)
        self.heads = nn.ModuleDict({name: nn.Linear(192, len(values)) for name, values in QUESTIONS.items()})

    def features(self, images: Tensor) -> Tensor:
        """Penultimate activations [B, 192], for Frechet distances."""
        return torch.relu(self.neck(self.trunk(images).flatten(1)))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits per question."""
        h = self.features(images)
        return {name: head(h) for name, head in self.heads.items()}

    def answers(self, images: Tensor) -> dict[str, Tensor]:
        """Index of the most likely answer per question, int64 [B]."""
        return {name: logits.argmax(1) for name, logits in self(images).items()}

    def save(self, path: Path) -> None:
        """Write the weights as float16."""
        save_file({k: v.half().contiguous() for k, v in self.state_dict().items()}, path)

    @classmethod
    def load(cls, path: Path) -> "Judge":
        """Read the weights, as float32, in evaluation mode."""
        judge = cls()
        judge.load_state_dict({k: v.float() for k, v in load_file(path).items()})
        return judge.eval().requires_grad_(False)
