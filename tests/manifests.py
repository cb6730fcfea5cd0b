"""What tests of deploy/ share: its YAML, and its command lines as the command line itself understands them."""

import re
import shlex
import shutil
import subprocess
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY

from pipeline.options import parser

DEPLOY = REPOSITORY / "deploy"
Document = dict[str, Any]


def documents(path: Path) -> list[Document]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def built(folder: Path) -> list[Document]:
    """What kustomize makes of a folder; skips where there is none."""
    for program in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(program[0]):
            made = subprocess.run([*program, str(folder)], capture_output=True, text=True, check=False)
            assert made.returncode == 0, made.stderr
            return list(yaml.safe_load_all(made.stdout))
    pytest.skip("neither kustomize nor kubectl is here: the base's files alone are checked")


def arguments(words: list[str]) -> Namespace:
    """The arguments of a `graphsieve` command; fails if it does not know one of them."""
    try:
        return parser().parse_args(words)
    except SystemExit:
        pytest.fail(f"no such command: graphsieve {' '.join(words)}")


def commands_in(script: str) -> Iterator[list[str]]:
    """The words of every `graphsieve` command of a shell script."""
    for command in re.split(r"\|\||&&|\||\n", script):
        words = shlex.split(command)
        if words[:1] == ["graphsieve"]:
            yield words[1:]
