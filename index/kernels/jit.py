"""Decorators that turn loops over single queries, items and components into machine code.

numba compiles a function when it is first called, which takes a second or more for each of ours,
and compiles it again for arguments of other types. Compiled functions are therefore always called
with arrays of the same types and memory layout. `index.kernels.code_cache` keeps the machine code
on disk.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

from index.kernels.code_cache import LoopCache

Integer = int | np.integer[Any]
Real = float | np.floating[Any]
Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compiles a function that Python calls. Other threads run meanwhile."""
    dispatcher: Any = _compiled(function)
    # As `cache=True` does, but that has one folder for all programs of the user.
    dispatcher._cache = LoopCache(function)
    return cast(Function, dispatcher)


def inner(function: Function) -> Function:
    """Compiles a function that only compiled functions call: it needs no wrapper for Python.

    Its machine code becomes a part of its callers', so it is not kept on disk by itself.
    """
    return _compiled(function, no_cpython_wrapper=True)


def inlined(function: Function) -> Function:
    """As `inner`, but copied into each caller before that is optimised.

    This saves compile time if there are only one or two callers: LLVM inlines such a function
    anyway, and would otherwise optimise it twice.
    """
    return _compiled(function, no_cpython_wrapper=True, inline="always")


def _compiled(function: Function, **options: Any) -> Function:
    """Compiles with floating-point sums in any order, so that loops become vector instructions."""
    njit: Any = numba.njit  # its type hints lack some options
    any_order = {"reassoc", "contract", "nsz"}
    decorate = njit(
        nogil=True, error_model="numpy", fastmath=any_order, no_cfunc_wrapper=True, **options
    )
    return cast(Function, decorate(function))
