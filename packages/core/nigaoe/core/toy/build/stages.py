"""A whole build of the toy world: every stage in order, from one recipe; finished stages are kept."""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPModel

from nigaoe.core.errors import ConfigError
from nigaoe.core.toy.build.clip import ClipRecipe, token_ids, train_clip, train_tokenizer
from nigaoe.core.toy.build.dataset import Pictures, pictures
from nigaoe.core.toy.build.export import export_base, export_clip, export_image_encoder, text_tower
from nigaoe.core.toy.build.judge import train_judge
from nigaoe.core.toy.build.unet import encode_captions, new_unet, train_unet
from nigaoe.core.toy.build.vae import encode_all, refine_decoder, train_vae
from nigaoe.core.toy.people import STYLES, Style

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UNetStage:
    """One stretch of UNet training; `after` names the stage whose weights it goes on from."""

    name: str
    style: Style
    after: str | None
    steps: int
    peak_lr: float
    late: float
    """How many times as often the noisiest quarter of all timesteps is drawn."""


@dataclass(frozen=True)
class Recipe:
    """Every number of a build. The defaults are those of the weights that ship."""

    people: int = 6000
    scenes: int = 2
    vae_steps: int = 4200
    decoder_steps: int = 4500
    encoder: ClipRecipe = ClipRecipe(seed=0, steps=2000, label_weight=0.5, identity_weight=1.0)
    scorer: ClipRecipe = ClipRecipe(seed=1, steps=900, label_weight=0.0, identity_weight=1.0)
    judge_steps: int = 1500
    unets: tuple[UNetStage, ...] = (
        UNetStage("photo", "photo", None, 10_000, 1.5e-3, late=3.0),
        UNetStage("anime-first", "anime", "photo", 2_400, 1.0e-3, late=3.0),
        UNetStage("anime", "anime", "anime-first", 4_000, 1.0e-3, late=3.0),
    )


class Build:
    """The stages; each leaves one file or folder in `work` and is skipped once that is there."""

    def __init__(self, work: Path, out: Path, recipe: Recipe) -> None:
        self.work, self.out, self.recipe = work, out, recipe
        self.photo, self.anime = (
            pictures(work, "train", style, recipe.people, recipe.scenes, seed=0) for style in STYLES
        )
        self.tokenizer = train_tokenizer([text for p in (self.photo, self.anime) for row in p.captions for text in row])

    def run(self, only: Collection[str] = ()) -> None:
        """Every stage in order and the export, or `only` the stages named, so that several machines can share a build.

        Raises:
            ConfigError: No such stage.
        """
        stages = self._stages()
        if unknown := sorted(set(only) - set(stages)):
            raise ConfigError(f"There is no stage {unknown[0]!r}; the stages are {', '.join(stages)}.")
        for path, make in stages.items():
            if not only or path in only:
                self._once(self.work / path, make)
        if not only:
            self.export()

    def _stages(self) -> dict[str, Callable[[Path], None]]:
        """What makes each file or folder of `work`, by its name there."""
        recipe, both = self.recipe, (self.photo, self.anime)
        return {
            "vae_joint": lambda path: train_vae(*both, path, recipe.vae_steps),
            **{f"latents-{style}.pt": partial(self._encode, style) for style in STYLES},
            "vae": self._refine_decoder,
            "clip_a": lambda path: train_clip(*both, self.tokenizer, recipe.encoder, path),
            "clip_b": lambda path: train_clip(*both, self.tokenizer, recipe.scorer, path),
            "judge.safetensors": lambda path: train_judge(*both, path, recipe.judge_steps),
            **{f"{stage.name}/unet": partial(self._train_unet, stage) for stage in recipe.unets},
        }

    def export(self) -> None:
        """Write the folders that ship."""
        vae = AutoencoderKL.from_pretrained(self.work / "vae")
        encoder, scorer = (CLIPModel.from_pretrained(self.work / name) for name in ("clip_a", "clip_b"))
        for style in STYLES:
            unet = UNet2DConditionModel.from_pretrained(self.work / style / "unet")
            export_base(unet, vae, encoder, self.tokenizer, self.out / style)
        export_image_encoder(encoder, self.out / "image_encoder")
        export_clip(scorer, self.tokenizer, self.out / "clip")
        (self.out / "judge").mkdir(parents=True, exist_ok=True)
        (self.out / "judge" / "judge.safetensors").write_bytes((self.work / "judge.safetensors").read_bytes())

    def _once(self, path: Path, make: Callable[[Path], None]) -> None:
        if path.exists():
            log.info("kept %s", path)
            return
        part = path.with_name(f"part-{path.name}")
        part.parent.mkdir(parents=True, exist_ok=True)
        make(part)
        part.rename(path)
        log.info("made %s", path)

    def _pictures(self, style: Style) -> Pictures:
        return self.photo if style == "photo" else self.anime

    def _encode(self, style: Style, path: Path) -> None:
        vae = AutoencoderKL.from_pretrained(self.work / "vae_joint").eval()
        torch.save(encode_all(vae, self._pictures(style)), path)

    def _refine_decoder(self, path: Path) -> None:
        latents = {style: torch.load(self.work / f"latents-{style}.pt", weights_only=True) for style in STYLES}
        refine_decoder(self.photo, self.anime, latents, self.work / "vae_joint", path, self.recipe.decoder_steps)

    def _train_unet(self, stage: UNetStage, path: Path) -> None:
        encoder = text_tower(CLIPModel.from_pretrained(self.work / "clip_a"))
        text = encode_captions(encoder, token_ids(self.tokenizer, self._pictures(stage.style).captions))
        empty = encode_captions(encoder, token_ids(self.tokenizer, [[""]]))[0, 0].float()
        torch.manual_seed(0)
        latents = torch.load(self.work / f"latents-{stage.style}.pt", weights_only=True)
        if stage.after:
            unet = UNet2DConditionModel.from_pretrained(self.work / stage.after / "unet")
        else:
            unet = new_unet(latents.shape[-1], text.shape[-1])
        # The plain processor is twice as fast as the fused one at this head width on a CPU.
        unet.set_attn_processor(AttnProcessor())
        train_unet(unet, latents, text, empty, path, stage.steps, stage.peak_lr, stage.late)
