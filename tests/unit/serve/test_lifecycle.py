import subprocess
import sys
from pathlib import Path

import pytest

from nigaoe.core.errors import ConfigError
from nigaoe.serve.config import Access, ServeConfig, Storage
from nigaoe.serve.lifecycle import _absolute, _port, _start_failure


def test_our_own_error_is_found_in_what_ray_reports() -> None:
    report = """The deployment failed to start 1 times in a row. Error:
\x1b[36mray::ServeReplica:nigaoe:engine.initialize_and_get_metadata()\x1b[39m (pid=1, ip=127.0.0.1)
    raise BaseModelError("...")
nigaoe.core.errors.BaseModelError: base model 'x/y' cannot be loaded (offline); give a diffusers folder or hub id

The above exception was the direct cause of the following exception:
RuntimeError: failed"""
    assert _start_failure(report) == "base model 'x/y' cannot be loaded (offline); give a diffusers folder or hub id"
    assert "(RuntimeError: out of memory)" in _start_failure("Traceback\n\nRuntimeError: out of memory\n")


def test_a_free_port_is_chosen_and_an_impossible_host_named() -> None:
    assert _port(ServeConfig(bases=["toy/anime"], port=0)) > 0
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:0 cannot be served on"):
        _port(ServeConfig(bases=["toy/anime"], host="192.0.2.1", port=0))


def test_paths_hold_in_every_working_folder(in_tmp: Path) -> None:
    (in_tmp / "a.safetensors").touch()
    config = ServeConfig(
        bases=["toy/anime"],
        image_encoder="toy/image_encoder",
        adapters={"a": "a.safetensors", "b": "s3://bucket/b"},
        storage=Storage(registry="registry", objects="s3://bucket/objects"),
        access=Access(keys_file=Path("keys.yaml")),
    )
    absolute = _absolute(config)
    assert absolute.adapters == {"a": in_tmp / "a.safetensors", "b": "s3://bucket/b"}
    assert absolute.storage.registry == str(in_tmp / "registry")
    assert absolute.storage.objects == "s3://bucket/objects"
    assert absolute.access.keys_file == in_tmp / "keys.yaml"


@pytest.mark.parametrize("module", ["commands", "http.app", "deploy_file", "loadtest.running", "scaling.simulation"])
def test_what_must_be_light_imports_neither_torch_nor_ray(module: str) -> None:
    check = f"import sys, nigaoe.serve.{module}; sys.exit(bool({{'torch', 'ray'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", check], timeout=60).returncode == 0


@pytest.mark.parametrize("module", ["backend", "deployments.ingress", "scaling.router", "scaling.ray_policy"])
def test_what_speaks_http_or_decides_needs_no_torch(module: str) -> None:
    check = f"import sys, nigaoe.serve.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=120).returncode == 0
