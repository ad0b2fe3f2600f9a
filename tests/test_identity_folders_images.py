"""Single image files: damaged ones are refused with the reason, other kinds of pixels become RGB as documented."""

from __future__ import annotations

import io
import os
import re
import resource
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import assert_only_named_errors, mutations
from PIL import Image

from interproto_lib.data.formats import decode_image_bytes, fit_image, read_image
from interproto_lib.errors import DatasetError


def noise(seed: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    """A random picture of (width, height)."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "PPM", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_truncated_images_are_unreadable(tmp_path: Path, image_format: str, share: float):
    file = tmp_path / "x.png"
    whole = encoded(noise(1, (64, 64)), image_format)
    file.write_bytes(whole)
    assert read_image(file).size == (64, 64)
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DatasetError, match=r"damaged or cut short|not an image"):
        read_image(file)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_where_warnings_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    noise(1, (40, 40)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1599)
    with pytest.raises(DatasetError, match="40 x 40 pixels, above Pillow's limit"):
        read_image(tmp_path / "large.png")


def test_a_pipe_does_not_hang(tmp_path: Path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(DatasetError, match="not a file"):
        read_image(tmp_path / "x.png")


def read_saved(folder: Path, image: Image.Image, name: str, **options: Any) -> np.ndarray:
    image.save(folder / name, **options)
    return np.asarray(read_image(folder / name))


def test_sixteen_bit_grey_uses_its_full_range(tmp_path: Path):
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    expected = np.repeat(np.array([[0, 1, 128, 255]], dtype=np.uint8)[:, :, None], 3, axis=2)
    for name in ("x.png", "x.tif"):
        np.testing.assert_array_equal(read_saved(tmp_path, Image.fromarray(values), name), expected)
    (tmp_path / "x.pgm").write_bytes(b"P5 4 1 65535\n" + values.astype(">u2").tobytes())
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "x.pgm")), expected)
    (tmp_path / "ten_bit.pgm").write_bytes(b"P5 2 1 1023\n" + np.array([0, 1023], dtype=">u2").tobytes())
    assert np.asarray(read_image(tmp_path / "ten_bit.pgm"))[0, :, 0].tolist() == [0, 255]


def test_thirty_two_bit_images_are_refused(tmp_path: Path):
    for values in (np.ones((4, 4), dtype=np.int32), np.ones((4, 4), dtype=np.float32)):
        with pytest.raises(DatasetError, match="32-bit pixels"):
            read_saved(tmp_path, Image.fromarray(values), "x.tif")


def test_palette_cmyk_grey_and_black_and_white_become_rgb(tmp_path: Path):
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    np.testing.assert_array_equal(read_saved(tmp_path, red.quantize(4), "p.png"), np.asarray(red))
    np.testing.assert_array_equal(read_saved(tmp_path, red.convert("CMYK"), "c.tif"), np.asarray(red))
    assert np.abs(read_saved(tmp_path, red.convert("CMYK"), "c.jpg").astype(int) - np.asarray(red)).max() <= 3
    assert read_saved(tmp_path, red.convert("L"), "l.jpg").shape == (4, 4, 3)
    assert read_saved(tmp_path, Image.new("1", (4, 4), 1), "b.png").min() == 255


def test_transparent_parts_become_black(tmp_path: Path):
    rgba = np.full((1, 3, 4), 200, dtype=np.uint8)
    rgba[0, :, 3] = [255, 0, 128]
    expected = [[[200] * 3, [0] * 3, [100] * 3]]
    np.testing.assert_allclose(read_saved(tmp_path, Image.fromarray(rgba), "x.png"), expected, atol=1)
    grey = Image.fromarray(rgba[:, :, [0, 3]])
    assert grey.mode == "LA"
    np.testing.assert_allclose(read_saved(tmp_path, grey, "la.png"), expected, atol=1)
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([9, 9, 9, 50, 60, 70])
    palette.putpixel((1, 0), 1)
    found = read_saved(tmp_path, palette, "p.png", transparency=0)
    assert found.tolist() == [[[0, 0, 0], [50, 60, 70]]]


def test_exif_orientation_is_applied(tmp_path: Path):
    picture = noise(3, (8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right to see it upright
    found = read_saved(tmp_path, picture, "x.png", exif=exif)
    np.testing.assert_array_equal(found, np.rot90(np.asarray(picture), k=-1))


def test_the_content_decides_and_not_the_ending(tmp_path: Path):
    picture = noise(4)
    (tmp_path / "x.jpg").write_bytes(encoded(picture, "PNG"))
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "x.jpg")), np.asarray(picture))
    (tmp_path / "y.jpg").write_bytes(encoded(picture, "GIF"))
    with pytest.raises(DatasetError, match="not an image of a known format"):
        read_image(tmp_path / "y.jpg")


def test_fitting_pads_crops_and_stretches():
    values = np.zeros((4, 8, 3), dtype=np.uint8)
    values[:, :4] = [200, 0, 0]
    values[:, 4:] = [0, 0, 200]
    wide = Image.fromarray(values)  # left half red, right half blue
    padded = np.asarray(fit_image(wide, 8, "pad"))
    np.testing.assert_array_equal(padded[2:6], values)
    assert padded[:2].max() == padded[6:].max() == 0
    cropped = np.asarray(fit_image(wide, 4, "crop"))
    np.testing.assert_array_equal(cropped, values[:, 2:6])
    stretched = np.asarray(fit_image(wide, 8, "stretch"))
    np.testing.assert_array_equal(stretched, np.repeat(values, 2, axis=0))
    assert fit_image(wide.crop((0, 0, 4, 4)), 4, "pad").size == (4, 4)
    for fit in ("pad", "crop", "stretch"):
        assert fit_image(Image.new("RGB", (1, 1000)), 8, fit).size == (8, 8)  # type: ignore[arg-type]
        assert fit_image(Image.new("RGB", (3, 5)), 8, fit).size == (8, 8)  # type: ignore[arg-type]


# --- damaged and hostile images --------------------------------------------------------------------------------------


def test_bytes_and_files_give_the_same_picture_and_the_same_reasons(tmp_path: Path):
    whole = encoded(noise(5, (20, 10)), "JPEG")
    for number, content in enumerate((whole, whole[:100], b"GIF89a", encoded(noise(5), "PNG")[:-20])):
        (tmp_path / str(number)).write_bytes(content)
        found = []
        for read, given in ((decode_image_bytes, content), (read_image, tmp_path / str(number))):
            try:
                found.append(read(given).tobytes())  # type: ignore[operator]
            except DatasetError as error:
                found.append(re.sub("0x[0-9a-f]+", "", str(error)).encode())
        assert found[0] == found[1]
    with pytest.raises(DatasetError, match=r"empty \(0 bytes\)"):
        decode_image_bytes(b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def declared(image_format: str, width: int, height: int) -> bytes:
    """A small file whose header declares a huge picture, written by hand."""
    if image_format == "PNG":
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunks = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    if image_format == "BMP":
        header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        return b"BM" + struct.pack("<IHHI", 54 + 100, 0, 0, 54) + header + bytes(100)
    if image_format == "PGM":
        return f"P5 {width} {height} 255\n".encode() + bytes(100)
    if image_format == "JPEG":
        content = bytearray(encoded(noise(1), "JPEG"))
        start = content.index(b"\xff\xc0") + 5
        content[start : start + 4] = struct.pack(">HH", height, width)
        return bytes(content)
    if image_format == "TIFF":
        tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8)]
        tags += [(278, 4, height), (279, 4, 8)]
        entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
        return b"II*\0" + struct.pack("<I", 16) + bytes(8) + struct.pack("<H", len(tags)) + entries + bytes(4)
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    frame = encoded(noise(1), "WEBP")[12:]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("image_format", ["PNG", "BMP", "PGM", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("size", [(20_000, 10_000), (16_000, 16_000), (10_000, 9_000)])
def test_two_hundred_megapixels_are_refused_by_the_header(image_format: str, size: tuple[int, int]):
    content = declared(image_format, *size)
    assert len(content) < 5_000
    before = peak_memory_mib()
    # Of the largest WebP that Pillow would open, its decoder notices first that the frame is not so large.
    with pytest.raises(DatasetError, match="pixels|decoder object" if image_format == "WEBP" else "pixels"):
        decode_image_bytes(content)
    assert peak_memory_mib() - before < 32  # the pixels would take 270 MB and more


def peak_memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP"])
def test_damaged_images_give_a_picture_or_a_reason(image_format: str):
    pictures = [noise(1, (24, 16)), noise(2, (8, 8)).convert("L")]
    n = 250 if image_format in ("TIFF", "WEBP") else 600
    start = time.monotonic()
    for seed, picture in enumerate(pictures):
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {"exif": exif} if image_format in ("JPEG", "PNG", "WEBP") else {}
        content = encoded(picture, image_format, **options)

        def check(damaged: bytes) -> None:
            found = decode_image_bytes(damaged)
            assert found.mode == "RGB"
            assert found.width * found.height <= 90_000_000

        assert assert_only_named_errors(check, mutations(content, n=n, seed=seed)) > 0
    assert time.monotonic() - start < 60
