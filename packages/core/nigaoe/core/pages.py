"""Pages that need nothing but themselves: one look for all reports."""

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_MEDIA_TYPES = {b"\x89PNG": "image/png", b"RIFF": "image/webp"}


def render_page(template: Path, **values: object) -> str:
    """Fill a template, which may extend `page.html.j2`."""
    loader = FileSystemLoader([template.parent, Path(__file__).parent])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template.name).render(**values)


def data_uri(picture: bytes) -> str:
    """A PNG or WebP file as part of a page."""
    return f"data:{_MEDIA_TYPES[picture[:4]]};base64,{base64.b64encode(picture).decode()}"
