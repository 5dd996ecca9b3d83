"""A request of the page as a user would send it: with curl, and with OpenAI's SDK. Both draw the same picture."""

import json
import shlex

from nigaoe.serve.playground.settings import Settings


def curl(settings: Settings, url: str, *, with_key: bool) -> str:
    """For a shell; the key is the environment's NIGAOE_API_KEY."""
    lines = ['-H "Authorization: Bearer $NIGAOE_API_KEY"'] if with_key else []
    if settings.face is None:
        path = "/v1/images/generations"
        body = json.dumps(settings.fields(), ensure_ascii=False)
        lines += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(body)}"]
    else:
        path = "/v1/images/edits"
        # curl reads a quoted name, so that it may hold commas and semicolons.
        name = settings.face.name.replace("\\", "\\\\").replace('"', '\\"')
        image = f'image=@"{name}"'
        fields = {key: str(value) for key, value in _with_adapter(settings).items()}
        lines += [f"-F {shlex.quote(image)}"]
        # A value that begins with @ or < would be read from a file.
        lines += [f"--form-string {shlex.quote(f'{key}={value}')}" for key, value in fields.items()]
    return " \\\n  ".join([f"curl -sS {shlex.quote(url + path)}", *lines, "-o answer.json"])


def python(settings: Settings, url: str, *, with_key: bool) -> str:
    """For the package openai."""
    key = 'os.environ["NIGAOE_API_KEY"]' if with_key else '"any"'
    head = ["import base64", *(["import os"] if with_key else []), "", "from openai import OpenAI", ""]
    fields = _with_adapter(settings)
    own = {"prompt": fields.pop("prompt")} | {name: fields.pop(name) for name in ("n", "size") if name in fields}
    call = [f"{name}={value!r}," for name, value in own.items()] + [f"extra_body={fields!r},"]
    route = "generate"
    if settings.face is not None:
        route, call = "edit", [f"image=open({settings.face.name!r}, 'rb'),", *call]
    return "\n".join(
        [
            *head,
            f"client = OpenAI(base_url={url + '/v1'!r}, api_key={key})",
            f"answer = client.images.{route}(",
            *(f"    {line}" for line in call),
            ")",
            "for picture in answer.data:",
            '    with open(f"{picture.seed}.png", "wb") as file:',
            "        file.write(base64.b64decode(picture.b64_json))",
            "",
        ]
    )


def _with_adapter(settings: Settings) -> dict[str, object]:
    fields = settings.fields()
    if settings.face is None:
        return fields
    adapter = {} if settings.adapter is None else {"adapter": settings.adapter}
    return fields | adapter | {"adapter_scale": settings.scale}
