"""Wrap ../prometheus/rules.yml for the Prometheus operator: `python infra/monitoring/kubernetes/wrap_rules.py`.

A test holds the file that it writes against the rules, so that nobody edits one without the other.
"""

from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).parents[1] / "prometheus" / "rules.yml"
WRAPPED = Path(__file__).with_name("prometheusrule.yaml")
HEAD = "# Made by wrap_rules.py from ../prometheus/rules.yml; change that one.\n"


def wrapped(rules: str) -> str:
    """Rules as a PrometheusRule."""
    resource: dict[str, Any] = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "nigaoe", "labels": {"app.kubernetes.io/part-of": "nigaoe"}},
        "spec": yaml.safe_load(rules),
    }
    return HEAD + yaml.safe_dump(resource, sort_keys=False, width=120)


if __name__ == "__main__":
    WRAPPED.write_text(wrapped(RULES.read_text(encoding="utf-8")), encoding="utf-8")
