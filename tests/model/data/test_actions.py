"""Actions of events, from a column of types or of ratings."""

from pathlib import Path

import numpy as np
import pytest
from preparing import run, write

from model.data.dataset import Dataset

RATED = "user,item,time,rating\na,x,3,4.5\na,y,1,3\na,z,2,\nb,x,1,5\nb,y,2,nan\n"


def actions(dataset: Dataset) -> dict[str, list[str | None]]:
    assert dataset.actions is not None
    names = [*dataset.action_names, None]  # -1 is the last
    of_user = zip(dataset.user_ids, dataset.offsets[:-1], dataset.offsets[1:], strict=True)
    return {u: [names[code] for code in dataset.actions[a:b]] for u, a, b in of_user}


def test_ratings_become_likes_and_dislikes(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", RATED)
    _, dataset = run(log, action_column="rating", like_from=4)
    assert dataset.action_names == ("dislike", "like")
    assert actions(dataset) == {"a": ["dislike", None, "like"], "b": ["like", None]}
    part = dataset.of_users(np.array([1]))
    assert actions(part) == {"b": ["like", None]}
    assert run(log, overwrite=True)[1].actions is None


def test_types_are_actions(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user,item,time,type\na,x,1,click\na,y,2, buy \na,z,3,\n")
    _, dataset = run(log, action_column="type")
    assert dataset.action_names == ("buy", "click")
    assert actions(dataset) == {"a": ["click", "buy", None]}
    with pytest.raises(ValueError, match="buy, click, not 'like'"):
        dataset.action_code("like")


def test_what_is_no_action_is_refused(tmp_path: Path) -> None:
    rows = "".join(f"a,{item},{item},{item}.5\n" for item in range(17))
    log = write(tmp_path / "log.csv", "user,item,time,rating\n" + rows)
    with pytest.raises(ValueError, match=r"17 different values.*--like-from"):
        run(log, action_column="rating")
    with pytest.raises(ValueError, match="no column 'stars'"):
        run(log, action_column="stars")
    with pytest.raises(ValueError, match="--like-from reads ratings"):
        run(log, like_from=4)
    empty = write(tmp_path / "empty.csv", "user,item,time,rating\na,x,1,\n")
    with pytest.raises(ValueError, match="no value in any row"):
        run(empty, action_column="rating")
    lines = write(tmp_path / "log.txt", "7 3 1 3\n")
    with pytest.raises(ValueError, match="--action-column"):
        run(lines, action_column="rating")
