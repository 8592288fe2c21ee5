"""DICOM results read back by highdicom and pydicom, and judged by dciodvfy."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pydicom.data
import pytest
from highdicom.seg import SegmentationTypeValues
from PIL import Image as Picture
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    UltrasoundMultiFrameImageStorage,
)

from fedmed_edge.errors import InputError, NothingMatched
from fedmed_edge.images.grouping import group_files
from fedmed_edge.images.series import MANUFACTURER, is_own_output
from fedmed_edge.inference import dicom_seg, dicom_source, dicom_stream
from fedmed_edge.inference.identity import derived_uid
from fedmed_edge.inference.options import Options
from fedmed_edge.inference.study import answer_study

# What the objects copy from a CT that has all a CT needs.
PATIENT = {
    "PatientName": "Müller^Jürgen",
    "PatientID": "42",
    "PatientBirthDate": "19700101",
    "PatientSex": "M",
    "StudyDate": "20240102",
    "StudyTime": "101112",
    "StudyID": "7",
    "AccessionNumber": "A77",
    "ReferringPhysicianName": "",
    "SpecificCharacterSet": "ISO_IR 100",
    "Manufacturer": "Maker",
    "FrameOfReferenceUID": "1.2.3.9",
    "InstanceNumber": 1,
    "SeriesNumber": 3,
    "Laterality": "",
    "PositionReferenceIndicator": "",
}
DICOM = Options(formats=frozenset({"json", "seg", "sr", "sc"}))


@pytest.fixture
def errors_of(lacks):
    """Errors that the validator sees in an object."""
    if shutil.which("dciodvfy") is None:
        lacks("dciodvfy: sh tests/packages.sh installs it")

    def look(path):
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, errors="replace")
        return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]

    return look


def slices(level=200, count=12):
    values = np.zeros((count, 20, 24), np.uint16)
    values[3:9, 5:15, 6:18] = level
    return values


def segmenting(model_of, recipe_of, **changes):
    changes = {"classes": ("background", "liver"), "spacing_mm": (1.0, 1.0, 1.5), **changes}
    return model_of(recipe_of("segmentation", (16, 16, 16), **changes))


def remarks_of(report):
    """Sentences of a report."""
    texts = [item for item in report.ContentSequence if item.ValueType == "TEXT"]
    return [item.TextValue for item in texts if item.ConceptNameCodeSequence[0].CodeMeaning == "Comment"]


def presence_of(group):
    """Present or absent, of a group of measurements."""
    (found,) = [one for one in group.get_qualitative_evaluations() if one.name.meaning == "Presence"]
    return found.value.meaning


def read(result):
    return {one.kind: pydicom.dcmread(one.path) for one in result.objects}


@pytest.fixture
def answered(model_of, recipe_of, write_series, tmp_path):
    """A CT series answered: its folder, the model, the one result."""
    folder = write_series(slices(), **PATIENT)
    model = segmenting(model_of, recipe_of)
    (result,) = answer_study(model, [folder], tmp_path / "out")
    assert result.error is None and not result.not_written
    return folder, model, result


def test_a_study_gets_its_folder_and_every_format(answered, tmp_path):
    _, _, result = answered
    folder = tmp_path / "out" / "1.2.3" / "1.2.3.4"
    assert result.output == str(folder)
    names = ["mask.nii.gz", "result.json", "sc.dcm", "seg.dcm", "sr.dcm"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert [(one.kind, one.path) for one in result.objects] == [
        (kind, folder / f"{kind}.dcm") for kind in ("seg", "sr", "sc")
    ]
    assert result.sizes["liver"] == pytest.approx(6 * 10 * 12 * 2.5 * 0.5 * 0.75 / 1000, rel=0.15)


def test_every_object_is_without_errors(errors_of, answered):
    _, _, result = answered
    assert {one.kind: errors_of(one.path) for one in result.objects} == {"seg": [], "sr": [], "sc": []}


def test_patient_study_and_character_set_are_those_of_the_source(answered):
    for dataset in read(answered[2]).values():
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyID", "AccessionNumber"):
            assert str(dataset[keyword].value) == PATIENT[keyword]
        assert dataset.StudyInstanceUID == "1.2.3" and dataset.SpecificCharacterSet == "ISO_IR 100"
        assert dataset.SeriesInstanceUID != "1.2.3.4"


def test_every_object_says_research_use_and_which_model_made_it(answered):
    _, model, result = answered
    objects = read(result)
    for dataset in objects.values():
        assert dataset.SeriesDescription.startswith("RESEARCH USE ONLY") and is_own_output(dataset)
        (maker,) = [
            item for item in dataset.ContributingEquipmentSequence if item.Manufacturer == MANUFACTURER
        ]
        assert model.digest in maker.SoftwareVersions and "3 sites" in maker.ContributionDescription
        assert maker.DeviceUID == derived_uid("model", model.digest, model.manifest.generation)
    texts = remarks_of(objects["sr"])
    assert texts[0].startswith("RESEARCH USE ONLY") and model.digest in texts[0]
    assert objects["sr"].VerificationFlag == "UNVERIFIED" and objects["sr"].PreliminaryFlag == "PRELIMINARY"
    assert objects["sc"].BurnedInAnnotation == "YES"
    assert objects["seg"].SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"


def test_the_segmentation_is_the_mask(answered):
    folder, _, result = answered
    seg = highdicom.seg.segread(result.objects[0].path)
    assert seg.SegmentSequence[0].SegmentLabel == "liver" and seg.number_of_segments == 1
    order = sorted(folder.iterdir(), key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2])
    uids = [pydicom.dcmread(path).SOPInstanceUID for path in order]
    pixels = seg.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True, ignore_spatial_locations=False
    )
    assert np.mean(pixels == (slices() > 0)) > 0.97


def test_the_report_holds_volume_presence_and_segment(answered):
    _, _, result = answered
    report = highdicom.sr.srread(result.objects[1].path)
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    (volume,) = group.get_measurements()
    assert volume.name.meaning == "Volume" and volume.unit.value == "ml"
    assert volume.value == pytest.approx(result.sizes["liver"], abs=1e-3)
    assert presence_of(group) == "Present"
    assert group.referenced_segment.referenced_sop_instance_uid == result.objects[0].sop_instance_uid
    assert group.tracking_uid == read(result)["seg"].SegmentSequence[0].TrackingUID


def test_the_same_again_has_the_same_uids_and_another_model_others(answered, model_of, recipe_of, tmp_path):
    folder, model, result = answered
    uids = [(one.sop_instance_uid, one.series_instance_uid) for one in result.objects]
    (again,) = answer_study(model, [folder], tmp_path / "again")
    assert [(one.sop_instance_uid, one.series_instance_uid) for one in again.objects] == uids
    dimensions = [read(one)["seg"].DimensionOrganizationSequence[0] for one in (result, again)]
    assert dimensions[0] == dimensions[1]
    (map_kind,) = answer_study(model, [folder], tmp_path / "map", Options(seg="labelmap"))
    assert not {one.sop_instance_uid for one in map_kind.objects} & {uid for uid, _ in uids}
    # A late slice makes another object of the same series.
    late = sorted(folder.iterdir())[-1]
    late.unlink()
    (fewer,) = answer_study(model, [folder], tmp_path / "fewer")
    assert [one.series_instance_uid for one in fewer.objects] == [series for _, series in uids]
    assert not {one.sop_instance_uid for one in fewer.objects} & {uid for uid, _ in uids}


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_nothing_found_is_a_result(errors_of, kind, model_of, recipe_of, write_series, tmp_path):
    folder = write_series(slices(level=0), **PATIENT)
    options = Options(seg=kind)
    (result,) = answer_study(segmenting(model_of, recipe_of), [folder], tmp_path / "out", options)
    assert result.error is None and [one.kind for one in result.objects] == ["seg", "sr", "sc"]
    assert result.sizes == {"liver": 0.0}
    assert not pydicom.dcmread(result.objects[0].path).pixel_array.any()
    report = highdicom.sr.srread(result.objects[1].path)
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    assert presence_of(group) == "Absent"
    assert any("nothing found" in text for text in remarks_of(report))
    # The validator of 2022 knows no label maps.
    checked = result.objects if kind == "binary" else result.objects[2:]
    assert [errors_of(one.path) for one in checked] == [[]] * len(checked)


def test_a_label_map_is_read_back(errors_of, model_of, recipe_of, write_series, tmp_path):
    folder = write_series(slices(), **PATIENT)
    (result,) = answer_study(
        segmenting(model_of, recipe_of), [folder], tmp_path / "out", Options(seg="labelmap")
    )
    assert result.objects[0].sop_class_uid == "1.2.840.10008.5.1.4.1.1.66.7"
    volume = highdicom.seg.segread(result.objects[0].path).get_volume(combine_segments=True)
    assert np.count_nonzero(volume.array) == pytest.approx(6 * 10 * 12, rel=0.15)
    # The validator of 2022 takes a label map for no segmentation, where the report names its segment, too.
    told = "Shall not be present for Referenced SOP Class that is not segmentation"
    assert [told in text for text in errors_of(result.objects[1].path)] == [True]
    assert errors_of(result.objects[2].path) == []


def test_codes_and_colours_of_the_recipe(model_of, recipe_of, write_series, tmp_path):
    codes = {"liver": {"value": "10200004", "meaning": "Liver", "category": "anatomy", "colour": "#ff0000"}}
    model = segmenting(model_of, recipe_of, codes=codes)
    (result,) = answer_study(model, [write_series(slices(), **PATIENT)], tmp_path / "out", DICOM)
    segment = read(result)["seg"].SegmentSequence[0]
    kind, category = (
        segment.SegmentedPropertyTypeCodeSequence[0],
        segment.SegmentedPropertyCategoryCodeSequence[0],
    )
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("10200004", "SCT", "Liver")
    assert category.CodeMeaning == "Anatomical Structure"
    colour = highdicom.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue)
    assert np.allclose(colour.to_rgb(), (255, 0, 0), atol=3)


def test_names_beyond_the_sources_character_set_are_written_as_unicode(
    model_of, recipe_of, write_series, tmp_path
):
    model = segmenting(model_of, recipe_of, classes=("фон", "печень"))
    (result,) = answer_study(model, [write_series(slices(), **PATIENT)], tmp_path / "out", DICOM)
    for kind, dataset in read(result).items():
        assert dataset.SpecificCharacterSet == "ISO_IR 192"
        assert str(dataset.PatientName) == "Müller^Jürgen", kind
    assert read(result)["seg"].SegmentSequence[0].SegmentLabel == "печень"


def test_what_the_source_lacks_is_empty_and_not_invented(
    errors_of, model_of, recipe_of, write_series, tmp_path
):
    given = {"PatientID": None, "FrameOfReferenceUID": "1.2.3.9"}
    folder = write_series(slices(), **given)
    (result,) = answer_study(segmenting(model_of, recipe_of), [folder], tmp_path / "out", DICOM)
    assert result.error is None and not result.not_written
    for dataset in read(result).values():
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyDate", "StudyID"):
            assert not dataset[keyword].value
    assert [errors_of(one.path) for one in result.objects] == [[], [], []]


def test_no_frame_of_reference_gives_no_segmentation_and_says_so(model_of, recipe_of, write_series, tmp_path):
    folder = write_series(slices(), **{**PATIENT, "FrameOfReferenceUID": None})
    (result,) = answer_study(segmenting(model_of, recipe_of), [folder], tmp_path / "out")
    assert result.error is None and result.not_written == {"seg": "the source has no FrameOfReferenceUID"}
    assert [one.kind for one in result.objects] == ["sr", "sc"]
    report = highdicom.sr.srread(result.objects[0].path)
    (group,) = report.content.get_image_measurement_groups()
    assert group.get_measurements()[0].value == pytest.approx(result.sizes["liver"], abs=1e-3)
    assert "no seg: the source has no FrameOfReferenceUID" in result.line()


FLAT = {
    **{k: v for k, v in PATIENT.items() if k not in ("FrameOfReferenceUID", "PositionReferenceIndicator")},
    "SOPClassUID": ComputedRadiographyImageStorage,
    "Modality": "CR",
}


def test_a_classified_radiograph(errors_of, model_of, recipe_of, write_dicom, tmp_path):
    path = write_dicom("a.dcm", np.full((16, 16), 200, np.uint8), **FLAT)
    model = model_of(recipe_of(modality=("CR",)))
    (result,) = answer_study(model, [path], tmp_path / "out")
    uid = pydicom.dcmread(path).SOPInstanceUID
    assert result.output == str(tmp_path / "out" / "1.2.3" / "1.2.3.4" / uid) and result.label == "bright"
    assert [one.kind for one in result.objects] == ["sr", "sc"] and not result.not_written
    report = highdicom.sr.srread(result.objects[0].path)
    groups = {g.finding_type.meaning: g for g in report.content.get_image_measurement_groups()}
    certainty = {name: group.get_measurements()[0] for name, group in groups.items()}
    assert certainty["bright"].name.meaning == "Certainty of Finding"
    assert certainty["bright"].value == pytest.approx(100 * result.probabilities["bright"], abs=1e-2)
    presence = {name: presence_of(group) for name, group in groups.items()}
    assert presence == {"dark": "Absent", "bright": "Present"}
    assert [errors_of(one.path) for one in result.objects] == [[], []]


def test_a_segmented_radiograph(errors_of, model_of, recipe_of, write_dicom, tmp_path):
    values = np.zeros((32, 24), np.uint8)
    values[8:20, 6:18] = 255
    path = write_dicom("a.dcm", values, ImagerPixelSpacing=[0.2, 0.2], **FLAT)
    model = model_of(recipe_of("segmentation", modality=("CR",)))
    (result,) = answer_study(model, [path], tmp_path / "out")
    assert [one.kind for one in result.objects] == ["seg", "sr", "sc"] and result.unit == ""
    assert [errors_of(one.path) for one in result.objects] == [[], [], []]
    seg = highdicom.seg.segread(result.objects[0].path)
    assert np.mean((seg.pixel_array > 0) == (values > 0)) > 0.9
    # The spacing at the detector is no size in the patient.
    assert result.document()["areas_mm2"] is None
    path.unlink()
    write_dicom("a.dcm", values, PixelSpacing=[0.1, 0.1], ImagerPixelSpacing=[0.2, 0.2], **FLAT)
    (measured,) = answer_study(model, [path], tmp_path / "other")
    assert measured.document()["areas_mm2"]["bright"] == pytest.approx(12 * 12 * 0.01, rel=0.2)


def test_frames_of_a_cine_each_get_an_answer(model_of, recipe_of, write_dicom, tmp_path):
    frames = np.stack([np.full((16, 16), level, np.uint8) for level in (10, 200, 220)])
    path = write_dicom(
        "cine.dcm",
        frames[0],
        **{**FLAT, "SOPClassUID": UltrasoundMultiFrameImageStorage, "Modality": "US"},
        NumberOfFrames=3,
        PixelData=frames.tobytes(),
    )
    (result,) = answer_study(model_of(recipe_of()), [path], tmp_path / "out")
    assert result.error is None
    assert [frame["label"] for frame in result.frames] == ["dark", "bright", "bright"]
    mean = np.mean([frame["probabilities"]["bright"] for frame in result.frames])
    assert result.label == "bright" and result.probabilities["bright"] == pytest.approx(mean, abs=1e-5)
    (masks,) = answer_study(model_of(recipe_of("segmentation"), name="seg.onnx"), [path], tmp_path / "masks")
    assert masks.not_written == {"seg": "frames of a cine have no place in the patient"}
    assert len(list(Path(masks.output).glob("mask-*.png"))) == 3


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_uids_that_are_none_lead_nowhere_else(model_of, recipe_of, write_dicom, tmp_path):
    path = write_dicom(
        "a.dcm",
        np.full((16, 16), 200, np.uint8),
        **{**FLAT, "StudyInstanceUID": "../../up", "SeriesInstanceUID": "/x"},
    )
    (result,) = answer_study(model_of(recipe_of()), [path], tmp_path / "out")
    assert result.error is None
    assert Path(result.output).resolve().is_relative_to((tmp_path / "out").resolve())


def test_results_of_our_own_are_not_answered_again(answered, tmp_path):
    _, model, result = answered
    (tmp_path / "sent").mkdir()
    for one in result.objects:
        shutil.copy(one.path, tmp_path / "sent")
    with pytest.raises(NothingMatched):
        answer_study(model, [tmp_path / "sent"], tmp_path / "elsewhere")


def test_formats_that_are_not_asked_for_are_not_written_and_do_not_stay(answered, tmp_path):
    folder, model, result = answered
    (again,) = answer_study(model, [folder], tmp_path / "out", Options(formats=frozenset({"json", "sr"})))
    assert again.output == result.output and again.mask is None
    assert sorted(path.name for path in Path(again.output).iterdir()) == ["result.json", "sr.dcm"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from fedmed_edge.errors import InputError
from fedmed_edge.inference.predict import load_model
from fedmed_edge.inference.study import answer_study
model = load_model(Path(sys.argv[1]), trust=Path(sys.argv[2]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))  # a file that grows further fails as on a full disk
try:
    answer_study(model, [Path(sys.argv[3])], Path(sys.argv[4]))
except InputError as error:
    print(error)
"""


def test_a_full_disk_leaves_nothing_half(write_model, server, recipe_of, write_series, tmp_path):
    recipe = recipe_of("segmentation", (16, 16, 16), spacing_mm=(1.0, 1.0, 1.5))
    out = tmp_path / "out"
    arguments = [write_model(recipe), server / "server.pub", write_series(slices(), **PATIENT), out]
    done = subprocess.run([sys.executable, "-c", FULL_DISK, *arguments], capture_output=True, text=True)
    assert "cannot be written: File too large" in done.stdout, done.stderr
    assert not [path for path in out.rglob("*") if path.is_file() and path.stat().st_size]


INTERRUPTED = """
import signal, sys
# ignored where the tests run in the background of a shell
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from fedmed_edge.inference.predict import load_model
from fedmed_edge.inference.study import answer_study
model = load_model(Path(sys.argv[1]), trust=Path(sys.argv[2]))
print("ready", flush=True)
while True:
    answer_study(model, [Path(sys.argv[3])], Path(sys.argv[4]))
"""


def test_an_interruption_leaves_whole_results_or_none(write_model, server, recipe_of, write_series, tmp_path):
    recipe = recipe_of("segmentation", (16, 16, 16), spacing_mm=(1.0, 1.0, 1.5))
    out = tmp_path / "out"
    arguments = [write_model(recipe), server / "server.pub", write_series(slices(), **PATIENT), out]
    for pause in (0.05, 0.9, 1.3):
        with subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            time.sleep(pause)
            os.kill(process.pid, signal.SIGINT)
            process.wait(timeout=30)
        files = [path for path in out.rglob("*") if path.is_file() and path.name != ".results.lock"]
        assert not [path for path in files if path.name.startswith(".part-")]
        for path in files:
            if path.suffix == ".dcm":
                assert pydicom.dcmread(path).SOPInstanceUID


# What the validator says of our objects because the source itself is so.
OF_THE_SOURCE = (
    "StudyInstanceUID has same value as FrameOfReferenceUID",
    "Missing attribute Type 1C Conditional Element=<DeidentificationMethod",
    "Missing attribute Type 1C Conditional Element=<SliceThickness>",
)


@pytest.mark.parametrize(
    "name",
    [
        *("CT_small.dcm", "MR_small_RLE.dcm", "693_J2KI.dcm", "JPEG2000.dcm", "SC_rgb_small_odd.dcm"),
        *("examples_palette.dcm", "examples_ybr_color.dcm", "MR_truncated.dcm", "ExplVR_BigEnd.dcm"),
        *("rtdose.dcm", "image_dfl.dcm"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_real_files(errors_of, name, model_of, recipe_of, tmp_path):
    source = pydicom.data.get_testdata_file(name, download=False)
    if source is None:
        pytest.skip(f"pydicom does not bring {name}")
    model = model_of(recipe_of("segmentation", (32, 32), channels=3))
    (result,) = answer_study(model, [Path(source)], tmp_path / "out", DICOM)
    if result.error is not None:
        assert "\n" not in result.error
        return
    assert {*result.not_written} | {one.kind for one in result.objects} == {"seg", "sr", "sc"}
    assert {*result.not_written} <= {"seg"}
    for one in result.objects:
        assert not [text for text in errors_of(one.path) if not any(own in text for own in OF_THE_SOURCE)]


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("side", [5, 8])
def test_a_file_that_was_written_frame_by_frame_is_that_of_highdicom(
    classes, side, manifest, recipe_of, write_series
):
    """Slices in any order, sides that are no whole bytes, planes and segments with nothing in them."""
    random = np.random.default_rng(side)
    positions = np.array([[0, 0, 2.5 * k] for k in random.permutation(6)])
    folder = write_series(np.zeros((6, side, side), np.int16), positions, **PATIENT)
    names = tuple(f"class {number}" for number in range(classes))
    recipe = recipe_of("segmentation", (16, 16, 16), classes=names)
    (study,) = group_files(folder.iterdir()).studies
    source = dicom_source.read_source(study.series[0], manifest(recipe), "binary")
    masks = random.integers(0, classes, (6, side, side), np.uint8)
    masks[[1, 4]] = 0
    masks[2][masks[2] == classes - 1] = 0
    with dicom_source.quiet():
        made, pieces = dicom_seg.make_segmentation(source, masks, "binary")
        places = dicom_seg._places(source, slice(0, 6))
        how = (SegmentationTypeValues.BINARY, ExplicitVRLittleEndian, places)
        whole = dicom_seg._segmentation(source, masks, *how, omit_empty=True)
    files = b"".join(pieces), dicom_source.encoded(whole)
    read, reference = (pydicom.dcmread(io.BytesIO(content)) for content in files)
    assert read.NumberOfFrames == made.NumberOfFrames
    for dataset in (read, reference):
        # When it was made; the byte that fills up pixels of an odd length is 0 in ours.
        del dataset.InstanceCreationTime, dataset.ContentTime, dataset.ContributingEquipmentSequence
        dataset.PixelData = dataset.PixelData[: -(-dataset.NumberOfFrames * side * side // 8)]
    assert read == reference


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_inner_empty_frames_are_kept_where_asked_for(
    errors_of, kind, manifest, recipe_of, write_series, tmp_path
):
    """Two classes with gaps; highdicom reads the same mask, and which frames are stored is counted."""
    folder = write_series(np.zeros((9, 6, 6), np.int16), **PATIENT)
    recipe = recipe_of("segmentation", (16, 16, 16), classes=("background", "liver", "spleen"))
    (study,) = group_files(folder.iterdir()).studies
    masks = np.zeros((9, 6, 6), np.uint8)
    masks[[1, 4], 1:3] = 1
    masks[[3, 6], 4:6] = 2
    stored = {}
    for keep in (False, True):
        source = dicom_source.read_source(study.series[0], manifest(recipe), f"{kind}{keep}")
        with dicom_source.quiet():
            _, pieces = dicom_seg.make_segmentation(source, masks, kind, keep_empty=keep)
        path = tmp_path / f"{keep}.dcm"
        path.write_bytes(b"".join(pieces))
        seg = highdicom.seg.segread(path)
        places = [float(frame.position[2]) for frame in study.series[0].frames]
        stored[keep] = sorted(
            (
                segment[0].ReferencedSegmentNumber if segment else 0,
                places.index(float(frame.PlanePositionSequence[0].ImagePositionPatient[2])),
            )
            for frame in seg.PerFrameFunctionalGroupsSequence
            for segment in [frame.get("SegmentIdentificationSequence")]
        )
        pixels = seg.get_pixels_by_source_instance(
            [frame.instance_uid for frame in study.series[0].frames],
            combine_segments=True,
            assert_missing_frames_are_empty=True,
        )
        np.testing.assert_array_equal(pixels, masks)
        # The validator of 2022 knows no label maps.
        assert kind == "labelmap" or errors_of(path) == []
    if kind == "binary":
        assert stored[False] == [(1, 1), (1, 4), (2, 3), (2, 6)]
        assert stored[True] == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (2, 5), (2, 6)]
    else:
        assert [place for _, place in stored[False]] == [1, 3, 4, 6]
        assert [place for _, place in stored[True]] == [1, 2, 3, 4, 5, 6]


def test_kept_frames_make_another_object_and_an_empty_mask_keeps_one(
    errors_of, model_of, recipe_of, write_series, tmp_path
):
    folder = write_series(slices(level=0), **PATIENT)
    model = segmenting(model_of, recipe_of)
    (plain,) = answer_study(model, [folder], tmp_path / "plain", DICOM)
    (kept,) = answer_study(model, [folder], tmp_path / "kept", replace(DICOM, seg_keep_empty=True))
    assert kept.error is None and not kept.not_written
    assert plain.objects[0].sop_instance_uid != kept.objects[0].sop_instance_uid
    assert read(kept)["seg"].NumberOfFrames == 1 and errors_of(kept.objects[0].path) == []


def test_a_segmentation_that_no_file_takes_is_refused(monkeypatch):
    monkeypatch.setattr(dicom_stream, "_LONGEST", 10)
    pattern = pydicom.Dataset()
    pattern.PerFrameFunctionalGroupsSequence = [pydicom.Dataset()] * 2
    with pytest.raises(InputError, match="its 2 frames take 16 bytes, expected less than 4 GiB"):
        dicom_stream.frame_by_frame(pattern, [np.ones((8, 8), np.uint8)] * 2, 1)


def test_formats_that_were_named_and_do_not_fit_are_told(model_of, recipe_of, write_dicom, tmp_path):
    Picture.fromarray(np.full((16, 16), 200, np.uint8)).save(tmp_path / "a.png")
    asked = Options(formats=frozenset({"seg", "nifti", "png"}), named=True)
    model = model_of(recipe_of("segmentation"))
    (result,) = answer_study(model, [tmp_path / "a.png"], tmp_path / "out", asked)
    assert result.not_written == {
        "nifti": "the image has no place in the patient, its mask is `png`",
        "seg": "the input is no DICOM",
    }
    assert "no seg: the input is no DICOM" in result.line()
    (plain,) = answer_study(model, [tmp_path / "a.png"], tmp_path / "out")
    assert not plain.not_written
    (result,) = answer_study(
        model_of(recipe_of(), name="b.onnx"), [tmp_path / "a.png"], tmp_path / "other", asked
    )
    assert result.not_written == dict.fromkeys(("nifti", "png", "seg"), "a classification has no mask")
