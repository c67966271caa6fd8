from pathlib import Path

import pytest

from service.history.event_types import DEFAULT_TYPES, load_event_types


def write(folder: Path, text: str) -> Path:
    file = folder / "types.toml"
    file.write_text(text)
    return file


def test_the_default_table() -> None:
    assert load_event_types(None) is DEFAULT_TYPES
    plain = {name for name, kind in DEFAULT_TYPES.by_name.items() if kind.is_plain}
    assert plain == {"click", "view", "purchase", "like", "custom"}
    stored = {name for name, kind in DEFAULT_TYPES.by_name.items() if kind.is_stored}
    assert stored == plain | {"dislike", "skip"}
    assert not DEFAULT_TYPES.has_offers
    assert DEFAULT_TYPES.of("never_heard_of") == DEFAULT_TYPES.of("custom")


def test_a_file_changes_some_fields_and_adds_types(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        [skip]
        exclude_days = 7
        [custom]
        weight = 0.1
        [dismiss]
        history = false
        exclude_days = inf
        [impression]
        offer = true
        """,
    )
    types = load_event_types(file)
    assert types.of("skip") == DEFAULT_TYPES.of("skip").model_copy(update={"exclude_days": 7.0})
    assert types.of("like") == DEFAULT_TYPES.of("like")
    assert (types.of("dismiss").history, types.of("dismiss").weight) == (False, 0.1)
    assert types.of("other").weight == 0.1
    assert types.has_offers
    effects = {name: types.of(name).effect for name in ("click", "dismiss", "impression")}
    assert effects == {"click": "enters", "dismiss": "excludes", "impression": "offer"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[skip]\nexclude_days = 0", "skip.exclude_days: Input should be greater than 0"),
        ("[skip]\nexclude = 1", "skip.exclude: Extra inputs"),
        ("[like]\nweight = -1", "like.weight: "),
        ("[like]\nhistory = 'perhaps'", "like.history: "),
        ("['No Name']\n", "No Name"),
        ("[banner]\noffer = true", "banner: Value error, an offer needs history = false"),
        ("[skip]\noffer = true", "skip: Value error, an offer needs history = false"),
        ("like = 3", "like.no table: "),
        ("[like", "types.toml: "),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"--event-types: .*types\.toml") as refused:
        load_event_types(write(tmp_path, text))
    assert words in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        load_event_types(tmp_path / "none.toml")
