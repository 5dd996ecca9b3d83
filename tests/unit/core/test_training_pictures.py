"""A picture is known again by its pixels, in whatever lossless file, and a record of many is whole or refused."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from nigaoe.core.errors import DataError
from nigaoe.core.images import read_image
from nigaoe.core.manifests import read_adapter_manifest
from nigaoe.core.training_pictures import TRAINED_ON, TrainingPictures, digest_of, recorded_for
from nigaoe.core.transfers import sha256_of
from recorded_runs import leave_run


def _picture(seed: int = 0, height: int = 6, width: int = 9) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _file(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_a_picture_has_one_digest_in_every_lossless_file(kind: str, options: dict[str, object]) -> None:
    image = _picture()
    assert digest_of(read_image(_file(image, kind, **options))) == digest_of(Image.fromarray(np.asarray(image)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_file_is_the_upright_picture(orientation: int) -> None:
    stored, exif = _picture(), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = _file(stored, "PNG", exif=exif)
    upright = read_image(content)
    assert digest_of(upright) == digest_of(Image.fromarray(np.asarray(upright)))
    with Image.open(io.BytesIO(content)) as raw:
        assert digest_of(raw) == digest_of(upright)
    assert (digest_of(stored) == digest_of(upright)) == (orientation == 1)


def test_another_pixel_or_shape_is_another_picture() -> None:
    image = _picture()
    pixels = np.array(image)
    pixels[3, 4, 1] ^= 1
    others = [Image.fromarray(pixels), Image.fromarray(np.asarray(image).reshape(9, 6, 3)), _picture(1)]
    assert len({digest_of(one) for one in [image, *others]}) == 4


def test_alpha_lies_over_white_as_training_reads_it() -> None:
    clear = Image.new("RGBA", (4, 4), (9, 9, 9, 0))
    assert digest_of(clear) == digest_of(Image.new("RGB", (4, 4), "white"))
    assert digest_of(_picture().convert("RGBA")) == digest_of(_picture())


def test_a_record_holds_its_pictures_and_no_other(tmp_path: Path) -> None:
    pictures = TrainingPictures.of([digest_of(_picture(seed)) for seed in (3, 1, 2, 1)])
    pictures.write(tmp_path / TRAINED_ON)
    read = TrainingPictures.read(tmp_path / TRAINED_ON, pictures.sha256)
    assert pictures.sha256 == sha256_of(str(tmp_path / TRAINED_ON))
    assert len(read) == 3
    assert (tmp_path / TRAINED_ON).stat().st_size == 3 * 16
    assert [read.holds(_picture(seed)) for seed in range(6)] == [False, True, True, True, False, False]
    more = read.joined(TrainingPictures.of([digest_of(_picture(seed)) for seed in (3, 4)]))
    assert [more.holds(_picture(seed)) for seed in range(6)] == [False, True, True, True, True, False]


@given(
    st.lists(st.binary(min_size=16, max_size=16) | st.sampled_from([b"a" + bytes(15), bytes(15) + b"a"]), min_size=1)
)
def test_a_file_is_the_sorted_set_of_digests(tmp_path_factory: pytest.TempPathFactory, digests: list[bytes]) -> None:
    """Zeros at either end of a digest count as any other byte."""
    path = tmp_path_factory.mktemp("record") / TRAINED_ON
    TrainingPictures.of(digests).write(path)
    assert path.read_bytes() == b"".join(sorted(set(digests)))
    assert TrainingPictures.read(path).sha256 == TrainingPictures.of(digests).sha256


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "has 0 bytes"),
        (b"a" * 40, "has 40 bytes, not 16 for each picture"),
        (b"b" * 16 + b"a" * 16, "not sorted"),
        (b"a" * 32, "not sorted"),
    ],
)
def test_a_damaged_record_is_refused_by_name(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / TRAINED_ON
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"'{path}' is damaged .*{word}.*copy it again") as caught:
        TrainingPictures.read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"trained_on.bin' cannot be read \(No such file or directory\)"):
        TrainingPictures.read(tmp_path / TRAINED_ON)


def test_what_a_run_left_is_read(tmp_path: Path) -> None:
    weights = leave_run(tmp_path, TrainingPictures.of([digest_of(_picture())]))
    for place in (weights, tmp_path):
        recorded = recorded_for(place)
        assert recorded.gap is None
        assert recorded.pictures is not None
        assert recorded.pictures.holds(_picture())
    weights = leave_run(tmp_path, recorded.pictures, is_all=False)
    assert "began with another adapter" in (recorded_for(weights).gap or "")
    assert recorded_for(weights).pictures is not None


def test_a_record_that_is_not_there_or_of_another_adapter_is_a_gap(tmp_path: Path) -> None:
    assert "no adapter.json" in (recorded_for(tmp_path / "adapter.safetensors").gap or "")
    weights = leave_run(tmp_path, None)
    assert "its adapter.json names none" in (recorded_for(weights).gap or "")
    leave_run(tmp_path, TrainingPictures.of([bytes(16)]))
    (tmp_path / TRAINED_ON).unlink()
    assert "no trained_on.bin" in (recorded_for(weights).gap or "")
    leave_run(tmp_path, TrainingPictures.of([bytes(16)]))
    weights.write_bytes(b"others")
    assert "speaks of another file" in (recorded_for(weights).gap or "")
    assert recorded_for(weights).pictures is None


def test_a_record_of_another_run_is_refused(tmp_path: Path) -> None:
    weights = leave_run(tmp_path, TrainingPictures.of([bytes(16)]))
    TrainingPictures.of([b"a" * 16]).write(tmp_path / TRAINED_ON)
    with pytest.raises(DataError, match=r"trained_on.bin' is damaged \(it is not the file that adapter.json"):
        recorded_for(weights)


def test_a_manifest_of_before_says_nothing_of_pictures(tmp_path: Path) -> None:
    weights = leave_run(tmp_path, None)
    path = tmp_path / "adapter.json"
    lines = [line for line in path.read_text().splitlines() if "trained_on" not in line]
    path.write_text("\n".join(lines))
    training = read_adapter_manifest(path).training
    assert training is not None
    assert training.trained_on_sha256 is None
    assert recorded_for(weights).pictures is None
