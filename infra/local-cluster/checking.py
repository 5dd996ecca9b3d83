"""What a run on this machine looks at, and the request that it sends at its end."""

import base64
import json
import urllib.request
import uuid
from pathlib import Path

import typer


class Checks:
    """What was looked at, and whether it was as it should be."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.rows: list[tuple[bool, str, str]] = []

    def add(self, is_so: bool, what: str, seen: object) -> None:
        """Note one; a run goes on after it, for the next may say why."""
        self.rows.append((is_so, what, str(seen)))

    def show(self) -> bool:
        """Say all; returns whether all are as they should be."""
        typer.echo(f"\n{self.title}")
        for is_so, what, seen in self.rows:
            typer.echo(f"  {'ok  ' if is_so else 'LOST'}  {what}: {seen}")
        return all(is_so for is_so, _, _ in self.rows)


def ask(url: str, picture: Path, adapter: str, side_px: int, key: str | None = None) -> bytes:
    """Send a picture to the edits of OpenAI's Images API, and take the PNG out of the answer."""
    fields = {"prompt": "an anime drawing of a person", "base": "toy/anime", "adapter": adapter, "seed": "7"}
    fields |= {"size": f"{side_px}x{side_px}"}
    edge = uuid.uuid4().hex
    parts = [
        f'--{edge}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()
    ]
    head = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="face.jpg"\r\n'
    parts.append(f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + picture.read_bytes() + b"\r\n")
    body = b"".join(parts) + f"--{edge}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    headers |= {} if key is None else {"Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{url}/v1/images/edits", data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=300) as answer:
        return base64.b64decode(json.load(answer)["data"][0]["b64_json"])
