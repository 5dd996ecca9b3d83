from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from nigaoe.core.errors import ConfigError
from nigaoe.serve.app import build
from nigaoe.serve.config import Limits, ServeConfig
from nigaoe.serve.deploy_file import IMPORT_PATH, deployable, read_serve_config
from nigaoe.serve.deployments.changes import AT_THE_INGRESS, changed
from nigaoe.serve.playground import config as playground
from nigaoe.serve.playground.app import build as build_page
from nigaoe.serve.playground.config import PlaygroundConfig

ROOT = Path(__file__).parents[3]
SHIPPED = sorted(ROOT.glob("configs/*/serve.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_a_shipped_file_is_taken_by_both(path: Path) -> None:
    schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    application, page = schema.applications
    assert application.import_path == IMPORT_PATH == f"{build.__module__}:{build.__name__}"
    assert page.import_path == playground.IMPORT_PATH == f"{build_page.__module__}:{build_page.__name__}"
    assert page.route_prefix == playground.ROUTE_PREFIX
    assert build_page.__annotations__["args"].model_validate(page.args).url == "http://127.0.0.1:8000"
    # As Ray calls the builder: with the model that its only parameter is annotated with.
    args = build.__annotations__["args"].model_validate(application.args)
    config = read_serve_config(path, ["drain_s=1000"])
    assert config.drain_s == 1000
    assert config.playground
    assert config.bases == args.bases
    assert config.host == schema.http_options.host
    assert {item.name for item in application.deployments} <= {"engine", "ingress"}
    for item in application.deployments:
        assert set(item.user_config or {}) <= set(ServeConfig.model_fields)


def test_the_page_asks_for_no_more_previews_than_the_server_gives() -> None:
    config = ServeConfig(bases=["toy/anime"], limits=Limits(partial_images=1))
    _, page = deployable(config)["applications"]
    assert PlaygroundConfig.model_validate(page["args"]).previews == 1
    assert PlaygroundConfig.of(ServeConfig(bases=["toy/anime"], limits=Limits(partial_images=9)), 1).previews == 3


@pytest.mark.parametrize("with_page", [False, True])
def test_what_is_printed_is_taken_back(tmp_path: Path, with_page: bool) -> None:
    config = ServeConfig(bases=["toy/anime"], host="0.0.0.0", port=81, drain_s=700, playground=with_page)
    printed = deployable(config)
    said = {} if with_page else {"playground": False}
    assert printed["applications"][0]["args"] == {"bases": ["toy/anime"], "drain_s": 700.0} | said
    assert [page["args"] for page in printed["applications"][1:]] == [{"url": "http://127.0.0.1:81"}] * with_page
    ServeDeploySchema.model_validate(printed)
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(printed))
    assert read_serve_config(file) == config


def test_a_plain_file_holds_the_keys_alone(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("bases: [toy/anime]\n")
    assert read_serve_config(file, ["port=9"]) == ServeConfig(bases=["toy/anime"], port=9)


def test_changes_of_deployments_hold_from_the_start(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    application = {
        "import_path": IMPORT_PATH,
        "args": {"bases": ["toy/anime"], "limits": {"n": 5}},
        "deployments": [{"name": "ingress", "user_config": {"limits": {"steps": 300}}}],
    }
    file.write_text(yaml.safe_dump({"applications": [application]}))
    limits = read_serve_config(file).limits
    assert (limits.n, limits.steps) == (5, 300)


@pytest.mark.parametrize(
    "applications", [[], "x", [{"import_path": "another:app"}], [{"import_path": IMPORT_PATH}] * 2]
)
def test_a_file_that_deploys_something_else_is_refused(applications: object, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump({"applications": applications}))
    with pytest.raises(ConfigError, match="write exactly one"):
        read_serve_config(file)


def test_only_what_needs_no_restart_changes_while_it_runs() -> None:
    config = ServeConfig(bases=["toy/anime"])
    new = changed(config, {"limits": {"n": 3}, "defaults": {"quality": {"low": {"steps": 4}}}}, AT_THE_INGRESS)
    assert new.limits.n == 3
    assert new.limits.steps == config.limits.steps
    assert new.defaults.quality["low"].steps == 4
    assert new.defaults.quality.keys() == config.defaults.quality.keys()
    assert changed(config, {}, AT_THE_INGRESS) is config
    with pytest.raises(ConfigError, match="changes 'bases', which needs a restart"):
        changed(config, {"bases": ["toy/photo"]}, AT_THE_INGRESS)
    with pytest.raises(ConfigError, match="user_config: 'limits.n'"):
        changed(config, {"limits": {"n": 0}}, AT_THE_INGRESS)
