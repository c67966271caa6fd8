import gzip
import os
from pathlib import Path

import polars as pl
import pytest
from preparing import histories, run, write


def test_byte_order_mark(tmp_path: Path) -> None:
    lines = write(tmp_path / "log.txt", b"\xef\xbb\xbf7 3 1\n")
    assert histories(run(lines)[1]) == {"7": ["3", "1"]}
    table = write(tmp_path / "log.csv", b"\xef\xbb\xbfuser,item,time\na,x,1\n")
    assert histories(run(table)[1]) == {"a": ["x"]}
    quoted = write(tmp_path / "quoted.csv", b'\xef\xbb\xbf"user","item","time"\n"a","x","1"\n')
    assert histories(run(quoted)[1]) == {"a": ["x"]}


def test_folder_is_read_in_order_of_name(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    write(folder / "b.csv", "time,user,item\n1,7,x2\n1,8,x2\n")
    write(folder / "a" / "part.csv", "user,item,time\n7,x1,1\n")
    write(folder / "_SUCCESS", "")
    write(folder / ".hidden.csv", "nothing")
    report, dataset = run(folder)
    assert histories(dataset) == {"7": ["x1", "x2"], "8": ["x2"]}
    assert dataset.name == "logs"
    assert report.rows == 3
    write(folder / "c.tsv", "user\titem\ttime\n")
    with pytest.raises(ValueError, match=r"several formats \(csv, tsv\)"):
        run(folder, overwrite=True)


def test_missing_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        run(tmp_path / "none.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no file"):
        run(tmp_path / "empty")


def parquet_log(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"user": ["a"], "item": ["x"], "time": [1]}).write_parquet(path)
    return path


ODD_PATHS = ["log[1]", "[a-z]*?", "date=2024", "~", "with space", "ünï", "{a,b}", "100%"]


@pytest.mark.parametrize("name", ODD_PATHS)
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_path_is_taken_as_it_stands(tmp_path: Path, name: str, suffix: str) -> None:
    """The name of a file, of its folder, of the data set and of the items have no meaning."""
    folder = tmp_path / name
    log = folder / f"{name}{suffix}"
    if suffix == ".csv":
        write(log, 'user,item,time\n"a",x,1\n')  # with a quote, for the copy that it needs
    else:
        parquet_log(log)
    items = write(tmp_path / "about" / f"{name}.csv", "item,title\nx,X\n")
    for source in (log, folder):
        _, dataset = run(source, out=tmp_path / "out" / name, items=items, overwrite=True)
        assert histories(dataset) == {"a": ["x"]}
        assert dataset.items["title"].to_list() == ["X"]
        assert set(dataset.items.columns) == {"item_id", "count", "title"}


def test_links_are_followed(tmp_path: Path) -> None:
    parquet_log(tmp_path / "elsewhere" / "part" / "b.parquet")
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "a").symlink_to(tmp_path / "elsewhere")
    (folder / "around").symlink_to(folder)
    (folder / "c.parquet").symlink_to(parquet_log(tmp_path / "c"))
    assert run(folder)[0].rows == 2
    (tmp_path / "c").unlink()
    with pytest.raises(ValueError, match=r"c\.parquet is a link to nothing"):
        run(folder, overwrite=True)


def test_pipes_and_devices_are_refused_before_the_first_file_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    write(folder / "a.csv", "no such columns\n")
    os.mkfifo(folder / "b.csv")
    for source in (folder, folder / "b.csv", Path("/dev/null")):
        with pytest.raises(ValueError, match="is a pipe or a device: write the log to a file"):
            run(source, format="csv", out=tmp_path / "out")


def test_files_without_permission_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write(tmp_path / "logs" / "a.txt", "a x\n")
    true_access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != log and true_access(path, mode))
    with pytest.raises(ValueError, match=r"a\.txt can't be read: no permission"):
        run(log.parent)


TEXT = "user,item,time\nä,x,1\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT.encode("utf-16"), "text in UTF-16: save it as UTF-8"),
        (TEXT.encode("utf-16-le"), "text in UTF-16 or UTF-32, or no text"),
        (TEXT.encode("utf-32-be"), "text in UTF-16 or UTF-32, or no text"),
        (TEXT.replace("\n", "\r").encode(), r"lines end with a carriage return \(CR\) alone"),
        (gzip.compress(TEXT.encode()), "compressed by gzip"),
        (b"PAR1" + bytes(9), "a Parquet file: say --format parquet"),
        (b"PK\x03\x04", "a ZIP archive or a spreadsheet"),
    ],
)
def test_files_that_are_no_utf_8_text_are_refused_by_name(
    tmp_path: Path, content: bytes, message: str
) -> None:
    """As a log beside one that can be read, and as a table of items."""
    write(tmp_path / "logs" / "1.csv", TEXT)
    odd = write(tmp_path / "logs" / "2.csv", content)
    with pytest.raises(ValueError, match=rf"2\.csv.*{message}"):
        run(odd.parent)
    with pytest.raises(ValueError, match=rf"2\.csv.*{message}"):
        run(write(tmp_path / "log.txt", "a x\n"), items=odd)


def test_the_columns_of_all_files_are_looked_up_before_the_first_is_read(tmp_path: Path) -> None:
    write(tmp_path / "logs" / "1.csv", "user,item,time\n,,\n")  # refused once it is read
    write(tmp_path / "logs" / "2.csv", "user,time\na,1\n")
    with pytest.raises(ValueError, match=r"2\.csv: which column is the item"):
        run(tmp_path / "logs")
