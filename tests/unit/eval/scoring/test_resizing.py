"""Pictures are made smaller with a filter that leaves nothing finer than a pixel, and a codec is no detail."""

import io

import numpy as np
from PIL import Image

from nigaoe.core.pixels import centre_crop
from nigaoe.core.training_pictures import TrainingPictures, digest_of
from nigaoe.eval.scoring.clip import ClipScorer, cosines
from nigaoe.eval.scoring.judge import JudgeScorer
from toy_people import People


def _checker(side_px: int) -> Image.Image:
    """Black and white from pixel to pixel: grey to whoever stands back."""
    levels = (np.indices((side_px, side_px)).sum(axis=0) % 2 * 255).astype(np.uint8)
    return Image.fromarray(np.stack([levels] * 3, axis=2))


def _shown(clip: ClipScorer, image: Image.Image) -> np.ndarray:
    """What the network is given, as levels from 0 to 1."""
    pixels = np.asarray(clip.processor(images=[image], return_tensors="np")["pixel_values"][0])
    mean, std = (np.array(getattr(clip.processor, f"image_{word}"))[:, None, None] for word in ("mean", "std"))
    return np.asarray(pixels * std + mean)


def test_a_pattern_finer_than_a_pixel_becomes_grey(clip: ClipScorer, judge: JudgeScorer) -> None:
    grey = Image.new("RGB", (512, 512), (128, 128, 128))
    # Edges are where a filter has less to average over.
    inner = _shown(clip, _checker(512))[:, 4:-4, 4:-4]
    assert np.abs(inner - 0.5).max() < 0.01
    # Without the filter every pixel is black or white, depending on where it falls.
    aliased = _checker(512).resize((61, 61), Image.Resampling.NEAREST)
    assert np.asarray(aliased).std() > 100
    for network in (clip, judge):
        rows = network.features([_checker(512), grey, _checker(512).resize((61, 61), Image.Resampling.NEAREST)])
        assert cosines(rows[:1], rows[1:2])[0] > 0.999
        assert cosines(rows[2:], rows[1:2])[0] < 0.99
    assert np.abs(np.asarray(centre_crop(_checker(512), 64), np.float64)[2:-2, 2:-2] - 127.5).max() < 2


def test_what_a_network_is_given_is_what_pillow_makes_of_it(clip: ClipScorer, people: People) -> None:
    processor = clip.processor.to_dict()
    side = processor["size"].get("shortest_edge") or processor["size"]["height"]
    large = people.images[0].resize((300, 300), Image.Resampling.NEAREST)
    resized = large.resize((side, side), Image.Resampling(processor["resample"]))
    golden = np.asarray(resized, np.float64).transpose(2, 0, 1) / 255
    assert np.abs(_shown(clip, large) - golden).max() < 1e-6


def test_a_jpeg_of_a_picture_is_another_picture(clip: ClipScorer, people: People) -> None:
    jpegs, pngs = list[Image.Image](), list[Image.Image]()
    for image in people.images:
        for kept, kind in ((jpegs, "JPEG"), (pngs, "PNG")):
            buffer = io.BytesIO()
            image.save(buffer, format=kind)
            with Image.open(buffer) as read:
                kept.append(read.convert("RGB"))
    assert [digest_of(image) for image in pngs] == [digest_of(image) for image in people.images]
    trained = TrainingPictures.of([digest_of(image) for image in pngs])
    assert not any(trained.holds(image) for image in jpegs)
    rows = [clip.features(side) for side in (people.images, pngs, jpegs)]
    assert np.array_equal(rows[0], rows[1])
    # Not much, but more than rounding: references of two codecs are no one crowd.
    assert 1e-4 < 1 - cosines(rows[0], rows[2]).mean() < 0.1
