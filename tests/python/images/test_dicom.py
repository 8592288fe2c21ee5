"""DICOM files and series: geometry, varieties, and every refusal."""

import itertools
import shutil
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.data
import pytest
from kits import load
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, EnhancedCTImageStorage, SegmentationStorage
from scipy.spatial.transform import Rotation

from fedmed_edge.errors import InputError
from fedmed_edge.images.dicom import read_dicom, read_series
from fedmed_edge.images.image import read_image

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"
SLICES = np.random.default_rng(0).integers(-500, 500, (5, 4, 6)).astype(np.int16)
TO_RAS = np.diag([-1.0, -1, 1])


def oblique(count: int, distance: float = 2.5, seed: int = 1) -> tuple[tuple[float, ...], np.ndarray]:
    axes = Rotation.random(random_state=seed).as_matrix()
    return tuple(axes[:, :2].T.ravel()), np.arange(count)[:, None] * axes[:, 2] * distance + [10, -20, 30]


def test_one_frame_is_a_2d_image(write_dicom: Any) -> None:
    path = write_dicom("a.dcm", SLICES[0], PixelSpacing=[0.5, 0.75], RescaleSlope=2, RescaleIntercept=-10)
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels[0], SLICES[0] * 2.0 - 10)
    assert (image.spacing_mm, image.affine_ras, image.modality) == ((0.5, 0.75), None, "CT")
    assert (image.format, image.source) == ("dicom", path)


def test_projection_images_have_the_detectors_spacing(write_dicom: Any) -> None:
    assert read_dicom(write_dicom("a.dcm", SLICES[0], ImagerPixelSpacing=[0.1, 0.2])).spacing_mm == (0.1, 0.2)
    assert read_dicom(write_dicom("b.dcm", SLICES[0])).spacing_mm is None


@pytest.mark.parametrize("seed", range(4))
def test_a_series_lies_where_its_slices_say(write_series: Any, seed: int) -> None:
    orientation, positions = oblique(len(SLICES), seed=seed)
    shuffled = np.random.default_rng(seed).permutation(len(SLICES))
    image = read_image(write_series(SLICES[shuffled], positions[shuffled], orientation))
    assert image.shape == (6, 4, 5)
    assert image.affine_ras is not None
    rows, columns = np.array(orientation).reshape(2, 3)
    for k, row, column in itertools.product(range(5), (0, 3), (0, 5)):
        # DICOM PS3.3 C.7.6.2.1.1: the place of a pixel, PixelSpacing being between rows, then columns.
        wanted = TO_RAS @ (positions[k] + rows * column * 0.75 + columns * row * 0.5)
        index = np.linalg.solve(image.affine_ras, [*wanted, 1])[:3]
        i, j, slab = np.rint(index).astype(int)
        np.testing.assert_allclose(index, [i, j, slab], atol=1e-4)
        assert image.pixels[0, i, j, slab] == SLICES[k, row, column]
    assert image.spacing_mm == pytest.approx((0.75, 0.5, 2.5), rel=1e-5)


def test_the_geometry_is_highdicoms() -> None:
    highdicom = pytest.importorskip("highdicom")
    folder = BUNDLED / "dicomdirtests" / "98892001" / "CT5N"
    image = read_series(folder)
    files = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    volume = highdicom.get_volume_from_series(files)
    assert image.affine_ras is not None
    to_ours = np.linalg.solve(image.affine_ras, np.diag([-1.0, -1, 1, 1]) @ volume.affine)
    for index in np.ndindex(volume.array.shape):
        ours = to_ours @ [*index, 1]
        np.testing.assert_allclose(ours[:3], np.rint(ours[:3]), atol=1e-4)
        i, j, k = np.rint(ours[:3]).astype(int)
        assert abs(image.pixels[0, i, j, k] - volume.array[index]) < 8e-6 * 1000


def test_every_slice_has_its_own_rescale(write_dicom: Any, tmp_path: Path) -> None:
    for k in range(3):
        write_dicom(
            f"pet/{k}.dcm",
            SLICES[k],
            Modality="PT",
            RescaleSlope=0.5 + k,
            RescaleIntercept=k,
            PixelSpacing=[1, 1],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[0, 0, k],
        )
    image = read_image(tmp_path / "pet")
    for k in range(3):
        np.testing.assert_allclose(image.pixels[0, :, :, k].T, SLICES[k] * (0.5 + k) + k)


def test_a_tilted_gantry_keeps_its_shear(write_series: Any) -> None:
    positions = np.arange(5)[:, None] * [0, 0.9, 2.5]
    affine = read_image(write_series(SLICES, positions)).affine_ras
    assert affine is not None
    np.testing.assert_allclose(affine[:3, 2], [0, -0.9, 2.5])


def test_copies_and_bystanders_are_passed_over(write_series: Any) -> None:
    folder = write_series(SLICES)
    shutil.copy(folder / "000.dcm", folder / "copy.dcm")
    (folder / "notes.txt").write_text("a note")
    (folder / ".cache").write_text("hidden")
    (folder / "DICOMDIR").write_text("index")
    assert read_image(folder).shape == (6, 4, 5)


def test_a_report_among_the_slices_is_passed_over(write_series: Any) -> None:
    folder = write_series(SLICES)
    shutil.copy(BUNDLED / "test-SR.dcm", folder / "report.dcm")
    assert read_image(folder).shape == (6, 4, 5)


def test_a_series_of_one_slice_is_a_2d_image(write_series: Any) -> None:
    folder = write_series(SLICES[:1], np.zeros((1, 3)))
    image = read_image(folder)
    assert (image.dimensions, image.source) == (2, folder)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (
            [0, 1, 2, 4, 5],
            r"slices 3 and 4 along the normal are 2.000 mm apart, expected 1.000 mm; 1 missing",
        ),
        ([0, 1, 2, 2, 3], r"slices 3 and 4 along the normal lie at one position"),
        ([0, 1, 2.2, 3, 4], r"slice 3 along the normal lies 0.200 mm off its regular place"),
    ],
)
def test_stacks_that_are_refused(write_series: Any, positions: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_image(write_series(SLICES, np.array([[0, 0, z] for z in positions])))


def test_a_localizer_among_the_slices_is_refused(write_series: Any, write_dicom: Any) -> None:
    folder = write_series(SLICES)
    write_dicom(
        "series/zzz.dcm",
        SLICES[0],
        PixelSpacing=[0.5, 0.75],
        ImagePositionPatient=[0, 0, 0],
        ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
    )
    with pytest.raises(InputError, match=r"000.dcm: CT axial 4x6, zzz.dcm: CT coronal 4x6., expected one"):
        read_image(folder)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        (
            {"SeriesInstanceUID": "1.9"},
            "series: holds 2 series .000.dcm: CT axial 4x6, zzz.dcm: CT axial 4x6., expected",
        ),
        ({"StudyInstanceUID": "1.9"}, "000.dcm: its series lies in two studies, expected one"),
        ({"PatientID": "B"}, "its study holds 2 patients .`PatientID`., expected one"),
        ({"Rows": 3, "PixelData": bytes(36)}, "000.dcm: CT axial 4x6, zzz.dcm: CT axial 3x6., expected one"),
        ({"Modality": "MR"}, "000.dcm: CT axial 4x6, zzz.dcm: MR axial 4x6., expected one"),
        (
            {"PixelSpacing": [0.5, 0.8]},
            "holds 2 series .000.dcm: CT axial 4x6, zzz.dcm: CT axial 4x6., expected one",
        ),
        ({"PixelSpacing": [0, 0.75]}, "zzz.dcm: `PixelSpacing` has 0.0 and 0.75 mm, expected more than 0"),
        ({"PixelSpacing": None}, "holds 2 series .000.dcm: CT axial 4x6, zzz.dcm: CT 4x6., expected one"),
        ({"ImagePositionPatient": None}, "holds 2 series .*zzz.dcm: CT 4x6., expected one"),
        ({"ImagePositionPatient": [0, 0]}, "zzz.dcm: `ImagePositionPatient` has no three numbers"),
        (
            {"ImageOrientationPatient": [1, 0, 0, 0.5, 1, 0]},
            "zzz.dcm: `ImageOrientationPatient` has no two unit vectors at a right angle",
        ),
        ({"NumberOfFrames": 2, "PixelData": bytes(96)}, "holds 2 series .*zzz.dcm: CT 4x6., expected one"),
        ({"PixelData": bytes(10)}, "zzz.dcm: pixel data are missing, cut off or broken"),
        ({"SOPClassUID": SegmentationStorage}, "zzz.dcm: file holds a segmentation, expected an image"),
    ],
)
def test_a_slice_that_does_not_belong(
    write_series: Any, write_dicom: Any, elements: dict[str, Any], message: str
) -> None:
    folder = write_series(SLICES)
    place = {
        "PixelSpacing": [0.5, 0.75],
        "ImagePositionPatient": [0, 0, 12.5],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    }
    write_dicom("series/zzz.dcm", SLICES[0], **(place | elements))
    with pytest.raises(InputError, match=message):
        read_image(folder)


def test_one_instance_with_two_contents_is_refused(write_series: Any, write_dicom: Any) -> None:
    folder = write_series(SLICES, SOPInstanceUID="1.5")
    with pytest.raises(
        InputError, match=r"series: one instance \(SOPInstanceUID\) lies there twice with diff"
    ):
        read_image(folder)


def test_slices_without_a_place_are_refused(write_dicom: Any, tmp_path: Path) -> None:
    for k in range(2):
        write_dicom(f"series/{k}.dcm", SLICES[k])
    with pytest.raises(InputError, match=r"series: 2 slices have no place in the patient"):
        read_image(tmp_path / "series")


def test_a_stray_file_in_a_series_is_refused(write_series: Any) -> None:
    folder = write_series(SLICES)
    (folder / "005.dcm").touch()
    with pytest.raises(InputError, match=r"005.dcm: not a DICOM file, expected only those in the folder"):
        read_image(folder)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder holds no DICOM image"):
        read_image(tmp_path)


def test_a_folder_without_end_is_refused(write_series: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmed_edge.images.dicom.FILES_CAP", 4)
    with pytest.raises(InputError, match="folder has more than 4 files, expected one series"):
        read_image(write_series(SLICES))


def test_colour_slices_are_refused(write_series: Any) -> None:
    colours = np.zeros((3, 4, 6, 3), np.uint8)
    with pytest.raises(InputError, match="volume has colours, expected grey slices"):
        read_image(write_series(colours))


def enhanced(write_dicom: Any, heights: list[float], **elements: Any) -> Path:
    def item(**values: Any) -> list[Dataset]:
        ds = Dataset()
        for keyword, value in values.items():
            setattr(ds, keyword, value)
        return [ds]

    shared = item(
        PlaneOrientationSequence=item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        PixelMeasuresSequence=item(PixelSpacing=[0.5, 0.75]),
    )
    frames = [
        item(
            PlanePositionSequence=item(ImagePositionPatient=[1, 2, z]),
            PixelValueTransformationSequence=item(RescaleSlope=2, RescaleIntercept=k),
        )[0]
        for k, z in enumerate(heights)
    ]
    path: Path = write_dicom(
        "mf.dcm",
        SLICES[0],
        **{
            "SOPClassUID": EnhancedCTImageStorage,
            "NumberOfFrames": len(heights),
            "PixelData": SLICES[: len(heights)].tobytes(),
            "SharedFunctionalGroupsSequence": shared,
            "PerFrameFunctionalGroupsSequence": frames,
            **elements,
        },
    )
    return path


def test_an_enhanced_file_is_a_volume_ordered_by_position(write_dicom: Any) -> None:
    image = read_image(enhanced(write_dicom, [5, 0, 10]))
    np.testing.assert_array_equal(image.pixels[0, :, :, 0].T, SLICES[1] * 2.0 + 1)
    np.testing.assert_array_equal(image.pixels[0, :, :, 1].T, SLICES[0] * 2.0)
    np.testing.assert_array_equal(image.pixels[0, :, :, 2].T, SLICES[2] * 2.0 + 2)
    wanted = np.array([[-0.75, 0, 0, -1], [0, -0.5, 0, -2], [0, 0, 5, 0], [0, 0, 0, 1]])
    assert image.affine_ras is not None
    np.testing.assert_allclose(image.affine_ras, wanted)


def test_an_enhanced_file_with_two_time_points_is_refused(write_dicom: Any) -> None:
    with pytest.raises(InputError, match=r"mf.dcm: slices 1 and 2 along the normal lie at one position"):
        read_image(enhanced(write_dicom, [0, 5, 0, 5]))


def test_a_cine_is_refused(write_dicom: Any) -> None:
    path = write_dicom("a.dcm", SLICES[0], NumberOfFrames=3, PixelData=SLICES[:3].tobytes())
    with pytest.raises(InputError, match=r"a.dcm: image has 3 frames without a place in the patient each"):
        read_image(path)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"Rows": 1, "Columns": 1, "PixelData": bytes(2)}, "image has 1 pixel, expected at least 2 a side"),
        ({"Rows": 65535, "Columns": 65535}, "image has 4294836225 pixels, expected at most 67108864"),
        ({"NumberOfFrames": 2**31 - 1}, "voxels, expected at most 536870912"),
        ({"NumberOfFrames": 70_000}, "image has 70000 frames, expected at most 65536"),
        ({"PixelData": None}, "pixel data are missing, cut off or broken"),
        ({"Columns": 7}, "pixel data are missing, cut off or broken"),
        ({"Rows": None}, "DICOM file holds no image"),
        ({"PhotometricInterpretation": "HSV"}, "image has 1 sample of HSV, expected grey, RGB or YBR"),
        ({"SamplesPerPixel": 4}, "image has 4 samples of MONOCHROME2, expected grey, RGB or YBR"),
        ({"PhotometricInterpretation": None}, r"DICOM file is broken or cut off \(AttributeError\)"),
        ({"SOPClassUID": SegmentationStorage}, "file holds a segmentation, expected an image"),
    ],
)
def test_files_that_are_refused(write_dicom: Any, elements: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"a.dcm: .*{message}"):
        read_image(write_dicom("a.dcm", SLICES[0], **elements))


def test_a_message_holds_no_value_of_the_patient(write_dicom: Any, caplog: pytest.LogCaptureFixture) -> None:
    path = write_dicom("a.dcm", SLICES[0], PatientName="Smith^Jane", PatientID="secret", RescaleSlope=1)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"DS\x04\x001.0 ", b"DS\x04\x00Smit"))
    with pytest.raises(InputError) as refusal:
        read_image(path)
    assert not any(value in str(refusal.value) + caplog.text for value in ("Smith", "secret", "Smit"))


def test_a_deflated_bomb_is_refused_before_it_is_inflated(
    write_dicom: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_dicom("a.dcm", SLICES[0], syntax=DeflatedExplicitVRLittleEndian)
    np.testing.assert_array_equal(read_image(path).pixels[0], SLICES[0])
    monkeypatch.setattr("fedmed_edge.images.dicom_files._INFLATED_CAP", 1 << 20)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    start = path.read_bytes()
    length = 144 + int.from_bytes(start[140:144], "little")
    path.write_bytes(start[:length] + packer.compress(bytes(1 << 24)) + packer.flush())
    with pytest.raises(InputError, match=r"a.dcm: deflated file has more than 1048576 bytes inflated"):
        read_image(path)


def test_a_file_cut_off_anywhere_is_refused(write_dicom: Any) -> None:
    path = write_dicom("a.dcm", SLICES[0])
    content = path.read_bytes()
    for share in (0.3, 0.5, 0.7, 0.9, 0.99):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(InputError, match=r"^[^\n]*a.dcm: [^\n]*$"):
            read_image(path)


def test_damaged_bytes_give_an_image_or_a_refusal(write_dicom: Any) -> None:
    rng = np.random.default_rng(1)
    path = write_dicom("a.dcm", SLICES[0], RescaleSlope=1, RescaleIntercept=0, PixelSpacing=[1, 1])
    whole = path.read_bytes()
    for _ in range(200):
        content = bytearray(whole)
        for place in rng.integers(128, len(content), 4):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        check_answer(path)


def check_answer(path: Path) -> bool:
    """An Image that is whole, or one line of refusal; either within seconds."""
    start = time.monotonic()
    try:
        image = read_image(path)
    except InputError as refusal:
        assert str(refusal).startswith(str(path)) and "\n" not in str(refusal)
        return False
    finally:
        assert time.monotonic() - start < 20
    assert image.pixels.dtype == np.float32 and np.isfinite(image.pixels).all()
    assert image.channels in (1, 3) and min(image.shape) >= 2
    assert (image.affine_ras is None) == (image.dimensions == 2)
    return True


def test_every_bundled_file_gives_an_image_or_a_refusal() -> None:
    answers = {path: check_answer(path) for path in sorted(BUNDLED.rglob("*")) if path.is_file()}
    assert len(answers) > 150
    assert sum(answers.values()) > 70


def test_every_bundled_folder_gives_an_image_or_a_refusal() -> None:
    for folder in [path for path in sorted((BUNDLED / "dicomdirtests").rglob("*")) if path.is_dir()]:
        check_answer(folder)


@pytest.mark.data
def test_every_real_file_gives_an_image_or_a_refusal(shared_data: Path) -> None:
    paths = sorted((shared_data / "dicom").rglob("*"))
    answers = {path: check_answer(path) for path in paths}
    assert sum(answers.values()) > 60
    readable = {path.relative_to(shared_data / "dicom").as_posix() for path, good in answers.items() if good}
    assert {
        "CT/CT1_J2KI.dcm",
        "MR/MR4_JLSL.dcm",
        "US/OBXXXX1A_rle.dcm",
        "XA/XA1_JLSN.dcm",
        "dcmqi/segmentations_ct-3slice",
        "dcmqi/paramaps_701-ADCb500",
        "dcmqi/segmentations_23x38x3_multiframe",
    } <= readable


@pytest.mark.data
def test_no_real_file_makes_a_traceback_a_hang_or_a_crash(shared_data: Path) -> None:
    robustness = load("bench/robustness.py")
    found = list(robustness.outcomes(shared_data / "dicom"))
    assert len(found) > 100 and not [one for one in found if one.fault]


@pytest.mark.data
def test_real_series_lie_upright(shared_data: Path) -> None:
    # A lying patient: the couch and the back are posterior, so air lies in front of the body.
    image = read_image(shared_data / "dicom" / "dcmqi" / "segmentations_ct-3slice")
    assert image.affine_ras is not None
    body = np.argwhere(image.pixels[0] > -300)
    world = body @ image.affine_ras[:3, :3].T
    bone = np.argwhere(image.pixels[0] > 400) @ image.affine_ras[:3, :3].T
    assert bone[:, 1].mean() < world[:, 1].mean()
