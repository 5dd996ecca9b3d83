"""The catalog: what is there at which moment, whoever publishes, uploads, deletes or breaks something."""

import asyncio
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.fetching import fetch_version
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.bases import load_base
from nigaoe.core.errors import AdapterError, ConfigError, DataError
from nigaoe.core.manifests import AdapterManifest
from nigaoe.core.registry import Registry
from nigaoe.core.storage import join, write_whole
from nigaoe.core.transfers import sha256_of
from nigaoe.serve import catalog as catalog_module
from nigaoe.serve.catalog import Catalog, NoRegistry, TakenName, UnknownAdapter
from nigaoe.serve.config import ServeConfig, Storage
from object_store import object_store


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path / "registry"))


@pytest.fixture
def config(tmp_path: Path, demo: Path) -> ServeConfig:
    return ServeConfig(
        bases=["toy/anime", "toy/photo"],
        image_encoder="toy/image_encoder",
        adapters={"demo": demo},
        storage=Storage(registry=str(tmp_path / "registry")),
    )


def manifest_of(path: Path, adapter: IPAdapter, *, is_old: bool = False) -> AdapterManifest:
    return AdapterManifest(
        name="trained",
        variant="base",
        num_tokens=4,
        parameters=1,
        sha256=sha256_of(str(path)),
        created=datetime(2026, 1, 1, tzinfo=UTC),
        outline=None if is_old else adapter.outline,
    )


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, IPAdapter]:
    """An adapter for a wider image encoder than the server's."""
    path = tmp_path_factory.mktemp("narrow") / "adapter.safetensors"
    adapter = IPAdapter.for_unet(load_base("toy/photo").unet, features={"image_embeds": 64})
    save_adapter(adapter, path)
    return path, adapter


def test_adapters_of_the_config_and_of_the_registry_stand_side_by_side(
    config: ServeConfig, registry: Registry, upload: Path, adapter: IPAdapter, demo: Path
) -> None:
    registry.publish(upload, manifest_of(upload, adapter))
    # A name of the config hides one of the registry.
    registry.publish(upload, manifest_of(upload, adapter), "demo")

    async def use() -> None:
        catalog = Catalog(config)
        first, second = await catalog.adapters()
        assert (first.name, first.source, first.sha256) == ("demo", "config", sha256_of(str(demo)))
        assert (second.name, second.source, second.bases) == ("trained", "registry", ["toy/anime", "toy/photo"])
        assert second.reads == {"image_embeds": 128}
        assert await catalog.find(None) == await catalog.find("demo")
        found = await catalog.find("trained")
        assert fetch_version(found.where, found.sha256).read_bytes() == upload.read_bytes()
        with pytest.raises(UnknownAdapter, match="'../x' is not on this server; it has demo, trained"):
            await catalog.find("../x")

    asyncio.run(use())


def test_what_is_published_appears_by_itself_and_what_is_deleted_goes(
    config: ServeConfig, registry: Registry, upload: Path, adapter: IPAdapter
) -> None:
    async def use() -> None:
        here, there = Catalog(config), Catalog(config)
        with pytest.raises(UnknownAdapter):
            await here.find("trained")
        registry.publish(upload, manifest_of(upload, adapter))
        await asyncio.sleep(catalog_module.UNKNOWN_FRESH_S)
        found = await here.find("trained")
        await there.delete("trained")
        with pytest.raises(UnknownAdapter):
            await there.find("trained")
        # Whoever has found it goes on with it; soon nobody finds it any more.
        assert fetch_version(found.where, found.sha256).is_file()
        await asyncio.sleep(catalog_module.FRESH_S + 0.1)
        with pytest.raises(UnknownAdapter):
            await here.find("trained")

    asyncio.run(use())


def test_many_ask_and_one_looks(config: ServeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog, looks = Catalog(config), 0
    seen = catalog._shelf.look

    def counted() -> object:
        nonlocal looks
        looks += 1
        time.sleep(0.05)
        return seen()

    monkeypatch.setattr(catalog._shelf, "look", counted)

    async def use() -> None:
        await asyncio.gather(*(catalog.find("demo") for _ in range(50)))
        assert looks == 1
        await asyncio.gather(*(catalog.find(None) for _ in range(50)))
        assert looks == 1

    asyncio.run(use())


def test_a_look_that_began_before_an_upload_is_not_believed(
    config: ServeConfig, upload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog(config)
    seen = catalog._shelf.look

    def slow() -> object:
        found = seen()
        time.sleep(0.3)
        return found

    async def use() -> None:
        await catalog.adapters()
        catalog._seen_at = float("-inf")
        monkeypatch.setattr(catalog._shelf, "look", slow)
        looking = asyncio.create_task(catalog.adapters())
        await asyncio.sleep(0.1)
        card = await catalog.upload("mine", upload)
        await looking
        assert (await catalog.find("mine")).sha256 == card.sha256

    asyncio.run(use())


def test_uploads_are_visible_at_once_and_may_come_again(config: ServeConfig, upload: Path, adapter: IPAdapter) -> None:
    async def use() -> None:
        here, there = Catalog(config), Catalog(config)
        card = await here.upload("mine", upload)
        assert (card.name, card.sha256, card.training) == ("mine", sha256_of(str(upload)), None)
        assert await there.card("mine") == card
        again = await here.upload("mine", upload)
        assert again.sha256 == card.sha256
        before = await here.find("mine")
        save_adapter(adapter, upload, dtype=torch.float16)
        after = await here.upload("mine", upload)
        assert after.sha256 != card.sha256
        assert fetch_version(before.where, before.sha256).is_file()
        await here.delete("mine")
        with pytest.raises(UnknownAdapter, match="nothing to delete"):
            await here.delete("mine")
        # And back again.
        await here.upload("mine", upload)
        assert (await here.find("mine")).sha256 == after.sha256
        assert await here.sweep() == 0

    asyncio.run(use())


def test_uploads_that_are_refused_leave_nothing(
    config: ServeConfig, upload: Path, narrow: tuple[Path, IPAdapter], tmp_path: Path, tiny_base: object
) -> None:
    small = config.model_copy(update={"limits": config.limits.model_copy(update={"adapter_mb": 0.001})})
    broken, link = tmp_path / "broken", tmp_path / "link"
    broken.write_bytes(upload.read_bytes()[:-1])
    link.symlink_to(upload)
    elsewhere = tmp_path / "xl.safetensors"
    xl = load_base(str(tiny_base("sdxl")))  # type: ignore[operator]
    save_adapter(IPAdapter.for_unet(xl.unet, features={"image_embeds": 128}), elsewhere)
    face = tmp_path / "face.safetensors"
    save_adapter(IPAdapter.for_unet(load_base("toy/photo").unet, "faceid", features={"identity": 512}), face)

    async def use() -> None:
        catalog = Catalog(config)
        for name, file, kind, words in (
            ("demo", upload, TakenName, "'demo' is a name of this server's config"),
            ("toy/anime", upload, TakenName, "'toy/anime'"),
            ("../x", upload, ConfigError, "cannot be called"),
            ("a" * 300, upload, ConfigError, "cannot be called"),
            ("mine", broken, AdapterError, "truncated"),
            ("mine", link, AdapterError, "cannot be read"),
            ("mine", narrow[0], AdapterError, "reads image_embeds of width 64"),
            ("mine", elsewhere, AdapterError, "fits no base of this server"),
            ("mine", face, AdapterError, "no face_encoder"),
        ):
            with pytest.raises(kind, match=words):
                await catalog.upload(name, file)
        with pytest.raises(AdapterError, match="larger than the 1000 bytes"):
            await Catalog(small).upload("mine", upload)
        with pytest.raises(NoRegistry):
            await Catalog(config.model_copy(update={"storage": Storage()})).upload("mine", upload)
        with pytest.raises(TakenName):
            await catalog.delete("demo")
        for name in ("mine", "../registry", ""):
            with pytest.raises(UnknownAdapter):
                await catalog.delete(name)
        assert [card.name for card in await catalog.adapters()] == ["demo"]

    asyncio.run(use())
    assert not (tmp_path / "registry").exists()


def test_what_does_not_fit_hides_only_itself(
    config: ServeConfig,
    registry: Registry,
    upload: Path,
    adapter: IPAdapter,
    narrow: tuple[Path, IPAdapter],
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry.publish(upload, manifest_of(upload, adapter), "good")
    registry.publish(upload, manifest_of(upload, adapter, is_old=True), "old")
    registry.publish(narrow[0], manifest_of(*narrow), "narrow")
    registry.publish(narrow[0], manifest_of(*narrow, is_old=True), "narrow-old")
    write_whole(join(registry.address, "torn/adapter.json"), b"{")

    async def use() -> None:
        catalog = Catalog(config)
        assert [card.name for card in await catalog.adapters()] == ["demo", "good", "old"]
        for name in ("narrow", "narrow-old"):
            with pytest.raises(UnknownAdapter, match="cannot be used on this server: .* width 64"):
                await catalog.find(name)

    asyncio.run(use())
    warned = {record.__dict__["adapter"] for record in caplog.records if record.levelname == "WARNING"}
    assert warned == {"narrow", "narrow-old", "torn"}


def test_known_adapters_outlive_a_registry_that_is_away(tmp_path: Path, demo: Path, upload: Path) -> None:
    with object_store() as store:
        config = ServeConfig(
            bases=["toy/photo"],
            image_encoder="toy/image_encoder",
            adapters={"demo": demo},
            storage=Storage(registry=store.uri("registry")),
        )

        async def use() -> None:
            catalog = Catalog(config)
            await catalog.upload("mine", upload)
            found = await catalog.find("mine")
            with store.locked():
                catalog._seen_at = float("-inf")
                assert await catalog.find("mine") == found
                with pytest.raises(DataError):
                    await Catalog(config).adapters()
            assert await Catalog(config).find("mine") == found

        asyncio.run(use())


def test_a_config_may_name_a_folder_of_a_registry(
    config: ServeConfig, registry: Registry, upload: Path, adapter: IPAdapter, tmp_path: Path
) -> None:
    registry.publish(upload, manifest_of(upload, adapter))
    alone = tmp_path / "run"
    alone.mkdir()
    shutil.copy(upload, alone / "adapter.safetensors")
    adapters: dict[str, str | Path] = {"one": tmp_path / "registry" / "trained", "two": alone, "three": "toy/adapter"}
    told = config.model_copy(update={"adapters": adapters, "storage": Storage()})

    async def use() -> None:
        catalog = Catalog(told)
        assert [card.name for card in await catalog.adapters()] == ["one", "two", "three"]
        assert (await catalog.find("one")).sha256 == (await catalog.find("two")).sha256
        # Published anew: it appears under the name of the config by itself.
        save_adapter(adapter, upload, dtype=torch.float16)
        registry.publish(upload, manifest_of(upload, adapter))
        catalog._seen_at = float("-inf")
        assert (await catalog.find("one")).sha256 == sha256_of(str(upload))

    asyncio.run(use())
