"""The CPU time of a refusal beside that of an answer, each measured by itself.

Answers: a load that keeps the engine busy. Refusals: a load on a service whose engine is stopped,
so that all recalls beyond the first few are refused and nothing else is done.
"""

import signal
from collections.abc import Iterator
from pathlib import Path

from loadtest.reliability.instance import fill, running, users
from loadtest.reliability.report import Bar, Figures
from loadtest.serving.generator import Load, closed_loop
from loadtest.serving.load_figures import posts
from loadtest.serving.servers import ENGINE, FRONT_END, cpu_seconds, redis_server

CLIENTS = 128  # of which those that are accepted wait until the end
PATIENT = ("--engine-patience-ms", "60000", "--deadline-ms", "60000", "--queue-limit", "1")
SHARE = 0.1


def measure(artifacts: Path, seconds: float) -> Figures:
    """Returns the CPU time in ms of an answer and of a refusal."""
    questions = posts([{"user_id": user, "k": 10, "interests": 4} for user in users()])

    def load(port: int) -> Load:
        return closed_loop(port, questions, CLIENTS, seconds, patience_s=0.1)

    with redis_server() as store:
        fill(store)
        with running(artifacts, store) as instance:
            load(instance.port)
            before = cpu_seconds(instance.process)
            answers = load(instance.port).statuses[200]
            answer_s = (cpu_seconds(instance.process) - before) / answers
        with running(artifacts, store, *PATIENT) as instance:
            (engine,), (front_end,) = instance.children(ENGINE), instance.children(FRONT_END)
            engine.send_signal(signal.SIGSTOP)
            load(instance.port)  # its own recalls are abandoned, those of the next load wait
            before = cpu_seconds(front_end)
            refusals = load(instance.port).statuses[429]
            refusal_s = (cpu_seconds(front_end) - before) / refusals
            engine.send_signal(signal.SIGCONT)
    return {
        "answer_cpu_ms": answer_s * 1000,
        "refusal_cpu_ms": refusal_s * 1000,
        "answers": answers,
        "refusals": refusals,
    }


def bars(figures: Figures) -> Iterator[Bar]:
    """Yields what a refusal may cost."""
    answer, refusal = figures["answer_cpu_ms"], figures["refusal_cpu_ms"]
    yield Bar(
        "CPU time of a refusal",
        f"{refusal:.3f} ms, {refusal / answer:.3f} x the {answer:.2f} ms of an answer",
        f"≤ {SHARE:g} x",
        refusal <= SHARE * answer,
    )
