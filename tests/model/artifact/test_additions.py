import json
import re
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiny

from cli.main import main
from index.build import DECIDING_BATCH
from model.artifact.bundle import load_artifact
from model.artifact.config import AddConfig
from model.artifact.versions import find_bundle
from model.data.dataset import Dataset
from model.evaluation.metrics import evaluate
from model.evaluation.protocols import splits
from model.network.gpt import GPT
from service.offline import add_items, export_bundle, service_recall
from service.recall.recaller import Recaller
from service.recall.types import Query


@pytest.fixture
def folder(artifacts: Path, tmp_path: Path) -> Path:
    """A copy of the bundles, to add to."""
    return Path(shutil.copytree(artifacts, tmp_path / "artifacts", symlinks=True))


def table(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "new.csv"
    file.write_text(text)
    return file


def test_a_new_version_holds_more_items_and_the_old_one_stays(
    folder: Path, tmp_path: Path, dataset: Dataset
) -> None:
    base = load_artifact(find_bundle(folder))
    rows = "item_id,title,neighbours\nnew1,One,i1|i2\nnew2,Two,i2 \ni3,Old,i1\nnew1,Again,i5\n"
    version, report = add_items(AddConfig(artifacts=folder, items=table(tmp_path, rows)))
    assert (report.added, report.by_neighbours) == (2, 2)
    assert (report.known, report.repeated, report.no_evidence) == (1, 1, [])
    assert find_bundle(folder) == version.resolve() != base.folder
    again = load_artifact(base.folder)  # untouched: every checksum holds
    assert again.items.height == dataset.catalogue
    extended = load_artifact(version)
    assert extended.manifest.version == version.name
    assert extended.manifest.additions == [report.model_dump()]
    assert extended.manifest.metrics == {}
    assert extended.items["item_id"].to_list() == [*dataset.item_ids, "new1", "new2"]
    assert extended.items["title"].to_list()[-2:] == ["One", "Two"]
    assert extended.items["count"].to_list()[-2:] == [0, 0]
    assert extended.popularity.tolist() == [*base.popularity, 0, 0]
    assert extended.user_rows
    assert len(extended.user_rows) == dataset.users
    assert [extended.user_rows.get(user) for user in dataset.user_ids] == list(range(dataset.users))
    old = base.model.items.weight.numpy()
    vectors = extended.model.items.weight.numpy()
    assert np.array_equal(vectors[: len(old)], old)
    row = dataset.item_ids.index("i2")
    assert vectors[-1] == pytest.approx(0.75 * old[row], abs=1e-6)


def test_new_items_are_recalled_and_can_stand_in_a_history(folder: Path, tmp_path: Path) -> None:
    history = ["i5", "i6", "i7"]
    recaller = Recaller.load(folder)
    (before,), _ = recaller.recall([Query("", history, k=5)])
    rows = f"item_id,neighbours\ntwin,{recaller.ids_of(before)[0]}\n"
    add_items(AddConfig(artifacts=folder, items=table(tmp_path, rows), length=1.5))
    recaller = Recaller.load(folder)
    (after,), _ = recaller.recall([Query("", history, k=5)])
    assert recaller.ids_of(after)[0] == "twin"
    (then,), _ = recaller.recall([Query("", [*history, "twin"], k=5)])
    assert then.unknown_items == 0
    assert "twin" not in recaller.ids_of(then)


def test_the_index_stays_as_it_was_asked_for(dataset: Dataset, model: GPT, tmp_path: Path) -> None:
    base = export_bundle(tmp_path, dataset, model, tiny.RECALL, {}, "ivf", 0.5)
    rows = "item_id,neighbours\nnew1,i1|i2\n"
    version, _ = add_items(AddConfig(artifacts=tmp_path, items=table(tmp_path, rows)))
    before, after = (json.loads((f / "index.json").read_text()) for f in (base, version))
    assert (before["kind"], after["kind"], after["target"]) == ("ivf", "ivf", 0.5)
    assert after["items"] == before["items"] + 1
    assert after["queries"] == before["queries"] == "given"


def test_which_search_is_faster_is_measured_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.build.LARGE", 10)
    for kind, by_lists in ("ivf", 2.0), ("exact", 0.5):
        found = [{DECIDING_BATCH: by_lists}, {DECIDING_BATCH: 1.0}]
        monkeypatch.setattr("index.build.rates", lambda *_, found=found, **__: found)
        rows = f"item_id,neighbours\nnew-{kind},i1|i2\n"
        version, _ = add_items(AddConfig(artifacts=folder, items=table(tmp_path, rows)))
        assert json.loads((version / "index.json").read_text())["kind"] == kind


def test_unknown_ids_of_a_log_are_added_by_what_stands_beside_them(
    folder: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log.csv"
    walks = [("a", "i1 fresh i2"), ("b", "fresh i2 rare"), ("c", "alone alone alone")]
    log.write_text(
        "user,item\n" + "".join(f"{user},{item}\n" for user, w in walks for item in w.split())
    )
    config = AddConfig(artifacts=folder, events=log, in_order=True, min_item_events=2)
    version, report = add_items(config)
    assert (report.added, report.by_events, report.known) == (1, 1, 0)
    assert report.no_evidence == ["alone"]  # `rare` has too few events
    extended = load_artifact(version)
    assert extended.items["item_id"].to_list()[-1] == "fresh"
    assert extended.items["count"].to_list()[-1] == extended.popularity[-1] == 2


def test_evidence_is_taken_in_order_and_items_without_any_are_named(
    folder: Path, tmp_path: Path
) -> None:
    items = load_artifact(find_bundle(folder)).items
    assert "brand" not in items.columns  # so that no brand ties anything
    log = tmp_path / "log.csv"
    log.write_text("user,item,time\nu,i1,1\nu,second,2\nu,first,3\n")
    rows = "item_id,neighbours,brand\nfirst,i9,Acme\nsecond,,Acme\nthird,nobody,Acme\n"
    config = AddConfig(artifacts=folder, items=table(tmp_path, rows), events=log)
    _, report = add_items(config)
    assert (report.by_neighbours, report.by_events, report.by_attributes) == (1, 1, 0)
    assert report.no_evidence == ["third"]
    assert "third" in str(report)


def test_attributes_tie_items_and_can_be_added_to_again(folder: Path, tmp_path: Path) -> None:
    rows = "item_id,neighbours,brand\nfirst,i9,Acme\nother,i3,Bee\n"
    add_items(AddConfig(artifacts=folder, items=table(tmp_path, rows)))
    rows = "item_id,brand\nsecond,Acme\n"
    version, report = add_items(AddConfig(artifacts=folder, items=table(tmp_path, rows)))
    assert report.by_attributes == 1
    extended = load_artifact(version)
    assert [addition["added"] for addition in extended.manifest.additions] == [2, 1]
    vectors = extended.model.items.weight.numpy()
    assert vectors[-1] == pytest.approx(0.75 * vectors[-3], abs=1e-6)
    assert extended.items["brand"].to_list()[-3:] == ["Acme", "Bee", "Acme"]


def test_nothing_to_add_leaves_everything_as_it_was(folder: Path, tmp_path: Path) -> None:
    before = sorted(folder.iterdir())
    served = find_bundle(folder)
    rows = "item_id,neighbours\ni1,i2\nnew,nobody\n"
    with pytest.raises(ValueError, match=r"no item can be added(.|\n)*known already +1(.|\n)*new"):
        add_items(AddConfig(artifacts=folder, items=table(tmp_path, rows)))
    with pytest.raises(ValueError, match="--items, --events or both"):
        add_items(AddConfig(artifacts=folder))
    with pytest.raises(ValueError, match="name the folder of the bundles"):
        add_items(AddConfig(artifacts=served, items=table(tmp_path, rows)))
    assert sorted(folder.iterdir()) == before
    assert find_bundle(folder) == served


def test_an_extended_bundle_is_measured_on_the_data_of_its_base(
    folder: Path, tmp_path: Path, dataset: Dataset
) -> None:
    split = splits(dataset).test
    before = evaluate(service_recall(Recaller.load(folder), dataset), dataset, split)
    rows = "item_id,neighbours\nnew,i2\n"
    add_items(AddConfig(artifacts=folder, items=table(tmp_path, rows), length=1e-6))
    after = evaluate(service_recall(Recaller.load(folder), dataset), dataset, split)
    assert after["HR@20"] <= before["HR@20"]
    assert after["HR@20"] == pytest.approx(before["HR@20"], abs=0.2)


def test_rows_of_events_that_are_left_out_are_counted_and_shown(
    folder: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log.csv"
    usable = "".join(f"u{n},i1,1\nu{n},fresh,2\nu{n},rare{n},3\n" for n in range(6))
    log.write_text("user,item,time\n" + usable + "u,i1,soon\n" * 7 + "nan,,1\n")
    _, report = add_items(AddConfig(artifacts=folder, events=log))
    assert (report.added, report.rare, report.event_rows) == (1, 6, 26)
    reasons = {reason: bad.count for reason, bad in report.malformed_events.items()}
    assert reasons == {"time is neither a number nor an ISO date": 7, "no item id": 1}
    text = re.sub(" +", " ", str(report))
    assert "left out: time is neither a number nor an ISO date 7" in text
    assert "malformed event, no item id:\n log.csv:27: nan,,1" in text
    assert load_artifact(find_bundle(folder)).manifest.additions == [report.model_dump()]


def test_values_that_the_catalogue_cannot_hold_are_told(folder: Path, tmp_path: Path) -> None:
    rows = "item_id,neighbours,year\none,i1,\n"
    years = tmp_path / "years.parquet"
    pl.DataFrame({"item_id": ["a"], "neighbours": ["i1"], "year": [1999]}).write_parquet(years)
    add_items(AddConfig(artifacts=folder, items=years))
    rows = "item_id,neighbours,year,image\nb,i1,soon,x\nc,i1,2001,y\n"
    version, report = add_items(AddConfig(artifacts=folder, items=table(tmp_path, rows)))
    assert report.hints == ["values of 'year' such as 'soon' are not of its kind, number: left out"]
    extended = load_artifact(version)
    assert extended.items["year"].to_list()[-3:] == [1999, None, 2001]
    assert extended.manifest.item_kinds == {"year": "number", "image": "category"}


def test_new_items_get_the_kinds_of_the_catalogue(folder: Path, tmp_path: Path) -> None:
    rows = "item_id,neighbours,price,tags,stock,since\n"
    first = rows + "a,i1,3,x|y,yes,2026-01-02\nb,i1,4,z,no,2026-01-03\n"
    add_items(AddConfig(artifacts=folder, items=table(tmp_path, first)))
    second = rows + "c,i1,2.5,z,Yes,2026-02-01\nd,i1,,,,\n"
    version, report = add_items(AddConfig(artifacts=folder, items=table(tmp_path, second)))
    extended = load_artifact(version)
    kinds = {"price": "number", "tags": "categories", "stock": "flag", "since": "time"}
    assert extended.manifest.item_kinds == kinds
    assert extended.items.select(*kinds).rows()[-4:] == [
        (3, ["x", "y"], True, date(2026, 1, 2)),
        (4, ["z"], False, date(2026, 1, 3)),
        (2.5, ["z"], True, date(2026, 2, 1)),
        (None, None, None, None),
    ]
    assert not report.hints


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"items": "new.csv", "neighbours_column": "like"}, r"no column 'like'.*item_id, title"),
        ({"events": "log.csv", "title_column": "title"}, "no --items file"),
        ({"events": "log.csv", "neighbours_column": "like"}, "no --items file"),
        ({"items": "new.csv", "user_column": "user"}, "no --events"),
    ],
)
def test_options_that_would_not_be_used_are_refused(
    folder: Path, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    table(tmp_path, "item_id,title\nnew,New\n")
    (tmp_path / "log.csv").write_text("user,item,time\nu,i1,1\n")
    files = {k: tmp_path / v if k in ("items", "events") else v for k, v in options.items()}
    with pytest.raises(ValueError, match=message):
        add_items(AddConfig(artifacts=folder, **files))


def test_the_command_writes_its_account(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = table(tmp_path, "sku,name,like\nnew,New thing,i2\nodd,Odd,\n")
    out = tmp_path / "account.json"
    words = ["items", "add", "--artifacts", str(folder), "--items", str(rows), "--out", str(out)]
    main([*words, "--item-id-column", "sku", "--neighbours-column", "like"])
    assert "a running service changes over to it" in capsys.readouterr().out
    account = json.loads(out.read_text())
    assert (account["added"], account["no_evidence"]) == (1, ["odd"])
    items = pl.read_parquet(find_bundle(folder) / "items.parquet")
    assert items["title"].to_list()[-1] == "New thing"
