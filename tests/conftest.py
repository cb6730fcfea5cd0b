"""Fixtures that several test modules use."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Machines differ and are busy: how long an example takes says nothing about whether it is right.
settings.register_profile("graphsieve", deadline=None)
settings.load_profile("graphsieve")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real data; a test that needs it skips where the folder is absent."""
    folder = Path(os.environ.get("GRAPHSIEVE_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "reviews").is_dir():
        pytest.skip(f"no real data at {folder}: set GRAPHSIEVE_DATA to the folder that holds reviews/ and networks/")
    return folder
