from pathlib import Path

import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.inference.survey import survey


def test_a_survey_reads_no_pixels_and_tells_of_everything(scan, recipe_of):
    named, rest = survey([scan], recipe_of("segmentation", (16, 16, 16), modality=("MR",)))
    assert [(Path(name).name, verdict.taken) for name, _, verdict in named] == [
        ("series#1", True),
        ("loc.dcm", False),
        ("series#2", False),
    ]
    assert {Path(name).name: said.rpartition(": ")[2] for name, said in rest} == {
        "cut.dcm": "is empty",
        "notes.txt": "not a PNG, JPEG, NIfTI or DICOM file",
        "picture.png": "png image, expected a volume",
    }


def test_the_recipe_is_read_off_a_model_without_a_runtime(write_model, recipe_of, tmp_path):
    import subprocess
    import sys

    model = write_model(recipe_of())
    code = (
        "import sys, pathlib\nfrom fedmed_edge.inference.survey import recipes_of\n"
        f"assert recipes_of(pathlib.Path({str(model)!r}))[0].name == 'toy'\n"
        "assert not {'onnxruntime', 'onnx', 'torch', 'pydicom'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_what_is_no_model_is_refused(write_model, recipe_of, tmp_path):
    from fedmed_edge.inference.survey import recipes_of as read

    with pytest.raises(InputError, match=r"has no manifest, expected a model made by `fedmed-server export`"):
        read(write_model(recipe_of(), text=""))
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(write_model(recipe_of()).read_bytes()[:-3])
    with pytest.raises(InputError, match=r"cut.onnx: not an ONNX file, or cut off"):
        read(cut)
