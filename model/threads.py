"""How the threads of torch, Faiss and BLAS wait for each other. Imports none of them.

OpenMP's threads meet at a barrier after every parallel loop. By default a thread that waits there
spins for milliseconds before it sleeps, which costs nothing on an idle machine. If another program
uses a core, one thread of the team waits for its turn while the others spin away the time that it
needs, and a training step with its hundreds of small loops takes tens of times as long. Spinning
for some microseconds only keeps the speed of an idle machine and shares a busy one
(`python -m loadtest.training.bench_threads`).
"""

import os

SPINS = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
"""Environment variables of GCC's OpenMP (spins) and of LLVM's (milliseconds)."""


def limit_spinning() -> None:
    """Bounds the spinning of OpenMP libraries that are loaded afterwards, and by child processes.

    Settings that the environment has already are kept.
    """
    if "OMP_WAIT_POLICY" in os.environ:
        return
    for name, value in SPINS.items():
        os.environ.setdefault(name, value)
