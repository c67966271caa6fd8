import os
from pathlib import Path

import pytest

from cli.config import Command, check_names, parse
from cli.main import all_options, command_class
from cli.sources import UsageError

PREPARE = ["--input", "log.csv", "--out", "data"]
SERVE = ["--artifacts", "a", "--store", "embedded:s"]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("RECGPT_")]:
        monkeypatch.delenv(name)


def command(name: str, words: list[str]) -> Command:
    """As `recgpt` does it: the names are checked first."""
    check_names(command_class(name), words, all_options)
    return parse(command_class(name), name, words)


def options_file(folder: Path, text: str) -> list[str]:
    file = folder / "options.toml"
    file.write_text(text, encoding="utf-8")
    return ["--config", str(file)]


def test_the_file_of_the_variable_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, file = options_file(tmp_path, "min_user_events = 9\nmin_item_events = 8\n")
    monkeypatch.setenv("RECGPT_CONFIG", file)
    found = command("data prepare", [*PREPARE, "--min-item-events", "7"])
    assert (found.min_user_events, found.min_item_events) == (9, 7)
    other = options_file(tmp_path / "..", "min_user_events = 6\n")
    assert command("data prepare", [*PREPARE, *other]).min_user_events == 6
    monkeypatch.setenv("RECGPT_CONFIG", "nowhere.toml")
    with pytest.raises(ValueError, match=r"RECGPT_CONFIG: there is no file nowhere\.toml"):
        command("data prepare", PREPARE)


def test_keys_of_a_file_may_have_dashes(tmp_path: Path) -> None:
    text = "hold-out-users = 0.5\n[pretrain]\nbatch-size = 3\n[model]\nfeed_forward = 4\n"
    words = ["--data", "d", "--out", "o", *options_file(tmp_path, text)]
    found = command("train", words)
    assert (found.hold_out_users, found.pretrain.batch_size) == (0.5, 3)
    assert found.model.feed_forward == 4


def test_kinds_of_attributes_come_from_flags_and_files(tmp_path: Path) -> None:
    flags = ["--item-kinds", "price=number,brand=category", "--item-kinds", "in-stock=flag"]
    kinds = {"price": "number", "brand": "category", "in-stock": "flag"}
    assert command("data prepare", [*PREPARE, *flags]).item_kinds == kinds
    text = '[item-kinds]\nin-stock = "flag"\n'  # the dash is part of the name in the data
    found = command("data prepare", [*PREPARE, *options_file(tmp_path, text)])
    assert found.item_kinds == {"in-stock": "flag"}
    with pytest.raises(UsageError, match=r"--item-kinds.*'number'"):
        command("data prepare", [*PREPARE, "--item-kinds", "price=numeric"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "min_item_event = 5",
            r"options\.toml: min_item_event is no option: did you mean min_",
        ),
        ("[pretrain]\nepoch = 5", r"pretrain\.epoch is no option: did you mean pretrain\.epochs"),
        ("zzz = 5", r"options\.toml: zzz is no option$"),
        ("[data.prepare]\nname = 'a'", r"options\.toml: data\.prepare is no option$"),
        ("[data]\nmin_user_event = 5", r"data\.min_user_event is no option: did you mean min_us"),
        ("a-b = 1\na_b = 2", r"options\.toml: a_b stands twice, with dashes and without"),
        ("config = 'other.toml'", "a file of options can't name another"),
    ],
)
def test_misspelt_keys_of_a_file_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        command("data prepare", [*PREPARE, *options_file(tmp_path, text)])


def test_options_of_other_commands_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RECGPT_STORE", "embedded:s")
    monkeypatch.setenv("RECGPT_MODEL__DIM", "8")
    command("data prepare", [*PREPARE, *options_file(tmp_path, "port = 1\n[model]\ndim = 2\n")])
    assert caplog.text == ""


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    words = [*PREPARE, *options_file(tmp_path, "\ufeffmin_user_events = 7\n")]
    assert command("data prepare", words).min_user_events == 7


@pytest.mark.parametrize("text", ["{epochs", "3"])
def test_a_group_of_options_that_is_no_object_is_named(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--data", "d", "--out", "o"]
    with pytest.raises(UsageError, match=r"^--pretrain: Input should be"):
        command("train", [*words, "--pretrain", text])
    monkeypatch.setenv("RECGPT_PRETRAIN", text)
    with pytest.raises(UsageError, match=r"^RECGPT_PRETRAIN: Input should be"):
        command("train", words)


def test_a_wrong_format_is_told_with_the_right_ones() -> None:
    with pytest.raises(UsageError) as error:
        command("data prepare", [*PREPARE, "--format", "CSV"])
    assert str(error.value).startswith("--format: Input should be 'auto', 'csv', 'tsv'")


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--config: .*options\.toml is no TOML file"):
        command("data prepare", [*PREPARE, *options_file(tmp_path, "min_user_events: 5")])
    (tmp_path / "options.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(ValueError, match=r"options\.toml is no TOML file"):
        command("data prepare", [*PREPARE, "--config", str(tmp_path / "options.toml")])


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("RECGPT_HTTP_WORKER", "3", "no option: did you mean RECGPT_HTTP_WORKERS?"),
        ("recgpt_http_worker", "3", "recgpt_http_worker is no option"),
        ("RECGPT_PRETRAIN__EPOCH", "3", "no option: did you mean RECGPT_PRETRAIN__EPOCHS?"),
        ("RECGPT_PRETRAIN", '{"epoch": 3}', "no option: did you mean RECGPT_PRETRAIN__EPOCHS?"),
    ],
)
def test_misspelt_variables_are_told(
    variable: str,
    value: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(variable, value)
    command("serve", SERVE)
    assert message in caplog.text
    assert "it is ignored" in caplog.text


def test_variables_that_kubernetes_sets_are_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a pod beside Services called recgpt and recgpt-store."""
    for name in ("RECGPT", "RECGPT_STORE"):
        monkeypatch.setenv(f"{name}_PORT", "tcp://10.96.0.7:8000")
        monkeypatch.setenv(f"{name}_SERVICE_HOST", "10.96.0.7")
        monkeypatch.setenv(f"{name}_SERVICE_PORT", "8000")
        monkeypatch.setenv(f"{name}_SERVICE_PORT_HTTP", "8000")
        monkeypatch.setenv(f"{name}_PORT_8000_TCP", "tcp://10.96.0.7:8000")
        monkeypatch.setenv(f"{name}_PORT_8000_TCP_PROTO", "tcp")
    assert command("serve", SERVE).port == 8000
    assert command("serve", [*SERVE, *options_file(tmp_path, "port = 7\n")]).port == 7
    assert caplog.text.count("RECGPT_PORT=tcp://10.96.0.7:8000 is ignored: Kubernetes") == 2
    assert caplog.text.count("is ignored") == 2
    caplog.clear()
    command("data prepare", PREPARE)  # has no such option
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("words", "variables", "text", "message"),
    [
        (["--port", "x"], {"RECGPT_PORT": "1"}, "port = 2", "--port: Input should be"),
        (["--port=x"], {}, "", "--port: Input should be"),
        ([], {"RECGPT_PORT": "x"}, "port = 'y'", "RECGPT_PORT: Input should be"),
        ([], {"Recgpt_Port": "x"}, "", "Recgpt_Port: Input should be"),
        ([], {}, "port = 'y'", r"options\.toml: port: Input should be"),
    ],
)
def test_a_wrong_value_is_named_by_where_it_came_from(
    words: list[str],
    variables: dict[str, str],
    text: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        command("serve", [*SERVE, *words, *options_file(tmp_path, text)])


def test_an_empty_variable_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGPT_PORT", "")
    monkeypatch.setenv("RECGPT_CONFIG", "")
    assert command("serve", SERVE).port == 8000


def test_the_home_folder_stands_for_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("RECGPT_OUT", "~/data")
    options_file(home, 'items = "~/items.csv"\n')
    words = ["--input=~/log.csv", "--config=~/options.toml"]
    found = command("data prepare", words)
    assert (found.input, found.out) == (home / "log.csv", home / "data")
    assert found.items == home / "items.csv"
    assert command("report", ["~/run"]).run_dir == home / "run"
    assert command("report", ["run~/~x"]).run_dir == Path("run~/~x")
