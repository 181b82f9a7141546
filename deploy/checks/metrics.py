"""Metrics by name: rules, dashboards and the list in deploy/dashboards/README.md agree.

metrics.py                    checks the files, and the names in the programs' sources
metrics.py expressions        prints the dashboards' queries as recording rules, for promtool to parse
metrics.py live URL...        checks what running programs expose against the list
"""

import json
import re
import sys
import urllib.request

import yaml
from report import ROOT, Findings, load_yaml, read

FOLDER = "deploy/dashboards"
NAME = re.compile(r"\b(?:region_node|global_sync)_[a-z0-9_]+\b")
SELECTED = re.compile(r"\b((?:region_node|global_sync)_[a-z0-9_]+)\{([^}]*)\}")
SERIES_OF_A_HISTOGRAM = re.compile(r"_(bucket|count|sum)$")

found = Findings()
table = re.findall(r"^\| `([a-z_0-9]+)` \| (counter|gauge|histogram), (process|region) \| (.*?) \|", read(f"{FOLDER}/README.md"), re.M)
listed = {name: (kind, set(re.findall(r"`([a-z_]+)`", labels))) for name, kind, _, labels in table}
dashboards = {path.name: json.loads(path.read_text()) for path in sorted((ROOT / FOLDER / "grafana/dashboards").glob("*.json"))}
recorded = {rule["record"] for group in load_yaml(f"{FOLDER}/rules/recording.yml")["groups"] for rule in group["rules"]}


def panels(dashboard: dict) -> list[dict]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def base_name(series: str) -> str:
    plain = SERIES_OF_A_HISTOGRAM.sub("", series)
    return plain if listed.get(plain, ("",))[0] == "histogram" else series


def used_in(place: str, expression: str) -> None:
    for series in NAME.findall(expression):
        found.unless(base_name(series) in listed, f"{place}: {series} is not in {FOLDER}/README.md")
    for record in re.findall(r"\bregion:[a-z0-9_:]+\b", expression):
        found.unless(record in recorded, f"{place}: {record} is recorded by no rule")
    for series, selector in SELECTED.findall(expression):
        for label in re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", selector):
            known = {"region", "instance", "job", "le"} | listed.get(base_name(series), ("", set()))[1]
            found.unless(label in known, f"{place}: {series} has no label {label}")


def check_files() -> None:
    found.unless(len(listed) > 30, f"only {len(listed)} metrics are listed")
    tested = set(re.findall(r"alertname: (\w+)", "".join(path.read_text() for path in (ROOT / FOLDER / "rules/tests").glob("*.yml"))))
    for file in ("recording", "alerts"):
        for group in load_yaml(f"{FOLDER}/rules/{file}.yml")["groups"]:
            for rule in group["rules"]:
                name = rule.get("alert") or rule["record"]
                used_in(f"rule {name}", rule["expr"])
                if "alert" in rule:
                    found.unless(name in tested, f"alert {name}: no test")
                    found.unless(rule["labels"]["severity"] in ("page", "ticket"), f"alert {name}: severity {rule['labels']['severity']}")
                    found.unless({"summary", "action"} <= set(rule["annotations"]), f"alert {name}: says not what it is and what to do")
    source = load_yaml(f"{FOLDER}/grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]["uid"]
    found.unless(len({dashboard["uid"] for dashboard in dashboards.values()}) == len(dashboards), "two dashboards share a uid")
    for file, dashboard in dashboards.items():
        ids = [panel["id"] for panel in dashboard["panels"]]
        found.unless(len(set(ids)) == len(ids), f"{file}: two panels share an id")
        taken: dict[tuple[int, int], str] = {}
        for panel in panels(dashboard):
            place = f"{file}: {panel['title']}"
            found.unless(panel["datasource"]["uid"] == source, f"{place}: another data source than the provisioned one")
            spot = panel["gridPos"]
            found.unless(spot["x"] + spot["w"] <= 24, f"{place}: wider than the page")
            for cell in [(x, y) for x in range(spot["x"], spot["x"] + spot["w"]) for y in range(spot["y"], spot["y"] + spot["h"])]:
                found.unless(taken.setdefault(cell, place) == place, f"{place}: lies over {taken[cell]}")
            for target in panel["targets"]:
                used_in(place, target["expr"])
        for variable in dashboard["templating"]["list"]:
            used_in(f"{file}: variable {variable['name']}", variable["query"]["query"])


def check_sources() -> None:
    named: set[str] = set()
    for program in ("region-node", "global-sync"):
        for path in (ROOT / program / "src").rglob("*.rs"):
            named |= set(re.findall(r'"((?:region_node|global_sync)_[a-z0-9_]+)"', path.read_text()))
            for macro, name in re.findall(r'\b(counter|gauge|histogram)!\(\s*"([a-z_0-9]+)"', path.read_text()):
                place = path.relative_to(ROOT)
                found.unless(name in listed, f"{place}: {name} is not in {FOLDER}/README.md")
                found.unless(listed.get(name, (macro,))[0] == macro, f"{place}: {name} is listed as a {listed.get(name, ('',))[0]}")
    for name in listed:
        found.unless(name in named, f"{FOLDER}/README.md: {name} is in no program")


def print_expressions() -> None:
    queries = [target["expr"] for dashboard in dashboards.values() for panel in panels(dashboard) for target in panel["targets"]]
    plain = [query.replace("$__rate_interval", "1m").replace("$region", ".*").replace("$tenant", ".*") for query in queries]
    rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(plain)]
    print(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))


def check_live(addresses: list[str]) -> None:
    seen: set[str] = set()
    for address in addresses:
        with urllib.request.urlopen(address, timeout=5) as answer:
            exposed = answer.read().decode()
        for series, labels in re.findall(r"^([a-z_0-9]+)(?:\{(.*)\})? ", exposed, re.M):
            if not NAME.fullmatch(series):
                continue
            name = base_name(series)
            seen.add(name)
            found.unless(name in listed, f"{address}: {series} is not in {FOLDER}/README.md")
            extra = set(re.findall(r'([a-z_]+)="', labels)) - {"le"} - listed.get(name, ("", set()))[1]
            found.unless(not extra, f"{address}: {series} has unlisted labels {sorted(extra)}")
            found.unless("quantile" not in extra, f"{address}: {series} is a summary; its histogram needs buckets")
    found.lines = sorted(set(found.lines))
    print(f"{len(seen)} of {len(listed)} listed metrics seen; not yet: {' '.join(sorted(set(listed) - seen)) or 'none'}")


match sys.argv[1:]:
    case ["expressions"]:
        print_expressions()
    case ["live", *addresses] if addresses:
        check_live(addresses)
    case []:
        check_files()
        check_sources()
    case _:
        sys.exit(__doc__)
found.exit()
