"""Loops over single users and items, as machine code.

numba compiles a function when it is first called, a second or less for each of ours, and again for
arguments of other types: so they are called with arrays of one type and layout only. Nothing is
kept on disk, because numba keeps it in pickles.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

Integer = int | np.integer[Any]
Real = float | np.floating[Any]
Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile it; it lets other threads run. Sums may be taken in any order."""
    any_order = {"reassoc", "contract", "nsz"}
    compile_it = numba.njit(nogil=True, error_model="numpy", fastmath=any_order)
    return cast(Function, compile_it(function))
