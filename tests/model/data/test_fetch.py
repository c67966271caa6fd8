import sys
import zipfile
from pathlib import Path

import pytest

from model.data import fetch
from model.data.fetch import extract, fetch_ml_100k

NO_NETWORK = (
    "No matching distribution",
    "Temporary failure in name resolution",
    "NewConnectionError",
    "ConnectTimeout",
    "ProxyError",
)


def wheel(folder: Path, **members: str) -> Path:
    path = folder / "recbole-1.2.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("recbole/__init__.py", "raise SystemExit('installed!')")
        archive.writestr("recbole/dataset_example/ml-100k/ml-100k.user", "user_id:token\n1\n")
        for suffix, content in members.items():
            archive.writestr(f"recbole/dataset_example/ml-100k/ml-100k.{suffix}", content)
    return path


def test_extract_takes_the_two_files_only(tmp_path: Path) -> None:
    out = tmp_path / "new" / "ml-100k"
    extract(wheel(tmp_path, inter="user_id:token\n196\n", item="item_id:token\n242\n"), out)
    assert sorted(file.name for file in out.iterdir()) == ["ml-100k.inter", "ml-100k.item"]
    assert (out / "ml-100k.inter").read_text() == "user_id:token\n196\n"
    assert (out / "ml-100k.item").read_text() == "item_id:token\n242\n"


def test_extract_refuses_another_wheel(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not the wheel that was expected.*ml-100k\.item"):
        extract(wheel(tmp_path, inter="user_id:token\n"), tmp_path / "out")
    (tmp_path / "broken.whl").write_bytes(b"PK, but no archive")
    with pytest.raises(ValueError, match=r"broken\.whl is not the wheel"):
        extract(tmp_path / "broken.whl", tmp_path / "out")


def test_files_that_are_there_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ml-100k.inter", "ml-100k.item"):
        (tmp_path / name).write_text("mine")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")  # a download would fail
    assert fetch_ml_100k(tmp_path) == tmp_path
    assert (tmp_path / "ml-100k.inter").read_text() == "mine"
    terms = capsys.readouterr().out
    assert "GroupLens" in terms
    assert "History and Context" in terms


def test_failed_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "WHEEL", "recbole==1.2.1 and no such requirement")
    with pytest.raises(ValueError, match=r"pip could not download.*Check the network(.|\n)*said"):
        fetch_ml_100k(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_download(tmp_path: Path) -> None:
    try:
        fetch_ml_100k(tmp_path)
    except ValueError as error:
        reason = next((reason for reason in NO_NETWORK if reason in str(error)), None)
        if reason is None:
            raise
        pytest.skip(f"pip has no index to download from: {reason}")
    with (tmp_path / "ml-100k.inter").open(encoding="utf-8") as lines:
        assert next(lines) == "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        assert sum(1 for _ in lines) == 100_000
    header = (tmp_path / "ml-100k.item").read_text(encoding="utf-8").partition("\n")[0]
    assert "movie_title:token_seq" in header
    assert "class:token_seq" in header
