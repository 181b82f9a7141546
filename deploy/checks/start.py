"""Built programs take the settings the deployment files give them: start.py PROGRAMS SECRETS_DIR CERTIFICATES_DIR RENDERED_OVERLAY...

Each program is started with them and with a database that refuses: it must get past its settings and fail, or wait, at the database.
A setting that is misspelt, missing or of another form ends it before that, with a line that names it.
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from report import ROOT, Findings, dockerfile_stages, load_yaml

programs, secrets, certificates, *overlays = map(Path, sys.argv[1:])
NO_DATABASE = "postgres://nobody@127.0.0.1:1/none"
FILLED_IN = {"_KEY": "GIsng5qGHBjDoGBf77gxNCw6QZQ8mStn+0O2YjalvME=", "_SECRET": "0123456789abcdef", "_ID": "operator"}
# What the README of deploy/kubernetes has an operator put into secrets.
SECRETS = {
    "region-node": {f"REGION_NODE_{key}": "" for key in ("DATABASE__URL", "DATABASE__SYSTEM_URL", "SECRETS__MASTER_KEY")},
    "operator": {"REGION_NODE_OPERATOR__CLIENT_ID": "", "REGION_NODE_OPERATOR__CLIENT_SECRET": ""},
    "region-node-migrate": {"REGION_NODE_DATABASE__MIGRATE_URL": ""},
    "global-sync": {"GLOBAL_SYNC_DATABASE__URL": ""},
}


def env_file(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def as_started_here(key: str, value: str, region: str) -> str:
    """What an operator fills in, and what only exists where the program will run."""
    if re.search(r"DATABASE__\w*URL$", key):
        return NO_DATABASE
    if key.endswith("LISTEN"):
        return "127.0.0.1:0"
    if key.endswith("_FILE"):
        return str(certificates / region / Path(value).name)
    if value in ("", "CHANGE_ME"):
        return next(filling for end, filling in FILLED_IN.items() if key.endswith(end))
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def problem(place: str, program: str, settings: dict[str, str], *arguments: str) -> str | None:
    region = next(value for key, value in settings.items() if key.endswith("_REGION__NAME"))
    env = {key: as_started_here(key, str(value), region) for key, value in settings.items() if value is not None}
    try:
        run = subprocess.run([programs / program, *arguments], env=env | {"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=5)
    except subprocess.TimeoutExpired:
        return None  # it serves, or waits for its database
    said = (run.stderr.strip() or run.stdout.strip() or "ended without a word").splitlines()[-1]
    expected = run.returncode != 0 and "configuration" not in said and " missing" not in said and re.search(r"database|postgres|connect|pool", said, re.I)
    return None if expected else f"{place}: {said}"


def starts() -> list[tuple]:
    result = []
    image = {name: dict(re.findall(r"(\w+)=(\S+)", " ".join(rest for word, rest in stage if word == "ENV"))) for name, stage in dockerfile_stages().items()}
    for name, service in load_yaml("deploy/compose/compose.yaml")["services"].items():
        for program in ("region-node", "global-sync"):
            if name.endswith(f"-{program}"):
                region = name.removesuffix(f"-{program}")
                result.append((f"compose: {name}", program, image[program] | env_file(secrets / region / f"{program}.env") | service["environment"]))
    for file, program, *arguments in (("region-node", "region-node"), ("edge", "region-node"), ("migrate", "region-node", "migrate"), ("global-sync", "global-sync")):
        settings = env_file(ROOT / f"deploy/systemd/examples/{file}.env")
        if program == "global-sync":
            unit = (ROOT / "deploy/systemd/gocomet-global-sync@.service").read_text()
            settings |= dict(re.findall(r"(GLOBAL_SYNC_\w+)=%d/(\S+)", unit))
        result.append((f"systemd: {file}.env", program, settings, *arguments))
    for overlay in overlays:
        objects = [item for item in yaml.safe_load_all(overlay.read_text()) if item]
        maps = {item["metadata"]["name"]: item["data"] for item in objects if item["kind"] == "ConfigMap"}
        for item in (item for item in objects if item["kind"] in ("Deployment", "StatefulSet")):
            pod = item["spec"]["template"]["spec"]
            for container in pod["containers"] + pod.get("initContainers", []):
                program = container["image"].split("/")[1].split(":")[0]
                settings = dict(image[program])
                for source in container["envFrom"]:
                    settings |= maps[source["configMapRef"]["name"]] if "configMapRef" in source else SECRETS[source["secretRef"]["name"]]
                result.append((f"kubernetes: {overlay.stem} {container['name']}", program, settings, *container.get("args", [])))
    return result


found = Findings()
with ThreadPoolExecutor(4) as pool:
    for said in pool.map(lambda start: problem(*start), starts()):
        found.unless(said is None, str(said))
found.exit()
