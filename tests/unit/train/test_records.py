"""Datasets as people have them, on a disk and in a bucket; and what is said of those that are broken."""

import io
import json
import logging
import os
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nigaoe.core import storage
from nigaoe.core.errors import DataError, ImageError
from nigaoe.train.config import DataConfig
from nigaoe.train.records.formats.tar_members import tar_members
from nigaoe.train.records.parquet_files import _group, _group_starts
from nigaoe.train.records.patterns import expand_braces
from nigaoe.train.records.pictures import picture_bytes, read_picture
from nigaoe.train.records.quarantine import read_quarantine, write_quarantine
from nigaoe.train.records.reading import all_records, read_records, source_fingerprint
from nigaoe.train.records.record import Record
from object_store import ObjectStore, object_store

ROWS = 5


def jpeg(seed: int) -> bytes:
    """A picture of 24 by 16 that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def config(source: Path | str, **others: Any) -> DataConfig:
    return DataConfig(source=str(source), prepared=Path("prepared"), **others)


def read(source: Path | str, **others: Any) -> list[Record]:
    return read_records(config(source, **others))


def refusal(source: Path | str, **others: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(source, **others)
    text = str(caught.value)
    assert "\n" not in text
    assert "Error" not in text
    return text


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def hub_table(rows: range) -> pa.Table:
    """As Hugging Face keeps pictures."""
    images = [{"bytes": jpeg(i), "path": "same.jpg"} for i in rows]
    return pa.table({"image": images, "text": [f"photo {i}" for i in rows], "identity": [i % 2 for i in rows]})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same five pictures in every format."""
    folder = tmp_path_factory.mktemp("dataset")
    write(folder / "data.json", json.dumps([{"image_file": f"p/{i}.jpg", "text": f"photo {i}"} for i in range(ROWS)]))
    lines = [json.dumps({"file_name": f"p/{i}.jpg", "text": f"photo {i}"}) + "\n" for i in range(ROWS)]
    write(folder / "data.jsonl", "".join(lines))
    write(folder / "data.csv", "ID,caption_0,caption_1\n" + "".join(f"p/{i},photo {i},\n" for i in range(ROWS)))
    for i in range(ROWS):
        write(folder / f"p/{i}.jpg", jpeg(i))
        write(folder / f"p/{i}.txt", f"photo {i}\n")
    write(folder / "hub/train/metadata.jsonl", "".join(lines).replace("p/", ""))
    for i in range(ROWS):
        write(folder / f"hub/train/{i}.jpg", jpeg(i))
    (folder / "parquet").mkdir()
    pq.write_table(hub_table(range(3)), folder / "parquet/train-0.parquet", row_group_size=2)
    pq.write_table(hub_table(range(3, ROWS)), folder / "parquet/train-1.parquet", row_group_size=2)
    for shard, numbers in enumerate([range(3), range(3, ROWS)]):
        files = {f"{i:04d}.{e}": c for i in numbers for e, c in (("jpg", jpeg(i)), ("txt", f"photo {i}".encode()))}
        write_tar(folder / f"tars/{shard:02d}.tar", files)
    return folder


@pytest.fixture(scope="module")
def store(dataset: Path) -> Iterator[ObjectStore]:
    """The same in a bucket."""
    with object_store() as store:
        store.upload(dataset)
        yield store


SOURCES = ["data.json", "data.jsonl", "data.csv", "p", "hub", "parquet", "parquet/*.parquet", "tars/{00..01}.tar"]


def check_rows(records: list[Record]) -> None:
    assert [record.captions for record in records] == [(f"photo {i}",) for i in range(ROWS)]
    assert [picture_bytes(record.image) for record in records] == [jpeg(i) for i in range(ROWS)]
    assert read_picture(records[-1].image).size == (24, 16)
    assert len({record.key for record in records}) == ROWS


@pytest.mark.parametrize("source", SOURCES)
def test_every_format_gives_the_same_rows(dataset: Path, source: str) -> None:
    check_rows(read(dataset / source))


@pytest.mark.parametrize("source", SOURCES)
def test_a_bucket_gives_the_same_rows(store: ObjectStore, source: str) -> None:
    check_rows(read(store.uri(source)))


def test_an_endpoint_of_the_environment_serves(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
    records = read("s3://pictures/data.jsonl")
    assert records[0].image.uri == "s3://pictures/p/0.jpg"
    check_rows(records)


def test_objects_are_not_asked_for_one_by_one(store: ObjectStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "werkzeug")
    read(store.uri("data.csv"))
    requests = [record.getMessage() for record in caplog.records if record.name == "werkzeug"]
    # The file is asked for and read, its folder listed.
    assert 3 <= len(requests) <= 5


def test_what_is_wrong_with_a_bucket_is_said(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "bucket 'nobodys'" in refusal(store.uri("data.csv", bucket="nobodys"))
    assert "bucket 'nobodys'" in refusal(store.uri("{0..1}.tar", bucket="nobodys"))
    assert "other.csv" in refusal(store.uri("other.csv"))
    assert "no file matches" in refusal(store.uri("*.tar"))
    with store.locked():
        assert "AWS_ACCESS_KEY_ID" in refusal(store.uri("data.csv"))
    record = read(store.uri("data.csv"), image_root=store.uri("elsewhere"))[0]
    with pytest.raises(ImageError, match="elsewhere/p/0.* does not exist"):
        picture_bytes(record.image)
    with pytest.raises(DataError, match="bucket 'nobodys'"):
        storage.write_whole(store.uri("x", bucket="nobodys"), b"x")


def test_a_server_that_is_not_there_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    text = refusal(f"s3://pictures/data.csv?endpoint_override={endpoint}")
    assert "cannot be reached" in text
    assert endpoint in text


@pytest.mark.parametrize("bucket", [False, True])
def test_a_file_is_written_whole(tmp_path: Path, store: ObjectStore, bucket: bool) -> None:
    uri = store.uri("out/deep/file.bin") if bucket else str(tmp_path / "deep/file.bin")
    assert not storage.exists(uri)
    for content in (b"first", b"second, which is longer"):
        storage.write_whole(uri, content)
        assert storage.read_bytes(uri) == content
    assert storage.read_bytes(uri, 8, 5) == b"which"
    found = storage.list_files(storage.folder_of(uri))
    assert [(file.name, file.size) for file in found] == [("file.bin", 23)]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "file.bin", b"older")
    os.link(path, tmp_path / "link")
    storage.write_whole(str(path), b"old")
    assert (tmp_path / "link").read_bytes() == b"older", "whoever has the old file open goes on to read that"
    (tmp_path / "link").unlink()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        storage.write_whole(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_the_original_json_is_read(tmp_path: Path) -> None:
    rows = [{"image_file": "a.jpg", "text": "one"}, {"image_file": "sub/b.png", "text": "two", "identity": "p"}]
    first, second = read(write(tmp_path / "data.json", json.dumps(rows)), image_root="/pictures")
    assert (first.image.uri, first.captions, first.identity) == ("/pictures/a.jpg", ("one",), "a.jpg")
    assert (second.image.uri, second.identity, second.key) == ("/pictures/sub/b.png", "p", "sub/b.png")


def test_a_csv_with_several_captions_is_read(tmp_path: Path) -> None:
    (tmp_path / "17.jpg").touch()
    (tmp_path / "17.png").touch()
    source = write(tmp_path / "data.csv", 'ID,caption_0,caption_1,other\n17,"one, with comma",,x\nb.png,two,three,y\n')
    first, second = read(source)
    assert (first.image.uri, first.captions) == (str(tmp_path / "17.jpg"), ("one, with comma",))
    assert second.captions == ("two", "three")
    assert read(source, caption_columns=["other"])[1].captions == ("y",)


def test_a_relative_source_is_sought_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        monkeypatch.chdir(write(tmp_path / name / "data.csv", f"ID,text\na.jpg,{name}\n").parent)
        (record,) = read("data.csv")
        assert (record.captions, record.image.uri) == ((name,), str(tmp_path / name / "a.jpg"))


def test_lines_of_objects_are_read_whatever_the_file_is_called(tmp_path: Path) -> None:
    lines = (
        '{"file_name": "a.jpg", "text": ["one", "two", "one "]}\n\n{"file_name": "b.jpg", "text": "three\u2028four"}\n'
    )
    for name in ("data.json", "data.jsonl", "data.txt"):
        captions = [record.captions for record in read(write(tmp_path / name, lines))]
        assert captions == [("one", "two"), ("three\u2028four",)]
    (tmp_path / "data.list").write_text("ID,text\na.jpg,five\n")
    assert read(tmp_path / "data.list", format="csv")[0].captions == ("five",)


def test_columns_may_be_named(tmp_path: Path) -> None:
    header = "drawing,photo_file_name,prompt,person\n"
    source = write(tmp_path / "data.csv", f"{header}d/a.png,p/a.jpg,a drawing,ann\nd/b.png,,another,\n")
    named = {"image_column": "drawing", "caption_columns": ["prompt"], "identity_column": "person"}
    first, second = read(source, condition_column="photo", **named)
    assert first.condition is not None
    assert first.condition.uri == str(tmp_path / "p/a.jpg")
    assert (first.identity, second.identity, second.condition) == ("ann", "d/b.png", None)
    text = refusal(source, condition_column="sketch", **named)
    assert "'sketch'" in text
    assert "drawing, photo_file_name, prompt, person" in text


def test_a_picture_may_be_listed_for_each_of_its_captions(tmp_path: Path) -> None:
    source = write(tmp_path / "data.csv", "ID,text\na.jpg,1\na.jpg#2,2\na.jpg,3\na.jpg,4\n")
    records = read(source)
    assert [record.key for record in records] == ["a.jpg", "a.jpg#2", "a.jpg#3", "a.jpg#4"]
    assert [record.identity for record in records] == ["a.jpg", "a.jpg#2", "a.jpg", "a.jpg"]


def test_a_folder_of_pictures_is_read_with_all_that_lies_beside_them(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.cond.png", "ann/b.PNG", "ann/c.d.webp", ".hidden/x.jpg", "notes.md"):
        write(tmp_path / name, b"")
    write(tmp_path / "a.txt", "\ufefffirst\r\n\r\nsecond\n")
    write(tmp_path / "ann/b.caption", "third")
    write(tmp_path / "ann/c.d.json", '{"caption": "fourth", "identity": "cee"}')
    a, b, c = read(tmp_path, condition_column="cond.png")
    assert [record.key for record in (a, b, c)] == ["a.jpg", "ann/b.PNG", "ann/c.d.webp"]
    assert [record.captions for record in (a, b, c)] == [("first", "second"), ("third",), ("fourth",)]
    assert a.condition is not None
    assert (a.condition.uri, b.condition) == (str(tmp_path / "a.cond.png"), None)
    assert [record.identity for record in (a, b, c)] == ["a.jpg", "ann/b.PNG", "cee"]
    by_folder = read(tmp_path, condition_column="cond.png", identity_column="folder")
    assert [record.identity for record in by_folder] == ["a.jpg", "ann", "ann"]
    assert "'a.cond.png'" in refusal(tmp_path), "without its column it is a picture without caption"


def test_links_in_a_folder_are_followed_and_circles_left(tmp_path: Path) -> None:
    write(tmp_path / "far/a.jpg", b"")
    write(tmp_path / "far/a.txt", "one")
    (tmp_path / "near").mkdir()
    (tmp_path / "near/link").symlink_to(tmp_path / "far")
    (tmp_path / "far/circle").symlink_to(tmp_path / "near")
    assert "link/a.jpg" in [record.key for record in read(tmp_path / "near")]


def test_metadata_may_lie_in_several_folders(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name / "metadata.csv", f"image_file_name,condition_file_name,text\na.jpg,c.jpg,{name}\n")
    pq.write_table(pa.table({"file_name": ["a.jpg"], "text": ["three"]}), tmp_path / "metadata.parquet")
    third, first, second = read(tmp_path, image_column=None, condition_column=None)
    assert [record.key for record in (first, second, third)] == ["one/a.jpg", "two/a.jpg", "a.jpg"]
    assert second.image.uri == str(tmp_path / "two/a.jpg")
    (tmp_path / "metadata.parquet").unlink()
    condition = read(tmp_path, condition_column="condition")[0].condition
    assert condition is not None
    assert condition.uri == str(tmp_path / "one/c.jpg")


def test_parquet_keeps_pictures_in_several_ways(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    names = ["a.jpg", "b.jpg"]
    columns = {
        "image": pa.array([jpeg(0), jpeg(1)]),
        "named": pa.array(names),
        "outside": pa.array([{"bytes": None, "path": name} for name in names], hub_table(range(1)).field(0).type),
        "caption": pa.array([["one", "two", None], ["three"]]),
        "caption_score": pa.array([0.5, 0.25]),
    }
    pq.write_table(pa.table(columns), path)
    first, second = read(path, condition_column="outside")
    assert [record.key for record in (first, second)] == ["data.parquet/0", "data.parquet/1"]
    assert (first.captions, second.captions) == (("one", "two"), ("three",))
    assert picture_bytes(second.image) == jpeg(1)
    assert second.condition is not None
    assert second.condition.uri == str(tmp_path / "b.jpg")
    assert [record.key for record in read(path, image_column="named")] == names
    assert "caption_score" in refusal(path, image_column="caption_score")
    assert "image, named" in refusal(path, image_column="picture")


def test_listing_parquet_reads_no_picture(tmp_path: Path, dataset: Path) -> None:
    content = bytearray((dataset / "parquet/train-0.parquet").read_bytes())
    metadata = pq.read_metadata(dataset / "parquet/train-0.parquet")
    chunk = next(
        chunk
        for chunk in (metadata.row_group(1).column(i) for i in range(metadata.num_columns))
        if chunk.path_in_schema == "image.bytes"
    )
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + 64] = b"\xff" * 64
    records = read(write(tmp_path / "broken.parquet", bytes(content)))
    assert len(records) == 3
    assert picture_bytes(records[1].image) == jpeg(1)
    with pytest.raises(DataError, match="broken.parquet.* is damaged"):
        picture_bytes(records[2].image)


def test_few_row_groups_are_kept(dataset: Path) -> None:
    _group.cache_clear()
    records = read(dataset / "parquet")
    for record in records:
        picture_bytes(record.image)
    assert _group.cache_info().misses == 3
    assert _group.cache_info().currsize == 2
    _group_starts.cache_clear()


def test_a_tar_may_hold_conditions_and_json(tmp_path: Path) -> None:
    said = {"caption": "from json", "identity": 7, "photo": "far.jpg"}
    files = {
        "./x/a.target.png": jpeg(0),
        "./x/a.cond.jpg": jpeg(1),
        "./x/a.json": json.dumps(said).encode(),
        "._a.png": b"hidden",
        "b.target.png": jpeg(2),
        "b.txt": b"from text",
        "b.json": json.dumps(said).encode(),
    }
    source = write_tar(tmp_path / "00.tar", files)
    a, b = read(source, image_column="target.png", condition_column="cond.jpg")
    assert (a.captions, a.identity, b.captions) == (("from json",), "7", ("from text",))
    assert a.condition is not None
    assert (picture_bytes(a.image), picture_bytes(a.condition)) == (jpeg(0), jpeg(1))
    assert (b.key, b.condition, b.image.name) == ("00.tar/b", None, f"{source}/b.target.png")
    named = read(source, image_column="target.png", condition_column="photo")[0].condition
    assert named is not None
    assert named.uri == str(tmp_path / "far.jpg")
    text = refusal(source, image_column="target.png", condition_column="depth")
    assert "'depth'" in text
    assert "cond.jpg" in text
    assert "target.png" in refusal(source), "a name with a dot is no picture unless a column says so"


@settings(deadline=None, max_examples=30)
@given(
    files=st.dictionaries(
        st.text("abcä/", min_size=1, max_size=150).filter(lambda name: "//" not in name and name.strip("/") == name),
        st.binary(max_size=1500),
        max_size=6,
    ),
    form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_of_a_tar_are_where_they_are_said_to_be(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], form: int
) -> None:
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    kept = {}
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            try:
                tar.addfile(info, io.BytesIO(content))
            except ValueError:
                # The old format has no room for long names.
                continue
            kept[name] = content
    whole = path.read_bytes()
    members = {
        member.name: whole[member.start : member.start + member.length] for member in tar_members(str(path), set())
    }
    assert members == kept


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("name", ["parquet/train-0.parquet", "tars/00.tar"])
def test_what_is_cut_off_is_refused(tmp_path: Path, dataset: Path, name: str, share: float) -> None:
    content = (dataset / name).read_bytes()
    # Behind its last file a tar is filled with zeros, the first block of which is its end.
    end = 3 * (512 + 1024 + 512 + 512) if name.endswith("tar") else len(content)
    source = write(tmp_path / Path(name).name, content[: int(share * end)])
    assert str(source) in (text := refusal(source))
    assert "cut off" in text


def test_a_tar_that_shrank_since_is_refused(tmp_path: Path, dataset: Path) -> None:
    source = write(tmp_path / "00.tar", (dataset / "tars/00.tar").read_bytes())
    record = read(source)[-1]
    os.truncate(source, (record.image.start or 0) + 10)
    with pytest.raises(ImageError, match=r"00\.tar/0002\.jpg' is cut off"):
        picture_bytes(record.image)


@pytest.mark.parametrize(
    ("name", "text", "columns", "words"),
    [
        ("data.csv", "ID,caption_0\na.jpg,x\n", ["caption_7"], "'caption_7'; it has ID, caption_0"),
        ("data.csv", "file,caption_0\na.jpg,x\n", None, "'ID'"),
        ("data.csv", "ID,title\na.jpg,x\n", None, "caption_columns"),
        ("data.csv", "ID,caption_0\n", None, "no rows"),
        ("data.csv", "ID,caption_0\na.jpg,a man, smiling\n", None, "more fields"),
        ("data.csv", "ID,caption_0\na.jpg,\nb.jpg,\n", None, "row 1 .* no caption in caption_0, nor have 1 other"),
        ("data.csv", "ID,caption_0\n,x\n", None, "row 1 .* names no image in 'ID'"),
        ("data.csv", b"ID,caption_0\na.jpg,\xff\n", None, "UTF-8"),
        ("data.json", "{", None, "JSON"),
        ("data.json", '{"a": 1}', None, "not a list"),
        ("data.json", '[{"picture": "a", "text": "b"}]', None, "image_file"),
        ("data.json", '[{"image_file": ["a"], "text": "b"}]', None, "row 1 .* no name of a picture"),
        ("data.json", '[{"image_file": "a", "text": {"en": "b"}}]', None, "neither a text nor a list"),
        ("data.json", '[{"image_file": "https://x.org/a.jpg", "text": "b"}]', None, "download"),
        ("data.jsonl", '{"file_name": "a.jpg", "text": "b"}\n{"file', None, "line 2 .* JSON"),
        ("data.jsonl", "[1]\n", None, "line 1 .* no object"),
        ("data.txt", "x", None, r"\.jsonl, \.csv"),
        ("data.tar.gz", "x", None, "compressed"),
        ("data.tar", "x", None, "damaged"),
        ("data.parquet", "PAR1", None, "damaged"),
        ("folder/a.jpg", "", None, "'a.jpg' .* no caption"),
        ("folder/a.md", "", None, "neither pictures nor"),
    ],
)
def test_wrong_files_are_named(
    tmp_path: Path, name: str, text: str | bytes, columns: list[str] | None, words: str
) -> None:
    source = write(tmp_path / name, text)
    with pytest.raises(DataError, match=words):
        read(source.parent if "/" in name else source, caption_columns=columns)
    refusal(source.parent if "/" in name else source, caption_columns=columns)


def test_wrong_addresses_are_named(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.csv")
    assert "1.tar' does not exist" in refusal(write_tar(tmp_path / "0.tar", {}).with_name("{0..1}.tar"))
    assert "no rows" in refusal(tmp_path / "0.tar")
    assert "no .csv files" in refusal(tmp_path, format="csv")
    assert "needs a folder" in refusal(tmp_path / "0.tar", format="folder")
    assert "'timeout'" in refusal("s3://bucket/data.csv?timeout=5")
    text = refusal("s3://AKIA:topsecret@bucket/data.csv")
    assert "AWS_SECRET_ACCESS_KEY" in text
    assert "topsecret" not in text


def test_a_sample_without_picture_and_json_that_is_none_are_named(tmp_path: Path) -> None:
    assert "sample 'a'" in (text := refusal(write_tar(tmp_path / "0.tar", {"a.txt": b"x", "a.npy": b"x"})))
    assert "txt" in text
    assert "json of sample 'a'" in refusal(write_tar(tmp_path / "1.tar", {"a.jpg": b"", "a.json": b"{"}))


def test_rows_in_quarantine_are_left_out(tmp_path: Path) -> None:
    source = write(tmp_path / "data.csv", "ID,text\na.jpg,\nb.jpg,x\nc.jpg,y\n")
    assert "row 1" in refusal(source)
    path = tmp_path / "list/quarantine.jsonl"
    write_quarantine(path, {"a.jpg": "no caption", "ä\n.jpg": "odd"})
    assert read_quarantine(path) == {"a.jpg": "no caption", "ä\n.jpg": "odd"}
    assert [record.key for record in read(source, quarantine=path)] == ["b.jpg", "c.jpg"]
    path.write_text(path.read_text() + "c.jpg\n")
    assert [record.key for record in read(source, quarantine=path)] == ["b.jpg"]
    assert len(all_records(config(source, quarantine=path))) == 3
    path.write_text("a.jpg\nb.jpg\nc.jpg\n")
    assert "all 3 rows" in refusal(source, quarantine=path)
    path.write_text('{"name": "a.jpg"}\n')
    assert "line 1" in refusal(source, quarantine=path)
    assert "does not exist" in refusal(source, quarantine=tmp_path / "none")


def test_a_fingerprint_changes_with_what_it_is_of(tmp_path: Path, dataset: Path, store: ObjectStore) -> None:
    prints = [source_fingerprint(config(dataset / source)) for source in SOURCES]
    assert prints == [source_fingerprint(config(dataset / source)) for source in SOURCES]
    assert len(source_fingerprint(config(store.uri("p")))) == 64
    for name, change in (("a.jpg", b"other"), ("a.txt", b"other"), ("b.jpg", b"")):
        write(tmp_path / "a.jpg", b"one")
        write(tmp_path / "a.txt", b"one")
        before = source_fingerprint(config(tmp_path))
        write(tmp_path / name, change)
        assert source_fingerprint(config(tmp_path)) != before
        write(tmp_path / "notes.md", os.urandom(8))
    before = source_fingerprint(config(tmp_path))
    write(tmp_path / "notes.md", b"no part of it")
    assert source_fingerprint(config(tmp_path)) == before


def test_braces_mean_what_they_mean_to_a_shell() -> None:
    assert expand_braces("{08..10}") == ["08", "09", "10"]
    assert expand_braces("a{1..3}/{x,y}") == ["a1/x", "a1/y", "a2/x", "a2/y", "a3/x", "a3/y"]
    assert expand_braces("{2..0}{x}") == ["2{x}", "1{x}", "0{x}"]
