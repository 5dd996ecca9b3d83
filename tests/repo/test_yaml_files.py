"""No YAML file is in the tree that nothing loads: each has a kind here, and each kind its check."""

import subprocess
from fnmatch import fnmatch

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from manifests import ROOT
from nigaoe.core.config import Config, load_config
from nigaoe.eval.config import EvalConfig
from nigaoe.eval.gate import GateConfig
from nigaoe.serve.deploy_file import read_serve_config
from nigaoe.serve.loadtest.workload import Workload
from nigaoe.train.config import TrainConfig
from nigaoe.train.sweeping.cells import SweepConfig

CONFIGS: dict[str, type[Config]] = {
    "configs/*/train.yaml": TrainConfig,
    "configs/*/eval.yaml": EvalConfig,
    "configs/toy/carry.yaml": EvalConfig,
    "configs/*/gate.yaml": GateConfig,
    "configs/*/sweep.yaml": SweepConfig,
    "configs/*/load.yaml": Workload,
}
# Each with a file of tests of its own.
ELSEWHERE = [
    "infra/docker/compose*.yaml",
    "infra/kuberay/*.yaml",
    "infra/ray-up/*.yaml",
    "infra/monitoring/*",
    "mkdocs.yml",
]


def yaml_files() -> list[str]:
    if not (ROOT / ".git").exists():
        return []
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.yaml", "*.yml"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.parametrize("name", yaml_files())
def test_every_yaml_file_is_loaded(name: str) -> None:
    path = ROOT / name
    assert [document for document in yaml.safe_load_all(path.read_text()) if document] != []
    if fnmatch(name, "configs/*/serve.yaml"):
        ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
        read_serve_config(path)
        return
    models = [model for pattern, model in CONFIGS.items() if fnmatch(name, pattern)]
    if models:
        load_config(path, models[0])
        return
    assert any(fnmatch(name, pattern) for pattern in ELSEWHERE), f"nothing says what {name} is"
