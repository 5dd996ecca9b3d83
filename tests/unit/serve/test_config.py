from pathlib import Path

import pytest

from nigaoe.core.config import load_config
from nigaoe.core.errors import ConfigError
from nigaoe.serve.config import ServeConfig

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["demo", "sd15"])
def test_shipped_configs_load(name: str) -> None:
    config = load_config(ROOT / "configs" / name / "serve.yaml", ServeConfig)
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
        ("prot=80", "unknown key 'prot'"),
    ],
)
def test_mistakes_are_named(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(ROOT / "configs" / "demo" / "serve.yaml", ServeConfig, [override])
