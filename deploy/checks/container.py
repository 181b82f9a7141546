"""The Dockerfile beside what it reads: a file that .dockerignore keeps out, or that does not exist, fails a build after minutes.

container.py             checks the files
container.py copy DIR    copies what an image builder would be given
"""

import fnmatch
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from report import ROOT, Findings, dockerfile_stages, read

# What cargo needs of the workspace besides its members; the query data is there once `make sqlx` has run.
BUILD_INPUTS = ["Cargo.toml", "Cargo.lock", "migrations", "region-node/src", "global-sync/src", "shared/src"]
BUILD_INPUTS_IF_PRESENT = [".sqlx", ".cargo/config.toml", "rust-toolchain.toml", "deploy/sql/roles.sql", "region-node/config.default.toml", "global-sync/config.default.toml"]
ONE_SHOT = {"certificates"}


def matches(pattern: str, path: str) -> bool:
    """Docker's rule: a pattern matches a path or any folder above it; **/ stands for any depth."""
    parts = path.split("/")
    above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    if pattern.startswith("**/"):
        return any(fnmatch.fnmatchcase(part, pattern[3:]) for part in parts)
    depth = pattern.count("/") + 1
    return any(fnmatch.fnmatchcase(folder, pattern) for folder in above if folder.count("/") + 1 == depth)


def ignored(path: str, patterns: list[str]) -> bool:
    result = False
    for pattern in patterns:
        if matches(pattern.removeprefix("!"), path):
            result = not pattern.startswith("!")
    return result


def copy_context(to: Path, patterns: list[str]) -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for path in filter(None, tracked.split("\0")):
        if not ignored(path, patterns) and (ROOT / path).is_file():
            (to / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, to / path)


found = Findings()
patterns = [line.strip() for line in read(".dockerignore").splitlines() if line.strip() and not line.startswith("#")]
if sys.argv[1:2] == ["copy"]:
    copy_context(Path(sys.argv[2]), patterns)
    found.exit()
stages = dockerfile_stages()

needed = BUILD_INPUTS + [path for path in BUILD_INPUTS_IF_PRESENT if (ROOT / path).exists()]
for member in tomllib.loads(read("Cargo.toml"))["workspace"]["members"]:
    needed += [f"{member}/Cargo.toml", f"{member}/src"]
for name, instructions in stages.items():
    for word, rest in instructions:
        sources = [part for part in rest.split()[:-1] if not part.startswith("--")]
        if word == "COPY" and "--from=" not in rest:
            needed += [source.rstrip("/") for source in sources if source != "."]
for path in needed:
    found.unless((ROOT / path).exists(), f"{path}: the build reads it, but it does not exist")
    found.unless(not ignored(path, patterns), f"{path}: the build reads it, but .dockerignore keeps it out")
for path in (".git", "target", ".local", "region-node/web/node_modules", "region-node/web/dist", "deploy/compose/secrets"):
    found.unless(ignored(path, patterns), f"{path}: goes to the image builder; .dockerignore should keep it out")

for name, instructions in stages.items():
    words = {word: rest for word, rest in instructions}
    if "ENTRYPOINT" not in words:
        continue
    found.unless(words["FROM"].split()[0] == "runtime" or "USER" in words, f"stage {name}: runs as root")
    found.unless("HEALTHCHECK" in words or name in ONE_SHOT, f"stage {name}: has no HEALTHCHECK")
    found.unless(words["ENTRYPOINT"].startswith("["), f"stage {name}: a shell stands between the program and its signals")
found.unless(dict(stages["runtime"]).get("USER", "root").split(":")[0].isdigit(), "stage runtime: Kubernetes can verify only a numeric USER")
found.exit()
