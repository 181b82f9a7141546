"""Every setting named in deploy/ and terraform/ is one its program knows: a misspelt variable is ignored without a word."""

import re

from report import ROOT, Findings

PROGRAMS = {"REGION_NODE_": "region-node/config.default.toml", "GLOBAL_SYNC_": "global-sync/config.default.toml"}
SUFFIXES = {".yaml", ".yml", ".env", ".service", ".sh", ".tf", ".hcl", ".md", ""}
SETTING = re.compile(r"\b((?:REGION_NODE|GLOBAL_SYNC)_(?:ROLE|[A-Z]+__[A-Z0-9_]+))\b")


def known(prefix: str, text: str) -> set[str]:
    """Keys of the file, those that stand there as a comment because they have no default included."""
    names, section = set(), ""
    for line in text.splitlines():
        if header := re.match(r"(?:# )?\[([a-z_.]+)\]", line):
            section = header[1].replace(".", "__").upper() + "__"
        elif key := re.match(r"(?:# )?([a-z][a-z0-9_]*) = ", line):
            names.add(prefix + section + key[1].upper())
    return names


found = Findings()
files = [path for folder in ("deploy", "terraform") for path in (ROOT / folder).rglob("*")
         if path.is_file() and path.suffix in SUFFIXES and "deploy/local/" not in str(path) and ".terraform" not in path.parts and "secrets" not in path.parts]
for prefix, defaults in PROGRAMS.items():
    if not (ROOT / defaults).exists():
        found.unless(False, f"{defaults} does not exist")
        continue
    names = known(prefix, (ROOT / defaults).read_text())
    for path in files:
        for setting in SETTING.findall(path.read_text(errors="replace")):
            if setting.startswith(prefix):
                found.unless(setting in names, f"{path.relative_to(ROOT)}: {setting} is not in {defaults}")
found.lines = sorted(set(found.lines))
found.exit()
