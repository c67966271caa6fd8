"""Loops over single users and items, as machine code.

numba compiles a function when it is first called, a second or less for each of ours, and again for
arguments of other types: so they are called with arrays of one type and layout only. What was
compiled is kept on disk, see `index.kernels.code_cache`.
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
    """Compile it; it lets other threads run. Sums may be taken in any order."""
    dispatcher: Any = _compiled(function)
    # As `cache=True` does, but that takes one folder for all programs of the process.
    dispatcher._cache = LoopCache(function)
    return cast(Function, dispatcher)


def inner(function: Function) -> Function:
    """Compile it for compiled functions only, without what Python would call it by.

    Its machine code becomes a part of its callers', so it has no place on disk of its own.
    """
    return _compiled(function, no_cpython_wrapper=True)


def pasted(function: Function) -> Function:
    """`inner`, as a part of its caller, for what has one or two: optimised once then, not twice."""
    return _compiled(function, no_cpython_wrapper=True, inline="always")


def _compiled(function: Function, **how: Any) -> Function:
    njit: Any = numba.njit  # the stubs do not know all it takes
    any_order = {"reassoc", "contract", "nsz"}
    compile_it = njit(
        nogil=True, error_model="numpy", fastmath=any_order, no_cfunc_wrapper=True, **how
    )
    return cast(Function, compile_it(function))
