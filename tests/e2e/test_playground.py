"""The playground as somebody uses it: in a browser, from a face to files on their disk."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from browser import needs_browser, opened
from served import person
from served_here import ENVIRONMENT, RunningServer

pytestmark = [pytest.mark.timeout(300), needs_browser]
SCREENSHOTS = os.environ.get("NIGAOE_SCREENSHOTS")
"""A folder: where pictures of the page for the docs are put."""
PATIENCE_MS = 120_000


@pytest.fixture(scope="module")
def face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "my face.jpg"
    Image.fromarray(person(5, 384).pixels).save(path, quality=95)
    return path


def test_a_face_becomes_pictures_side_by_side(server: RunningServer, face: Path, tmp_path: Path) -> None:
    with opened(server.url) as page:
        status, shown = page.locator("#status"), page.locator("#result img")
        expect(page.get_by_label("Base")).to_have_value("toy/anime", timeout=PATIENCE_MS)
        page.locator("input[type=file]").first.set_input_files(face)
        expect(page.locator("img[alt='']").first).to_be_visible()
        page.get_by_text("More", exact=True).click()
        page.get_by_label("Seed").fill("7")
        page.get_by_label("Steps").fill("120")
        page.get_by_text("More", exact=True).click()
        page.get_by_text("Side by side").click()
        page.get_by_label("Compare").click()
        page.get_by_role("option", name="scale").click()
        expect(page.get_by_text("0.7", exact=True)).to_be_visible()

        page.locator("#generate").click()
        # Previews, while it is still being drawn.
        expect(status).to_contain_text("Drawing, step", timeout=PATIENCE_MS)
        page.wait_for_function(
            "[...document.querySelectorAll('#result img')].filter(x => x.src.includes('preview')).length == 3"
            " && document.querySelector('#status').innerText.includes('Drawing')",
            timeout=PATIENCE_MS,
        )
        screenshot(page, "playground-drawing.png")
        expect(status).to_contain_text("3 pictures in", timeout=PATIENCE_MS)
        expect(shown).to_have_count(3)
        page.wait_for_function("document.querySelectorAll('#result img[src*=\"nigaoe-\"]').length == 3")
        page.get_by_text("The same request from a program").click()
        expect(page.locator("#curl")).to_contain_text("curl -sS")
        screenshot(page, "playground.png")

        with page.expect_download() as download:
            page.locator("#download").click()
        download.value.save_as(tmp_path / "nigaoe.zip")
        page.get_by_role("tab", name="Python").click()
        script = page.locator("#python .cm-content").inner_text()
        # Another one, of the same settings but for the comparison; those of before stay in sight.
        page.get_by_label("Compare").click()
        page.get_by_role("option", name="nothing").click()
        page.locator("#generate").click()
        expect(shown).to_have_count(1, timeout=PATIENCE_MS)
        expect(status).to_contain_text("1 picture in", timeout=PATIENCE_MS)
        expect(page.locator("#earlier img")).to_have_count(4)
    with zipfile.ZipFile(tmp_path / "nigaoe.zip") as archive:
        told = json.loads(archive.read("parameters.json"))
        pictures = {name: Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist() if name in told}
    assert sorted(pictures) == ["nigaoe-1-7.png", "nigaoe-2-7.png", "nigaoe-3-7.png"]
    scales = [told[name]["image_prompts"][0]["scale"] for name in sorted(told)]
    assert scales == [0.4, 0.7, 1.0]
    for name, picture in pictures.items():
        assert json.loads(picture.info["nigaoe"])["seeds"] == told[name]["seeds"] == [7]
    drawn = [np.asarray(pictures[name]).astype(int) for name in sorted(pictures)]
    assert np.abs(drawn[0] - drawn[2]).max() > 10
    # What the page lets one copy draws the first of them again.
    (tmp_path / face.name).write_bytes(face.read_bytes())
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=120, env=os.environ | ENVIRONMENT)
    again = np.asarray(Image.open(tmp_path / "7.png")).astype(int)
    assert np.abs(again - drawn[0]).max() <= 1


def test_what_goes_wrong_is_said_on_the_page_and_stop_frees_the_engine(server: RunningServer) -> None:
    with opened(server.url) as page:
        expect(page.get_by_label("Base")).to_have_value("toy/anime", timeout=PATIENCE_MS)
        page.get_by_text("More", exact=True).click()
        page.get_by_label("Size").fill("97x96")
        page.locator("#generate").click()
        expect(page.get_by_text("width 97")).to_be_visible(timeout=PATIENCE_MS)
        page.get_by_label("Size").fill("")
        page.get_by_label("Steps").fill("1000")
        page.locator("#generate").click()
        expect(page.locator("#status")).to_contain_text("Drawing, step", timeout=PATIENCE_MS)
        page.locator("#stop").click()
        expect(page.locator("#status")).to_contain_text("Stopped.")
        server.wait_for("nigaoe_rows_in_flight", lambda value: value == 0)


def test_the_root_leads_to_the_page(server: RunningServer) -> None:
    answer = httpx.get(server.url)
    assert (answer.status_code, answer.headers["location"]) == (307, "/playground/")


def screenshot(page: Page, name: str) -> None:
    """For the docs, where they are being made."""
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / name, full_page=True)
