"""Two ways to the same four figures of a folder of pictures, for a benchmark: ours, and the usual tools in a row."""

import json
import os
import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.multimodal.clip_score import CLIPScore
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from evaluated_here import HandsHere
from nigaoe.core.atomic import write_whole
from nigaoe.core.models import locate
from nigaoe.core.toy.people import sample_identity_of, sample_scene
from nigaoe.core.toy.render import render
from nigaoe.eval.config import EvalConfig
from nigaoe.eval.findings.samples_file import write_samples
from nigaoe.eval.findings.summary import make_report, tables_of
from nigaoe.eval.metrics.space import space_of
from nigaoe.eval.protocols.protocol import REAL
from nigaoe.eval.running.known import KnownReferences
from nigaoe.eval.running.merging import merge_cell
from nigaoe.eval.running.plan import make_plan
from nigaoe.eval.running.pool import Hands
from nigaoe.eval.running.shards import ShardStore
from nigaoe.eval.running.worker import Findings
from nigaoe.eval.scoring.efficientnet import NAME as EFFICIENTNET
from nigaoe.eval.scoring.efficientnet import EfficientNetLite0
from nigaoe.eval.scoring.loading import figure_name

PICTURE_PX = 512
BATCH = 16
"""Pictures of a forward on either side: the default size of a shard."""
PROMPT = "a drawing of a person"
SYSTEM = "theirs"
VIT_S_32: dict[str, Any] = {
    "projection_dim": 512,
    "text_config": {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
    },
    "vision_config": {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "patch_size": 32,
        "image_size": 224,
    },
}
"""A quarter of ViT-B/32, by which CLIP scores are usually told: 1.1 GFLOP a picture, multiply and add as one."""
VIT_S_20: dict[str, Any] = {**VIT_S_32["vision_config"], "patch_size": 20}
"""Beside `VIT_S_32` what FID's Inception (11.4 GFLOP) is beside ViT-B/32 (4.4): 2.5 times as much."""
VIT_MINIATURE = {
    **VIT_S_20,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
}
MINIATURE: dict[str, Any] = {
    "projection_dim": 16,
    "text_config": {
        **VIT_S_32["text_config"],
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "vision_config": {
        **VIT_S_32["vision_config"],
        "hidden_size": 48,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "image_size": 64,
    },
}


class Figures(NamedTuple):
    """What both sides find."""

    frechet: float
    kernel: float
    clip_t: float
    """Mean cosine."""
    clip_i: float


def write_clip(shape: dict[str, Any], folder: Path) -> Path:
    """A CLIP of any size with random weights and the toy world's tokenizer."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(locate("toy/clip"), model_max_length=77)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**shape["text_config"], "vocab_size": len(tokenizer), "max_position_embeddings": 77, **ends}
    CLIPModel(CLIPConfig(**{**shape, "text_config": text})).save_pretrained(folder)
    side = shape["vision_config"]["image_size"]
    cropped = {"height": side, "width": side}
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=cropped).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_vit(shape: dict[str, Any], folder: Path) -> Path:
    """A vision transformer of any size with random weights, as DINO's are published."""
    torch.manual_seed(1)
    ViTModel(ViTConfig(**shape), add_pooling_layer=False).save_pretrained(folder)
    side = {"height": shape["image_size"], "width": shape["image_size"]}
    ViTImageProcessorPil(size=side).save_pretrained(folder)
    return folder


def write_people(folder: Path, count: int, side_px: int = PICTURE_PX) -> Path:
    """`references` in one style, and the same people in the other one, twice: `fakes-0` and `fakes-1`."""
    rng = random.Random(0)
    for i in range(count):
        person, name = sample_identity_of("heldout", rng), f"{i:04d}.png"
        _save(render(person, sample_scene(rng), "photo"), folder / "references" / name, side_px)
        for j in range(2):
            _save(render(person, sample_scene(rng), "anime"), folder / f"fakes-{j}" / f"{name}-000.png", side_px)
    for j in range(2):
        lines = [json.dumps({"file_name": f"{i:04d}.png-000.png", "prompt": PROMPT}) for i in range(count)]
        (folder / f"fakes-{j}" / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _save(image: Image.Image, path: Path, side_px: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((side_px, side_px), Image.Resampling.BICUBIC).save(path, compress_level=1)


class WorkerHere(HandsHere):
    """One worker in this process."""

    def findings(self) -> Findings:
        """What the report has to know of the networks, without the checks."""
        panel = self.worker.panel
        return Findings([], panel.settings(), [space_of(one.extractor) for one in panel.spaces])


@dataclass(frozen=True)
class Ours:
    """An evaluation from plan to report, without what is done once per setting: checks of the networks."""

    people: Path
    clip: Path
    features: str = EFFICIENTNET
    """What distances look through, as a config names it."""
    num_workers: int = 1

    def config(self, out: Path, cache: Path, fakes: int = 0) -> EvalConfig:
        """Which differs from round to round in nothing that a worker would look at, but for the fakes."""
        references = self.people / "references"
        return EvalConfig.model_validate(
            {
                "out": out,
                "cache": cache,
                "protocol": {"kind": "folder", "references": references, "prompts": [PROMPT], "clip": str(self.clip)},
                "folders": {SYSTEM: {"pictures": self.people / f"fakes-{fakes}"}},
                "metrics": {"features": [self.features]},
                "shard_size": BATCH,
                "workers": self.num_workers,
            }
        )

    def run(self, workers: Hands, findings: Findings, out: Path, cache: Path, fakes: int = 0) -> Figures:
        """As `run_evaluation` does, but for its page."""
        plan = make_plan(self.config(out, cache, fakes))
        store = ShardStore(out / "shards", plan.cache)
        known = KnownReferences(plan, store)
        for is_real in (True, False):
            tasks = [t for t in plan.tasks if (t.cell.source in REAL) == is_real and not store.has(t)]
            if tasks:
                workers.evaluate(tasks, (lambda _: None) if is_real else known.of, store.write)
        merged = {cell.name: merge_cell(store, plan.tasks_of(cell)) for cell in plan.cells}
        tables = tables_of(plan, merged)
        report = make_report(plan, findings, [], merged, tables)
        write_samples(out / "samples.csv", tables)
        write_whole(out / "report.json", f"{report.model_dump_json(indent=2)}\n".encode())
        found = report.cell(SYSTEM).metrics
        network = self.features if self.features == EFFICIENTNET else figure_name(self.features.partition(":")[2])
        return Figures(*(found[name].value for name in (f"fd_{network}", f"kd_{network}", "clip_t", "clip_i")))


class Lite0(nn.Module):
    """EfficientNet-Lite0 with its preprocessing, as torchmetrics takes a network: uint8 [N, 3, H, W] to [N, 1280]."""

    num_features = 1280

    def __init__(self) -> None:
        super().__init__()
        self.network = EfficientNetLite0.load().network

    def forward(self, images: Tensor) -> Tensor:
        shown = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        resized = [np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC), np.float32) for image in shown]
        pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()
        features: Tensor = self.network.extract_features((pixels - 127) / 128).mean((2, 3))
        return features


class ClassToken(nn.Module):
    """A vision transformer of transformers in the same way: uint8 [N, 3, H, W] to [N, E]."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.network = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
        self.processor = ViTImageProcessorPil.from_pretrained(folder)
        self.num_features = int(self.network.config.hidden_size)

    def forward(self, images: Tensor) -> Tensor:
        shown = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        pixels = self.processor(images=shown, return_tensors="pt")["pixel_values"]
        features: Tensor = self.network(torch.as_tensor(pixels)).last_hidden_state[:, 0]
        return features


class ClipOfTransformers4(nn.Module):
    """What torchmetrics 1.9 expects of a CLIP: embeddings themselves, and not an object that holds them."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.model.get_image_features(pixels).pooler_output
        return features

    def get_text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        features: Tensor = self.model.get_text_features(ids, attention_mask=mask).pooler_output
        return features


class Tools:
    """The usual tools, each of which reads its own pictures. Their networks are loaded once, as ours are."""

    def __init__(self, people: Path, clip: Path, network: nn.Module | None = None) -> None:
        """`network`: what distances look through; EfficientNet-Lite0 where there is none."""
        self.people, self.network = people, network or Lite0()
        self.clip = ClipOfTransformers4(CLIPModel.from_pretrained(clip, dtype=torch.float32).eval())
        self.processor = CLIPProcessor(
            CLIPImageProcessorPil.from_pretrained(clip), CLIPTokenizer.from_pretrained(clip, model_max_length=77)
        )
        n = len(self.paths("references"))
        # All pictures are a subset where there are no more than 1000, as clean-fid has it.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save all")
            self.kernel = KernelInceptionDistance(feature=self.network, subset_size=min(n, 1000))
        self.frechet = FrechetInceptionDistance(feature=self.network)
        loaded: Any = lambda: (self.clip, self.processor)  # noqa: E731
        self.score = CLIPScore(loaded)

    @torch.inference_mode()
    def run(self, fakes: int = 0) -> Figures:
        """All four, one after the other."""
        for metric in (self.frechet, self.kernel):
            metric.reset()
            for folder, is_real in (("references", True), (f"fakes-{fakes}", False)):
                for batch in _batches(self.paths(folder)):
                    metric.update(torch.stack([self.tensor(path) for path in batch]), real=is_real)
        words, likeness = self._clip_t(f"fakes-{fakes}"), self._clip_i("references", f"fakes-{fakes}")
        return Figures(*self.compute(), words, likeness)

    def compute(self) -> tuple[float, float]:
        """Both distances, of what was taken in."""
        # Called on what it is called on before, a metric would remember.
        self.frechet._computed = self.kernel._computed = None
        return float(self.frechet.compute()), float(self.kernel.compute()[0])

    def paths(self, folder: str) -> list[Path]:
        """Its pictures in order."""
        return sorted((self.people / folder).glob("*.png"))

    def tensor(self, path: Path) -> Tensor:
        """A picture as torchmetrics takes it: uint8 [3, H, W]."""
        return torch.from_numpy(np.array(read(path))).permute(2, 0, 1)

    def features(self, folder: str) -> np.ndarray:
        """Of all pictures of a folder, [N, E]."""
        batches = [torch.stack([self.tensor(path) for path in batch]) for batch in _batches(self.paths(folder))]
        return np.concatenate([self.network(batch).numpy() for batch in batches])

    def embedded(self, images: Sequence[Image.Image]) -> Tensor:
        """Of pictures, [N, E]."""
        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        return self.clip.get_image_features(torch.as_tensor(pixels))

    def words(self, texts: Sequence[str]) -> Tensor:
        """Of texts, [N, E]."""
        said = self.processor(text=list(texts), return_tensors="pt", padding=True)
        return self.clip.get_text_features(said["input_ids"], said["attention_mask"])

    def _clip_t(self, folder: str) -> float:
        self.score.reset()
        for batch in _batches(self.paths(folder)):
            self.score.update([self.tensor(path) for path in batch], [PROMPT] * len(batch))
        # Not compute(), which would say 0 of a negative mean.
        return float(self.score.score / self.score.n_samples) / 100

    def _clip_i(self, *folders: str) -> float:
        one, other = (
            torch.cat([self.embedded([read(path) for path in batch]) for batch in _batches(self.paths(folder))])
            for folder in folders
        )
        return float(torch.cosine_similarity(one, other).mean())


def read(path: Path) -> Image.Image:
    """As everybody does."""
    with Image.open(path) as image:
        return image.convert("RGB")


def _batches(paths: Sequence[Path]) -> Iterator[Sequence[Path]]:
    return (paths[start : start + BATCH] for start in range(0, len(paths), BATCH))


def kernel_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Of two sets of features [N, D], in float64, over all pairs of different samples."""
    x, y = one.astype(np.float64), other.astype(np.float64)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)

    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(x, x), kernel(y, y))]
    return float(sum(within) - 2 * kernel(x, y).mean())


def cores() -> tuple[int, ...]:
    """What this process may run on."""
    return tuple(sorted(os.sched_getaffinity(0)))
