"""NIfTI files: scaling, affines, and what is refused."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header, Nifti1Image, Nifti1Pair
from nibabel.nifti2 import Nifti2Image

from fedmed_edge.errors import InputError
from fedmed_edge.images.nifti import read_nifti, read_voxels

VOXELS = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
AFFINE = np.array([[0, -2.0, 0, 7], [1.5, 0, 0, -3], [0, 0.1, 3, 5], [0, 0, 0, 1]])


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a"])
@pytest.mark.parametrize("kind", [Nifti1Image, Nifti2Image])
def test_voxels_and_affine_are_nibabels(tmp_path: Path, name: str, kind: type[Nifti1Image]) -> None:
    kind(VOXELS, AFFINE).to_filename(tmp_path / "written.nii.gz")
    content = (tmp_path / "written.nii.gz").read_bytes()
    (tmp_path / name).write_bytes(content if name == "a.nii.gz" else gzip.decompress(content))
    image = read_nifti(tmp_path / name)
    np.testing.assert_array_equal(image.pixels, VOXELS[None])
    assert image.affine_ras is not None
    np.testing.assert_allclose(image.affine_ras, AFFINE, atol=1e-6)
    assert image.spacing_mm == pytest.approx(np.linalg.norm(AFFINE[:3, :3], axis=0), rel=1e-6)
    assert (image.modality, image.format) == ("", "nifti")
    assert image.pixels.dtype == np.float32


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    written = Nifti1Image(VOXELS, AFFINE)
    written.header.set_slope_inter(0.5, -10)
    written.to_filename(tmp_path / "a.nii")
    wanted = Nifti1Image.from_filename(tmp_path / "a.nii").get_fdata()
    np.testing.assert_allclose(read_nifti(tmp_path / "a.nii").pixels[0], wanted, atol=1e-4)
    assert read_voxels(tmp_path / "a.nii")[0].dtype == np.float32


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    Nifti1Image(VOXELS, AFFINE, Nifti1Header(endianness=">")).to_filename(tmp_path / "a.nii")
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii").pixels[0], VOXELS)


def test_the_qform_serves_where_there_is_no_sform(tmp_path: Path) -> None:
    written = Nifti1Image(VOXELS, None)
    rigid = np.diag([-1.5, -1.5, 3, 1.0])
    written.set_qform(rigid, code=1)
    written.to_filename(tmp_path / "a.nii")
    affine = read_nifti(tmp_path / "a.nii").affine_ras
    assert affine is not None
    np.testing.assert_allclose(affine, rigid, atol=1e-6)


def test_a_volume_without_orientation_is_refused(tmp_path: Path) -> None:
    header = Nifti1Image(VOXELS, AFFINE).header
    header["sform_code"] = header["qform_code"] = 0
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4) + VOXELS.tobytes(order="F"))
    with pytest.raises(InputError, match=r"image has no orientation \(`qform_code` and `sform_code` are 0\)"):
        read_nifti(tmp_path / "a.nii")


def test_an_affine_of_one_plane_is_refused(tmp_path: Path) -> None:
    flat = AFFINE.copy()
    flat[:3, 2] = flat[:3, 1]
    written = Nifti1Image(VOXELS, AFFINE)
    written.header.set_sform(flat, code=1)
    written.header["qform_code"] = 0
    (tmp_path / "a.nii").write_bytes(written.header.binaryblock + bytes(4) + VOXELS.tobytes(order="F"))
    with pytest.raises(InputError, match=r"a.nii: image has an affine that cannot be inverted"):
        read_nifti(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 5, 6, 2), r"image has 4 dimensions \(4x5x6x2\), expected a 3-D volume"),
        ((4, 5), r"image has 2 dimensions \(4x5\), expected a 3-D volume"),
        ((4, 5, 1), "image has 4x5x1 voxels, expected at least 2 a side"),
        ((1, 1, 1), "image has 1 pixel, expected at least 2 a side"),
    ],
)
def test_shapes_that_are_no_volume(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    Nifti1Image(np.zeros(shape, np.int16), AFFINE).to_filename(tmp_path / "a.nii")
    with pytest.raises(InputError, match=message):
        read_nifti(tmp_path / "a.nii")


def test_a_fourth_axis_of_one_is_left_out(tmp_path: Path) -> None:
    Nifti1Image(VOXELS[..., None], AFFINE).to_filename(tmp_path / "a.nii")
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii").pixels[0], VOXELS)


@pytest.mark.parametrize("kind", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_numbers_that_are_not_real_are_refused(tmp_path: Path, kind: object) -> None:
    Nifti1Image(np.zeros((4, 5, 6), kind), AFFINE).to_filename(tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"image has data type .*, expected one real number a voxel"):
        read_nifti(tmp_path / "a.nii")


def test_nan_voxels_are_refused(tmp_path: Path) -> None:
    holes = VOXELS.astype(np.float32)
    holes[1, 2, 3] = np.nan
    Nifti1Image(holes, AFFINE).to_filename(tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"a.nii: 1 pixel is NaN or infinite, expected numbers"):
        read_nifti(tmp_path / "a.nii")


def test_half_a_pair_is_refused(tmp_path: Path) -> None:
    Nifti1Pair(VOXELS, AFFINE).to_filename(tmp_path / "a.hdr")
    with pytest.raises(InputError, match=r"a.hdr: file is the header of an .hdr and .img pair"):
        read_nifti(tmp_path / "a.hdr")


def test_a_declared_size_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    header = Nifti1Image(VOXELS, AFFINE).header
    header["dim"][1:4] = 30000
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(400))
    with pytest.raises(InputError, match="image has 27000000000000 voxels, expected at most"):
        read_nifti(tmp_path / "a.nii")
    header["dim"][1:4] = VOXELS.shape
    header["vox_offset"] = 2e9
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(400))
    with pytest.raises(InputError, match=r"a.nii: `vox_offset` has 2000000000.0, expected at most 16777216"):
        read_nifti(tmp_path / "a.nii")


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, packed: bool) -> None:
    Nifti1Image(VOXELS, AFFINE).to_filename(tmp_path / "whole.nii.gz")
    content = (tmp_path / "whole.nii.gz").read_bytes()
    content = content if packed else gzip.decompress(content)
    for share in (0.3, 0.6, 0.95):
        (tmp_path / "a.nii").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(InputError, match=r"a.nii: (NIfTI file is broken or cut off|not a PNG)"):
            read_nifti(tmp_path / "a.nii")


def test_another_gzip_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(1000)))
    with pytest.raises(InputError, match=r"a.nii.gz: not a PNG, JPEG, NIfTI or DICOM file"):
        read_nifti(tmp_path / "a.nii.gz")


def test_damaged_headers_give_an_image_or_a_refusal(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    Nifti1Image(VOXELS, AFFINE).to_filename(tmp_path / "whole.nii")
    whole = (tmp_path / "whole.nii").read_bytes()
    for _ in range(300):
        content = bytearray(whole)
        for place in rng.integers(0, 352, 4):
            content[place] = rng.integers(256)
        (tmp_path / "a.nii").write_bytes(content)
        try:
            assert np.isfinite(read_nifti(tmp_path / "a.nii").pixels).all()
        except InputError as refusal:
            assert "\n" not in str(refusal)


@pytest.mark.data
def test_the_real_volume_and_its_mask(shared_data: Path) -> None:
    image = read_nifti(shared_data / "volumes" / "spleen2_ct.nii.gz")
    stored, affine = read_voxels(shared_data / "volumes" / "spleen2_mask.nii.gz")
    mask = stored.astype(np.uint8)
    assert image.shape == mask.shape
    assert image.affine_ras is not None
    np.testing.assert_allclose(image.affine_ras, affine)
    # The spleen is soft tissue, on the patient's left.
    inside = np.argwhere(mask > 0)
    assert 40 < np.median(image.pixels[0][mask > 0]) < 160
    world = inside @ affine[:3, :3].T + affine[:3, 3]
    middle = affine[:3, :3] @ (np.array(mask.shape) / 2) + affine[:3, 3]
    assert world.mean(axis=0)[0] < middle[0]
