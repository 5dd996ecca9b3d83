"""CLIP-T, CLIPScore and image similarity: their definitions, their traps, and torchmetrics where it is right."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.multimodal.clip_score import CLIPScore
from transformers import (
    BitImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from nigaoe.core.errors import BaseModelError, DataError, ImageError
from nigaoe.core.models import locate
from nigaoe.eval.metrics.clip_score import ClipScore
from nigaoe.eval.metrics.clip_t import ClipT
from nigaoe.eval.metrics.diversity import Diversity
from nigaoe.eval.metrics.image_similarity import ImageSimilarity
from nigaoe.eval.scoring.class_token import ClassTokenEncoder
from nigaoe.eval.scoring.clip import ClipScorer
from toy_people import People


class _AsBefore5(CLIPModel):
    """Tensors where transformers 5 gives objects: what torchmetrics 1.9 still takes a CLIP to be."""

    def get_image_features(self, *args: Any, **kwargs: Any) -> Any:
        return super().get_image_features(*args, **kwargs).pooler_output

    def get_text_features(self, *args: Any, **kwargs: Any) -> Any:
        return super().get_text_features(*args, **kwargs).pooler_output


def _theirs(clip: ClipScorer) -> CLIPScore:
    model = _AsBefore5.from_pretrained(locate("toy/clip"), dtype=torch.float32)
    return CLIPScore(model_name_or_path=lambda: (model, CLIPProcessor(clip.processor, clip.tokenizer)))


def _tensors(people: People) -> list[torch.Tensor]:
    return [torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) for image in people.images]


def _score(clip: ClipScorer, people: People, captions: list[str], weight: float = 100.0) -> ClipScore:
    metric = ClipScore(clip, weight=weight)
    metric.update(people.images, captions, people.ids)
    return metric


def test_clip_score_is_torchmetrics_where_no_sample_is_negative(clip: ClipScorer, people: People) -> None:
    theirs = _theirs(clip)
    theirs.update(_tensors(people), people.captions)
    ours = _score(clip, people, people.captions)
    assert ours.items().values.min() > 0
    assert ours.compute().item() == pytest.approx(theirs.compute().item(), abs=1e-3)


def test_negative_samples_do_not_cancel_good_ones(clip: ClipScorer, people: People) -> None:
    # torchmetrics floors the mean: wrong captions with a negative cosine take away from the right ones.
    wrong = people.captions[6:] + people.captions[:6]
    captions = [*people.captions[:6], *wrong[6:]]
    metric = ClipT(clip)
    metric.update(people.images, captions, people.ids)
    cosines = metric.items().values
    assert cosines.min() < 0 < cosines.max()
    ours = _score(clip, people, captions)
    assert ours.compute().item() == pytest.approx(100 * np.maximum(cosines, 0).mean(), abs=1e-9)
    theirs = _theirs(clip)
    theirs.update(_tensors(people), captions)
    assert theirs.compute().item() == pytest.approx(100 * max(cosines.mean(), 0), abs=1e-3)
    assert ours.compute().item() > theirs.compute().item() + 0.1


def test_scales_have_names(clip: ClipScorer, people: People) -> None:
    hundred, hessel = _score(clip, people, people.captions), _score(clip, people, people.captions, weight=2.5)
    assert (hundred.name, hessel.name, ClipT(clip).name) == ("clip_score_100", "clip_score", "clip_t")
    assert hundred.compute().item() == pytest.approx(40 * hessel.compute().item())
    with pytest.raises(DataError, match="clip_score_100"):
        hundred.merge_state(hessel)


def test_a_long_caption_keeps_its_end_and_is_counted(clip: ClipScorer, people: People) -> None:
    long = " and a hat" * 40
    captions = [f"a photo of a man{long}", f"a photo of a woman{long}", people.captions[2]]
    assert clip.text_length == 48
    ids = clip.tokens(captions)
    assert ids.shape == (3, 48)
    assert (ids[:2, -1] == clip.tokenizer.eos_token_id).all()
    assert (ids[:2, :-1] != clip.tokenizer.eos_token_id).all()
    first, second, _ = clip.text_features(captions)
    # Cut after the end token, as torchmetrics does, any two long captions may become one.
    assert np.abs(first - second).max() > 0.01
    metric = ClipT(clip)
    for _ in range(2):
        metric.update(people.images[:3], captions, people.ids[:3])
    assert metric.num_cut() == 2
    assert clip.are_cut(["", "short"]).tolist() == [False, False]


def test_77_tokens_are_read_of_a_published_clip(clip: ClipScorer) -> None:
    config = clip.model.config.to_dict()
    config["text_config"]["max_position_embeddings"] = 77
    torch.manual_seed(0)
    model = CLIPModel(type(clip.model.config).from_dict(config)).eval()
    published = ClipScorer(model, clip.processor, clip.tokenizer, clip.device, "random")
    long = ["a man" + " in a red hat" * 60, "a woman" + " in a red hat" * 60]
    ids = published.tokens([*long, "a man"])
    assert ids.shape == (3, 77)
    assert published.tokens(["a man"]).shape[1] < 10
    assert (ids[:, -1] == clip.tokenizer.eos_token_id).all()
    assert published.are_cut([*long, "a man"]).tolist() == [True, True, False]
    first, second = published.text_features(long)
    assert np.abs(first - second).max() > 1e-3


def test_padding_to_the_longest_or_to_all_gives_one_embedding(clip: ClipScorer) -> None:
    alone = clip.text_features(["a photo of a man"])
    beside = clip.text_features(["a photo of a man", "a woman in a red hat with long blue hair, smiling"])
    np.testing.assert_allclose(alone[0], beside[0], rtol=0, atol=1e-5)


def test_right_pairs_beat_mixed_up_ones(clip: ClipScorer, people: People) -> None:
    captions, likeness = ClipT(clip), ImageSimilarity(clip)
    captions.update(people.images, people.captions, people.ids)
    likeness.update(people.images, people.others, people.ids)
    for control in (captions.control(), likeness.control()):
        assert not control.is_broken, control.line()
        assert control.auc > 0.98
    turned = people.ids[1:] + people.ids[:1]
    captions.reset()
    captions.update(people.images, people.captions[1:] + people.captions[:1], turned)
    assert captions.control().is_broken


def test_one_prompt_for_all_has_no_wrong_pairs(clip: ClipScorer, people: People) -> None:
    metric = ClipT(clip)
    metric.update(people.images, ["a photo of a person"] * 12, people.ids)
    control = metric.control()
    assert control.is_broken
    assert control.n_shuffled == 0


def test_pictures_of_one_reference_are_no_impostors_of_each_other(clip: ClipScorer, people: People) -> None:
    metric = ImageSimilarity(clip)
    metric.update(people.images, people.others, people.ids, ["the same person"] * 12)
    assert metric.control().n_shuffled == 0


def test_a_picture_is_like_itself(clip: ClipScorer, people: People) -> None:
    metric = ImageSimilarity(clip)
    metric.update(people.images, people.images, people.ids)
    assert metric.name == "clip_i"
    np.testing.assert_allclose(metric.items().values, 1.0, rtol=0, atol=1e-12)


def test_what_does_not_fit_together_is_refused(clip: ClipScorer, people: People) -> None:
    with pytest.raises(DataError, match="11 prompts"):
        ClipT(clip).update(people.images, people.captions[:-1], people.ids)
    with pytest.raises(DataError, match="11 references"):
        ImageSimilarity(clip).update(people.images, people.others[1:], people.ids)
    with pytest.raises(ImageError, match="picture 1 of 1"):
        ImageSimilarity(clip).update([np.full((8, 8, 3), -1.0)], people.others[:1], people.ids[:1])


class _Blind:
    """Sees nothing."""

    name, fingerprint, dim, preprocessing = "blind", "0", 4, "as it is"

    def features(self, images: Any) -> np.ndarray:
        return np.zeros((len(images), 4), np.float32)


def test_an_embedding_without_direction_is_no_cosine(people: People) -> None:
    with pytest.raises(DataError, match="zeros"):
        ImageSimilarity(_Blind()).update(people.images, people.others, people.ids)
    with pytest.raises(DataError, match="zeros"):
        Diversity(_Blind()).update(people.images, people.ids, people.ids)


def test_diversity_is_the_mean_distance_within_a_group(clip: ClipScorer, people: People) -> None:
    metric = Diversity(clip)
    groups = ["a"] * 3 + ["b"] * 2 + ["alone"]
    pictures = [*people.images[:3], people.images[3], people.images[3], people.images[4]]
    metric.update(pictures, people.ids[:6], groups)
    unit = clip.features(people.images[:3]).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T
    expected = 1 - (cosines[0, 1] + cosines[0, 2] + cosines[1, 2]) / 3
    values = dict(zip(metric.items().ids, metric.items().values, strict=True))
    assert values["a"] == pytest.approx(expected, abs=1e-6)
    assert values["b"] == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(values["alone"])
    assert metric.compute().item() == pytest.approx(expected / 2, abs=1e-6)
    # A group's pictures may come in any number of steps.
    other = Diversity(clip)
    for i in (5, 3, 0, 4, 1, 2):
        other.update([pictures[i]], [people.ids[i]], [groups[i]])
    np.testing.assert_allclose(other.items().values, metric.items().values, rtol=0, atol=1e-6)


# DINO's own files are of the kind without a pooler.
@pytest.mark.parametrize("kind", ["dinov2", "vit", "vit with a pooler"])
def test_dino_is_read_by_its_class_token(kind: str, people: People, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56}
    torch.manual_seed(0)
    if kind == "dinov2":
        model: Any = Dinov2Model(Dinov2Config(**sizes, patch_size=14))
        processor: Any = BitImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56})
    else:
        model = ViTModel(ViTConfig(**sizes, intermediate_size=64, patch_size=14), add_pooling_layer="pooler" in kind)
        processor = ViTImageProcessorPil(size={"height": 56, "width": 56})
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    encoder = ClassTokenEncoder.load(str(tmp_path), "dino_tiny")
    pixels = processor(images=people.images[:2], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(torch.as_tensor(pixels)).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(encoder.features(people.images[:2]), expected, rtol=0, atol=1e-6)
    metric = ImageSimilarity(encoder)
    metric.update(people.images, people.images, people.ids)
    assert metric.name == "dino_tiny_i"
    assert metric.compute().item() == pytest.approx(1.0)


def test_what_has_no_class_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="vision transformer"):
        ClassTokenEncoder.load(str(tmp_path), "dino")
    with pytest.raises(BaseModelError, match="'clip', not one of"):
        ClassTokenEncoder.load(locate("toy/clip"), "dino")
