from pathlib import Path

import pytest
from preparing import histories, malformed, run, write

from model.data import unquote


def test_quoted_fields(tmp_path: Path) -> None:
    log = write(
        tmp_path / "log.csv",
        '"user","item","note","time"\r\n'
        '"a, b","say ""hi""","two\r\nlines, one row",1\r\n'
        'c,"a\nb",,2\n'
        'c,5" disc,,3\n'
        '"c",y\n',
    )
    report, dataset = run(log)
    assert histories(dataset) == {"a, b": ['say "hi"'], "c": ["a\nb", '5" disc']}
    assert report.malformed["too few fields"].examples == ["log.csv:7: c,y"]  # its line, from 1


@pytest.mark.parametrize("rest", ["", 'b,"y",7\n', 'b,"y",7\na,"x\ny",1\n'])
def test_quote_that_never_closes_costs_one_row(tmp_path: Path, rest: str) -> None:
    lines = 'user,item,time\na,"x,1\n' + "".join(f"b,i{n},{n}\n" for n in range(5)) + rest
    report, dataset = run(write(tmp_path / "log.csv", lines))
    assert malformed(report) == {"quotes that do not match": 1}
    assert report.malformed["quotes that do not match"].examples == ['log.csv:2: a,"x,1']
    assert histories(dataset)["b"][:5] == ["i0", "i1", "i2", "i3", "i4"]


def test_quotes_in_tsv_are_plain_characters(tmp_path: Path) -> None:
    log = write(tmp_path / "log.tsv", 'user\titem\ttime\na\t"x\t1\na\ty"\t2\n')
    assert histories(run(log)[1]) == {"a": ['"x', 'y"']}


def test_a_stray_quote_swallows_no_rows(tmp_path: Path) -> None:
    """It closes at another stray one, and what lies between has another number of fields."""
    rows = "".join(f"b,i{n},{n}\n" for n in range(9))
    log = write(tmp_path / "log.csv", f'user,item,time\na,"x,1\n{rows}c",z,5\n')
    report, dataset = run(log)
    assert malformed(report) == {"quotes that do not match": 1}
    assert histories(dataset) == {"b": [f"i{n}" for n in range(9)], 'c"': ["z"]}


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_control_characters_are_kept_as_they_stand(tmp_path: Path, suffix: str) -> None:
    """An id may hold the characters that separate the fields of our own copy."""
    odd = "".join(map(chr, [*range(1, 9), *range(14, 32), 127]))
    table = f'user,item,time\n"a",{odd},1\na,b,2\n'
    if suffix == ".tsv":
        table = table.replace(",", "\t")
    report, dataset = run(write(tmp_path / f"log{suffix}", table))
    assert histories(dataset) == {"a": [odd, "b"]}
    assert any("hold control characters" in hint for hint in report.hints)


@pytest.mark.parametrize("length", [140_000, 1 << 20])
def test_long_quoted_fields_are_read(tmp_path: Path, length: int) -> None:
    log = write(tmp_path / "log.txt", "a x y\n")
    items = write(tmp_path / "items.csv", f'item,title\nx,"{"t" * length}"\ny,"a, b"\n')
    _, dataset = run(log, items=items)
    assert [len(title) for title in dataset.items["title"]] == [length, 4]


def test_a_field_that_is_too_long_is_left_out_for_that_reason(tmp_path: Path) -> None:
    log = write(tmp_path / "log.txt", "a x y\n")
    long = "t" * (1 << 20)
    items = write(tmp_path / "items.csv", f'item,title\nx,"{long}t"\ny,"a, b"\n')
    report, dataset = run(log, items=items)
    assert dataset.items["title"].to_list() == [None, "a, b"]
    assert report.metadata
    (reason,) = report.metadata.malformed
    assert reason.startswith("a quoted field longer than 1,048,576 characters, or a quote that")


def test_quotes_in_tsv_are_undone(tmp_path: Path) -> None:
    log = write(
        tmp_path / "log.tsv", '"user"\t"item"\t"time"\n"a"\t"say ""hi"""\t"1"\n"a"\t""\t2\n'
    )
    report, dataset = run(log)
    assert histories(dataset) == {"a": ['say "hi"']}
    assert malformed(report) == {"no item id": 1}


def test_a_tsv_may_have_tabs_and_line_breaks_in_quotes(tmp_path: Path) -> None:
    log = write(tmp_path / "log.txt", "a 1 2 3 4\n")
    items = write(
        tmp_path / "items.tsv",
        'item\ttitle\tyear\n1\t"two\nlines"\t1\n2\t"a\ttab"\t2\n3\t"Toy" Story\t3\n4\t5" disc\t4\n',
    )
    _, dataset = run(log, items=items)
    titles = ["two\nlines", "a\ttab", '"Toy" Story', '5" disc']
    assert dataset.items["title"].to_list() == titles
    assert dataset.items["year"].to_list() == [1, 2, 3, 4]


def test_the_last_field_of_a_tsv_may_go_on_over_lines(tmp_path: Path) -> None:
    log = write(tmp_path / "log.txt", "a 1 2 3 4 5 6\n")
    items = write(
        tmp_path / "items.tsv",
        'item\ttitle\n1\t"two\nlines"\n2\t"Heroes\n3\tfoo" bar\n4\t"x\n5\ty\n6\t"a ""b""\n\nc"\n',
    )
    report, dataset = run(log, items=items)
    titles = ["two\nlines", '"Heroes', 'foo" bar', '"x', "y", 'a "b"\n\nc']
    assert dataset.items.sort("item_id")["title"].to_list() == titles
    assert report.metadata
    assert report.metadata.malformed == {}


def test_a_quote_that_may_have_swallowed_rows_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The format allows such a field, so only its look tells that it may be an accident."""
    log = write(tmp_path / "log.txt", "a 1 2 3 4 5\n")
    rows = '1,"two, \nlines",1\n2,"x,1\n3,y,2\n4,z"a,3\n5,"x\n6,y,3\n",4\n'
    items = write(tmp_path / "fine.csv", f"item,title,year\n{rows}")
    run(log, items=items)
    run(
        log,
        items=write(tmp_path / "first.csv", 'title,item,year\n"two\nlines",1,1\n'),
        overwrite=True,
    )
    assert "look like rows" not in caplog.text
    items = write(tmp_path / "odd.csv", f'item,year,title\n{rows}7,1,"x\n8,2,y\n9,3,z"\n')
    run(log, items=items, overwrite=True)
    assert "odd.csv:10: a quoted field goes on over lines that look like rows" in caplog.text
    assert "Records of this look: 1" in caplog.text


def test_a_carriage_return_within_a_line_is_named(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", 'user,item,time\n"a",x,1\r"b",y,2\na,z,3\n')
    report, dataset = run(log)
    assert malformed(report) == {"a carriage return within the line": 1}
    assert histories(dataset) == {"a": ["z"]}


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_spaces_around_fields_are_taken_off_and_told(
    tmp_path: Path, suffix: str, quote: str
) -> None:
    table = f"user , item, time\n{quote}a{quote}, x, 1\na ,x , 2 \nb,y,3\n"
    if suffix == ".tsv":
        table = table.replace(",", "\t")
    items = write(tmp_path / f"items{suffix}", table.replace("time", "title"))
    report, dataset = run(write(tmp_path / f"log{suffix}", table), items=items)
    assert histories(dataset) == {"a": ["x", "x"], "b": ["y"]}
    (hint,) = report.hints
    assert "spaces around ids were taken off in" in hint
    assert dataset.items["title"].to_list() == ["1", "3"]


def test_copies_are_written_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unquote, "BATCH", 4)
    for rows in (0, 1, 4, 9):
        text = "".join(f'"a",i{n},{n}\n' for n in range(rows))
        log = write(tmp_path / "in" / f"{rows}.csv", f'"user",item,time\n"a",first,-1\n{text}')
        assert histories(run(log)[1]) == {"a": ["first", *(f"i{n}" for n in range(rows))]}
    log = write(tmp_path / "in" / "none.csv", '"user",item,time\n')
    with pytest.raises(ValueError, match="there is no row in it"):
        run(log)
