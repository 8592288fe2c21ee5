"""What stored values become."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import JPEG2000Lossless, RLELossless

from fedmed_edge.errors import InputError
from fedmed_edge.images.dicom_files import reading
from fedmed_edge.images.dicom_pixels import codestream_size, decode, fill_padding
from fedmed_edge.images.image import read_image

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"
STORED = np.arange(24, dtype=np.int16).reshape(4, 6)


def values(path: Path) -> Any:
    return read_image(path).pixels


def test_monochrome1_is_inverted_over_the_stored_range(write_dicom: Any) -> None:
    settings = {"PhotometricInterpretation": "MONOCHROME1", "Modality": "CR", "RescaleSlope": 0.5}
    unsigned = write_dicom("a.dcm", STORED.astype(np.uint16), BitsStored=10, HighBit=9, **settings)
    np.testing.assert_array_equal(values(unsigned)[0], (1023 - STORED) * 0.5)
    signed = write_dicom("b.dcm", STORED - 10, **settings)
    np.testing.assert_array_equal(values(signed)[0], (-1 - (STORED - 10)) * 0.5)


@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_quantities_keep_their_sign_in_monochrome1(write_dicom: Any, modality: str) -> None:
    path = write_dicom("a.dcm", STORED, PhotometricInterpretation="MONOCHROME1", Modality=modality)
    np.testing.assert_array_equal(values(path)[0], STORED)


def test_a_real_monochrome1_radiograph() -> None:
    path = BUNDLED / "dicomdirtests" / "77654033" / "CR1" / "6154"
    ds = pydicom.dcmread(path)
    assert ds.PhotometricInterpretation == "MONOCHROME1"
    inverted = 2**ds.BitsStored - 1 - ds.pixel_array.astype(np.float64)
    np.testing.assert_allclose(values(path)[0], inverted * ds.RescaleSlope + ds.RescaleIntercept, rtol=1e-6)
    # The figures that another inversion (after rescaling, around the image's own maximum) would miss.
    assert (values(path).min().round(), values(path).max().round()) == (1084, 1637)


def test_the_display_window_is_not_applied(write_dicom: Any) -> None:
    path = write_dicom("a.dcm", STORED, WindowCenter=5, WindowWidth=4)
    np.testing.assert_array_equal(values(path)[0], STORED)


@pytest.mark.parametrize(("limit", "padded"), [(None, 1), (-1998, 3)])
def test_padding_gets_the_smallest_other_value(write_dicom: Any, limit: int | None, padded: int) -> None:
    stored = STORED + 100
    stored[0, :3] = [-2000, -1999, -1998]
    settings = {} if limit is None else {"PixelPaddingRangeLimit": limit}
    settings |= {"PixelPaddingValue": -2000, "RescaleIntercept": -24, "RescaleSlope": 1}
    path = write_dicom("a.dcm", stored, **settings)
    wanted = stored.astype(np.float32) - 24
    wanted[0, :padded] = np.delete(wanted.ravel(), range(padded)).min()
    np.testing.assert_array_equal(values(path)[0], wanted)


def test_padding_of_a_series_gets_the_smallest_value_of_the_volume(write_series: Any) -> None:
    slices = np.stack([STORED, STORED + 7, STORED - 5])
    slices[1, 0, 0] = -2000
    pixels = values(write_series(slices, PixelPaddingValue=-2000))
    assert pixels[0, 0, 0, 1] == -5


def test_an_image_of_padding_alone_becomes_0() -> None:
    pixels = np.full((2, 2), -np.inf, np.float32)
    fill_padding(pixels)
    assert (pixels == 0).all()


def test_colour_of_16_bits_is_brought_to_8(write_dicom: Any) -> None:
    stored = np.array([[[0, 256, 65535]] * 3] * 3, np.uint16)
    np.testing.assert_array_equal(values(write_dicom("a.dcm", stored))[:, 0, 0], [0, 1, 255])


def test_a_palette_becomes_its_colours() -> None:
    path = BUNDLED / "examples_palette.dcm"
    ds = pydicom.dcmread(path)
    wanted = apply_color_lut(ds.pixel_array, ds)
    assert wanted.dtype == np.uint8 or wanted.dtype == np.uint16
    wanted = wanted >> (8 if wanted.dtype == np.uint16 else 0)
    np.testing.assert_array_equal(values(path), wanted[..., :3].transpose(2, 0, 1))


def test_ybr_becomes_rgb() -> None:
    # The colour bars of one picture, stored in different colour spaces and compressions.
    rgb = values(BUNDLED / "SC_rgb_rle.dcm")
    for name in ("SC_ybr_full_422_uncompressed.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_jpeg_gdcm.dcm"):
        assert np.median(np.abs(values(BUNDLED / name) - rgb)) <= 2


def test_signedness_follows_the_decoder() -> None:
    pixels = values(BUNDLED / "J2K_pixelrep_mismatch.dcm")
    assert (pixels.min(), pixels.max()) == (-2000, 1896)


def test_compressed_copies_are_the_uncompressed_image() -> None:
    wanted = values(BUNDLED / "MR_small.dcm")
    for name in ("RLE", "jp2klossless", "jpeg_ls_lossless", "bigendian", "implicit", "expb", "padded"):
        np.testing.assert_array_equal(values(BUNDLED / f"MR_small_{name}.dcm"), wanted)


def test_a_modality_lut_is_applied(write_dicom: Any) -> None:
    lut = pydicom.Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType = [24, 0, 16], "US"
    lut.LUTData = [3 * number for number in range(24)]
    lut["LUTDescriptor"].VR = lut["LUTData"].VR = "US"
    path = write_dicom("a.dcm", STORED.astype(np.uint16), ModalityLUTSequence=[lut], Modality="CR")
    np.testing.assert_array_equal(values(path)[0], 3 * STORED)
    ds = pydicom.dcmread(path)
    ds.PhotometricInterpretation = "MONOCHROME1"
    ds.save_as(path)
    np.testing.assert_array_equal(values(path)[0], 65535 - 3.0 * STORED)


def test_infinite_values_are_refused(write_dicom: Any) -> None:
    path = write_dicom("a.dcm", STORED, RescaleSlope="1e38", RescaleIntercept="3e38")
    with pytest.raises(InputError, match=r"a.dcm: \d+ pixels are NaN or infinite, expected numbers"):
        values(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_in_float_pixels_is_refused(write_dicom: Any, bad: float) -> None:
    floats = STORED.astype(np.float32)
    path = write_dicom("a.dcm", floats, FloatPixelData=floats.tobytes(), PixelData=None)
    np.testing.assert_array_equal(values(path)[0], floats)
    floats[0, 0] = bad
    path = write_dicom("b.dcm", floats, FloatPixelData=floats.tobytes(), PixelData=None)
    with pytest.raises(InputError, match=r"b.dcm: 1 pixel is NaN or infinite"):
        values(path)


def test_a_codestream_of_another_size_is_refused(write_dicom: Any) -> None:
    declared = b"".join(number.to_bytes(4) for number in (60000, 60000, 0, 0))
    bomb = bytes.fromhex("ff4fff51 0029 0000") + declared + bytes(40)
    path = write_dicom("a.dcm", STORED, syntax=JPEG2000Lossless, PixelData=encapsulate([bomb]))
    with pytest.raises(InputError, match=r"a.dcm: pixel data have size 60000x60000, expected 4x6"):
        decode(path)


def test_codestream_sizes_are_read() -> None:
    sizes = {
        "JPEG2000.dcm": (1024, 256),
        "MR_small_jpeg_ls_lossless.dcm": (64, 64),
        "JPEG-lossy.dcm": (1024, 256),
    }
    for name, size in sizes.items():
        ds = pydicom.dcmread(BUNDLED / name)
        assert codestream_size(pydicom.encaps.get_frame(ds.PixelData, 0, number_of_frames=1)) == size
    assert codestream_size(b"") is None
    assert codestream_size(b"\xff\xd8" + b"\xff" * 300) is None


def test_twelve_bit_jpeg_names_what_decodes_it() -> None:
    try:
        decode(BUNDLED / "JPEG-lossy.dcm")
    except InputError as refusal:
        assert "pixel data are missing, cut off or broken (JPEG Extended" in str(refusal)
        assert "pylibjpeg-libjpeg" in str(refusal.hint)


def test_a_missing_decoder_is_named(write_dicom: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom("a.dcm", STORED, syntax=RLELossless, PixelData=encapsulate([bytes(100)]))
    with pytest.raises(InputError, match=r"missing, cut off or broken \(RLE Lossless\)"):
        decode(path)
    monkeypatch.setattr("fedmed_edge.images.dicom_pixels._DECODERS", ())
    with pytest.raises(InputError, match=r"a.dcm: no decoder for RLE Lossless is installed") as refusal:
        decode(path)
    assert "fedmed-edge[codecs]" in str(refusal.value.hint)


def test_an_unknown_transfer_syntax_is_named(write_dicom: Any) -> None:
    path = write_dicom("a.dcm", STORED, syntax=pydicom.uid.MPEG2MPML, PixelData=encapsulate([bytes(100)]))
    with pytest.raises(InputError, match=r"a.dcm: transfer syntax MPEG2 .* cannot be decoded"):
        decode(path)


def test_our_own_refusals_pass_through() -> None:
    with pytest.raises(InputError, match=r"^as it was$"), reading(Path("a")):
        raise InputError("as it was")
    broken = r"^a: DICOM file is broken or cut off \(KeyError\)$"
    with pytest.raises(InputError, match=broken), reading(Path("a")):
        raise KeyError("Smith^Jane")
