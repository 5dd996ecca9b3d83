"""What infra/monitoring holds: rules, dashboards, and the metrics that their expressions name."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

MONITORING = Path(__file__).parents[1] / "infra" / "monitoring"
PROMETHEUS = MONITORING / "prometheus"
DASHBOARDS = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool; infra/install-prometheus.sh")
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus; infra/install-prometheus.sh"
)

_NOT_NAMES = re.compile(
    r'"[^"]*"|\{[^{}]*\}|\[[^\[\]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^()]*\)'
)
_WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}
_NAME = re.compile(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?!\w|\s*\()")


class Query(NamedTuple):
    """An expression, and where it stands."""

    place: str
    expr: str


def metric_names(expr: str) -> set[str]:
    """The metrics that an expression of PromQL reads: its words that are no function, label, keyword or text."""
    left = expr
    while (less := _NOT_NAMES.sub(" ", left)) != left:
        left = less
    return {name for name in _NAME.findall(left) if name.lower() not in _WORDS}


def rules() -> list[dict[str, Any]]:
    """All alerts and recorded series."""
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """By name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recorded() -> set[str]:
    """Series that rules make of others."""
    return {rule["record"] for rule in rules() if "record" in rule}


def dashboard(path: Path) -> dict[str, Any]:
    """One of `DASHBOARDS`."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def panels(path: Path) -> list[dict[str, Any]]:
    """Of a dashboard, without the rows that head them."""
    return [panel for panel in dashboard(path)["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    """Of every rule, panel and variable, as Prometheus is asked them: with Grafana's variables filled in."""
    found = [Query(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
    for path in DASHBOARDS:
        for variable in dashboard(path)["templating"]["list"]:
            if variable["type"] == "query":
                (series,) = re.findall(r"^label_values\((\w+), \w+\)$", variable["query"])
                found.append(Query(f"{path.stem}: variable {variable['name']}", series))
        for panel in panels(path):
            for target in panel["targets"]:
                filled = target["expr"].replace("$__rate_interval", "1m")
                filled = re.sub(r"\$\w+", ".*", filled)
                found.append(Query(f"{path.stem}: {panel['title']}", filled))
    return found


def load_preview() -> Any:
    """The script that draws dashboards, as a module."""
    spec = importlib.util.spec_from_file_location("preview", MONITORING / "preview.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look there for what their annotations mean.
    sys.modules["preview"] = module
    spec.loader.exec_module(module)
    return module
