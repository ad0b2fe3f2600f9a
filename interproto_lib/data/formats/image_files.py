"""One image file in, one RGB picture of the wanted size out; what cannot be read says why."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from interproto_lib.data.collections import read_file_bytes
from interproto_lib.errors import DatasetError

Fit = Literal["error", "pad", "crop", "stretch"]

FITS: dict[str, str] = {
    "error": "refuse images of another size",
    "pad": "scale until the whole image fits, black borders around it",
    "crop": "scale until the image covers the square, cut off what stands out on both sides",
    "stretch": "scale height and width apart, which changes the proportions",
}
"""Ways to bring an image to a square of the wanted size, each with what it does."""

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".pgm", ".ppm", ".webp", ".tif", ".tiff")

_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP", "TIFF")
_ORIENTATION_TAG = 0x0112
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N")


def read_image(file: str | Path) -> Image.Image:
    """Read an image file as 8-bit RGB, as `decode_image_bytes` does.

    Args:
        file: The image; its content decides how it is read, not its ending.

    Returns:
        The picture, mode "RGB".

    Raises:
        DatasetError: The file cannot be read as an image; the message is the reason, without the file's name.
    """
    return decode_image_bytes(read_file_bytes(file))


def decode_image_bytes(content: bytes) -> Image.Image:
    """Decode an encoded image as 8-bit RGB.

    What is done with images that are not plain RGB: grey, palette, CMYK (without colour profile) and black-and-white
    images are converted; transparent parts become black; 16-bit grey is scaled from its full range 0..65535 to 0..255;
    an EXIF orientation is applied. Images with 32-bit pixels or several frames are refused, since it is not clear what
    is meant. Above Pillow's limit against decompression bombs (89 million pixels) an image is refused by what its
    header says, before any memory is taken for its pixels.

    Args:
        content: The content of an image file, in one of the formats JPEG, PNG, BMP, PNM, WebP and TIFF.

    Returns:
        The picture, mode "RGB".

    Raises:
        DatasetError: It cannot be read as an image; the message is the reason.
    """
    if not content:
        raise DatasetError("the image is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            image_format = image.format
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or np.inf):
                raise DatasetError(f"has {image.width} x {image.height} pixels, above Pillow's limit for safe reading")
            n_frames = getattr(image, "n_frames", 1)
            if n_frames > 1 and image_format != "MPO":  # the further frames of a camera's MPO are previews
                raise DatasetError(f"holds {n_frames} frames, expected a single image")
            image.load()
            upright = ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION_TAG, 1) != 1 else image
            return _as_rgb(upright, image_format)
    except DatasetError:
        raise
    except Image.UnidentifiedImageError:
        raise DatasetError("not an image of a known format, whatever its ending says") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DatasetError(f"too many pixels for safe reading ({error})") from error
    except Exception as error:  # decoders raise many types on damaged files: each means that it is not readable
        raise DatasetError(f"damaged or cut short ({type(error).__name__}: {error})") from error


def fit_image(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    """Bring an image to `size` x `size` pixels; one that has this size already is returned as it is.

    Args:
        image: The picture, mode "RGB".
        size: Height and width to reach, in pixels.
        fit: One of `FITS`; scaling is bicubic, with the anti-aliasing that Pillow does when it makes smaller.

    Returns:
        The picture, `size` x `size`.

    Raises:
        DatasetError: `fit` is "error" and the size is another.
    """
    width, height = image.size
    if (width, height) == (size, size):
        return image
    bicubic = Image.Resampling.BICUBIC
    if fit == "stretch":
        return image.resize((size, size), bicubic)
    if fit == "crop":
        return ImageOps.fit(image, (size, size), bicubic, centering=(0.5, 0.5))
    if fit == "pad":
        longer = max(width, height)
        inner = (max(1, round(width * size / longer)), max(1, round(height * size / longer)))
        square = Image.new("RGB", (size, size))
        square.paste(image.resize(inner, bicubic), ((size - inner[0]) // 2, (size - inner[1]) // 2))
        return square
    raise DatasetError(f"is {width} x {height} pixels, expected {size} x {size}")


def _as_rgb(image: Image.Image, image_format: str | None) -> Image.Image:
    mode = image.mode
    if mode == "F" or (mode == "I" and image_format != "PPM"):
        raise DatasetError("has 32-bit pixels, whose range is unknown; save it with 8 bits per channel")
    if mode in _SIXTEEN_BIT_MODES or mode == "I":  # Pillow scales a 16-bit PGM of any maximum to 0..65535
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, picture).convert("RGB")
    return image.convert("RGB")
