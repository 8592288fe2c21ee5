import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from fedmed_edge.model.distance import SiteMap
from fedmed_edge.model.evaluate import Evaluation, SiteEvaluation
from fedmed_edge.report.figures import site_tree
from fedmed_edge.report.sums import write_sums_report

SITES = ("harbour", "lakeside", "north <gate>", "westfield")


def findings(between: SiteMap | None) -> Evaluation:
    judged = {name: SiteEvaluation(40, 400, 1.5, 0.5, 0.75, 0.01, 12.0) for name in SITES[:3]}
    judged[SITES[3]] = SiteEvaluation(40, 0, None, None, None, None, None)
    return Evaluation(judged, "ab" * 32, 0.01, 0.4, between, 31.5)


def site_map() -> SiteMap:
    points = np.array([[0.0, 0], [1, 0], [5, 0], [5, 2]])
    return SiteMap(SITES, np.linalg.norm(points[:, None] - points, axis=2))


def test_the_page_holds_table_map_and_tree(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_sums_report(tmp_path / name, "lesion", findings(site_map()), {"harbour": "stands out: size"})
    text = (tmp_path / "one").read_text()
    assert text == (tmp_path / "two").read_text()
    assert text.count("<svg") == 2 and "north &lt;gate&gt;" in text and "<gate>" not in text
    assert "beyond 31.5 counts as unlike" in text and "<b>harbour</b> stands out: size" in text
    assert "<script" not in text and not re.search(r"https?://(?!www\.w3\.org)", text)
    assert re.search(r"<th scope=.row.>westfield</th><td>40</td><td>0</td>\s*<td>–</td>", text)


def test_without_a_map_the_table_stands_alone(tmp_path: Path) -> None:
    write_sums_report(tmp_path / "page.html", "lesion", findings(None), {})
    text = (tmp_path / "page.html").read_text()
    assert "<svg" not in text and "westfield" in text


def test_the_tree_names_every_site_in_its_order() -> None:
    between = site_map()
    svg = site_tree(between.sites, between.merges, between.order)
    drawn = [
        one.text for one in ElementTree.fromstring(svg.replace("xlink:", "")).iter() if one.text in SITES
    ]
    assert sorted(drawn) == sorted(SITES)
    assert drawn == [SITES[leaf] for leaf in between.order]
    with pytest.raises(KeyError):
        site_tree(SITES, [(0, 9, 1.0)], [0, 1, 2, 3])
