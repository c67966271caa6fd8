"""The alias in an MLflow registry that says which version is served."""

import sys
from pathlib import Path

import pytest
from two_versions import two_versions

from cli.main import main
from model.artifact.manifest import ArtifactError
from model.artifact.registry import TAG, MlflowAlias, RegistryConfig, follow, publisher
from model.artifact.versions import list_versions, publish, roll_back, served_version
from model.data.dataset import Dataset

# Of the library's own imports.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def store(artifacts: Path, dataset: Dataset, tmp_path: Path) -> Path:
    return two_versions(artifacts, dataset, tmp_path / "artifacts")


@pytest.fixture
def alias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowAlias:
    """The alias in a registry that is a folder."""
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "registry").as_uri())
    return MlflowAlias("recgpt", "current")


def names(store: Path) -> tuple[str, str]:
    """The version that is served at first, and the other one."""
    other, served = [one.version for one in list_versions(store)]
    return served, other


def test_the_alias_moves_with_every_publication(alias: MlflowAlias, store: Path) -> None:
    served, other = names(store)
    point = publisher(RegistryConfig(registry="mlflow"))
    assert alias.version() is None
    assert roll_back(store, other, point) == other
    assert alias.version() == served_version(store) == other
    roll_back(store, point=point)
    assert alias.version() == served_version(store) == served
    roll_back(store, other, point)  # known already: not registered twice
    found = alias._client.search_model_versions("name = 'recgpt'")
    assert sorted(one.tags[TAG] for one in found) == sorted([served, other])


def test_a_store_follows_the_alias(alias: MlflowAlias, store: Path) -> None:
    served, other = names(store)
    with pytest.raises(ValueError, match="the alias current of the model recgpt names no version"):
        follow(store, alias)
    alias.move(other)
    assert follow(store, alias) == other == served_version(store)
    assert follow(store, alias) is None
    alias.move("elsewhere-only")
    with pytest.raises(ArtifactError, match="has no version elsewhere-only"):
        follow(store, alias)
    assert served_version(store) == other
    alias.move(served)
    (store / served / "items.parquet").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"items\.parquet"):
        follow(store, alias)
    assert served_version(store) == other


def test_a_publication_that_was_cut_off_is_finished_by_a_follower(
    alias: MlflowAlias, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alias moves first, so a follower never takes a publication back."""
    _, other = names(store)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("model.artifact.registry.publish", killed)
        point = publisher(RegistryConfig(registry="mlflow"))
        with pytest.raises(KeyboardInterrupt):
            roll_back(store, other, point)
    assert follow(store, alias) == other


def test_the_commands(alias: MlflowAlias, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served, other = names(store)
    words = ["--artifacts", str(store), "--registry", "mlflow"]
    main(["rollback", "--version", other, *words])
    assert alias.version() == other
    publish(store, served)  # somebody else, without the alias
    main(["follow", "--once", *words])
    assert served_version(store) == other
    assert f"{other} is the served version now" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["follow", "--once", "--artifacts", str(store)])
    assert ended.value.code == 1
    assert "--registry mlflow" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["http://127.0.0.1:1", "nonsense://here"])
def test_a_registry_that_cannot_be_asked_leaves_the_served_version(
    alias: MlflowAlias, store: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    served, other = names(store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ValueError, match="registry"):
        roll_back(store, other, publisher(RegistryConfig(registry="mlflow")))
    assert served_version(store) == served


def test_without_the_extra_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ValueError, match=r"pip install 'recgpt\[mlflow\]'"):
        publisher(RegistryConfig(registry="mlflow"))
    assert publisher(RegistryConfig()) is publish
