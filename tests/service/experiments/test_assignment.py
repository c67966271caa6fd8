"""The file of experiments, and who gets which arm."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from scipy.stats import chisquare

from service.experiments.assignment import Assigner
from service.experiments.config import Experiments, read_experiments

USERS = [f"user-{number}" for number in range(20_000)]
TWO_ARMS = {"one": {"recall": {"interests": 1}}, "four": {"recall": {"interests": 4}, "weight": 3}}


def assigner(**experiments: object) -> Assigner:
    return Assigner(Experiments.model_validate(experiments))


def arms(found: Assigner, name: str) -> dict[str, str]:
    return {user: one.arm for user in USERS for one in found.assign(user) if one.experiment == name}


def test_users_are_split_by_weight() -> None:
    counts = Counter(arms(assigner(interests={"arms": TWO_ARMS}), "interests").values())
    assert chisquare([counts["one"], counts["four"]], [5000, 15_000]).pvalue > 0.001


def test_an_arm_carries_its_settings() -> None:
    found = assigner(interests={"arms": TWO_ARMS})
    settings = {one.arm: one.settings.recall for u in USERS[:50] for one in found.assign(u)}
    assert settings == {"one": {"interests": 1}, "four": {"interests": 4}}


def test_the_arm_is_the_same_in_another_process() -> None:
    """Python's own hash of a string differs from process to process."""
    code = (
        "from service.experiments.assignment import Assigner\n"
        "from service.experiments.config import Experiments\n"
        "found = Assigner(Experiments({'e': {'arms': {'a': {}, 'b': {}}}}))\n"
        "print(''.join(found.assign(f'user-{n}')[0].arm for n in range(200)))"
    )
    outputs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
        for _ in range(2)
    }
    assert len(outputs) == 1
    (text,) = outputs
    assert 60 < text.count(b"a") < 140


def test_experiments_of_one_layer_share_no_user() -> None:
    two = {"a": {}, "b": {}}
    found = assigner(
        first={"slice": [0.0, 0.3], "arms": two}, second={"slice": [0.3, 1.0], "arms": two}
    )
    first, second = arms(found, "first").keys(), arms(found, "second").keys()
    assert not first & second
    assert chisquare([len(first), len(second)], [6000, 14_000]).pvalue > 0.001


def test_layers_and_experiments_are_independent() -> None:
    two = {"a": {}, "b": {}}
    found = assigner(ranker={"layer": "rank", "arms": two}, interests={"arms": two})
    one, other = arms(found, "ranker"), arms(found, "interests")
    together = Counter((one[user], other[user]) for user in USERS)
    assert chisquare(list(together.values())).pvalue > 0.001


def test_another_salt_is_another_split() -> None:
    two = {"a": {}, "b": {}}
    before = arms(assigner(e={"arms": two}), "e")
    after = arms(assigner(e={"arms": two, "salt": "again"}), "e")
    changed = sum(before[user] != after[user] for user in USERS)
    assert chisquare([changed, len(USERS) - changed]).pvalue > 0.001


def test_a_part_of_the_users_is_held_out() -> None:
    found = assigner(e={"slice": [0.0, 0.25], "arms": {"a": {}, "b": {}}})
    inside = len(arms(found, "e"))
    assert chisquare([inside, len(USERS) - inside], [5000, 15_000]).pvalue > 0.001


def test_a_user_may_have_a_fixed_arm_outside_of_the_slice() -> None:
    found = assigner(
        e={"slice": [0.0, 0.001], "users": {"qa": "four"}, "arms": TWO_ARMS},
    )
    assert [one.arm for one in found.assign("qa")] == ["four"]


def test_a_user_with_a_fixed_arm_is_in_no_other_experiment_of_the_layer() -> None:
    two = {"a": {}, "b": {}}
    found = assigner(
        one={"slice": [0.0, 0.5], "users": dict.fromkeys(USERS[:50], "a"), "arms": two},
        other={"slice": [0.5, 1.0], "arms": two},
        elsewhere={"layer": "elsewhere", "arms": two},
    )
    for user in USERS[:50]:
        assert [one.experiment for one in found.assign(user)] == ["one", "elsewhere"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[e.arms.interleaved]\n[e.arms.b]\n", "interleaved names drafts of two arms"),
        (
            "[e]\nslice=[0.0, 0.5]\nusers = { qa = 'a' }\n[e.arms.a]\n[e.arms.b]\n"
            "[f]\nslice=[0.5, 1.0]\nusers = { qa = 'a' }\n[f.arms.a]\n[f.arms.b]\n",
            "e and f fix arms of the same user in the layer default",
        ),
        ("[e.arms.a]\n", "e.arms: Dictionary should have at least 2 items"),
        ("[e.arms.a]\n[e.arms.b]\nheft = 2\n", "e.arms.b.heft: Extra inputs"),
        ("[e.arms.a]\n[e.arms.b]\nweight = 0\n", "e.arms.b.weight: Input should be greater than 0"),
        ("[e]\nslice = [0.5, 0.2]\n[e.arms.a]\n[e.arms.b]\n", "holds no user"),
        ("[e]\nusers = { x = 'c' }\n[e.arms.a]\n[e.arms.b]\n", "c is no arm; the arms are a, b"),
        (
            "[e]\nslice=[0.0, 0.6]\n[e.arms.a]\n[e.arms.b]\n"
            "[f]\nslice=[0.5, 1.0]\n[f.arms.a]\n[f.arms.b]\n",
            "e and f share users of the layer default",
        ),
        ("[e.arms.a\n", "is not TOML"),
        ("[e.arms.a]\nversion='v'\n[e.arms.b]\n", "b names no version, and others do"),
        ("[e.arms.a]\nversion='../v'\n[e.arms.b]\nversion='v'\n", "e.arms.a.version: String"),
        (
            "".join(f"[e.arms.a{n}]\nversion='v{n}'\n" for n in range(5)),
            "arms name 5 versions, and 4 are allowed",
        ),
        (
            "[e]\nlayer='x'\n[e.arms.a]\nversion='v'\n[e.arms.b]\nversion='w'\n"
            "[f]\nlayer='y'\n[f.arms.a]\nversion='v'\n[f.arms.b]\nversion='v'\n",
            "arms name versions in the layers x and y",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_the_key(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "experiments.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=problem):
        read_experiments(file)


def test_the_first_arm_is_the_control(tmp_path: Path) -> None:
    file = tmp_path / "experiments.toml"
    file.write_text("[e.arms.z]\n[e.arms.a]\nweight = 2\n")
    assert read_experiments(file).root["e"].control == "z"


def test_versions_that_arms_name_are_known() -> None:
    arms = {"a": {"version": "v1"}, "b": {"version": "v2"}}
    found = Experiments.model_validate(
        {"one": {"arms": arms, "slice": [0, 0.5]}, "two": {"arms": arms, "slice": [0.5, 1]}}
    )
    assert found.versions == {"v1", "v2"}
