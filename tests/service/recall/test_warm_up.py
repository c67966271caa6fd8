"""After the warm-up nothing is compiled: that takes seconds, and an engine that hangs is killed."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from numba.core.dispatcher import Dispatcher

from service.recall.filters.item_filters import EVERYTHING, NOTHING
from service.recall.recaller import Recaller
from service.recall.types import Query
from service.recall.variety.form import Variety, packed

FILTERS = (None, EVERYTHING, NOTHING)
RULES = (
    None,
    packed(Variety(diversity=0.5)),
    packed(Variety(fresh=EVERYTHING, fresh_share=0.5)),
    packed(Variety(diversity=0.5, fresh=NOTHING, fresh_share=0.2)),
)


def test_no_recall_compiles_after_the_warm_up(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can find more if it is the first test of its process."""
    recaller = Recaller.load(artifacts, "cpu")
    recaller.warm_up()
    compiled: list[str] = []

    def compile(dispatcher: Any, signature: Any) -> Any:
        compiled.append(f"{dispatcher.py_func.__module__}.{dispatcher.py_func.__qualname__}")
        return original(dispatcher, signature)

    original = Dispatcher.compile
    monkeypatch.setattr(Dispatcher, "compile", compile)
    for form, rules, history in itertools.product(FILTERS, RULES, ([], ["i1", "i2"])):
        for size in (1, 3):
            recaller.recall_json([Query("", history, k=4, filter=form, variety=rules)] * size)
    assert not compiled
