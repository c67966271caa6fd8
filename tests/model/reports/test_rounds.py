"""Two rounds of recall, of a recall that knows how a world of walks goes on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from preparing import run as prepared

from cli.main import main
from model.data.dataset import Dataset, IntArray
from model.evaluation.config import ProtocolConfig
from model.evaluation.metrics import Histories
from model.evaluation.protocols import Split, splits
from model.reports.rounds import FEEDBACK, ITEMS, NOTHING, SHUFFLED, compare_rounds
from model.reports.variants import format_variants

CATALOGUE, USERS, EVENTS, SET = 1009, 200, 9, 3
STEPS = {"like": 1, "dislike": 37}
"""The step to the next item, by what the user did with the item before it."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("rounds") / "log"
    rng = np.random.default_rng(0)
    lines = ["user,item,time,action"]
    for user in range(USERS):
        item = int(rng.integers(CATALOGUE))
        for time in range(EVENTS):
            action = "like" if rng.random() < 0.5 else "dislike"
            lines.append(f"{user},{item},{time},{action}")
            item = (item + STEPS[action]) % CATALOGUE
    folder.mkdir()
    (folder / "log.csv").write_text("\n".join(lines))
    _, dataset = prepared(folder / "log.csv", out=folder.parent / "data", action_column="action")
    return dataset


@pytest.fixture(scope="module")
def test_split(world: Dataset) -> Split:
    return splits(world, ProtocolConfig(split="next-set", targets=str(SET))).test


class OneStep:
    """Recalls one item: the next one by the last action, or as after a like if it is not told."""

    def __init__(self, world: Dataset) -> None:
        self.number = {int(item): row for row, item in enumerate(world.item_ids)}
        self.item = [int(item) for item in world.item_ids]
        self.step = {world.action_code(name): step for name, step in STEPS.items()}

    def __call__(
        self, histories: Sequence[IntArray], users_B: IntArray, ks: Sequence[int]
    ) -> list[IntArray]:
        assert isinstance(histories, Histories)
        assert histories.actions is not None
        rows = []
        for history, actions in zip(histories, histories.actions, strict=True):
            step = self.step.get(int(actions[-1]), STEPS["like"])
            rows.append(self.number.get((self.item[history[-1]] + step) % CATALOGUE, -1))
        return [np.array(rows)[:, None] for _ in ks]


def test_the_second_list_is_made_of_what_the_user_did_with_the_first(
    world: Dataset, test_split: Split
) -> None:
    found = compare_rounds(OneStep(world), world, test_split, "like", shown=1)
    like = world.action_code("like")
    assert world.actions is not None
    starts = np.asarray(world.offsets)[test_split.users] + test_split.lengths
    liked_NS = world.actions[starts[:, None] + np.arange(SET)] == like
    for group, wanted_NS in (("like", liked_NS), ("not like", ~liked_NS)):
        missed_NS = wanted_NS[:, 1:]  # the first list holds the first target
        with_one = missed_NS.any(axis=1)
        shares = missed_NS[with_one, 0] / missed_NS[with_one].sum(axis=1)
        figures = found[group]["variants"]
        values = {name: row["recall@10"]["value"] for name, row in figures.items()}
        assert found[group]["cases"] == with_one.sum()
        assert values[FEEDBACK] == pytest.approx(shares.mean())
        assert values[ITEMS] == pytest.approx((shares * liked_NS[with_one, 0]).mean())
        assert values[ITEMS] < values[FEEDBACK]
        assert values[SHUFFLED] < 0.8 * values[FEEDBACK]
        assert values[NOTHING] == 0  # the one item that it knows was met
        assert figures[FEEDBACK]["recall@10"]["low"] > 0
        assert "relative" not in figures[ITEMS]["recall@10"]
    assert "test cases (not like)" in format_variants(found)


def test_a_first_list_without_a_target_is_refused(world: Dataset, test_split: Split) -> None:
    def nothing(
        histories: Sequence[IntArray], users_B: IntArray, ks: Sequence[int]
    ) -> list[IntArray]:
        return [np.full((len(histories), k), -1) for k in ks]

    with pytest.raises(ValueError, match="no list of 5 holds a target"):
        compare_rounds(nothing, world, test_split, "like", shown=5)


def test_the_command_measures_a_run_that_reads_feedback(
    world: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = next(path for path in (tmp_path.parent).glob("rounds*/data"))
    train = ["train", "--data", str(data), "--device", "cpu", "--pretrain.epochs", "0"]
    train += ["--model.dim", "8", "--model.feed-forward", "8", "--recall.interests", "1"]
    sets = ["--protocol.split", "next-set", "--protocol.targets", "3"]
    run = str(tmp_path / "run")
    reads = ["--model.feedback", "outcome", "--recall.outcome", "like"]
    main([*train, "--out", run, *reads, *sets])
    out = tmp_path / "rounds.json"
    main(["evaluate", "rounds", "--run-dir", run, "--shown", "300", "--out", str(out)])
    assert FEEDBACK in capsys.readouterr().out
    assert out.exists()
    seen = str(tmp_path / "seen")
    main([*train, "--out", seen, *reads])
    with pytest.raises(SystemExit):
        main(["evaluate", "rounds", "--run-dir", seen, *sets])
    assert "was trained on test events" in capsys.readouterr().err
    blind = str(tmp_path / "blind")
    main([*train, "--out", blind, *sets])
    with pytest.raises(SystemExit):
        main(["evaluate", "rounds", "--run-dir", blind])
    assert "needs a network that reads feedback" in capsys.readouterr().err
