"""Questions to the toy world's judge, whose right answers are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from PIL import Image
from torch import Tensor

from nigaoe.core.models import locate
from nigaoe.core.toy.judge import Judge
from nigaoe.core.toy.people import ATTRIBUTES, SCENE, Identity
from nigaoe.core.toy.render import SIZE_PX
from nigaoe.eval.scoring.pictures import Pictures, pictures
from nigaoe.eval.scoring.weights import folder_fingerprint

RED = SCENE["background"].index("red")


@dataclass(frozen=True, eq=False)
class JudgeScorer:
    """The judge with its preprocessing; also a `FeatureExtractor`."""

    model: Judge
    fingerprint: str
    name: str = "judge"
    device: torch.device = torch.device("cpu")
    preprocessing: str = f"{SIZE_PX} x {SIZE_PX} px lanczos, over 127.5, less 1"

    @classmethod
    def load(cls, device: str | torch.device = "cpu") -> "JudgeScorer":
        """The judge that ships with the toy world."""
        folder, target = Path(locate("toy/judge", "judge")), torch.device(device)
        judge = Judge.load(folder / "judge.safetensors").to(target)
        return cls(judge, folder_fingerprint(folder), device=target)

    @property
    def dim(self) -> int:
        """Activations before the answers."""
        return self.model.neck.out_features

    @torch.no_grad()
    def features(self, images: Pictures) -> Float32[np.ndarray, "N 192"]:
        """Penultimate activations."""
        return self.model.features(_pixels(images).to(self.device)).cpu().numpy()

    @torch.no_grad()
    def answers(self, images: Pictures) -> dict[str, Int64[np.ndarray, " N"]]:
        """Index of the answer to each question."""
        answers = self.model.answers(_pixels(images).to(self.device))
        return {name: answer.cpu().numpy() for name, answer in answers.items()}


def judge_columns(
    answers: dict[str, Int64[np.ndarray, " N"]], identities: Sequence[Identity], backgrounds: Sequence[int]
) -> dict[str, list[float]]:
    """Per picture: is each attribute the reference person's, is it anime, and where does its background come from."""
    labels = np.array([identity.labels() for identity in identities])
    right = {f"attribute.{name}": answers[name] == labels[:, j] for j, name in enumerate(ATTRIBUTES)}
    seen, reference = answers["background"], np.array(backgrounds)
    columns = {
        **right,
        "attribute.mean": np.mean(list(right.values()), axis=0),
        "judged_anime": answers["medium"] == 1,
        "background_seen": seen,
        "background_reference": reference,
        "background_copied": seen == reference,
        "background_red": seen == RED,
    }
    return {name: [float(v) for v in values] for name, values in columns.items()}


def _pixels(images: Pictures) -> Tensor:
    side = (SIZE_PX, SIZE_PX)
    seen = pictures(images)
    resized = [image if image.size == side else image.resize(side, Image.Resampling.LANCZOS) for image in seen]
    stacked = np.stack([np.asarray(image, np.float32) for image in resized])
    return torch.from_numpy(stacked.transpose(0, 3, 1, 2).copy()) / 127.5 - 1
