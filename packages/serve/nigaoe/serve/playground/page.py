"""The playground: a face, a few choices, and pictures side by side, in Gradio."""

import secrets
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple, get_args

import gradio as gr
from gradio.components import Component

from nigaoe.core.errors import ConfigError, NigaoeError
from nigaoe.serve.orders import Sampler
from nigaoe.serve.playground.board import draw_together
from nigaoe.serve.playground.calling import Offers, Server
from nigaoe.serve.playground.settings import VARIED, Settings, parsed, varied
from nigaoe.serve.playground.snippets import curl, python

EARLIER = 24
"""Pictures that the page keeps in sight."""
KEPT_S = 24 * 3600
"""Seconds that files of a page are kept; they are looked at as often."""
SUGGESTED = {"scale": ["0.4", "0.7", "1.0"], "steps": ["10", "20", "30"], "guidance": ["1", "4", "7"]}
THEIRS = "as the server has it"
MOST_PICTURES = 16
"""Of one request: a place is kept for each before the server is asked."""
COLUMNS = 4
"""Of pictures side by side, at most."""
Shown = list[tuple[str, str]]
"""Files and captions of a gallery."""
SAMPLERS: tuple[str, ...] = get_args(Sampler)
CSS = """
.gradio-container { width: 100% !important; max-width: 1280px !important; margin: 0 auto !important; }
#status p { min-height: 1.5em; }
"""


def theme() -> gr.themes.Base:
    """Fonts of the reader's own system: the page asks no other host for anything."""
    return gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


class Form(NamedTuple):
    """What the reader fills in; the order of `asked` is that of the arguments of `_settings`."""

    asked: list[Component]
    base: gr.Dropdown
    adapter: gr.Dropdown
    what: gr.Dropdown
    over: gr.Dropdown
    key: gr.Textbox
    prompt: gr.Textbox
    start: gr.Button
    stop: gr.Button


class Results(NamedTuple):
    """What the page shows."""

    status: gr.Markdown
    gallery: gr.Gallery
    download: gr.DownloadButton
    as_curl: gr.Code
    as_python: gr.Code
    earlier: gr.Gallery


def page(url: str, previews: int) -> gr.Blocks:
    """The page for a server at an address that this process reaches, with so many previews of each picture."""
    blocks: gr.Blocks = gr.Blocks(title="nigaoe", analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S))
    with blocks:
        offers = gr.State(Offers((), {}))
        gr.Markdown("# nigaoe\nA face goes in, the person comes out in another style.")
        with gr.Row():
            with gr.Column(scale=2):
                form = _form()
            with gr.Column(scale=3):
                results = _results()

        async def look(key: str) -> tuple[Any, ...]:
            try:
                found = await Server(url, key).offers()
            except NigaoeError as error:
                gr.Warning(str(error))
                return gr.skip(), gr.skip(), gr.skip()
            first = found.bases[0]
            return found, gr.Dropdown(list(found.bases), value=first), _adapters_for(found, first)

        async def run(
            request: gr.Request, known: Shown | None, key: str, what: str, over: list[str], *values: Any
        ) -> AsyncGenerator[dict[Any, Any]]:
            try:
                asked = varied(_settings(*values), what or None, over or [])
            except ConfigError as error:
                raise gr.Error(str(error), print_exception=False) from None
            here = _public_url(request, url)
            (label, first), *others = asked
            # In both languages a comment.
            head = f"# {label}; the others differ in {what} alone\n" if others else ""
            yield {
                results.as_curl: head + curl(first, here, with_key=bool(key)),
                results.as_python: head + python(first, here, with_key=bool(key)),
                results.download: gr.DownloadButton(interactive=False),
            }
            # Gradio has copied what it shows when this goes on after a yield.
            with tempfile.TemporaryDirectory(prefix="nigaoe-") as folder:
                async with aclosing(draw_together(Server(url, key), asked, Path(folder), previews)) as boards:
                    async for board in boards:
                        pictures = board.pictures
                        columns = max(1, min(COLUMNS, len(pictures)))
                        yield {results.status: board.said(), results.gallery: gr.Gallery(pictures, columns=columns)}
                if not pictures:
                    raise gr.Error(board.failures[0], print_exception=False)
                for reason in board.failures:
                    gr.Warning(reason)
                yield {
                    results.download: gr.DownloadButton(value=str(board.archive), interactive=True),
                    results.earlier: [*pictures, *(known or [])][:EARLIER],
                }

        offered = [offers, form.base, form.adapter]
        blocks.load(look, [form.key], offered, show_progress="hidden")
        gr.on([form.key.submit, form.key.blur], look, [form.key], offered, show_progress="hidden")
        form.base.input(_adapters_for, [offers, form.base], [form.adapter], show_progress="hidden")
        form.what.input(_suggested, [form.what, offers], [form.over], show_progress="hidden")
        drawing = gr.on(
            [form.start.click, form.prompt.submit],
            run,
            [results.earlier, form.key, form.what, form.over, *form.asked],
            list(results),
            show_progress="hidden",
            concurrency_limit=None,
            trigger_mode="once",
        )
        form.stop.click(lambda: "Stopped.", None, [results.status], cancels=[drawing], show_progress="hidden")
    return blocks


def _form() -> Form:
    face = gr.Image(label="Face", type="filepath", image_mode=None, height=240, sources=["upload", "clipboard"])
    prompt = gr.Textbox("an anime drawing of a person", label="Prompt", lines=2)
    with gr.Row():
        start = gr.Button("Generate", variant="primary", min_width=80, scale=3, elem_id="generate")
        stop = gr.Button("Stop", min_width=80, scale=1, elem_id="stop")
    with gr.Row():
        base = gr.Dropdown(label="Base", min_width=120)
        adapter = gr.Dropdown(label="Adapter", min_width=120)
    scale = gr.Slider(0, 2, 1, step=0.05, label="Scale", info="how strongly the face counts")
    with gr.Accordion("Side by side", open=False):
        what = gr.Dropdown([("nothing", ""), *VARIED], value="", label="Compare")
        over = gr.Dropdown([], label="Over", multiselect=True, allow_custom_value=True)
    with gr.Accordion("More", open=False):
        negative = gr.Textbox(label="Negative prompt")
        # Not gr.Number: it shows 0 where there is nothing.
        with gr.Row():
            steps = gr.Textbox(label="Steps", placeholder=THEIRS, min_width=120)
            guidance = gr.Textbox(label="Guidance", placeholder=THEIRS, min_width=120)
        with gr.Row():
            seed = gr.Textbox(label="Seed", placeholder="another each time", min_width=120)
            count = gr.Number(1, label="Pictures", precision=0, minimum=1, maximum=MOST_PICTURES, min_width=120)
        with gr.Row():
            sampler = gr.Dropdown([(THEIRS, ""), *SAMPLERS], value="", label="Sampler", min_width=120)
            size = gr.Textbox(label="Size", placeholder="as the base has it", min_width=120)
        key = gr.Textbox(label="API key", type="password", placeholder="if the server needs one")
    asked = [face, prompt, negative, base, adapter, scale, steps, guidance, seed, count, sampler, size]
    return Form(asked, base, adapter, what, over, key, prompt, start, stop)


def _results() -> Results:
    status = gr.Markdown(elem_id="status")
    gallery = gr.Gallery(show_label=False, columns=COLUMNS, height=440, object_fit="contain", elem_id="result")
    download = gr.DownloadButton("Download with parameters", interactive=False, elem_id="download")
    with gr.Accordion("The same request from a program", open=False), gr.Tabs():
        with gr.Tab("curl"):
            as_curl = gr.Code(language="shell", label="curl", interactive=False, elem_id="curl")
        with gr.Tab("Python"):
            as_python = gr.Code(language="python", label="openai", interactive=False, elem_id="python")
    earlier = gr.Gallery(
        label="Earlier",
        columns=6,
        fit_columns=False,
        height=220,
        object_fit="contain",
        interactive=False,
        elem_id="earlier",
    )
    return Results(status, gallery, download, as_curl, as_python, earlier)


def _settings(
    face: str | None,
    prompt: str | None,
    negative: str | None,
    base: str | None,
    adapter: str | None,
    scale: float,
    steps: str | None,
    guidance: str | None,
    seed: str | None,
    count: int | None,
    sampler: str | None,
    size: str | None,
) -> Settings:
    return Settings(
        prompt=prompt or "",
        # Chosen here, so that what is copied draws the same picture.
        seed=parsed("seed", seed, int) if seed else secrets.randbelow(2**31),
        face=None if face is None else Path(face),
        negative_prompt=negative or "",
        base=base or None,
        adapter=adapter or None,
        scale=scale,
        n=int(count or 1),
        steps=parsed("steps", steps, int) if steps else None,
        guidance_scale=parsed("guidance", guidance, float) if guidance else None,
        sampler=sampler or None,
        size=(size or "").strip() or None,
    )


def _adapters_for(offers: Offers, base: str) -> gr.Dropdown:
    fitting = [name for name, bases in offers.adapters.items() if base in bases]
    return gr.Dropdown(fitting, value=fitting[0] if fitting else None)


def _suggested(what: str, offers: Offers) -> gr.Dropdown:
    choices: Sequence[str] = {
        "base": offers.bases,
        "adapter": tuple(offers.adapters),
        "sampler": SAMPLERS,
    }.get(what, tuple(SUGGESTED.get(what, ())))
    return gr.Dropdown(list(choices), value=list(choices[:3]))


def _public_url(request: gr.Request, url: str) -> str:
    """As the reader's browser reaches the server."""
    host = request.headers.get("x-forwarded-host") or request.headers.get("host")
    return f"{request.headers.get('x-forwarded-proto', request.url.scheme)}://{host}" if host else url
