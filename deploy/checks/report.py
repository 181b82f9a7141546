"""What the checks share: findings are printed one a line and make the exit code."""

import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


class Findings:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def unless(self, condition: object, message: str) -> None:
        if not condition:
            self.lines.append(message)

    def exit(self) -> None:
        for line in self.lines:
            print(line)
        sys.exit(1 if self.lines else 0)


def read(path: str) -> str:
    return (ROOT / path).read_text()


def load_yaml(path: str) -> dict:
    return yaml.safe_load(read(path))


def dockerfile_stages() -> dict[str, list[tuple[str, str]]]:
    """The Dockerfile's stages by name, each with its instructions, continued lines joined."""
    stages: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    text = re.sub(r"\\\n\s*", " ", re.sub(r"(?m)^\s*#.*\n", "", read("deploy/container/Dockerfile")))
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = re.sub(r"\s+as\s+", " AS ", rest, flags=re.I).partition(" AS ")
            current = stages.setdefault(name or base, [])
        current.append((word, rest))
    return stages
