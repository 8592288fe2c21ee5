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
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, content):
        self.text.append(content)

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
    Page(text)
    assert "–" in text and "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL).lower()


def test_one_site_alone_can_be_drawn(figures):
    task = figures("segmentation", sites=("a", "b"))
    Page(render(ReportData("t", "s", (task,))))


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
