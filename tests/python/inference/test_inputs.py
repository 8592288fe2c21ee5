import logging

import numpy as np
import pytest
from PIL import Image as Picture

from fedmed_edge.errors import NothingMatched
from fedmed_edge.inference.inputs import expand_inputs
from fedmed_edge.study.cohort import ABDOMEN, CHEST, write_cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"), size="tiny")


def png(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(np.zeros((4, 4), np.uint8)).save(path, "PNG")
    return path


def test_a_file_is_one_input_whatever_it_is(tmp_path):
    missing = tmp_path / "none.png"
    assert expand_inputs([missing, missing], 2) == [missing]


def test_folder_of_pictures_by_content_and_in_order(tmp_path):
    b, a = png(tmp_path / "b.png"), png(tmp_path / "a.without_ending")
    deep = png(tmp_path / "sub" / "c.png")
    (tmp_path / "labels.csv").write_text("image,label")
    (tmp_path / "fake.png").write_text("no picture")
    png(tmp_path / ".hidden" / "d.png")
    png(tmp_path / ".e.png")
    assert expand_inputs([tmp_path], 2) == [a, b, deep]
    assert expand_inputs([tmp_path / "sub", tmp_path], 2) == [deep, a, b]


def test_series_folder_is_one_input_for_a_model_of_volumes(cohort):
    site = cohort[ABDOMEN] / "harbour"
    series = sorted((site / "series").iterdir())
    assert expand_inputs([series[0]], 3) == [series[0]]
    assert expand_inputs([site / "series"], 3) == series
    with_masks = expand_inputs([site], 3)
    assert set(series) < set(with_masks) and len(with_masks) == 2 * len(series)
    assert len(expand_inputs([series[0]], 2)) == len(list(series[0].iterdir()))


def test_folder_of_single_images_gives_one_input_each(cohort):
    images = cohort[CHEST] / "harbour" / "images"
    assert expand_inputs([images], 2) == sorted(images.iterdir())


def test_results_are_not_inputs_of_the_next_run(tmp_path):
    image, out = png(tmp_path / "a.png"), tmp_path / "out"
    png(out / "a" / "mask.png")
    assert expand_inputs([tmp_path], 2, skip=out) == [image]
    assert expand_inputs([out], 2, skip=out) == [out / "a" / "mask.png"], "asked for by name"


def test_nothing_matched(tmp_path, caplog):
    with pytest.raises(NothingMatched, match="no image found among the inputs") as refused:
        expand_inputs([tmp_path], 2)
    assert refused.value.exit_code == 4
    assert "folder holds no image" in caplog.text


def test_empty_folder_beside_a_good_one_is_named(tmp_path, caplog):
    image = png(tmp_path / "good" / "a.png")
    (tmp_path / "empty").mkdir()
    with caplog.at_level(logging.WARNING):
        assert expand_inputs([tmp_path / "empty", tmp_path / "good"], 2) == [image]
    assert f"{tmp_path / 'empty'}: folder holds no image" in caplog.text
