"""Environment variables by which torch, Faiss, BLAS and oneDNN use the CPU well. Imports none.

OpenMP's threads meet at a barrier after every parallel loop. By default a thread that waits there
spins for milliseconds before it sleeps, which costs nothing on an idle machine. If another program
uses a core, one thread of the team waits for its turn while the others spin away the time that it
needs, and a training step with its hundreds of small loops takes tens of times as long. Spinning
for some microseconds only keeps the speed of an idle machine and shares a busy one
(`python -m loadtest.training.bench_threads`).

oneDNN compiles a 16-bit matrix product for each shape that it meets, and keeps 1,024 of them. The
batches of a training differ in length, so it meets more shapes, and would compile them over again.
"""

import os

SPINS = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
"""Environment variables of GCC's OpenMP (spins) and of LLVM's (milliseconds)."""
PRODUCTS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "4096"}
"""Environment variable of oneDNN: the number of products that it keeps."""


def set_up_libraries() -> None:
    """Bounds the spinning of libraries that are loaded afterwards, and has them keep products.

    That holds for child processes, too. Settings that the environment has already are kept.
    """
    chosen = PRODUCTS if "OMP_WAIT_POLICY" in os.environ else PRODUCTS | SPINS
    for name, value in chosen.items():
        os.environ.setdefault(name, value)
