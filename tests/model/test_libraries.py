import os

import pytest

from cli.main import main
from model.libraries import PRODUCTS, SPINS, set_up_libraries

NAMES = ("OMP_WAIT_POLICY", *SPINS, *PRODUCTS)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variables, and without those that a test sets."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_spinning_is_bounded_and_products_are_kept() -> None:
    set_up_libraries()
    assert {name: os.environ.get(name) for name in NAMES[1:]} == SPINS | PRODUCTS


def test_the_environments_own_settings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    set_up_libraries()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_a_wait_policy_says_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    set_up_libraries()
    assert not [name for name in SPINS if name in os.environ]
    assert {name: os.environ.get(name) for name in PRODUCTS} == PRODUCTS


def test_the_command_line_sets_libraries_up_before_it_loads_anything() -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert {name: os.environ.get(name) for name in SPINS} == SPINS
