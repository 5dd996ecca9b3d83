"""The page of an evaluation in a real browser: nothing overlaps, nothing sticks out, wide or narrow."""

from pathlib import Path

import pytest

from browser import needs_browser, opened
from eval_reports import toy_page_inputs

OVERLAPPING = """() => [...document.querySelectorAll("svg")].filter(svg => svg.getClientRects().length).flatMap(svg => {
  const boxes = [...svg.querySelectorAll("text")].filter(t => t.textContent).map(t => [t.textContent, t.getBoundingClientRect()]);
  const frame = svg.parentElement.getBoundingClientRect();
  const out = boxes.filter(([, b]) => b.left < frame.left || b.right > frame.right).map(([text]) => [text, "frame"]);
  const shared = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3;
  return [...out, ...boxes.flatMap(([one, a], i) => boxes.slice(i + 1).filter(([, b]) => shared(a, b)).map(([other]) => [one, other]))];
})"""  # noqa: E501
CUT = """() => [...document.querySelectorAll(".grid b, .legend span, .card h3, .verdicts td")]
  .filter(e => e.getClientRects().length && e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"""


@needs_browser
@pytest.mark.parametrize("width_px", [1200, 420])
def test_nothing_overlaps_or_sticks_out(tmp_path: Path, width_px: int) -> None:
    toy_page_inputs(people=9, side_px=24).write(tmp_path)
    with opened((tmp_path / "report.html").as_uri()) as page:
        page.set_viewport_size({"width": width_px, "height": 900})
        for details in page.locator("details").all():
            details.evaluate("details => { details.open = true }")
        assert page.locator("svg:visible").count() == 4, "one drawing of the sweep, three of sizes"
        assert page.evaluate(OVERLAPPING) == []
        assert page.evaluate(CUT) == []
        assert page.evaluate("document.documentElement.scrollWidth") == width_px
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
