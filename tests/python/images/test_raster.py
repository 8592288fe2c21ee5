"""PNG and JPEG in their varieties."""

import contextlib
import io
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from fedmed_edge.errors import InputError
from fedmed_edge.images.raster import read_class_numbers, read_raster

GREY = np.arange(24, dtype=np.uint8).reshape(4, 6)
COLOUR = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)


def save(path: Path, picture: Pillow.Image, **settings: Any) -> Path:
    picture.save(path, **settings)
    return path


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    out = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        out += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return out


def test_grey_and_colour_are_read_as_stored(tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        read_raster(save(tmp_path / "g.png", Pillow.fromarray(GREY))).pixels, GREY[None]
    )
    image = read_raster(save(tmp_path / "c.png", Pillow.fromarray(COLOUR)))
    np.testing.assert_array_equal(image.pixels, COLOUR.transpose(2, 0, 1))
    assert image.pixels.flags.c_contiguous


def test_jpeg_is_read_as_pillow_reads_it(tmp_path: Path) -> None:
    for name, array in (("g", GREY), ("c", COLOUR)):
        path = save(tmp_path / f"{name}.jpg", Pillow.fromarray(array))
        wanted = np.atleast_3d(np.asarray(Pillow.open(path))).transpose(2, 0, 1)
        np.testing.assert_array_equal(read_raster(path).pixels, wanted)


def test_16_bit_grey_keeps_its_values(tmp_path: Path) -> None:
    deep = np.array([[0, 1, 256], [4095, 65534, 65535]], np.uint16)
    np.testing.assert_array_equal(
        read_raster(save(tmp_path / "a.png", Pillow.fromarray(deep))).pixels[0], deep
    )


def test_16_bit_colour_is_brought_to_8(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + struct.pack(">6H", 0, 257, 65535, 256, 512, 65280) for _ in range(2))
    (tmp_path / "a.png").write_bytes(
        png(
            (b"IHDR", struct.pack(">2I5B", 2, 2, 16, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        )
    )
    np.testing.assert_array_equal(read_raster(tmp_path / "a.png").pixels[:, 0, 0], [0, 1, 255])


def test_1_bit_is_0_and_255(tmp_path: Path) -> None:
    bits = GREY > 11
    path = save(tmp_path / "a.png", Pillow.fromarray(bits))
    np.testing.assert_array_equal(read_raster(path).pixels[0], bits * 255)
    np.testing.assert_array_equal(read_class_numbers(path), bits)


def test_a_palette_is_colours_in_an_image_and_numbers_in_a_mask(tmp_path: Path) -> None:
    picture = Pillow.fromarray((GREY % 2).astype(np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 200, 100, 0] + [0] * 762)
    path = save(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(read_raster(path).pixels[:, 0, 1], [200, 100, 0])
    np.testing.assert_array_equal(read_class_numbers(path), GREY % 2)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_an_opaque_alpha_channel_is_left_out(tmp_path: Path, mode: str) -> None:
    picture = Pillow.fromarray(GREY if mode == "LA" else COLOUR).convert(mode)
    path = save(tmp_path / "a.png", picture)
    assert read_raster(path).channels == len(mode) - 1
    picture.putpixel((0, 0), (1, 254) if mode == "LA" else (1, 1, 1, 254))
    save(path, picture)
    with pytest.raises(InputError, match=r"a.png: image has a transparent part, expected an opaque image"):
        read_raster(path)


def test_a_transparent_colour_is_refused_where_it_occurs(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Pillow.fromarray(GREY), transparency=200)
    np.testing.assert_array_equal(read_raster(path).pixels[0], GREY)
    save(path, Pillow.fromarray(GREY), transparency=3)
    with pytest.raises(InputError, match="image has a transparent part"):
        read_raster(path)


def test_cmyk_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Pillow.fromarray(COLOUR).convert("CMYK"))
    with pytest.raises(InputError, match=r"a.jpg: image has CMYK colours, expected grey or RGB"):
        read_raster(path)


def test_an_animation_is_refused(tmp_path: Path) -> None:
    frames = [Pillow.fromarray(GREY), Pillow.fromarray(GREY[::-1].copy())]
    path = save(tmp_path / "a.png", frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"a.png: image has 2 frames, expected a single one"):
        read_raster(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_exif_orientation_is_applied(tmp_path: Path, name: str, orientation: int) -> None:
    # Source: EXIF 2.32, tag 0x0112: where row 0 and column 0 of the stored image lie when it is shown.
    shown = {
        1: GREY,
        2: GREY[:, ::-1],
        3: GREY[::-1, ::-1],
        4: GREY[::-1],
        5: GREY.T,
        6: GREY[::-1].T,
        7: GREY[::-1, ::-1].T,
        8: GREY[:, ::-1].T,
    }[orientation]
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    settings = {"quality": 100} if name == "a.jpg" else {}
    path = save(tmp_path / name, Pillow.fromarray(GREY), exif=exif, **settings)
    np.testing.assert_allclose(read_raster(path).pixels[0], shown, atol=2 if settings else 0)


def test_one_pixel_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Pillow.fromarray(GREY[:1, :1]))
    with pytest.raises(InputError, match=r"a.png: image has 1 pixel, expected at least 2 a side"):
        read_raster(path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    header = struct.pack(">2I5B", 60000, 60000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(9))), (b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(png(*chunks))
    with pytest.raises(InputError, match=r"a.png: image has 3600000000 pixels, expected at most 67108864"):
        read_raster(tmp_path / "a.png")


def test_a_chunk_gets_no_more_memory_than_the_file_has_bytes(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Pillow.fromarray(np.zeros((12, 14, 3), np.uint8)).save(buffer, "png")
    content = bytearray(buffer.getvalue())
    at = content.index(b"IDAT") - 4
    content[at : at + 4] = (0xFF020F49).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(content)
    tracemalloc.start()
    with contextlib.suppress(InputError):  # its pixels may be whole all the same
        read_raster(tmp_path / "a.png")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1 << 24


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, format: str) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    Pillow.fromarray(noise).save(buffer, format)
    content = buffer.getvalue()
    for share in (0.05, 0.2, 0.5, 0.9):
        (tmp_path / "a").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(InputError, match=r"a: image is broken or cut off: "):
            read_raster(tmp_path / "a")


def test_damaged_bytes_give_an_image_or_a_refusal(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for format in ("png", "jpeg"):
        buffer = io.BytesIO()
        Pillow.fromarray(COLOUR).save(buffer, format)
        for _ in range(150):
            content = bytearray(buffer.getvalue())
            for place in rng.integers(8, len(content), 3):
                content[place] = rng.integers(256)
            (tmp_path / "a").write_bytes(content)
            try:
                assert np.isfinite(read_raster(tmp_path / "a").pixels).all()
            except InputError as refusal:
                assert "\n" not in str(refusal)


def test_a_colour_mask_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", Pillow.fromarray(COLOUR))
    with pytest.raises(InputError, match=r"m.png: mask has mode RGB, expected one grey channel"):
        read_class_numbers(path)
