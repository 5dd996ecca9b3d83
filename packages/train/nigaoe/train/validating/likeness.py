"""How alike pictures and references are, and how alike they would be if they had nothing to do with each other."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from nigaoe.core.faces.encoder import FaceEncoder
from nigaoe.core.image_encoders import ImageEncoder


def likeness(name: str, references: Tensor, drawn: Tensor, people: Sequence[str]) -> dict[str, float]:
    """Mean cosine of drawn pictures [R, P, E] with their references [R, E], and with those of other people.

    `people` are the identities of the references. The first figure is called `name`, the other `<name>_shuffled`; that
    is missing where all are of one person. Vectors of zeros stand for pictures in which nothing was found, and count
    nowhere.
    """
    cosines = torch.einsum("re,spe->rsp", normalize(references.double(), dim=-1), normalize(drawn.double(), dim=-1))
    found = (references.norm(dim=-1) > 0)[:, None, None] & (drawn.norm(dim=-1) > 0)[None]
    own = torch.eye(len(people), dtype=torch.bool)[:, :, None] & found
    others = torch.tensor([[a != b for b in people] for a in people])[:, :, None] & found
    figures = {name: own, f"{name}_shuffled": others}
    return {key: float(cosines[chosen].mean()) for key, chosen in figures.items() if bool(chosen.any())}


def clip_vectors(encoder: ImageEncoder, pictures: Sequence[Image.Image], at_once: int = 32) -> Tensor:
    """Embeddings of pictures on the CPU, [N, E]."""
    parts = [encoder.encode(pictures[start : start + at_once]) for start in range(0, len(pictures), at_once)]
    return torch.cat(parts).cpu()


def face_vectors(faces: FaceEncoder, pictures: Sequence[Image.Image]) -> Tensor:
    """Identities of the largest faces, [N, I]; zeros where none is found."""
    seen = [faces.find(picture) for picture in pictures]
    return torch.stack([found[0].identity if found else torch.zeros(faces.dim) for found in seen])
