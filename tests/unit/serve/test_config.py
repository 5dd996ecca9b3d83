from pathlib import Path

import pytest

from nigaoe.core.errors import ConfigError
from nigaoe.serve.deploy_file import read_serve_config

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["demo", "sd15"])
def test_shipped_configs_load(name: str) -> None:
    config = read_serve_config(ROOT / "configs" / name / "serve.yaml")
    assert len(config.bases) == 2
    assert config.adapters


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("image_encoder=null", "adapters need an image_encoder"),
        ("bases=[]", "bases"),
        ("bases=[demo]", "must differ"),
        ("autoscaling.min_replicas=2", "below min_replicas"),
        ("defaults.steps=201", "exceeds limits.steps"),
        ("drain_s=599", "shorter than limits.request_s"),
        ("prot=80", "unknown key 'prot'"),
    ],
)
def test_mistakes_are_named(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_serve_config(ROOT / "configs" / "demo" / "serve.yaml", [override])
