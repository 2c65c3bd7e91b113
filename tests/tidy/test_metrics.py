"""Rules and dashboards ask for metrics and labels that the code has, and every alert is tested and explained."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Histogram

from chassis import metrics
from chassis.settings import SERVICES

ROOT = Path(__file__).resolve().parent.parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
UNPACKED = ROOT / ".foyer" / "promtool" / "usr" / "bin" / "promtool"
WHY_NOT = ROOT / ".foyer" / "promtool.txt"
# What Prometheus adds, and the targets of deploy/prometheus/prometheus.yml.
ADDED_LABELS = {"job", "instance", "process", "le"}
METRIC = re.compile(r"\b(foyer_\w+|foyer:\w+(?::\w+)?)(?:\{([^}]*)\})?")
PROCESS_METRIC = re.compile(r"\bprocess_\w+")
KNOWN_PROCESS_METRICS = {"process_start_time_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes"}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules(name: str) -> list[dict[str, Any]]:
    return [rule for group in load(PROMETHEUS / "rules" / name)["groups"] for rule in group["rules"]]


def registered() -> dict[str, set[str]]:
    """Names a scrape shows, with their labels."""
    for package in ("chassis", "gateway", *(f"services.{service}" for service in SERVICES)):
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith(("__main__", "migrations")):
                importlib.import_module(module.name)
    found: dict[str, set[str]] = {}
    for name, metric in metrics._known.items():
        suffixes = ("_bucket", "_sum", "_count") if isinstance(metric, Histogram) else ("",)
        found |= {f"{name}{suffix}": set(metric._labelnames) for suffix in suffixes}
    return found


def panels() -> list[tuple[str, str]]:
    """Title and expression of everything the dashboards show."""
    return [
        (f"{path.name}: {panel['title']}", target["expr"])
        for path in DASHBOARDS
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]
        for target in panel["targets"]
    ]


def expressions() -> dict[str, str]:
    named = {rule.get("record") or rule["alert"]: rule["expr"] for rule in rules("recording.yml") + rules("alerts.yml")}
    return named | {f"{title} {number}": expression for number, (title, expression) in enumerate(panels())}


EXPRESSIONS = expressions()


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool") or (str(UNPACKED) if UNPACKED.exists() else "")
    if not found:
        said = WHY_NOT.read_text(encoding="utf-8").strip().splitlines() if WHY_NOT.exists() else []
        why = f"; .ci/promtool could not get it: {said[-1]}" if said else "; .ci/promtool gets it"
        pytest.skip(f"promtool is not on this machine{why}")
    return found


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_what_is_asked_for_exists(expression: str) -> None:
    known = registered()
    recorded = {rule["record"] for rule in rules("recording.yml")}
    asked = METRIC.findall(expression)
    assert asked or "process_" in expression or "up{" in expression
    for name, selector in asked:
        assert name in known or name in recorded, f"nothing measures {name}"
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        if name in known:
            assert labels <= known[name] | ADDED_LABELS, f"{name} has only {sorted(known[name])}"
    assert set(PROCESS_METRIC.findall(expression)) <= KNOWN_PROCESS_METRICS


def test_every_metric_says_what_it_is() -> None:
    for name, metric in metrics._known.items():
        assert metric._documentation.endswith(".") or ";" in metric._documentation, name
        assert not {"chain", "chain_id", "customer", "customer_id", "branch", "id"} & set(metric._labelnames), name


def test_targets_are_all_processes() -> None:
    (job,) = load(PROMETHEUS / "prometheus.yml")["scrape_configs"]
    targets = {entry["labels"]["process"]: entry["targets"] for entry in job["static_configs"]}
    expected = {name: [f"127.0.0.1:{8090 + number}"] for number, name in enumerate(SERVICES)}
    assert targets == {"gateway": ["127.0.0.1:8080"], **expected}


@pytest.mark.parametrize("rule", rules("alerts.yml"), ids=lambda rule: rule["alert"])
def test_an_alert_is_explained_in_both_languages_and_tested(rule: dict[str, Any]) -> None:
    said = rule["annotations"]
    for key in ("summary", "description"):
        assert said[key].isascii()
        assert re.search(r"[一-鿿]", said[f"{key}_zh"])
    assert rule["labels"]["severity"] in ("warning", "critical")
    page, _, anchor = said["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
    told = [
        bool(case["exp_alerts"])
        for test in load(PROMETHEUS / "tests" / "alerts.yml")["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == rule["alert"]
    ]
    assert sorted(told) == [False, True], "shown once firing and once quiet"


def test_dashboards_are_told_apart() -> None:
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in DASHBOARDS]
    assert [document["uid"] for document in documents] == [path.stem for path in DASHBOARDS]
    assert len(documents) == 3
    for document in documents:
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in document["panels"]]
        assert len(set(places)) == len(places)


def test_promtool_takes_the_rules(promtool: str) -> None:
    run(promtool, "check", "config", "deploy/prometheus/prometheus.yml")
    run(promtool, "test", "rules", *(str(path) for path in sorted((PROMETHEUS / "tests").glob("*.yml"))))


def test_promtool_takes_the_dashboards(promtool: str, tmp_path: Path) -> None:
    def whole(expression: str) -> str:
        return re.sub(r"\$__(rate_interval|range)", "5m", expression).replace("$service", "bookings")

    made = [{"record": f"panel:{number}", "expr": whole(text)} for number, (_, text) in enumerate(panels())]
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": made}]}))
    run(promtool, "check", "rules", str(path))
