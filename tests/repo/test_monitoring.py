"""Alerts and dashboards: each alert tried and explained, every panel made of what somebody exports."""

import importlib.util
import json
import os
import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from manifests import crds, tool
from nigaoe.eval.running import progress
from nigaoe.serve.watching import instruments
from nigaoe.train.watching import gauges
from watching_files import (
    DASHBOARDS,
    MONITORING,
    PROMETHEUS,
    Query,
    alerts,
    dashboard,
    metric_names,
    needs_promtool,
    panels,
    queries,
    recorded,
    rules,
)

ROOT = Path(__file__).parents[2]
SCHEMAS_VARIABLE = "NIGAOE_GRAFANA_SCHEMAS"
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def ours() -> set[str]:
    """Metrics that this code declares, as Ray shows them."""
    served = {m.name + suffix for m in instruments.ALL for suffix in SUFFIXES[m.kind]}
    trained = {gauges.PREFIX + name for name in gauges.GAUGES}
    evaluated = {progress.PREFIX + name for name in progress.GAUGES}
    return {f"ray_{name}" for name in served | trained | evaluated}


def promtool(*arguments: str, folder: Path = PROMETHEUS) -> str:
    done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_promtool
def test_prometheus_takes_the_config_and_the_rules() -> None:
    promtool("check", "config", "--syntax-only", "prometheus.yml")
    assert f"SUCCESS: {len(rules())} rules found" in promtool("check", "rules", "rules.yml")


@needs_promtool
def test_alerts_fire_and_keep_still_where_they_must() -> None:
    promtool("test", "rules", "rules_test.yml")


def test_every_alert_is_tried_both_ways() -> None:
    cases = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text(encoding="utf-8"))["tests"]
    asked = [case for test in cases for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in asked if case["exp_alerts"]} == alerts().keys()
    assert {case["alertname"] for case in asked if not case["exp_alerts"]} == alerts().keys()


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    alert = alerts()[name]
    assert re.fullmatch(r"\d+m", alert["for"])
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert re.fullmatch(r"[A-Z].+\.", alert["annotations"]["summary"])
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert anchor in {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_the_page_explains_alerts_that_exist() -> None:
    text = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (Nigaoe\w+)$", text, re.MULTILINE) == list(alerts())


def test_kubernetes_is_given_the_same_rules() -> None:
    path = MONITORING / "kubernetes" / "wrap_rules.py"
    spec = importlib.util.spec_from_file_location("wrap_rules", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    expected = module.wrapped(module.RULES.read_text(encoding="utf-8"))
    assert module.WRAPPED.read_text(encoding="utf-8") == expected, "run infra/monitoring/kubernetes/wrap_rules.py"
    assert yaml.safe_load(expected)["spec"] == yaml.safe_load(module.RULES.read_text(encoding="utf-8"))


def test_kustomize_is_given_files_that_exist() -> None:
    kustomization = yaml.safe_load((MONITORING / "kustomization.yaml").read_text(encoding="utf-8"))
    kinds = [
        yaml.safe_load((MONITORING / name).read_text(encoding="utf-8"))["kind"] for name in kustomization["resources"]
    ]
    assert kinds == ["PodMonitor", "PrometheusRule"]
    (generator,) = kustomization["configMapGenerator"]
    assert {MONITORING / name for name in generator["files"]} == set(DASHBOARDS)


def test_kustomize_builds_what_prometheus_operator_takes() -> None:
    command = [tool("kubectl"), "kustomize", str(MONITORING)]
    built = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    manifests = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(built)}
    boards = {name: json.loads(text) for name, text in manifests.pop("ConfigMap")["data"].items()}
    assert boards == {path.name: dashboard(path) for path in DASHBOARDS}
    assert manifests.keys() == {"PodMonitor", "PrometheusRule"}
    for kind, manifest in manifests.items():
        if (schema := crds().get((manifest["apiVersion"], kind))) is None:
            pytest.skip(f"no definition of {kind} among those that are named (see infra/README.md)")
        jsonschema.Draft202012Validator(schema).validate(manifest)
        manifest["spec"]["extra"] = 1
        with pytest.raises(jsonschema.ValidationError, match="extra"):
            jsonschema.Draft202012Validator(schema).validate(manifest)


def test_grafana_is_given_its_source_and_its_dashboards() -> None:
    provisioning = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "nigaoe.yaml").read_text())["providers"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "/var/lib/grafana/dashboards")


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole(path: Path) -> None:
    board = dashboard(path)
    assert board["uid"] == f"nigaoe-{path.stem}"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels(path):
        assert panel["type"] in ("timeseries", "stat", "gauge")
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        for source in (panel, *panel["targets"]):
            assert source["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    known = {variable["name"] for variable in board["templating"]["list"]}
    used = {name for panel in panels(path) for t in panel["targets"] for name in re.findall(r"\$(\w+)", t["expr"])}
    assert used | {"datasource"} == known | (used & {"__rate_interval"})
    places = [panel["gridPos"] for panel in board["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for a, b in combinations(places, 2):
        is_beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        is_above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert is_beside or is_above


def _of_grafana(kind: str, what: str) -> jsonschema.Draft7Validator:
    """What Grafana publishes of dashboards, panels and queries; it lets no unknown field pass."""
    folder = os.environ.get(SCHEMAS_VARIABLE)
    if not folder:
        pytest.skip(f"no schemas of Grafana's; name their folder in {SCHEMAS_VARIABLE} (see infra/README.md)")
    schema = json.loads((Path(folder) / f"{kind}.jsonschema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft7Validator({**schema, "$ref": f"#/definitions/{what}"})


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_grafana_knows_every_field(path: Path) -> None:
    _of_grafana("dashboard", "Dashboard").validate(dashboard(path))
    for panel in panels(path):
        _of_grafana("dashboard", "Panel").validate(panel)
        _of_grafana(panel["type"], "Options").validate(panel["options"])
        if panel["type"] == "timeseries":
            _of_grafana("timeseries", "FieldConfig").validate(panel["fieldConfig"]["defaults"]["custom"])
        for target in panel["targets"]:
            _of_grafana("prometheus", "Dataquery").validate(target)
    panel["options"]["extra"] = 1
    with pytest.raises(jsonschema.ValidationError, match="extra"):
        _of_grafana(panel["type"], "Options").validate(panel["options"])


@needs_promtool
def test_promtool_reads_what_panels_ask(tmp_path: Path) -> None:
    asked = [{"record": f"panel:{number}", "expr": query.expr} for number, query in enumerate(queries())]
    (tmp_path / "asked.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": asked}]}))
    promtool("check", "rules", "asked.yml", folder=tmp_path)


@pytest.mark.parametrize("query", queries(), ids=lambda query: query.place)
def test_queries_are_made_of_metrics_that_somebody_declares(query: Query) -> None:
    names = metric_names(query.expr)
    assert names or query.expr == "vector(30)"
    of_others = {name for name in names if not name.startswith("ray_nigaoe_")} - recorded() - {"up"}
    assert names - of_others <= ours() | recorded() | {"up"}
    # Held against a live cluster in tests/integration/test_monitoring.py, where there are no GPUs.
    assert all(name.removeprefix("ray_") in METRICS_GAUGES for name in of_others if "_node_" in name)
    assert all(name.startswith(("ray_serve_", "ray_node_", "ray_object_store_")) for name in of_others)


def test_every_metric_of_ours_is_watched() -> None:
    asked = {name for query in queries() for name in metric_names(query.expr)}
    unused = {f"ray_{name}" for name in ("nigaoe_unet_calls_total", "nigaoe_row_steps_per_second")}
    sums = {name for name in ours() if name.endswith(("_bucket", "_sum", "_count"))}
    histograms = {name.rsplit("_", 1)[0] for name in sums}
    watched = {name.rsplit("_", 1)[0] for name in asked & sums}
    assert histograms == watched
    assert ours() - sums - asked <= unused


@pytest.mark.parametrize(
    ("expr", "names"),
    [
        ("a", {"a"}),
        ('sum by (le, b) (rate(a_bucket{c=~"d(e|f)"}[5m])) / on (x) group_left () y:z', {"a_bucket", "y:z"}),
        ("(a > 30 and deriv(b[10m]) > 0) or c == +Inf unless on (r) d offset 5m", {"a", "b", "c", "d"}),
        ('time() - max by (run) (a{run=~".*"}) * 1e3', {"a"}),
        ("vector(30)", set()),
    ],
)
def test_names_are_found_in_expressions(expr: str, names: set[str]) -> None:
    assert metric_names(expr) == names
