"""The registry: what is visible when, in folders and buckets, whoever dies meanwhile."""

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from nigaoe.core import registry as registry_module
from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.fetching import Published, fetch_version, read_published
from nigaoe.core.adapters.files import load_adapter, save_adapter
from nigaoe.core.errors import AdapterError, ConfigError, DataError
from nigaoe.core.manifests import AdapterManifest, Training, parse_adapter_manifest
from nigaoe.core.registry import GRACE_S, NotPublished, Registry
from nigaoe.core.storage import exists, join, write_whole
from nigaoe.core.transfers import put_file, remove, sha256_of
from object_store import ObjectStore, object_store

Made = tuple[Path, AdapterManifest]


def described(path: Path, adapter: IPAdapter, name: str = "likeness") -> AdapterManifest:
    return AdapterManifest(
        name=name,
        variant="base",
        num_tokens=adapter.num_tokens,
        parameters=1,
        sha256=sha256_of(str(path)),
        created=datetime(2026, 1, 1, tzinfo=UTC),
        outline=adapter.outline,
    )


@pytest.fixture(scope="module")
def two(adapter: IPAdapter, tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Made]:
    """Two adapters that differ."""
    folder = tmp_path_factory.mktemp("made")
    made = []
    for dtype in (torch.float32, torch.float16):
        path = folder / f"{dtype}".removeprefix("torch.") / "adapter.safetensors"
        save_adapter(adapter, path, dtype=dtype)
        made.append((path, described(path, adapter)))
    return made[0], made[1]


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as store:
        yield store


@pytest.fixture(params=["folder", "bucket"])
def address(request: pytest.FixtureRequest, tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of an empty registry."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return str(tmp_path / "registry") if request.param == "folder" else store.uri(f"registries/{tmp_path.name}")


def test_what_is_published_is_found_and_fetched(address: str, two: tuple[Made, Made]) -> None:
    registry = Registry(address)
    assert registry.entries() == []
    for path, manifest in two:
        entry = registry.publish(path, manifest, "face")
        assert registry.find("face") == entry
        assert registry.fetch(entry).read_bytes() == path.read_bytes()
    registry.publish(*two[0])
    assert [(entry.name, entry.sha256) for entry in Registry(address).entries()] == [
        ("face", two[1][1].sha256),
        ("likeness", two[0][1].sha256),
    ]
    # What was published before stays, whole, for whoever has found it.
    for path, manifest in two:
        version = join(address, f"face/versions/{manifest.sha256[:12]}/adapter.safetensors")
        assert fetch_version(version, manifest.sha256).read_bytes() == path.read_bytes()
    assert load_adapter(join(address, "face")) is not None


def test_a_publish_is_seen_by_who_listed_before(address: str, two: tuple[Made, Made]) -> None:
    """However fast it follows: clocks of stores tick in seconds, and both manifests have the same length."""
    seen, registry = Registry(address), Registry(address)
    for path, manifest in (*two, *two):
        registry.publish(path, manifest)
        assert [entry.sha256 for entry in seen.entries()] == [manifest.sha256]


def test_pointers_that_have_settled_are_not_read_again(
    tmp_path: Path, two: tuple[Made, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(str(tmp_path / "registry"))
    registry.publish(*two[0])
    reads = 0

    def counted(place: str) -> Published:
        nonlocal reads
        reads += 1
        return read_published(place)

    monkeypatch.setattr(registry_module, "read_published", counted)
    monkeypatch.setattr(registry_module, "SETTLING_S", 0.05)
    for _ in range(2):
        registry.entries()
        time.sleep(0.1)
    assert reads == 2
    for _ in range(5):
        assert len(registry.entries()) == 1
    assert reads == 2
    registry.publish(*two[1])
    assert registry.entries()[0].sha256 == two[1][1].sha256


def test_what_is_deleted_is_gone_at_once_and_swept_later(address: str, two: tuple[Made, Made]) -> None:
    registry, other = Registry(address), Registry(address)
    path, manifest = two[0]
    entry = registry.publish(path, manifest)
    assert len(other.entries()) == 1
    registry.delete("likeness")
    assert other.entries() == []
    with pytest.raises(NotPublished, match="'likeness'"):
        registry.find("likeness")
    with pytest.raises(NotPublished, match="nothing to delete"):
        registry.delete("likeness")
    # Whoever found it before goes on with it, also who has to read it again.
    assert registry.sweep() == 0
    assert registry.fetch(entry).read_bytes() == path.read_bytes()
    assert registry.sweep(time.time() + GRACE_S + 5) == 1
    assert not exists(entry.where)
    assert registry.sweep(time.time() + GRACE_S + 5) == 0
    assert not exists(join(address, "likeness"))


def test_what_comes_back_is_not_swept(address: str, two: tuple[Made, Made]) -> None:
    registry = Registry(address)
    path, manifest = two[0]
    former = registry.publish(path, manifest)
    registry.delete("likeness")
    entry = registry.publish(path, manifest)
    assert entry.where != former.where
    assert registry.sweep(time.time() + GRACE_S + 5) == 1
    assert not exists(former.where)
    assert registry.find("likeness") == entry
    assert registry.fetch(entry).read_bytes() == path.read_bytes()


def test_a_delete_between_the_writes_of_a_publish_loses_nothing(tmp_path: Path, two: tuple[Made, Made]) -> None:
    """A version may be condemned just before its pointer is written; then it counts, and is kept."""
    registry = Registry(str(tmp_path))
    path, manifest = two[0]
    entry = registry.publish(path, manifest)
    write_whole(str(Path(entry.where).parent / "removed"), b"1")
    assert registry.sweep() == 0
    assert registry.sweep() == 0
    assert registry.fetch(registry.find("likeness")).is_file()


def test_versions_without_a_pointer_are_swept_in_the_end(tmp_path: Path, two: tuple[Made, Made]) -> None:
    registry = Registry(str(tmp_path))
    entry = registry.publish(*two[0])
    part = Path(entry.where).with_name("adapter.safetensors.12345678.part")
    part.write_bytes(b"half")
    # As who died between the removal of the pointer and that of the rest.
    remove(str(tmp_path / "likeness" / "adapter.json"))
    later = time.time() + GRACE_S + 5
    assert registry.sweep() == 0
    assert registry.sweep(later) == 0
    assert not part.exists()
    assert Path(entry.where).is_file()
    assert registry.sweep(later + GRACE_S + 5) == 1
    assert not any(tmp_path.iterdir())


def test_a_broken_entry_hides_only_itself(
    address: str, two: tuple[Made, Made], caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(address)
    whole = registry.publish(*two[0])
    text = json.dumps(two[0][1].model_dump(mode="json"))
    for name, content in {
        "torn": text[:100],
        "older": '{"version": 1}',
        "bomb": "[" * 100_000,
        "elsewhere": text.replace('"folder": null', '"folder": "../../likeness"'),
        "number": "7",
    }.items():
        write_whole(join(address, f"{name}/adapter.json"), content.encode())
    # Its weights are not there.
    write_whole(join(address, "empty/adapter.json"), text.encode())
    assert registry.entries() == [whole]
    hidden = {record.__dict__["adapter"] for record in warnings(caplog)}
    assert hidden == {"torn", "older", "bomb", "elsewhere", "number", "empty"}
    caplog.clear()
    assert registry.entries() == [whole]
    assert not warnings(caplog)
    with pytest.raises(DataError):
        registry.find("torn")


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_weights_that_are_not_what_was_published_are_refused(address: str, two: tuple[Made, Made]) -> None:
    registry = Registry(address)
    path, manifest = two[0]
    entry = registry.publish(path, manifest)
    write_whole(entry.where, b"torn")
    with pytest.raises(AdapterError, match=r"is not the file that adapter\.json speaks of"):
        registry.fetch(entry)
    # To publish it again mends it.
    assert registry.publish(path, manifest) == entry
    assert registry.fetch(entry).read_bytes() == path.read_bytes()
    with pytest.raises(AdapterError, match="nobody"):
        load_adapter(join(address, "nobody"))


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", ".hidden", "a\x00b", "a" * 101, "a\n", "ä", "s3://x/y"])
def test_names_lead_nowhere_else(tmp_path: Path, two: tuple[Made, Made], name: str) -> None:
    registry = Registry(str(tmp_path / "registry"))
    with pytest.raises(ConfigError, match="cannot be called"):
        registry.publish(*two[0], name)
    for ask in (registry.find, registry.delete):
        with pytest.raises(NotPublished):
            ask(name)
    assert not (tmp_path / "registry").exists()


def test_a_manifest_must_speak_of_the_file(tmp_path: Path, two: tuple[Made, Made]) -> None:
    registry = Registry(str(tmp_path / "registry"))
    with pytest.raises(DataError, match="not the adapter that"):
        registry.publish(two[0][0], two[1][1])
    with pytest.raises(DataError, match="finish the run first"):
        registry.publish(tmp_path / "nothing", two[1][1])
    assert not (tmp_path / "registry").exists()


def test_manifests_of_version_2_are_read(two: tuple[Made, Made]) -> None:
    training = {
        "base": "toy/photo",
        "base_hash": "sha256:1",
        "image_encoder": "toy/image_encoder",
        "image_encoder_hash": "2",
        "face_encoder": None,
        "face_encoder_hash": None,
        "dataset": "rows",
        "steps": 20,
        "samples_seen": 80,
        "metrics": {"last": {"validation_loss": 0.5}},
        "code_version": "0.1.0",
        "recipe": {"steps": 20},
    }
    old = {"version": 2, "name": "a", "variant": "base", "num_tokens": 4, "parameters": 1, "sha256": "0" * 64}
    text = json.dumps({**old, "created": "2026-01-01T00:00:00Z", **training})
    manifest = parse_adapter_manifest(text.encode(), "old.json")
    assert manifest.training == Training.model_validate(training)
    assert (manifest.version, manifest.outline) == (3, None)
    assert parse_adapter_manifest(manifest.model_dump_json().encode(), "new.json") == manifest
    with pytest.raises(DataError, match=r"training\.steps"):
        parse_adapter_manifest(text.replace('"steps": 20, "samples', '"samples').encode(), "old.json")


def test_a_manifest_is_never_there_before_its_weights(
    tmp_path: Path, two: tuple[Made, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks after any write finds weights of the hash that every manifest names."""
    place, seen = tmp_path / "likeness", 0

    def look() -> None:
        nonlocal seen
        for found in place.rglob("adapter.json"):
            manifest = AdapterManifest.model_validate_json(found.read_text())
            assert sha256_of(str(place / "versions" / manifest.sha256[:12] / "adapter.safetensors")) == manifest.sha256
            seen += 1

    def watched_write(uri: str, content: bytes) -> None:
        write_whole(uri, content)
        look()

    def watched_put(source: Path, uri: str) -> None:
        put_file(source, uri)
        look()

    monkeypatch.setattr(registry_module, "write_whole", watched_write)
    monkeypatch.setattr(registry_module, "put_file", watched_put)
    for path, manifest in two:
        Registry(str(tmp_path)).publish(path, manifest)
    assert seen == 1 + 2 + 2 + 3 + 3


_PUBLISHER = """
import json, pathlib, sys
from nigaoe.core import registry
from nigaoe.core.manifests import parse_adapter_manifest

# Whatever lies there already, so that every moment of a publish comes.
registry._holds = lambda uri, sha256: False
target = registry.Registry(sys.argv[1])
while True:
    for path in map(pathlib.Path, sys.argv[2:]):
        target.publish(path, parse_adapter_manifest(path.with_suffix(".json").read_bytes(), "it"))
"""


@pytest.mark.timeout(200)
def test_a_publisher_that_is_killed_leaves_the_old_or_the_new(tmp_path: Path, two: tuple[Made, Made]) -> None:
    registry, address = Registry(str(tmp_path)), str(tmp_path)
    known = {manifest.sha256: path.read_bytes() for path, manifest in two}
    registry.publish(*two[0])
    failures: list[str] = []
    is_over = threading.Event()
    looks = 0

    def read() -> None:
        nonlocal looks
        reader = Registry(address)
        while not is_over.is_set():
            entry = reader.find("likeness")
            if reader.fetch(entry).read_bytes() != known[entry.sha256] or len(reader.entries()) != 1:
                failures.append(entry.sha256)
            looks += 1

    reading = threading.Thread(target=read)
    reading.start()
    for path, manifest in two:
        path.with_suffix(".json").write_text(manifest.model_dump_json())
    command = [sys.executable, "-c", _PUBLISHER, address, *(str(path) for path, _ in two)]
    try:
        for kill in range(6):
            before = _changed(tmp_path)
            process = subprocess.Popen(command)
            assert _until(lambda before=before: _changed(tmp_path) != before, 60)  # type: ignore[misc]
            time.sleep(0.003 * kill)
            process.kill()
            process.wait(20)
            assert registry.find("likeness").sha256 in known
    finally:
        is_over.set()
        reading.join(20)
    assert not failures
    assert looks > 6


def _changed(folder: Path) -> int:
    return (folder / "likeness" / "adapter.json").stat().st_mtime_ns


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > ends:
            return False
        time.sleep(0.01)
    return True


def test_links_in_a_folder_are_not_looked_at(tmp_path: Path, two: tuple[Made, Made]) -> None:
    folder, outside = tmp_path / "registry", tmp_path / "outside"
    registry, elsewhere = Registry(str(folder)), Registry(str(outside))
    good = registry.publish(*two[0], "good")
    elsewhere.publish(*two[0], "other")
    before = sorted(outside.rglob("*"))
    (folder / "linked").symlink_to(outside / "other")
    for name, target in {
        "itself": folder / "itself" / "adapter.json",
        "pointer": outside / "other/adapter.json",
    }.items():
        (folder / name).mkdir()
        (folder / name / "adapter.json").symlink_to(target)
    # A pointer of its own, to weights that are a link.
    spoilt = registry.publish(*two[1], "spoilt")
    Path(spoilt.where).unlink()
    Path(spoilt.where).symlink_to("/dev/zero")
    assert Registry(str(folder)).entries() == [good]
    with pytest.raises(ConfigError, match="a link under 'linked' leads out of the registry; remove it"):
        registry.publish(*two[1], "linked")
    with pytest.raises(NotPublished):
        registry.delete("linked")
    registry.sweep(time.time() + 2 * GRACE_S)
    assert sorted(outside.rglob("*")) == before
    # The registry itself may be one.
    (tmp_path / "link").symlink_to(folder)
    assert [entry.name for entry in Registry(str(tmp_path / "link")).entries()] == ["good"]
    assert Registry(str(tmp_path / "link")).publish(*two[1], "more").name == "more"
