import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
import tiny

from cli.main import main
from model.data.dataset import Dataset
from model.evaluation.metrics import ranks
from model.evaluation.protocols import splits
from model.evaluation.reference import DenseRecall
from model.reports.examples import LISTED, choose_examples
from model.reports.report import write_report
from model.training.config import PretrainConfig, TrainConfig, TuneConfig
from model.training.run import train

EVIL = "<script>alert('&')</script>"
VOID = {"meta", "link", "img", "br"}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


class Page(HTMLParser):
    """Collects tags and text; knows which elements were left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.tags)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Walks whose items have titles and genres, some of them nasty."""
    folder = tmp_path_factory.mktemp("report")
    tiny.walks(folder)
    file = folder / "data" / "items.parquet"
    pl.read_parquet(file).with_columns(
        title=pl.concat_str(pl.lit(EVIL), "item_id", separator=" "), genres=pl.lit(["<b>", "x&y"])
    ).write_parquet(file)
    return folder / "data"


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    first = PretrainConfig(epochs=3, batch_size=16, learning_rate=5e-3)
    second = TuneConfig(epochs=2, batch_size=16)
    config = TrainConfig(
        data=data, out=out, device="cpu", stages="both", pretrain=first, tune=second
    )
    train(config.model_copy(update={"model": tiny.CONFIG, "recall": tiny.RECALL}))
    return out


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    main(["report", str(run)])
    return (run / "report.html").read_text()


def copy(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to))


def test_the_page_is_whole_and_needs_nothing_else(page: str) -> None:
    parsed = Page(page)
    assert not parsed.open
    assert "http:" not in page
    assert "https:" not in page
    assert not {"script", "iframe", "object", "embed", "img"} & {tag for tag, _ in parsed.tags}
    sources = [v for _, a in parsed.tags for n, v in a.items() if n in ("src", "href")]
    assert sources == ["data:,"]
    assert "url(" not in page
    assert "@import" not in page


def test_the_page_shows_figures_curves_examples_and_configuration(page: str, run: Path) -> None:
    parsed = Page(page)
    figures = json.loads((run / "metrics.json").read_text())
    for name, metrics in figures.items():
        assert name in parsed.text
        for metric, value in metrics.items():
            assert metric in parsed.text
            assert f"{value:.4f}" in parsed.text
    assert "finished" in parsed.text
    assert "not finished" not in parsed.text
    assert "Leave one out: the last item of every user" in parsed.text
    for title in (
        "Pre-training",
        "Prompt-tuning",
        "Training loss",
        "Validation NDCG@20",
        "recall@K",
    ):
        assert title in parsed.text
    assert parsed.count("polyline") == 2 * 2 + len(figures)  # two charts a stage, recall@K
    assert "pretrain.learning_rate" in parsed.text
    assert parsed.count("article") > 1
    assert "Interest 3" in parsed.text


def test_what_the_data_says_is_escaped(page: str) -> None:
    assert "<script" not in page
    assert "<b>, x" not in page
    assert "&lt;script&gt;alert(" in page
    assert EVIL in Page(page).text


def test_examples_are_what_the_model_recalls(data: Path) -> None:
    dataset = Dataset.load(data)
    model = tiny.gpt(catalogue=dataset.catalogue, users=dataset.users)  # hits and misses
    split = splits(dataset).test
    recall = DenseRecall(model, tiny.RECALL)
    examples = choose_examples(dataset, split, recall, seed=3)
    titles = dataset.items["title"].to_list()
    assert {bool(example.rank) for example in examples} == {True, False}
    for example in examples:
        user = dataset.user_ids.index(example.user)
        (at,) = (split.users == user).nonzero()[0]
        history = dataset.history(user)[: split.lengths[at]]
        (row,) = recall([history], split.users[at : at + 1], (LISTED,))[0]
        shown = [item for part in example.recalled for item in part.entries]
        assert [item.title for item in shown] == [titles[i] for i in row if i >= 0]
        assert [part.first for part in example.recalled] == [1, 13, 17]  # 12 + 4 + 4
        assert example.rank == ranks(row[None], split.targets[at : at + 1])[0]
        assert [n for n, item in enumerate(shown, 1) if item.target] == [example.rank][
            : example.rank
        ]
        assert example.target.title == titles[split.targets[at]]
        assert [item.title for item in example.history] == [titles[i] for i in history[-8:]]
        assert example.earlier + len(example.history) == len(history)
        if example.interest is not None:
            found = example.recalled[example.interest].entries
            assert any(item.target for item in found)


def test_ids_stand_in_for_titles_that_are_missing(dataset: Dataset) -> None:
    model = tiny.gpt(catalogue=dataset.catalogue, users=dataset.users)
    recall = DenseRecall(model, tiny.RECALL)
    (example, *_) = choose_examples(dataset, splits(dataset).test, recall, seed=1)
    assert example.target.title in dataset.item_ids
    assert example.target.about == ""


def test_further_measurements_are_shown_whatever_their_form(run: Path, tmp_path: Path) -> None:
    measured = copy(run, tmp_path / "measured")
    interests = {
        str(m): {"recall@20": m / 10, "recall@50": m / 5, "overlap": 0.125} for m in (1, 2)
    }
    (measured / "interests.json").write_text(
        json.dumps({"split": "validation", "cases": 12, "by M": interests, "note": [1, {"x": 2}]})
    )
    write_report(measured, tmp_path / "page.html")
    parsed = Page((tmp_path / "page.html").read_text())
    assert "interests: by M" in parsed.text
    assert "overlap 0.1250 0.1250" in parsed.text
    assert "recall@50 0.2000 0.4000" in parsed.text
    assert parsed.count("polyline") == 2 * 2 + 3 + 2
    assert parsed.count("table") == 2 + 1 + 2  # test, these, configuration; epochs of two stages
    (measured / "interests.json").write_text("{")
    with pytest.raises(ValueError, match=r"interests.json is damaged"):
        write_report(measured, tmp_path / "page.html")


def test_an_unfinished_run_is_shown_as_far_as_it_is(run: Path, tmp_path: Path) -> None:
    part = copy(run, tmp_path / "part")
    (part / "metrics.json").unlink()
    shutil.rmtree(part / "tune")
    write_report(part, tmp_path / "part.html")
    parsed = Page((tmp_path / "part.html").read_text())
    assert "not finished: pre-training, epoch 3 of at most 3" in parsed.text
    assert "None yet" in parsed.text
    assert "Prompt-tuning" not in parsed.text
    assert parsed.count("article") > 1
    shutil.rmtree(part / "pretrain")
    write_report(part, tmp_path / "part.html")
    parsed = Page((tmp_path / "part.html").read_text())
    assert "nothing is trained yet" in parsed.text
    assert not parsed.count("article")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", '{"seed": 1}'),
        ("metrics.json", '{"recgpt": {"HR@5": "good"}}'),
        ("metrics.json", "[]"),
        ("pretrain/last.safetensors", "xyz"),
        ("tune/best.safetensors", "xyz"),
    ],
)
def test_a_damaged_run_is_explained(
    run: Path, tmp_path: Path, file: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = copy(run, tmp_path / "damaged")
    (damaged / file).write_text(content)
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(damaged), "--out", str(tmp_path / "page.html")])
    assert stopped.value.code == 1
    err = capsys.readouterr().err
    assert str(damaged / file) in err
    assert "Traceback" not in err
    assert not (tmp_path / "page.html").exists()


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a run"):
        write_report(tmp_path, tmp_path / "page.html")


def browse(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The page as a real browser sees it, and what it writes to its console; it reaches no host."""
    assert BROWSER
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update"]
    flags += ["--disable-dev-shm-usage", "--proxy-server=127.0.0.1:1", "--enable-logging=stderr"]
    command = [BROWSER, *flags, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return shown.stdout, [line for line in shown.stderr.splitlines() if ":CONSOLE" in line]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH")
def test_a_browser_has_nothing_to_complain_of(page: str, tmp_path: Path) -> None:
    """The page forbids every request; one that is tried would be told on the console."""
    file = tmp_path / "page.html"
    file.write_text(page)
    dom, console = browse(file, tmp_path / "one")
    assert console == []
    assert dom.count("<polyline") == page.count("<polyline")
    assert re.sub(r"\s+", " ", Page(dom).text) == Page(page).text
    file.write_text(page.replace("</main>", '<img src="http://127.0.0.1:1/x.png"></main>'))
    _, console = browse(file, tmp_path / "two")
    assert len(console) == 1
    assert "Content Security Policy" in console[0]
