"""`python -m nigaoe.core.toy.build --work DIR [--out DIR]`: every stage in order; finished ones are kept."""

import argparse
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPModel

from nigaoe.core.models import TOY_WEIGHTS
from nigaoe.core.toy.build.clip import ClipRecipe, token_ids, train_clip, train_tokenizer
from nigaoe.core.toy.build.dataset import Pictures, pictures
from nigaoe.core.toy.build.export import export_base, export_clip, export_image_encoder, text_tower
from nigaoe.core.toy.build.judge import train_judge
from nigaoe.core.toy.build.unet import encode_captions, new_unet, train_unet
from nigaoe.core.toy.build.vae import encode_all, refine_decoder, train_vae
from nigaoe.core.toy.people import STYLES, Style

log = logging.getLogger(__name__)

PEOPLE, SCENES = 6000, 2
VAE_STEPS, DECODER_STEPS, JUDGE_STEPS = 4200, 4500, 1500
ENCODER = ClipRecipe(seed=0, steps=2000, label_weight=0.5, identity_weight=1.0)
SCORER = ClipRecipe(seed=1, steps=900, label_weight=0.0, identity_weight=1.0)
PHOTO_STEPS, PHOTO_LR = 7000, 1.5e-3
ANIME_STEPS, ANIME_LR = 2400, 1.0e-3


class Build:
    """The stages; each leaves one file or folder in `work` and is skipped once that is there."""

    def __init__(self, work: Path, out: Path) -> None:
        self.work, self.out = work, out
        self.photo = pictures(work, "train", "photo", PEOPLE, SCENES, seed=0)
        self.anime = pictures(work, "train", "anime", PEOPLE, SCENES, seed=0)
        self.tokenizer = train_tokenizer([text for p in (self.photo, self.anime) for row in p.captions for text in row])

    def run(self) -> None:
        """Everything, in order."""
        work = self.work
        self._once(work / "vae_joint", lambda path: train_vae(self.photo, self.anime, path, VAE_STEPS))
        for style in STYLES:
            self._once(work / f"latents-{style}.pt", partial(self._encode, style))
        self._once(work / "vae", self._refine_decoder)
        self._once(work / "clip_a", lambda path: train_clip(self.photo, self.anime, self.tokenizer, ENCODER, path))
        self._once(work / "clip_b", lambda path: train_clip(self.photo, self.anime, self.tokenizer, SCORER, path))
        self._once(work / "judge.safetensors", lambda path: train_judge(self.photo, self.anime, path, JUDGE_STEPS))
        self._once(work / "photo" / "unet", lambda path: self._train_unet("photo", None, path, PHOTO_STEPS, PHOTO_LR))
        photo = work / "photo" / "unet"
        self._once(work / "anime" / "unet", lambda path: self._train_unet("anime", photo, path, ANIME_STEPS, ANIME_LR))
        self.export()

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
        refine_decoder(self.photo, self.anime, latents, self.work / "vae_joint", path, DECODER_STEPS)

    def _train_unet(self, style: Style, init: Path | None, path: Path, steps: int, lr: float) -> None:
        encoder = text_tower(CLIPModel.from_pretrained(self.work / "clip_a"))
        text = encode_captions(encoder, token_ids(self.tokenizer, self._pictures(style).captions))
        empty = encode_captions(encoder, token_ids(self.tokenizer, [[""]]))[0, 0].float()
        torch.manual_seed(0)
        latents = torch.load(self.work / f"latents-{style}.pt", weights_only=True)
        unet = UNet2DConditionModel.from_pretrained(init) if init else new_unet(latents.shape[-1], text.shape[-1])
        # The plain processor is twice as fast as the fused one at this head width on a CPU.
        unet.set_attn_processor(AttnProcessor())
        train_unet(unet, latents, text, empty, path, steps, lr)


def main() -> None:
    """Parse arguments and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="scratch folder; a second run goes on in it")
    parser.add_argument("--out", type=Path, default=TOY_WEIGHTS, help="where the finished folders go")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    Build(arguments.work, arguments.out).run()


if __name__ == "__main__":
    main()
