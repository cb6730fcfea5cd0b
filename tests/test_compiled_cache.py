"""The cache of compiled loops where it cannot be written, as in an image: another user, a folder that is read-only."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numba
import pytest
from conftest import REPOSITORY

from consumers.warm import LEAST, least_model
from pipeline.schema import parse_schema

# Root may write everywhere; nobody may not.
NOBODY = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}


@pytest.fixture
def folder():
    """A folder that everybody may read, which pytest's are not."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def filled(folder):
    """A cache that has everything, and that nobody may write."""
    run([], NUMBA_CACHE_DIR=os.environ.get("NUMBA_CACHE_DIR", ""))
    (ours,) = {Path(numba.config.CACHE_DIR)}
    shutil.copytree(ours, folder / "cache" / ours.name)
    for path in (folder / "cache").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder / "cache"
    for path in (folder / "cache").rglob("*"):
        path.chmod(0o755)


def run(interpreter, **environment):
    """Warm up as an image's build does; return what numba said of its cache."""
    given = {name: value for name, value in environment.items() if value}
    kept = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": str(REPOSITORY)}
    line = [sys.executable, *interpreter, "-m", "consumers.warm"]
    user = NOBODY if "TMPDIR" in given else {}
    return subprocess.run(line, cwd="/", env=kept | given, capture_output=True, text=True, timeout=300, **user)


def test_a_cache_that_cannot_be_written_is_used_and_its_copy_is_gone_afterwards(filled, folder):
    temporary = folder / "tmp"
    temporary.mkdir()
    temporary.chmod(0o777)
    if NOBODY and subprocess.run([sys.executable, "-c", "import pipeline"], cwd=REPOSITORY, **NOBODY).returncode:
        pytest.skip("this is run by root in a folder that nobody else may read")
    done = run([], NUMBA_CACHE_DIR=str(filled), NUMBA_DEBUG_CACHE="1", TMPDIR=str(temporary), HOME="/nowhere")
    assert done.returncode == 0, done.stderr
    loaded = re.findall(r"data loaded from '(.+?)'", done.stdout)
    assert loaded and all(path.startswith(str(temporary)) for path in loaded)
    assert "saved" not in done.stdout
    assert list(temporary.iterdir()) == []


def test_where_nothing_can_be_written_the_loops_are_compiled():
    code = "import pipeline.compiled as c; print(c._jit.__name__, c._folder)"
    line = [sys.executable, "-c", code]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "NUMBA_CACHE_DIR": "/proc/nowhere"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "None"


def test_the_least_model_scores():
    model = least_model(parse_schema(LEAST, "test"))
    assert model.multiply_adds > 0
    assert len(model.version) == 12
