"""Manifests as a cluster would get them: overlays built by kustomize, the pods in them, the commands that they run."""

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from kuberay import rendered
from typer.main import get_command

from nigaoe.core.cli import app as core_app

ROOT = Path(__file__).parents[1]
KUBERAY = ROOT / "infra" / "kuberay"
OVERLAYS = sorted(path.parent.name for path in KUBERAY.glob("overlays/*/kustomization.yaml"))
CRDS_VARIABLE = "NIGAOE_CRDS"
SECRETS = KUBERAY / "base" / "secrets.template.yaml"

Manifest = dict[str, Any]


def tool(name: str) -> str:
    """A program beside this Python, or wherever it is."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@cache
def built(overlay: str) -> tuple[Manifest, ...]:
    """What `kubectl apply -k` of an overlay sends; skips the test where there is no kubectl."""
    tool("kubectl")
    return tuple(rendered(KUBERAY / "overlays" / overlay))


def of_kind(overlay: str, kind: str) -> list[Manifest]:
    """All manifests of a kind."""
    return [manifest for manifest in built(overlay) if manifest["kind"] == kind]


def named(overlay: str, kind: str, name: str) -> Manifest:
    """The one manifest of a kind and name."""
    (found,) = [manifest for manifest in of_kind(overlay, kind) if manifest["metadata"]["name"] == name]
    return found


def cluster_spec(manifest: Manifest) -> Manifest:
    """What a RayJob or RayService says of its Ray cluster."""
    spec: Manifest = manifest["spec"].get("rayClusterSpec") or manifest["spec"]["rayClusterConfig"]
    return spec


def ray_clusters(overlay: str) -> list[Manifest]:
    """RayJobs and the RayService."""
    return [*of_kind(overlay, "RayJob"), *of_kind(overlay, "RayService")]


def ray_groups(manifest: Manifest) -> list[Manifest]:
    """The head and all groups of workers."""
    spec = cluster_spec(manifest)
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def pod_templates(overlay: str) -> Iterator[tuple[str, Manifest]]:
    """Every pod that can come to be, with a name for messages."""
    for manifest in built(overlay):
        name = manifest["metadata"]["name"]
        if manifest["kind"] in ("RayJob", "RayService"):
            for group in ray_groups(manifest):
                yield f"{name}/{group.get('groupName', 'head')}", group["template"]
        elif "template" in manifest.get("spec", {}):
            yield name, manifest["spec"]["template"]


def containers(template: Manifest) -> list[Manifest]:
    """Of a pod, those that run before the others too."""
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def quantity(value: str | int) -> float:
    """A number as Kubernetes writes it."""
    match = re.fullmatch(r"([0-9.]+)(m|Ki|Mi|Gi|Ti)?", str(value))
    assert match, f"{value!r} is no quantity that these tests know"
    factor = {None: 1.0, "m": 1e-3, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
    return float(match[1]) * factor[match[2]]


def parsed_command(line: str) -> tuple[str, dict[str, Any]]:
    """A command line of ours as our own parser reads it: the command's name, and its arguments by name."""
    program, name, *rest = shlex.split(line)
    assert program == "nigaoe", f"{line!r} runs something else"
    found = [entry for entry in entry_points(group="nigaoe.commands") if entry.name == name]
    loaded: Any = found[0].load() if found else core_app
    words = rest if found else [name, *rest]
    if not isinstance(loaded, typer.Typer):
        own = typer.Typer(add_completion=False)
        own.command()(loaded)
        return name, dict(get_command(own).make_context(name, words).params)
    command: Any = get_command(loaded)
    names = [name] if found else []
    while hasattr(command, "resolve_command"):
        context = command.make_context(name, list(words))
        called, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
        # A default command is not said.
        names += [called] if called in (name, *rest) and called not in names else []
    return " ".join(names), dict(command.make_context(names[-1], list(words)).params)


@cache
def crds() -> dict[tuple[str, str], Manifest]:
    """Schemas of custom resources by version and kind, from the folder that NIGAOE_CRDS names."""
    folder = os.environ.get(CRDS_VARIABLE)
    if not folder:
        pytest.skip(f"no custom resource definitions; name their folder in {CRDS_VARIABLE} (see infra/README.md)")
    found = {}
    for path in sorted(Path(folder).glob("*.yaml")):
        for definition in yaml.load_all(path.read_text(), yaml.CSafeLoader):
            spec = definition["spec"]
            for version in spec["versions"]:
                schema = strict(version["schema"]["openAPIV3Schema"])
                found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def strict(schema: Manifest) -> Manifest:
    """A structural schema of Kubernetes as JSON Schema that takes no unknown field, as `kubectl apply` does."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    result = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes") and key != "format"}
    if "properties" in schema:
        result["properties"] = {name: strict(inner) for name, inner in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            result.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            result[key] = strict(schema[key])
    return result


def folded(manifest: object) -> str:
    """As one text, to look for words in."""
    return json.dumps(manifest)
