"""Last stage: everything as ordinary diffusers and transformers folders, in float16."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from nigaoe.core.toy.build.clip import new_processor
from nigaoe.core.toy.build.unet import new_scheduler


def text_tower(clip: Any) -> Any:
    """The text encoder that a base carries: CLIP's text tower, as in SD 1.x."""
    tower = CLIPTextModel(clip.config.text_config)
    tower.load_state_dict(clip.text_model.state_dict())
    return tower.eval()


def vision_tower(clip: Any) -> Any:
    """The image encoder that an adapter needs: CLIP's vision tower with projection."""
    tower = CLIPVisionModelWithProjection(clip.config.vision_config)
    state = {f"vision_model.{k}": v for k, v in clip.vision_model.state_dict().items()}
    tower.load_state_dict({**state, "visual_projection.weight": clip.visual_projection.weight})
    return tower.eval()


def export_base(
    unet: UNet2DConditionModel, vae: AutoencoderKL, clip: CLIPModel, tokenizer: CLIPTokenizer, out: Path
) -> None:
    """Write a folder that `StableDiffusionPipeline.from_pretrained` takes."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_tower(clip),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    shutil.rmtree(out, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(out)
    pipeline.to(torch.float32)
    _forget_origin(out)


def _forget_origin(folder: Path) -> None:
    """Take the builder's own paths out of the configs."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def export_image_encoder(clip: CLIPModel, out: Path) -> None:
    """Write a folder that `load_image_encoder` takes."""
    shutil.rmtree(out, ignore_errors=True)
    vision_tower(clip).half().save_pretrained(out)
    new_processor().save_pretrained(out)


def export_clip(clip: CLIPModel, tokenizer: CLIPTokenizer, out: Path) -> None:
    """Write the scoring CLIP: text, vision and both projections."""
    shutil.rmtree(out, ignore_errors=True)
    clip.half().save_pretrained(out)
    clip.float()
    tokenizer.save_pretrained(out)
    new_processor().save_pretrained(out)
