"""How the hot loops are compiled, and where the machine code is kept.

numba's own cache looks at the file of a function and not at what it calls or which constants it read from other
modules, so an upgrade could go on running old code. Here the folder's name is a digest of all compiled sources.

A cache that was filled beforehand and cannot be written, as in an image, is used all the same, by way of a copy.
"""

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.registry import CPUDispatcher

# The modules with compiled functions, and those whose constants they take up; a test holds the list to the imports.
SOURCES = (
    "compiled", "held", "instructions", "texts_kernel", "names_kernel", "operations", "graph_state", "fields_kernel",
    "columns_kernel", "logarithm", "graph_lists", "graph_names", "graph_kernel", "room", "lists", "cache", "transform",
    "stage_kernel", "layer_kernel", "whole_graph_kernel", "fit_kernel",
)  # fmt: skip


def _cache_folder() -> Path | None:
    """Return a folder for this version's machine code, None where none can be made."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    base = os.environ.get("NUMBA_CACHE_DIR") or Path(home) / "graphsieve" / "numba"
    folder = Path(base) / digest.hexdigest()[:12]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else _copied(folder)


def _copied(folder: Path) -> Path | None:
    """Return a copy of `folder` that lasts as long as this process, None where none can be made.

    numba refuses a folder that it cannot write, though all that it would write is there already.
    """
    try:
        copy = Path(tempfile.mkdtemp(prefix="graphsieve-"))
    except OSError:
        return None
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    try:
        for path in folder.rglob("*"):  # not by copytree, which would copy that folders cannot be written
            place = copy / path.relative_to(folder)
            if path.is_dir():
                place.mkdir()
            else:
                shutil.copyfile(path, place)
    except OSError:
        return None
    return copy


_numba: Any = numba  # its types know neither its settings nor `_nrt`
_folder = _cache_folder()
if _folder is not None:
    _numba.config.CACHE_DIR = str(_folder)


def cache_folder() -> Path | None:
    """Return where the machine code of this version is kept; None where no folder could be made."""
    return _folder


# No reference counts: nothing that is compiled here allocates, the caller holds every array, and counting all arrays of
# the graph's state at every call of a small function made the loop four times slower.
# Nor does a division look whether it is by zero, or no loop with one would take several numbers at a time.
_SETTINGS = {"cache": _folder is not None, "nogil": True, "error_model": "numpy", "_nrt": False}
# What is inlined lies in the code of who calls it. Ways to call it from Python were a third of all compiling.
_INLINED = _SETTINGS | {"cache": False, "forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_jit, _jit_inlined = _numba.njit(**_SETTINGS), _numba.njit(**_INLINED)

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile `function` at its first call, or take it from the cache."""
    jitted: F = _jit(function)
    return jitted


class _OnlyInlined(CPUDispatcher):
    def __call__(self, *_args: Any, **_names: Any) -> Any:
        raise TypeError(f"{self.py_func.__name__} is compiled into who calls it, and cannot be called from Python")


def inlined(function: F) -> F:
    """Compile `function` into whoever calls it, which is compiled code; Python cannot.

    For what an event needs: arrays are passed by value, so that each call with the graph's state and the rules pushed
    some 250 words. Where the compiler was to judge, that was a third of the time of stages A and C.
    """
    jitted: Any = _jit_inlined(function)
    if isinstance(jitted, CPUDispatcher):  # not where numba is switched off
        jitted.__class__ = _OnlyInlined
    return cast(F, jitted)


def kind_of(value: Any) -> Any:
    """Return its type, which compiled code can be given as an argument."""
    return _numba.typeof(value)


def is_plain(array: Any, dtype: Any) -> bool:
    """Is the array of that type, and without gaps? Of others `direct` would read the bytes as if they were."""
    plain: bool = array.dtype == dtype and array.flags.c_contiguous
    return plain


def direct(function: F) -> F:
    """Return a way to call a compiled function that takes the types of its arguments for granted after the first call.

    numba looks up the type of every argument at every call: 14 us for the sixty arrays of the graph's loop, where
    passing them takes 1. Only for callers whose arguments have the very same types each time, for a wrong one is no
    error then: its bytes are read as if it were right.
    """
    entry: Callable[..., Any] | None = None

    def call(*args: Any) -> Any:
        nonlocal entry
        if entry is not None:
            return entry(*args)
        done = function(*args)
        compiled_for: dict[Any, Any] = getattr(function, "overloads", {})  # none where numba is switched off
        found = compiled_for.get(tuple(map(kind_of, args)))
        entry = found.entry_point if found else None
        return done

    return cast(F, call)
