"""From a body to the fields of an OpenAI request: brackets of forms resolved, unknown names judged."""

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from nigaoe.serve.http.bodies import Form, Upload, validated
from nigaoe.serve.http.problems import Problem, invalid_value

ModelT = TypeVar("ModelT", bound=BaseModel)

_ITEM = re.compile(r"adapters\[(\d{0,3})\]\[(\w{1,40})\](\[\d{0,3}\])?", re.ASCII)
_OPENAI = frozenset(
    ("moderation", "style", "complexity", "frame_count", "frame_duration_ms", "svg", "prompt_rewriter")
    + ("input_fidelity", "mask")
)
"""Fields of OpenAI's that mean nothing here, or not on this route; one day there will be more."""


@dataclass(frozen=True)
class Parts:
    """What a form of the edits or variations holds."""

    values: dict[str, Any]
    images: tuple[Upload, ...]
    mask: Upload | None


def openai_model(values: Mapping[str, Any], model: type[ModelT], *, strict: bool) -> ModelT:
    """Fields as a request. A null is as good as nothing, and an unknown name too, unless it is one of ours mistyped.

    Raises:
        Problem: 400.
    """
    given = {name: value for name, value in values.items() if value is not None}
    for name in given.keys() - model.model_fields.keys() - _OPENAI:
        meant = difflib.get_close_matches(name, model.model_fields, 1, cutoff=0.75)
        if meant:
            message = f"unknown field {name[:80]!r}; {meant[0]} is probably meant, so mend it or leave it out"
            raise Problem(400, "unknown_parameter", message, name[:80])
    return validated(given, model, strict=strict)


def parts_of(form: Form) -> Parts:
    """The files and the fields of a form, with `adapters` as a list.

    Raises:
        Problem: 400 for a field or a mask that comes twice, files of other names, or no picture.
    """
    values: dict[str, Any] = {}
    images: list[Upload] = []
    masks: list[Upload] = []
    columns: dict[tuple[str, str], list[Any]] = {}
    for name, value in form:
        if name in ("image", "image[]", "mask") and isinstance(value, str):
            raise Problem(400, "invalid_image", f"{name} is a text field; send it as a file, with a filename", name)
        if name in ("image", "image[]"):
            assert isinstance(value, Upload)
            images.append(value)
        elif name == "mask":
            assert isinstance(value, Upload)
            masks.append(value)
        elif match := _ITEM.fullmatch(name):
            key = (match[1], match[2] + ("[]" if match[3] is not None else ""))
            columns.setdefault(key, []).append(value.data if isinstance(value, Upload) else value)
        elif isinstance(value, Upload):
            raise invalid_value(name[:80], f"{name[:80]} is a file; send pictures as image or image[]")
        elif name in values:
            raise invalid_value(name[:80], f"{name[:80]} comes twice; send it once")
        else:
            values[name] = value
    if not images and not (values.get("embedding") or values.get("adapters") or columns):
        raise Problem(400, "missing_required_parameter", "image is missing; send a picture as file", "image")
    if len(masks) > 1:
        raise invalid_value("mask", "mask comes twice; send it once")
    if columns and "adapters" in values:
        raise invalid_value("adapters", "adapters comes twice, as JSON and as fields; send it once")
    if columns:
        values["adapters"] = _items(columns)
    elif "adapters" in values:
        values["adapters"] = _json_list(values["adapters"])
    return Parts(values, tuple(images), masks[0] if masks else None)


def _items(columns: Mapping[tuple[str, str], list[Any]]) -> list[dict[str, Any]]:
    """Items of fields. Clients send `adapters[][name]` of all items before any `adapters[][scale]`: columns.

    Where not every item has every field nobody can tell which is whose, unless they are numbered.
    """
    items: dict[int, dict[str, Any]] = {}
    counts = {len(found) for (number, key), found in columns.items() if not number and not key.endswith("[]")}
    if len(counts) > 1:
        raise invalid_value("adapters", "adapters[] have not the same fields each; send adapters as a JSON string")
    alone = max(counts, default=1) == 1
    for (number, key), found in columns.items():
        if key.endswith("[]"):
            if not number and not alone:
                raise invalid_value("adapters", f"nobody can tell whose {key} is; send adapters as a JSON string")
            items.setdefault(int(number or 0), {})[key.removesuffix("[]")] = found
        elif number:
            if len(found) > 1:
                raise invalid_value("adapters", f"adapters[{number}][{key}] comes twice; send it once")
            items.setdefault(int(number), {})[key] = found[0]
        else:
            for place, value in enumerate(found):
                items.setdefault(place, {})[key] = value
    return [items[place] for place in sorted(items)]


def _json_list(text: str) -> object:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise invalid_value("adapters", "adapters is not valid JSON; send a list of objects") from None
    return [values] if isinstance(values, dict) else values
