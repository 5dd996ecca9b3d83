import itertools
from pathlib import Path
from typing import Any

import pytest

from nigaoe.core.config import load_config, parse_config
from nigaoe.core.errors import ConfigError
from nigaoe.serve.loadtest.workload import Shot, Workload, shots

ROOT = Path(__file__).parents[4]


def workload(**values: Any) -> Workload:
    known: dict[str, Any] = {"requests": 10, "kinds": [{"name": "a", "path": "/a"}]}
    return parse_config(known | values, Workload, "test")


def first(count: int, work: Workload) -> list[Shot]:
    return list(itertools.islice(shots(work), count))


def test_the_same_seed_asks_for_the_same(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"x")
    kinds = [
        {
            "name": "face",
            "weight": 3,
            "path": "/e",
            "files": {"image": "{picture}"},
            "body": {"prompt": "{prompt}!", "seed": "{seed}", "deep": [{"image": "{picture}"}]},
            "choices": {"steps": [4, 20]},
        },
        {"name": "text", "path": "/g"},
    ]
    work = workload(kinds=kinds, pictures=[str(tmp_path / "x.png")], prompts=["p", "q"])
    some = first(400, work)
    assert some == first(400, work)
    assert some != first(400, work.model_copy(update={"seed": 1}))
    faces = [shot for shot in some if shot.kind.name == "face"]
    assert 250 < len(faces) < 350
    assert {shot.body["prompt"] for shot in faces} == {"p!", "q!"}
    assert {shot.body["steps"] for shot in faces} == {4, 20}
    assert len({shot.body["seed"] for shot in faces}) == len(faces)
    assert faces[0].body["deep"] == [{"image": "eA=="}]
    assert faces[0].files == {"image": b"x"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"requests": None}, "it would never end"),
        ({"kinds": [{"name": "a", "path": "a"}]}, "path"),
        ({"kinds": [{"name": "a", "path": "/a"}, {"name": "a", "path": "/b"}]}, "share a name"),
        ({"kinds": [{"name": "a", "path": "/a", "files": {"image": "{picture}"}}]}, "needs pictures"),
        ({"load": {"kind": "open"}}, "rate_per_s"),
        ({"load": {"kind": "wild"}}, "load"),
    ],
)
def test_mistakes_are_named(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        workload(**values)


def test_a_missing_picture_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"'nowhere\.png' cannot be read"):
        first(1, workload(pictures=["nowhere.png"]))


def test_the_shipped_workload_loads_and_may_be_opened() -> None:
    work = load_config(ROOT / "configs/demo/load.yaml", Workload, ["load={kind: open, rate_per_s: 2}"])
    assert work.load.kind == "open"
