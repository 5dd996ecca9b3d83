import base64
from pathlib import Path

import pytest

from nigaoe.core.errors import ConfigError
from nigaoe.serve.playground.settings import MOST_AT_ONCE, Settings, varied


def test_what_is_not_said_is_left_to_the_server() -> None:
    assert Settings("a woman", seed=3).body() == {"prompt": "a woman", "seed": 3}


def test_a_face_becomes_an_image_prompt(tmp_path: Path) -> None:
    face = tmp_path / "face.jpg"
    face.write_bytes(b"picture")
    body = Settings("", seed=3, face=face, adapter="demo", scale=0.5, steps=4, n=2).body()
    prompt = {"adapter": "demo", "images": [base64.b64encode(b"picture").decode()], "scale": 0.5}
    assert body == {"prompt": "", "seed": 3, "n": 2, "steps": 4, "image_prompts": [prompt]}


def test_a_comparison_varies_one_field_alone() -> None:
    settings = Settings("a woman", seed=3, steps=8)
    found = varied(settings, "guidance", ["1", " 4.5"])
    assert [label for label, _ in found] == ["guidance 1", "guidance  4.5"]
    assert [one.guidance_scale for _, one in found] == [1.0, 4.5]
    assert {(one.prompt, one.seed, one.steps) for _, one in found} == {("a woman", 3, 8)}
    assert varied(settings, None, ["1"]) == varied(settings, "scale", []) == [("", settings)]


@pytest.mark.parametrize(
    ("what", "over", "says"),
    [
        ("steps", ["8", "many"], "steps 'many' is not a whole number"),
        ("scale", ["half"], "scale 'half' is not a number"),
        ("seed", [str(i) for i in range(MOST_AT_ONCE + 1)], "at most 8"),
    ],
)
def test_what_cannot_be_compared_is_said(what: str, over: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        varied(Settings("", seed=1), what, over)
