import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from model import files
from model.files import check_output, is_mount, new_file, new_folder, write_json


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with a file and a folder in it."""
    folder = tmp_path / "place [1] ~ ü"
    (folder / "part").mkdir(parents=True)
    (folder / "a.txt").write_text("old")
    (folder / "part" / "b.txt").write_text("old")
    return folder


def content(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): file.read_text()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


OLD = {"a.txt": "old", "part/b.txt": "old"}
NEW = {"a.txt": "new", "c.txt": "new"}


def replace(folder: Path) -> None:
    with new_folder(folder, overwrite=True) as new:
        (new / "a.txt").write_text("new")
        (new / "c.txt").write_text("new")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("umask")
def test_results_have_the_mode_of_the_umask(tmp_path: Path) -> None:
    with new_folder(tmp_path / "set") as new:
        (new / "deep").mkdir(mode=0o700)
        for name in ("private", "deep/private"):
            os.close(os.open(new / name, os.O_CREAT, mode=0o600))
    with new_file(tmp_path / "file") as beside:
        os.close(os.open(beside, os.O_CREAT, mode=0o600))
    for path in ("set/private", "set/deep/private", "file"):
        assert mode(tmp_path / path) == 0o640, path
    for path in ("set", "set/deep"):
        assert mode(tmp_path / path) == 0o750, path


class Share(BaseModel):
    of: str
    share: float


def test_a_figure_that_is_no_number_is_null_in_a_file(tmp_path: Path) -> None:
    write_json(tmp_path / "share.json", Share(of="ü", share=float("nan")))
    text = (tmp_path / "share.json").read_text(encoding="utf-8")
    assert text == '{\n  "of": "ü",\n  "share": null\n}\n'


def test_a_folder_is_replaced_only_when_asked_and_complete(old: Path) -> None:
    with pytest.raises(ValueError, match="exists already"), new_folder(old):
        pass
    with pytest.raises(RuntimeError), new_folder(old, overwrite=True):
        raise RuntimeError
    assert content(old) == OLD
    replace(old)
    assert content(old) == NEW
    assert list(old.parent.iterdir()) == [old]


def test_a_mount_gets_new_contents(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount can't be renamed: what is in it moves, and a volume's own folder stays."""
    (old / "lost+found").mkdir()
    monkeypatch.setattr(files, "is_mount", old.__eq__)
    number = old.stat().st_ino
    with pytest.raises(RuntimeError), new_folder(old, overwrite=True):
        raise RuntimeError
    assert content(old) == OLD
    replace(old)
    assert content(old) == NEW
    assert old.stat().st_ino == number
    assert sorted(os.listdir(old)) == ["a.txt", "c.txt", "lost+found"]


def test_a_parent_that_may_not_be_written_to_is_left_alone(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: path != old.parent)
    number = old.stat().st_ino
    replace(old)
    assert content(old) == NEW
    assert old.stat().st_ino == number


@pytest.mark.parametrize("mounted", [False, True])
@pytest.mark.parametrize("failing", range(4))
def test_both_are_kept_if_the_new_folder_cannot_take_its_place(
    old: Path, monkeypatch: pytest.MonkeyPatch, mounted: bool, failing: int
) -> None:
    """Whichever of the renames fails."""
    monkeypatch.setattr(files, "is_mount", lambda path: mounted)
    true_rename, calls = os.rename, iter(range(100))

    def rename(source: Path, destination: Path) -> None:
        if next(calls) == failing:
            raise OSError(16, "Device or resource busy")
        true_rename(source, destination)

    monkeypatch.setattr(os, "rename", rename)
    if not mounted and failing > 1:
        replace(old)  # there are two renames only
        return
    with pytest.raises(ValueError, match=r"busy.*is as it was.*complete and stands in") as told:
        replace(old)
    kept = Path(str(told.value).partition("stands in ")[2].partition(": move")[0])
    assert content(kept) == NEW
    assert {name: text for name, text in content(old).items() if ".part" not in name} == OLD


def test_what_a_link_points_to_is_replaced(old: Path) -> None:
    link = old.with_name("link")
    link.symlink_to(old)
    replace(link)
    assert link.is_symlink()
    assert content(old) == NEW
    file = old.with_name("file-link")
    file.symlink_to(old / "a.txt")
    write_json(file, 7)
    assert file.is_symlink()
    assert content(old)["a.txt"] == "7\n"


def test_an_empty_folder_needs_no_overwrite(tmp_path: Path) -> None:
    (tmp_path / "volume" / "lost+found").mkdir(parents=True)
    with new_folder(tmp_path / "volume") as new:
        (new / "a.txt").write_text("new")
    assert content(tmp_path / "volume") == {"a.txt": "new"}


def test_folders_that_cannot_be_written_are_refused_before_the_work(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(ValueError, match=message), new_folder(path, overwrite=True):
            pytest.fail("the work began")

    refused(old / "a.txt", "is a file: choose another folder")
    refused(old / "a.txt" / "below", r"can't be made: .*a\.txt is not a folder")
    loop = old / "loop"
    loop.symlink_to(loop)
    refused(loop, "can't be")
    monkeypatch.setattr(os, "access", lambda path, _: path != old)
    refused(old, "read-only or belongs to another user")
    refused(old / "below", "no permission to write to")


def test_files_that_cannot_be_written_are_refused_before_the_work(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_output(None)
    check_output(old / "new" / "deep.json")
    assert not (old / "new").exists()  # looking changes nothing
    os.mkfifo(old / "pipe")
    for path, message in (
        (old, "is a folder: name a file"),
        (old / "pipe", "is a device or a pipe"),
        (old / "a.txt" / "below", "can't be made"),
    ):
        with pytest.raises(ValueError, match=message):
            check_output(path)
    monkeypatch.setattr(files, "is_mount", (old / "a.txt").__eq__)
    with pytest.raises(ValueError, match="mounted as one file"):
        write_json(old / "a.txt", 7)
    monkeypatch.setattr(os, "access", lambda path, _: path != old)
    with pytest.raises(ValueError, match="no permission to write to"):
        check_output(old / "c.txt")


def test_in_a_sticky_folder_only_the_owner_may_replace(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old.chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ValueError, match="belongs to another user"):
        check_output(old / "a.txt")
    check_output(old / "new.txt")


def test_mounts_are_known() -> None:
    assert is_mount(Path("/proc"))
    assert not is_mount(Path("/proc/self/status"))


def test_what_is_replaced_and_cannot_be_deleted_is_told(
    old: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files.shutil, "rmtree", lambda path, ignore_errors: None)
    replace(old)
    assert content(old) == NEW
    assert "could not be deleted" in caplog.text
