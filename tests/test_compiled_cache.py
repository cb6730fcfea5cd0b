"""The cache of compiled loops where it cannot be written, as in an image whose root is read-only."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from consumers.service import warm_up
from consumers.warm import LEAST, least_model
from pipeline.compiled import cache_folder
from pipeline.schema import parse_schema

MODEL = least_model(parse_schema(LEAST, "test"))
# Root may write whatever the permissions say, unless it lets go of that.
OBEYING = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []


@pytest.fixture
def filled(tmp_path):
    """A cache that has everything, and that nobody may write."""
    warm_up(MODEL)
    ours = cache_folder()  # not what numba says, which reads its settings again where the environment has changed
    cache = tmp_path / "cache"
    shutil.copytree(ours, cache / ours.name)
    for path in [cache, *cache.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield cache
    for path in [cache, *cache.rglob("*")]:
        path.chmod(0o755)


def run(code: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run Python with a home that is not there, and `folder` for temporary files."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "HOME": "/nowhere", "TMPDIR": str(folder)}
    line = [*OBEYING, sys.executable, "-B", *code]
    return subprocess.run(line, env=environment | variables, capture_output=True, text=True)


def test_a_cache_that_cannot_be_written_is_used_and_its_copy_is_gone_afterwards(filled, tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = run(["-m", "consumers.warm"], temporary, NUMBA_CACHE_DIR=str(filled), NUMBA_DEBUG_CACHE="1")
    assert done.returncode == 0, done.stderr
    loaded = re.findall(r"data loaded from '(.+?)'", done.stdout)
    assert loaded and all(path.startswith(str(temporary)) for path in loaded)
    assert "saved" not in done.stdout
    assert list(temporary.iterdir()) == []


def test_where_no_folder_can_be_made_there_is_no_cache_and_no_error(tmp_path):
    done = run(["-c", "import pipeline.compiled as c; print(c._folder)"], tmp_path, NUMBA_CACHE_DIR="/proc/nowhere")
    assert (done.stdout, done.stderr) == ("None\n", "")
