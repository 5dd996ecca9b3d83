"""What a look at a dataset finds, and what it makes of it."""

import io
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from nigaoe.core.errors import DataError
from nigaoe.train.records.check_page import choose_shown, thumbnails_of, write_page
from nigaoe.train.records.check_report import DatasetCheck
from nigaoe.train.records.findings import KINDS, Finding
from nigaoe.train.records.histograms import histogram
from nigaoe.train.records.looking import look_at_rows
from nigaoe.train.records.record import Picture, Record
from nigaoe.train.records.tally import Demands, Tally
from nigaoe.train.samples.buckets import Shape

DEMANDS = Demands(resolution_px=64, shapes=[Shape(64, 64)], token_limit=12)


def _noise(width: int = 80, height: int = 80, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A picture like no other; smooth, so that no encoder moves it far."""
    coarse = np.random.default_rng([width, height, seed]).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def _encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return _encoded(_noise(), "JPEG", exif=exif)


def _see_through() -> bytes:
    image = _noise(mode="RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return _encoded(image)


def _file(folder: Path, name: str, content: bytes, **row: object) -> Record:
    (folder / name).write_bytes(content)
    said = {"captions": (f"a photo called {name}",), "identity": name, **row}
    return Record(key=name, image=Picture(str(folder / name)), **said)  # type: ignore[arg-type]


def _check(records: list[Record], demands: Demands = DEMANDS) -> DatasetCheck:
    tally = Tally(demands)
    for record, look in zip(records, look_at_rows(records), strict=True):
        tally.add(record, look, [len(caption.split()) + 2 for caption in record.captions])
    return tally.result("data.csv", "toy/photo")


def _kinds(report: DatasetCheck, key: str) -> set[str]:
    return {finding.kind for finding in report.findings if finding.key == key}


FILES: dict[str, Callable[[], bytes]] = {
    "unreadable": lambda: b"<html>404 not found</html>",
    "damaged": lambda: _encoded(_noise(400, 300), "JPEG")[:3000],
    "tiny": lambda: _encoded(_noise(31, 200)),
    "small": lambda: _encoded(_noise(33, 40)),
    "extreme_aspect": lambda: _encoded(_noise(300, 70)),
    "animated": lambda: _encoded(_noise(), "GIF", save_all=True, append_images=[_noise(seed=1)]),
    "rotated": _turned,
    "cmyk": lambda: _encoded(_noise(mode="CMYK"), "JPEG"),
    "transparent": _see_through,
    "deep": lambda: _encoded(Image.fromarray(np.arange(6400, dtype=np.uint16).reshape(80, 80) * 10)),
    "grey": lambda: _encoded(_noise(mode="L"), "JPEG"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_told_for_what_it_is_and_for_nothing_else(tmp_path: Path, kind: str) -> None:
    report = _check([_file(tmp_path, "odd.img", FILES[kind]()), _file(tmp_path, "plain.jpg", _encoded(_noise(90)))])
    expected = {"tiny": {"tiny", "extreme_aspect"}, "deep": {"deep", "grey"}}.get(kind, {kind})
    assert _kinds(report, "odd.img") == expected
    assert _kinds(report, "plain.jpg") == set()
    is_out = KINDS[kind].severity == "left out"
    assert report.usable_rows == 2 - is_out
    assert all(finding.reason for finding in report.findings)


def test_pictures_that_only_look_odd_are_not_told(tmp_path: Path) -> None:
    """An alpha channel that hides nothing, the preview behind a phone's photo, no turn."""
    opaque = _file(tmp_path, "opaque.png", _encoded(_noise(seed=1, mode="RGBA")))
    phone = _encoded(_noise(seed=2), "MPO", save_all=True, append_images=[_noise(20, 20)])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 1
    upright = _encoded(_noise(seed=3), "JPEG", exif=exif)
    report = _check([opaque, _file(tmp_path, "phone.jpg", phone), _file(tmp_path, "upright.jpg", upright)])
    assert report.findings == []
    assert report.formats == {"PNG": 1, "MPO": 1, "JPEG": 1}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    report = _check([Record("gone.jpg", Picture(str(tmp_path / "gone.jpg")), ("a photo",), "gone.jpg")])
    assert [finding.kind for finding in report.findings] == ["missing"]
    assert "gone.jpg" in report.findings[0].reason
    assert report.usable_rows == 0


def test_a_header_that_claims_too_much_is_not_decoded(tmp_path: Path) -> None:
    bomb = _encoded(Image.new("1", (30_000, 3_000)))
    assert _kinds(_check([_file(tmp_path, "bomb.png", bomb)]), "bomb.png") == {"too_large"}


def test_copies_are_found_in_any_container_and_the_first_one_stays(tmp_path: Path) -> None:
    jpeg = _encoded(_noise(), "JPEG")
    decoded = Image.open(io.BytesIO(jpeg))
    rows = [
        _file(tmp_path, "damaged.jpg", jpeg[:200]),
        _file(tmp_path, "first.jpg", jpeg),
        _file(tmp_path, "copy.jpg", jpeg),
        _file(tmp_path, "other.png", _encoded(decoded)),
        _file(tmp_path, "webp.webp", _encoded(decoded, "WEBP", lossless=True)),
        _file(tmp_path, "mirrored.png", _encoded(decoded.transpose(Image.Transpose.FLIP_LEFT_RIGHT))),
    ]
    report = _check(rows)
    reasons = {finding.key: finding.reason for finding in report.findings if finding.kind == "duplicate"}
    assert reasons == {
        "copy.jpg": "the same file as 'first.jpg'",
        "other.png": "the same pixels as 'first.jpg'",
        "webp.webp": "the same pixels as 'first.jpg'",
    }
    assert report.usable_rows == 2


def test_a_picture_of_two_people_is_told_apart_from_a_copy(tmp_path: Path) -> None:
    picture = _encoded(_noise())
    report = _check(
        [
            _file(tmp_path, "a.png", picture, identity="ann"),
            _file(tmp_path, "b.png", picture, identity="ann"),
            _file(tmp_path, "c.png", picture, identity="bob"),
            _file(tmp_path, "d.png", picture),
        ]
    )
    assert {f.key: f.kind for f in report.findings} == {
        "b.png": "duplicate",
        "c.png": "identity_conflict",
        "d.png": "duplicate",
    }
    assert "'ann'" in report.findings[1].reason
    assert "'bob'" in report.findings[1].reason


def test_a_picture_may_be_learnt_from_several_conditions(tmp_path: Path) -> None:
    """And a condition has to be readable, of whatever size."""
    drawing, faces = _encoded(_noise()), [_encoded(_noise(20, 20, seed)) for seed in (1, 2)]
    for i, face in enumerate(faces):
        (tmp_path / f"face{i}.png").write_bytes(face)
    shown = [Picture(str(tmp_path / name)) for name in ("face0.png", "face1.png", "face0.png", "none.png")]
    rows = [_file(tmp_path, f"{i}.png", drawing, condition=face) for i, face in enumerate(shown)]
    report = _check(rows)
    assert {f.key: f.kind for f in report.findings} == {"2.png": "duplicate", "3.png": "missing"}
    assert report.findings[-1].reason.startswith("its condition: ")


def test_a_list_may_name_a_picture_once_for_each_of_its_captions(tmp_path: Path) -> None:
    first = _file(tmp_path, "a.png", _encoded(_noise()), captions=("a cat",))
    rows = [first] + [
        replace(first, key=f"a.png#{i}", captions=(caption,))
        for i, caption in enumerate(["a dog", "a cat", "a dog", "a cow"], 2)
    ]
    rows.append(_file(tmp_path, "copy.png", _encoded(_noise())))
    report = _check(rows)
    duplicates = {finding.key: finding.reason for finding in report.findings if finding.kind == "duplicate"}
    assert duplicates == {
        "a.png#3": "the same file as 'a.png'",
        "a.png#4": "the same file as 'a.png#2'",
        "copy.png": "the same file as 'a.png'",
    }


def test_a_failing_place_says_nothing_of_its_pictures(tmp_path: Path) -> None:
    """Else a network that is down for a minute would empty the dataset."""
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    inside = Picture(str(tmp_path / "cut.parquet"), start=0, column="image")
    with pytest.raises(DataError, match="cut off"):
        look_at_rows([Record("0", inside, ("a photo",), "0")])


def test_captions_are_measured(tmp_path: Path) -> None:
    long = " ".join(["word"] * 20)
    rows = [
        _file(tmp_path, f"{i}.png", _encoded(_noise(seed=i)), captions=captions)
        for i, captions in enumerate([("a cat", long), ("", " "), (), ("a dog",), ("a dog",), ("a dog", "a cat")])
    ]
    report = _check(rows)
    assert report.counts == {"cut_caption": 1, "no_caption": 2, "same_captions": 1}
    assert (report.captions, report.cut_captions) == (6, 1)
    assert _kinds(report, "3.png") == {"same_captions"}
    assert sum(report.caption_tokens.counts) == 6
    (cut,) = (finding for finding in report.findings if finding.kind == "cut_caption")
    assert cut.reason == "1 of its 2 captions: up to 22 tokens where 12 are read"


def test_a_picture_is_measured_by_the_shape_that_it_is_cut_to(tmp_path: Path) -> None:
    rows = [
        _file(tmp_path, "wide.png", _encoded(_noise(180, 60))),
        _file(tmp_path, "tall.png", _encoded(_noise(48, 90))),
    ]
    assert _check(rows).counts == {"small": 2, "extreme_aspect": 1}
    both = replace(DEMANDS, shapes=[Shape(80, 48), Shape(64, 64), Shape(48, 80)])
    assert _check(rows, both).counts == {}


def test_one_figure_for_each_identity(tmp_path: Path) -> None:
    names = ["ann", "ann", "ann", "bob"]
    rows = [_file(tmp_path, f"{i}.png", _encoded(_noise(seed=i)), identity=name) for i, name in enumerate(names)]
    report = _check(rows)
    assert (report.rows, report.identities, report.lone_identities) == (4, 2, 1)
    assert report.rows_per_identity.counts == [1, 0, 1]


@given(st.dictionaries(st.integers(1, 100_000), st.integers(1, 50), min_size=1))
def test_a_histogram_counts_everything_in_few_round_bins(values: dict[int, int]) -> None:
    made = histogram(values)
    assert sum(made.counts) == sum(values.values())
    assert 1 <= len(made.counts) <= 26
    widths = {b - a for a, b in zip(made.edges, made.edges[1:], strict=False)}
    assert len(widths) == 1
    assert str(int(widths.pop()))[0] in "125"
    assert made.edges[0] <= min(values)
    assert made.is_open == (max(values) >= made.edges[-1])
    below = sum(count for value, count in values.items() if value < made.edges[1])
    assert made.counts[0] == below or len(made.counts) == 1


def test_the_page_needs_nothing_but_itself_and_takes_any_name(tmp_path: Path) -> None:
    rows = [_file(tmp_path, f"{i}.png", _encoded(_noise(seed=i % 50))) for i in range(60)]
    rows.append(_file(tmp_path, "<script>x</script>&.jpg".replace("/", "_"), b"no picture"))
    report = _check(rows)
    shown = choose_shown(report, [row.key for row in rows])
    assert shown == choose_shown(report, [row.key for row in rows])
    left_out = {finding.key for finding in report.findings}
    assert left_out.isdisjoint(shown.samples)
    pictures = {row.key: row.image for row in rows if row.key in shown.keys}
    copies = thumbnails_of(list(pictures.values()))
    thumbnails = {key: copy for key, copy in zip(pictures, copies, strict=True) if copy}
    assert len(thumbnails) == len(pictures) - 1
    write_page(tmp_path / "report.html", report, shown, thumbnails)
    html = (tmp_path / "report.html").read_text()
    assert html.count("<svg") == 4
    assert html.count("data:image/webp;base64,") >= len(thumbnails)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "http" not in html.replace("http-equiv", "")
    assert "the same file as &#39;0.png&#39;" in html


def test_an_empty_and_a_spotless_check_have_pages_too(tmp_path: Path) -> None:
    for rows in ([], [_file(tmp_path, "a.png", _encoded(_noise()))]):
        report = _check(rows)
        write_page(tmp_path / "report.html", report, choose_shown(report, [row.key for row in rows]), {})
        assert "None." in (tmp_path / "report.html").read_text()


def test_a_report_with_very_many_findings_stays_a_page(tmp_path: Path) -> None:
    findings = [Finding("grey", f"{i}.jpg", "every pixel is grey") for i in range(5000)]
    random.Random(0).shuffle(findings)
    report = _check([]).model_copy(update={"findings": findings, "counts": {"grey": 5000}})
    write_page(tmp_path / "report.html", report, choose_shown(report, []), {})
    html = (tmp_path / "report.html").read_text()
    assert len(html) < 40_000
    assert "of 5,000" in html
