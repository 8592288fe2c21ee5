import re
from html.parser import HTMLParser

import numpy as np
import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.report.data import ReportData, TaskFigures, Value
from fedmed_edge.report.html import render, seconds, size, write_report

VOID = {"meta", "img", "br", "link", "input", "hr", "path", "use"}


class Page(HTMLParser):
    """Collects elements, and sees that they are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text, self.rows = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, content):
        self.text.append(content)
        if {"td", "th"} & set(self.open) and content.strip():
            self.rows[-1][-1] += f" {content.strip()}" if self.rows[-1][-1] else content.strip()

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_nothing_comes_from_elsewhere(text, page):
    assert not page.of("script") and not page.of("link") and not page.of("iframe")
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:image/png;base64,")), address
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", text))
    assert {re.sub(r"/\d{4}/.*", "", a) for a in addresses} <= {"http://www.w3.org"}, (
        "names of XML spaces alone"
    )
    assert "@import" not in text and "url(http" not in text


def test_pictures_and_figures_are_described(page):
    assert len(page.of("img")) == 8 and all(image["alt"] for image in page.of("img"))
    figures = [a for a in page.of("figure") if a.get("role") == "img"]
    assert len(figures) == 8 and all(figure["aria-label"] for figure in figures)
    assert page.of("html") == [{"lang": "en"}] and len(page.of("h1")) == 1 and len(page.of("title")) == 1


def test_ids_are_unique_and_references_lead_somewhere(page):
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("href", "xlink:href"):
            target = attributes.get(name, "")
            if target.startswith("#"):
                assert target[1:] in ids
        for used in re.findall(r"url\(#([^)]+)\)", " ".join(v or "" for v in attributes.values())):
            assert used in ids


def test_every_score_stands_in_the_table(data, page):
    words = " ".join(" ".join(page.text).split())
    for task in data.tasks:
        for site, row in task.scores.items():
            assert site in words
            for value in row.values():
                assert f"{value.value:.2f}" in words and f"{value.low:.2f}–{value.high:.2f}" in words
    assert "† ended by a stated budget" in words and "reference\xa0†" in " ".join(page.text)
    assert "4.2 s" in words and "5.3 MB" in words and "at every other site" in words


def test_figures_take_the_pages_colours(text):
    assert not re.search(r"#0[1-9]0[1-9]0[1-9]\b", text), "a stand-in colour was left"
    assert "DejaVu Sans'" not in text.split("</style>", 1)[1]
    assert "prefers-color-scheme: dark" in text and "@media print" in text


def test_same_data_same_bytes(data, text, tmp_path):
    write_report(tmp_path / "a.html", data)
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == text


def test_names_cannot_carry_markup(figures):
    evil = "<script>alert(1)</script>"
    task = figures("segmentation", sites=("a", evil))
    text = render(ReportData(evil, evil, (task,), {evil: evil}, (evil,)))
    assert "<script" not in text and "&lt;script&gt;" in text


def test_missing_values_and_parts_leave_gaps(figures):
    nan = Value(float("nan"), float("nan"), float("nan"))
    scores = {"a": {"rebuilt": Value(0.5)}, "b": {"rebuilt": nan, "reference": Value(0.25)}}
    task = TaskFigures(
        "t", "segmentation", "Dice", "open", "b", ("reference", "rebuilt", "refined"), scores, {}
    )
    text = render(ReportData("t", "s", (task,)))
    page = Page(text)
    assert page.rows == [
        ["site", "reference", "rebuilt", "refined"],
        ["a", "–", "0.50", "–"],
        ["b joined", "0.25", "–", "–"],
    ]
    numbers = [a.get(name) or "" for _, a in page.elements for name in ("d", "x", "y", "points", "transform")]
    assert not [number for number in numbers if re.search(r"\b(nan|inf)\b", number, re.IGNORECASE)]
    assert not re.search(r"\bnan\b", " ".join(page.text), re.IGNORECASE)
    # of figures, pictures and sections without numbers nothing is left, the bars apart
    assert [a["aria-label"].split(" ")[0] for a in page.of("figure") if "role" in a] == ["Bars"]
    assert not page.of("img") and "Who computed" not in text and "mean" not in [row[0] for row in page.rows]


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_two_sites_are_enough_for_every_figure(figures, kind):
    task = figures(kind, sites=("alpha", "beta"))
    page = Page(render(ReportData("t", "s", (task,))))
    drawn = [a["aria-label"].split(" ")[0] for a in page.of("figure") if a.get("role") == "img"]
    assert drawn == ["Bars", "Accuracy", task.metric.split(" ")[0], "Map"]
    assert len(page.of("svg")) == 4 and len(page.of("img")) == 2
    scored = [row for row in page.rows if len(row) == 2 + len(task.columns)][1:3]
    for site, name, row in zip(("alpha", "beta"), ("alpha", "beta joined"), scored, strict=True):
        values = [task.scores[site][column] for column in task.columns]
        wanted = [f"{one.value:.2f} {one.low:.2f}–{one.high:.2f}" for one in values]
        assert row == [name, "40 / 20", *wanted]


def test_report_cannot_be_written(data, tmp_path):
    with pytest.raises(InputError, match=r"report\.html: cannot be written"):
        write_report(tmp_path / "none" / "report.html", data)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 s"), (0.9999, "1.0 s"), (59.97, "1.0 min"), (3599, "1.0 h")]
)
def test_durations_at_their_edges(value, text):
    assert seconds(value) == text


@pytest.mark.parametrize(("count", "text"), [(999, "999 B"), (999_999, "1.0 MB"), (5 * 10**12, "5000.0 GB")])
def test_sizes_at_their_edges(count, text):
    assert size(count) == text


def test_no_two_names_on_the_map_hide_each_other():
    from fedmed_edge.report.figures import _overlap

    assert _overlap((0, 0, 2, 2), (1, 1, 3, 3)) == 1 and _overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0


def test_outline_is_drawn_once_where_classes_touch(figures):
    from fedmed_edge.report.pictures import _outline

    labels = np.zeros((9, 9), np.uint8)
    labels[1:8, 1:8], labels[3:6, 3:6] = 1, 2
    band = _outline(labels, 1)
    expected = np.zeros((9, 9), bool)
    expected[1:8, 1:8], expected[2:7, 2:7] = True, False
    expected[3:6, 3:6], expected[4, 4] = True, False
    assert np.array_equal(band, expected)
