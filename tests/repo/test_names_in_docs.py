"""Names that the documentation sets in code exist: keys of configs, calls of ours, commands, files, presets, panels."""

import ast
import inspect
import re
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import diffusers
import pytest
import yaml
from pydantic import BaseModel

from docs_pages import DOCS, PAGES, ROOT, block, tokens
from nigaoe.core.adapters.files import load_adapter
from nigaoe.core.adapters.variants import PUBLISHED_NAMES, VARIANTS
from nigaoe.core.bases import load_base
from nigaoe.core.config import Config, apply_override, parse_config, read_values
from nigaoe.core.controlnets import load_controlnet
from nigaoe.core.engine.rows import Control, Generation
from nigaoe.core.errors import ConfigError
from nigaoe.core.faces.loading import load_face_encoder
from nigaoe.core.image_encoders import load_image_encoder
from nigaoe.core.image_prompts.conditioner import Conditioner, Reference
from nigaoe.core.image_prompts.crops import CROP_MODES
from nigaoe.core.image_prompts.embedding_files import load_embeddings, save_embeddings
from nigaoe.core.image_prompts.layer_scales import PRESETS, LayerScales, layer_places, layer_scales
from nigaoe.core.image_prompts.noise import noise_picture
from nigaoe.core.image_prompts.prompt import COMBINATIONS, PromptScales, ScaledSides
from nigaoe.core.samplers.registry import SAMPLERS
from nigaoe.eval.config import EvalConfig
from nigaoe.serve.config import ServeConfig
from nigaoe.serve.deploy_file import read_serve_config
from nigaoe.serve.http.native_schemas import GenerateRequest, ImagePromptRequest
from nigaoe.serve.http.openai_schemas import EditRequest
from nigaoe.train.config import TrainConfig
from nigaoe.train.jobs.connecting import KIND_KEY, NAME_KEY, RUN_KEY
from watching_files import DASHBOARDS, dashboard

COMING_FROM = DOCS / "coming-from.md"
CONFIGS: dict[type[Config], Path] = {
    TrainConfig: ROOT / "configs/sd15/train.yaml",
    EvalConfig: ROOT / "configs/toy/eval.yaml",
    ServeConfig: ROOT / "configs/demo/serve.yaml",
}
CALLED: dict[str, Callable[..., Any]] = {
    called.__name__: called
    for called in (
        *(Conditioner, Control, Generation, LayerScales, PromptScales, Reference),
        *(layer_places, layer_scales, load_adapter, load_base, load_controlnet, load_embeddings, load_face_encoder),
        *(load_image_encoder, noise_picture, save_embeddings),
    )
}
"""What is written in Python."""
VALUES = {*SAMPLERS, *PRESETS, *COMBINATIONS, *get_args(ScaledSides), *CROP_MODES, "face", *VARIANTS, *PUBLISHED_NAMES}
_FIELD = re.compile(r"[a-z_]+")
_KEY = re.compile(r"(?P<path>[a-z_]+(\.[a-z_]+)*)(: ?(?P<yaml>.+)|=(?P<typed>\S+))?")
_FILE = re.compile(r"\.(bin|csv|html|jpg|json|jsonl|parquet|png|py|safetensors|toml|txt|yaml|yml)(\W.*)?$")


def codes(page: Path) -> list[str]:
    """What stands between backticks."""
    return [c.content for t in tokens(page) for c in t.children or () if c.type == "code_inline"]


def rows(page: Path, heading: str) -> Iterator[list[list[str]]]:
    """Codes of each cell, row by row, of the table under a heading."""
    read = tokens(page)
    (begin,) = [i for i, t in enumerate(read) if t.type == "inline" and t.content == heading]
    table = [t.type for t in read[begin:]].index("table_open") + begin
    cells: list[list[str]] = []
    for token in read[table:]:
        if token.type == "table_close":
            return
        if token.type == "inline":
            cells.append([c.content for c in token.children or () if c.type == "code_inline"])
        elif token.type == "tr_close":
            yield cells
            cells = []


def has_key(model: type[BaseModel], path: list[str]) -> bool:
    field = model.model_fields.get(path[0])
    if field is None or len(path) == 1:
        return field is not None
    found = field.annotation
    if getattr(found, "__origin__", None) is dict:
        return True
    inner = [m for m in (found, *get_args(found)) if isinstance(m, type) and issubclass(m, BaseModel)]
    return any(has_key(m, path[1:]) for m in inner)


def require_setting(code: str) -> None:
    """A key, with a value or without, is one of some config; refused otherwise."""
    found = _KEY.fullmatch(code)
    assert found is not None
    path = found["path"].split(".")
    having = [model for model in CONFIGS if has_key(model, path)]
    assert having, f"{code!r}: no config has such a key"
    value = found["yaml"] or found["typed"]
    # In capitals stands what the reader puts there.
    if value is None or value.isupper() or "..." in value:
        return
    reasons = []
    for model in having:
        values = read_values(CONFIGS[model])
        if model is ServeConfig:
            values = read_serve_config(CONFIGS[model]).model_dump(mode="json")
        apply_override(values, f"{found['path']}={value}")
        if code.startswith("adapter.variant: faceid"):
            values["face_encoder"] = "dlib"
        try:
            parse_config(values, model, code)
        except ConfigError as error:
            reasons.append(str(error))
        else:
            return
    raise AssertionError("; ".join(reasons))


def require_call(call: ast.Call) -> None:
    """A call of ours has parameters of these names."""
    assert isinstance(call.func, ast.Name)
    parameters = inspect.signature(CALLED[call.func.id]).parameters
    given = {keyword.arg for keyword in call.keywords}
    assert given <= parameters.keys(), f"{call.func.id} takes no {', '.join(map(str, given - parameters.keys()))}"


def parsed(code: str) -> ast.expr | None:
    try:
        return ast.parse(code, mode="eval").body
    except SyntaxError:
        return None


def calls_of_ours(code: str) -> list[ast.Call]:
    expression = parsed(code)
    nodes = [] if expression is None else list(ast.walk(expression))
    return [n for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in CALLED]


OF_OTHERS = ("checkpoints", "ip_model", "proj", "ray", "torch", "unet")
"""What a dotted name begins with that is no key of a config."""
CODES = [(f"{page.relative_to(ROOT)}: {code}", code) for page in PAGES for code in dict.fromkeys(codes(page))]
KEYS = [
    (where, code)
    for where, code in CODES
    if (found := _KEY.fullmatch(code))
    and "." in found["path"]
    and not _FILE.search(found["path"])
    and found["path"].split(".")[0] not in ("nigaoe", "key", *OF_OTHERS)
]


@pytest.mark.parametrize(("where", "code"), KEYS, ids=[where for where, _ in KEYS])
def test_keys_of_configs_exist_and_take_their_values(where: str, code: str) -> None:
    require_setting(code)


@pytest.mark.parametrize("wrong", ["data.sorce", "adapter.variant: plusplus", "limits.steps=many", "autoscaling.wait"])
def test_wrong_keys_are_noticed(wrong: str) -> None:
    with pytest.raises(AssertionError):
        require_setting(wrong)


@pytest.mark.parametrize(
    ("where", "call"),
    [(f"{where} {call.lineno}:{call.col_offset}", call) for where, code in CODES for call in calls_of_ours(code)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_calls_have_the_parameters_that_are_named(where: str, call: ast.Call) -> None:
    require_call(call)


def test_a_wrong_call_is_noticed() -> None:
    (call,) = calls_of_ours("Reference(images=..., weights=...)")
    with pytest.raises(AssertionError, match="takes no weights"):
        require_call(call)


def test_modules_and_what_is_in_them_exist() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"].keys()
    named = {code for _, code in CODES if re.fullmatch(r"nigaoe(\.\w+)+", code)}
    for name in named - {KIND_KEY, NAME_KEY, RUN_KEY} - groups:
        parent, _, last = name.rpartition(".")
        try:
            import_module(name)
        except ModuleNotFoundError:
            assert hasattr(import_module(parent), last), name
    assert len(named) > 5


def test_files_of_the_repository_exist() -> None:
    named = {code for _, code in CODES if re.match(r"(configs|docs|infra|packages|tests)/[\w./-]+$", code)}
    assert {name for name in named if not (ROOT / name).exists()} == set()
    assert len(named) > 10


def here_of(heading: str) -> list[str]:
    """Codes on the right side of a table of where people come from."""
    return [code for _, *right in rows(COMING_FROM, heading) for cell in right for code in cell]


HERE = [
    (f"{heading}: {code}", code)
    for heading in ("The original IP-Adapter code", "diffusers", "ComfyUI")
    for code in dict.fromkeys(here_of(heading))
]


@pytest.mark.parametrize(("where", "code"), HERE, ids=[where for where, _ in HERE])
def test_what_one_comes_to_exists(where: str, code: str) -> None:
    if code.startswith(("nigaoe ", "POST ", "load_", "save_")) or calls_of_ours(code) or _FILE.search(code):
        # Commands and routes are looked up elsewhere; calls above.
        assert code.startswith(("nigaoe ", "POST ")) or code.partition("(")[0] in CALLED or _FILE.search(code)
        return
    if code in VALUES or code in CALLED or code == ".ipadpt":
        return
    expression = parsed(code)
    if isinstance(expression, ast.Attribute) and (owner := ast.unparse(expression.value)) in CALLED:
        assert expression.attr in inspect.signature(CALLED[owner]).parameters
        return
    ours = (PromptScales, Reference, Generation, Control)
    fields = {name for one in ours for name in inspect.signature(one).parameters}
    fields |= ImagePromptRequest.model_fields.keys() | GenerateRequest.model_fields.keys()
    if _FIELD.fullmatch(code) and code in fields:
        return
    require_setting(code)


def test_presets_of_layers_are_all_told() -> None:
    assert set(PRESETS) <= set(codes(DOCS / "image-prompts.md"))


def test_samplers_are_all_told() -> None:
    (told,) = [set(here[1:]) for there, here in rows(COMING_FROM, "diffusers") if here[:1] == ["sampler"]]
    assert told == set(SAMPLERS)


@pytest.mark.parametrize("name", [c for there, _ in rows(COMING_FROM, "diffusers") for c in there])
def test_what_one_comes_from_exists_in_diffusers(name: str) -> None:
    library = Path(diffusers.__file__).parent
    places = (
        "loaders/ip_adapter.py",
        "callbacks.py",
        "image_processor.py",
        "pipelines/pipeline_utils.py",
        "__init__.py",
    )
    text = "".join((library / place).read_text() for place in (*places, "models/embeddings.py"))
    text += "".join(path.read_text() for path in (library / "pipelines/stable_diffusion").glob("*.py"))
    words = [word for word in re.findall(r"[A-Za-z_]{3,}", name) if word not in ("True", "pipe", "ipadpt")]
    assert [word for word in words if word not in text] == []


def test_fields_that_an_evaluation_sends_are_those_of_the_server() -> None:
    (server,) = yaml.safe_load(block("docs/evaluation.md", "servers:").code)["servers"].values()
    assert server["fields"].keys() <= EditRequest.model_fields.keys()


def test_panels_that_a_runbook_sends_one_to_exist() -> None:
    boards = [dashboard(path) for path in DASHBOARDS]
    shown = {panel["title"] for board in boards for panel in board["panels"]}
    shown |= {t["legendFormat"].capitalize() for b in boards for p in b["panels"] for t in p.get("targets", ())}
    text = (DOCS / "operate.md").read_text().partition("## Jobs")[0]
    named = re.findall(r"(?<!\*)\*([A-Z][\w -]+|decode)\*(?!\*)", text)
    assert len(named) > 10
    assert {name for name in named if name.capitalize() not in {s.capitalize() for s in shown}} == set()
