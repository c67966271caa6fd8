import os

import pytest

from cli.main import main
from model.threads import SPINS, limit_spinning

NAMES = ("OMP_WAIT_POLICY", *SPINS)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variables, and without those that a test sets."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_spinning_is_bounded() -> None:
    limit_spinning()
    assert {name: os.environ.get(name) for name in SPINS} == SPINS


def test_the_environments_own_settings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_a_wait_policy_says_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    limit_spinning()
    assert not [name for name in SPINS if name in os.environ]


def test_the_command_line_bounds_spinning_before_it_loads_anything() -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert {name: os.environ.get(name) for name in SPINS} == SPINS
