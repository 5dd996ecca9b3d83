"""Stage 2: a tokenizer and CLIP models. One gives the bases their text encoder and adapters their image encoder.

A second one, of another seed and without labels, only scores: an encoder should not mark its own work.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from nigaoe.core.toy.build.dataset import Pictures
from nigaoe.core.toy.build.training import Progress, cosine_lr, optimise
from nigaoe.core.toy.people import ATTRIBUTES
from nigaoe.core.toy.render import SIZE_PX

log = logging.getLogger(__name__)

MAX_TOKENS = 48
PEOPLE_PER_BATCH = 48
IMAGE_MEAN, IMAGE_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ClipRecipe:
    """What distinguishes one CLIP of the toy world from another."""

    seed: int
    steps: int
    label_weight: float
    """Weight of predicting the attributes from the image embedding; 0 trains on captions and identities only."""
    identity_weight: float
    """Weight of telling people apart across scenes and styles."""


def train_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """A byte-level BPE like CLIP's own: any text has ids, every word of the captions is one token."""
    blank = CLIPTokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = blank.normalizer, blank.pre_tokenizer
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        min_frequency=2,
        end_of_word_suffix="</w>",
        initial_alphabet=letters,
        # Naming the word ends here fixes their ids. Left to the trainer they follow the order of a hash map, which
        # differs from run to run: text encoder and UNet would then not mean the same token by one id.
        special_tokens=["<|startoftext|>", "<|endoftext|>", *(f"{letter}</w>" for letter in letters)],
        show_progress=False,
    )
    tokenizer.train_from_iterator([*captions, *letters], trainer)
    merges: Any = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    return CLIPTokenizer(vocab=tokenizer.get_vocab(), merges=merges, model_max_length=MAX_TOKENS)


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """The toy CLIP, untrained."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "projection_dim": 128,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": SIZE_PX,
        "patch_size": 12,
        "projection_dim": 128,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def new_processor() -> CLIPImageProcessorPil:
    """Preprocessing of the toy CLIPs: 96 px, [-1, 1]."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIZE_PX},
        crop_size={"height": SIZE_PX, "width": SIZE_PX},
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
    )


def contrast(a: Tensor, b: Tensor, scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE of matching rows."""
    logits = scale * F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    target = torch.arange(len(a))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def augment(x: Tensor) -> Tensor:
    """Mirror, shift, brightness and grain: nothing that changes who is seen."""
    if torch.rand(()) < 0.5:
        x = x.flip(3)
    shift = torch.randint(-4, 5, (2,)).tolist()
    x = torch.roll(F.pad(x, (4, 4, 4, 4), mode="replicate"), shift, (2, 3))[..., 4:-4, 4:-4]
    n = len(x)
    return x * (1 + 0.06 * torch.randn(n, 1, 1, 1)) + 0.04 * torch.randn(n, 3, 1, 1) + 0.03 * torch.randn_like(x)


def token_ids(tokenizer: CLIPTokenizer, captions: list[list[str]]) -> Tensor:
    """int64 [N, captions per image, MAX_TOKENS]."""
    flat = tokenizer(
        [text for row in captions for text in row],
        padding="max_length",
        truncation=True,
        max_length=MAX_TOKENS,
        return_tensors="pt",
    )
    ids: Tensor = flat.input_ids
    return ids.view(len(captions), -1, MAX_TOKENS)


def train_clip(photo: Pictures, anime: Pictures, tokenizer: CLIPTokenizer, recipe: ClipRecipe, out: Path) -> None:
    """Captions against pictures, people against themselves in another scene and style."""
    torch.manual_seed(recipe.seed)
    clip = new_clip(tokenizer)
    heads = nn.ModuleList(nn.Linear(128, len(values)) for values in ATTRIBUTES.values())
    parameters = [*clip.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.02)
    ids = {"photo": token_ids(tokenizer, photo.captions), "anime": token_ids(tokenizer, anime.captions)}
    people = len(photo.images) // photo.scenes_per_person
    progress = Progress(out.name, recipe.steps)
    for step in range(recipe.steps):
        person = torch.randperm(people)[:PEOPLE_PER_BATCH]
        row = person * photo.scenes_per_person + torch.randint(photo.scenes_per_person, person.shape)
        other = person * photo.scenes_per_person + torch.randint(photo.scenes_per_person, person.shape)
        which = torch.randint(ids["photo"].shape[1], person.shape)
        x = augment(torch.cat([photo.floats(row), anime.floats(other)]))
        tokens = torch.cat([ids["photo"][row, which], ids["anime"][other, which]])
        with torch.autocast("cpu", torch.bfloat16):
            image = clip.get_image_features(x).pooler_output.float()
            text = clip.get_text_features(tokens).pooler_output.float()
        loss = contrast(image, text, clip.logit_scale.exp())
        loss = loss + recipe.identity_weight * contrast(image[: len(person)], image[len(person) :], 10.0)
        if recipe.label_weight:
            labels = torch.cat([photo.labels[row]] * 2)
            ce = [F.cross_entropy(head(image), labels[:, j]) for j, head in enumerate(heads)]
            loss = loss + recipe.label_weight * torch.stack(ce).sum()
        optimise(optimizer, loss, parameters, cosine_lr(step, recipe.steps, 1e-3))
        clip.logit_scale.data.clamp_(max=4.0)
        progress(step, loss.item())
        if (step + 1) % 300 == 0 or step + 1 == recipe.steps:
            clip.save_pretrained(out)
    tokenizer.save_pretrained(out)
    new_processor().save_pretrained(out)
