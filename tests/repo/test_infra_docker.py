"""Images are made of the lock file and of files that exist, and the Compose file starts what is in them."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from ray.scripts.scripts import start
from ray.serve.schema import ServeDeploySchema
from ray.serve.scripts import deploy

from manifests import ROOT, parsed_command, tool
from nigaoe.core.config import load_config
from nigaoe.core.errors import BaseModelError
from nigaoe.serve.deploy_file import deployable, read_serve_config
from nigaoe.train.config import TrainConfig

DOCKER = ROOT / "infra" / "docker"
DOCKERFILE = DOCKER / "Dockerfile"
COMPOSE = DOCKER / "compose.yaml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = ["train", "serve", "eval", "all"]


def instructions() -> list[tuple[str, str, str]]:
    """Stage, instruction and arguments of the Dockerfile, continued lines joined and comments gone."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    found, stage = [], ""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            stage = rest.rpartition(" AS ")[2] if name == "FROM" else stage
            found.append((stage, name, rest))
    return found


def of_stage(stage: str, name: str) -> list[str]:
    return [rest for s, n, rest in instructions() if (s, n) == (stage, name)]


def compose() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return values


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([tool("hadolint"), str(DOCKERFILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_finds_what_is_wrong(tmp_path: Path) -> None:
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(DOCKERFILE.read_text().replace("--no-install-recommends ", ""))
    done = subprocess.run([tool("hadolint"), str(wrong)], capture_output=True, text=True)
    assert done.returncode != 0
    assert "DL3015" in done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_each_image_has_its_own_extra_from_the_lock_file(target: str) -> None:
    assert target in PROJECT["optional-dependencies"]
    (run,) = of_stage(f"build-{target}", "RUN")
    assert f'pip install -c constraints.txt ".[{target}${{EXTRAS}}]" "ray[default]"' in run
    first, *others = of_stage(target, "COPY")
    assert first == f"--from=build-{target} /opt/nigaoe /opt/nigaoe"
    assert others == ["--from=models --chown=ray:ray /models /models"]
    assert f"runtime AS {target}" in of_stage(target, "FROM")


@pytest.mark.parametrize("target", TARGETS)
def test_images_run_as_somebody_without_rights(target: str) -> None:
    # A number, for Kubernetes does not look names up when it is asked for somebody else than root.
    assert of_stage(target, "USER") == ["1000:1000"]


def test_every_install_keeps_to_the_lock_file() -> None:
    installs = re.findall(r"pip install[^;&]*", " ; ".join(rest for _, _, rest in instructions()))
    assert len(installs) == 2 + len(TARGETS)
    assert all(install.startswith("pip install -c constraints.txt ") for install in installs)
    assert "==" not in DOCKERFILE.read_text(), "versions stand in constraints.txt alone"


def test_python_is_one_that_the_project_supports() -> None:
    (version,) = [rest.partition("=")[2] for _, name, rest in instructions() if rest.startswith("PYTHON_VERSION=")]
    assert Version(version) in SpecifierSet(PROJECT["requires-python"])
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    bases = {rest.split(" ")[0] for _, name, rest in instructions() if name == "FROM" and "python:" in rest}
    assert bases == {"python:${PYTHON_VERSION}-slim-bookworm"}


def test_only_what_images_are_made_of_reaches_the_build() -> None:
    first, *lines = [line for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[0] != "#"]
    assert first == "*", "nothing but what follows"
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = set()
    for _, name, rest in instructions():
        if name == "COPY" and "--from" not in rest:
            copied |= set(rest.split()[:-1])
    assert copied == sent
    assert all((ROOT / path).exists() for path in sent)


def test_the_wheel_needs_nothing_that_is_not_sent() -> None:
    readme, licences = PROJECT["readme"], PROJECT["license-files"]
    assert {readme, *licences} <= {word for rest in of_stage("build", "COPY") for word in rest.split()}


def script(name: str) -> ModuleType:
    spec = spec_from_file_location(name, DOCKER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def answering(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/healthz"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "is_well"), [(200, True), (503, False)])
def test_healthcheck_believes_a_status(status: int, is_well: bool) -> None:
    with answering(status) as address:
        assert script("healthcheck").answers(address) is is_well


def test_healthcheck_believes_no_silence() -> None:
    with answering(200) as address:
        pass
    assert script("healthcheck").answers(address) is False


def test_models_are_fetched_by_loading_them(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["fetch_models", "--bases", "toy/anime", "--image-encoders"]
    monkeypatch.setattr(sys, "argv", [*arguments, "toy/image_encoder"])
    script("fetch_models").main()
    monkeypatch.setattr(sys, "argv", [*arguments, "toy/nobody"])
    with pytest.raises(BaseModelError, match="toy/nobody"):
        script("fetch_models").main()
    # What the image runs where nothing is to be baked in.
    monkeypatch.setattr(sys, "argv", ["fetch_models", "--bases", "--image-encoders"])
    script("fetch_models").main()


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_files_fit_their_published_schema(name: str) -> None:
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DOCKER / name)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_compose_schema_refuses_what_does_not_exist(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("    depends_on:", "    depends_upon:"))
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(wrong)]
    assert subprocess.run(command, capture_output=True).returncode != 0


def test_compose_names_what_it_declares() -> None:
    values = compose()
    for name, service in values["services"].items():
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            assert source.startswith("..") or source in values["volumes"], f"{name} mounts {source}"
        assert set(service.get("depends_on", [])) <= values["services"].keys()
        if "build" in service:
            assert service["build"]["target"] in TARGETS
            assert (COMPOSE.parent / service["build"]["context"]).resolve() == ROOT
            assert service["image"].startswith(f"nigaoe-{service['build']['target']}:{PROJECT['version']}-")
    gpu = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())
    assert gpu["services"].keys() <= values["services"].keys()


def test_compose_mounts_what_is_in_the_tree() -> None:
    sources = [
        mount.partition(":")[0] for service in compose()["services"].values() for mount in service.get("volumes", [])
    ]
    there = [(COMPOSE.parent / source).resolve() for source in sources if source.startswith("..")]
    assert {path.relative_to(ROOT).as_posix() for path in there} == {
        "infra/monitoring/prometheus",
        "infra/monitoring/grafana/provisioning",
        "infra/monitoring/grafana/dashboards",
    }
    if not (ROOT / "infra" / "monitoring").is_dir():
        pytest.skip("infra/monitoring is not in this tree")
    assert [path for path in there if not path.is_dir()] == []


@pytest.mark.parametrize("service", ["head", "worker"])
def test_compose_starts_ray_as_ray_is_started(service: str) -> None:
    program, name, *arguments = shlex.split(compose()["services"][service]["command"])
    assert (program, name) == ("ray", "start")
    given = start.make_context(name, arguments).params
    assert given["block"], "a container ends with its command"
    assert given["metrics_export_port"] == 8080
    assert given["head"] == (service == "head")
    assert given["address"] == (None if service == "head" else "head:6379")


def test_compose_deploys_a_config_that_is_ours(tmp_path: Path) -> None:
    service = compose()["services"]["service"]
    _, _, line = service["command"]
    config = re.search(r":-(.*)}", service["environment"]["SERVE_CONFIG"])
    assert config is not None
    ours, theirs = line.replace('"$$SERVE_CONFIG"', config[1]).split("&&")
    command, given = parsed_command(ours.partition(">")[0])
    assert command == "serve-config"
    made = deployable(read_serve_config(ROOT / given["config"], given["overrides"]))
    schema = ServeDeploySchema.model_validate(made)
    assert (schema.http_options.host, schema.http_options.port) == ("0.0.0.0", 8000)
    assert "8000:8000" in "".join(compose()["services"]["head"]["ports"])
    program, name, *arguments = shlex.split(theirs)
    assert (program, name) == ("serve", "deploy")
    # The file that the first half wrote.
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(made))
    params = deploy.make_context(
        name, [argument.replace("/tmp/serve.yaml", str(file)) for argument in arguments]
    ).params
    assert params["address"] == "http://head:8265"


def test_commands_in_the_head_of_the_compose_file_are_ours() -> None:
    lines = re.findall(r"exec head (nigaoe .*)", COMPOSE.read_text())
    assert lines
    for line in lines:
        command, given = parsed_command(line)
        assert command == "train"
        assert load_config(ROOT / given["config"], TrainConfig, given["overrides"]).cluster.address == "auto"
