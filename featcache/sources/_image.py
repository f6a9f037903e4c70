"""Decode images to 8-bit RGB; raise SampleError with a reproducible reason for anything else."""

from __future__ import annotations

import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from featcache.errors import SampleError

_ADDRESS_OR_PATH = re.compile(r"0x[0-9a-fA-F]+|(?:/[^\s/'\"]+){2,}")
_DEPTH_MODES = ("I", "F")


def decode(data: bytes) -> Image.Image:
    """Return the first frame of an encoded image as RGB.

    The image is turned upright by its EXIF tag, transparency is laid over white, and 16 bits are scaled to 8.
    Raise SampleError for data that is not a whole image below PIL's size limit.
    """
    if not data:
        raise SampleError("the file is empty", got="0 bytes", expected="an image")
    with _quiet_pil():
        try:
            with Image.open(io.BytesIO(data)) as image:
                _check_size(image)
                image.load()
                return _rgb(_upright(image))
        except SampleError:
            raise
        except UnidentifiedImageError:
            raise SampleError("not an image", got=f"{len(data)} bytes of no known format") from None
        except Image.DecompressionBombError:
            raise SampleError("the image is too large", expected=_size_limit()) from None
        except Exception as error:  # decoders raise many types of errors for damaged data
            reason = _ADDRESS_OR_PATH.sub("...", f"{type(error).__name__}: {error}")
            raise SampleError("the image is damaged", got=reason) from None


def from_array(array: NDArray[Any]) -> Image.Image:
    """Return an RGB image of an array (H, W) or (H, W, C), with C = 1 (gray), 3 (RGB) or 4 (RGBA).

    Pixels are bool, uint8, uint16 (scaled), or floats from 0 to 1. Raise SampleError for other arrays.

    >>> from_array(np.full((2, 2), 65535, np.uint16)).getpixel((0, 0))
    (255, 255, 255)
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if 0 in array.shape or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise SampleError(
            "not an image", got=f"an array of shape {array.shape}", expected="(H, W[, 1, 3 or 4])"
        )
    return _rgb(Image.fromarray(np.ascontiguousarray(_to_uint8(array))))


def _to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale pixels to uint8; raise SampleError for another type or range."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind != "f":
        raise SampleError(
            "pixels of an unknown kind", got=array.dtype, expected="bool, uint8, uint16 or float"
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # also where one is NaN
        raise SampleError("pixels out of range", got=f"{low:g} to {high:g}", expected="floats from 0 to 1")
    return np.rint(array.astype(np.float64) * 255).astype(np.uint8)


def _rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB, with transparency laid over white."""
    if image.mode.startswith(_DEPTH_MODES):
        return _rgb(Image.fromarray(_to_uint8(_depth(np.asarray(image)))))
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _depth(array: NDArray[Any]) -> NDArray[Any]:
    """Return pixels as uint16, as PIL holds 16-bit samples in 32-bit integers for some formats."""
    if array.dtype.kind not in "iu":
        return array
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 65535:
        raise SampleError("pixels out of range", got=f"{low} to {high}", expected="16 bits")
    return array.astype(np.uint16)


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image upright by its EXIF tag, if the tag can be read."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        # The tag cannot be read, but the pixels can.
        return image
    return image


def _check_size(image: Image.Image) -> None:
    """Raise SampleError for an image above PIL's size limit."""
    pixels = image.width * image.height
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        raise SampleError("the image is too large", got=f"{pixels:,} pixels", expected=_size_limit())


def _size_limit() -> str:
    return f"at most {Image.MAX_IMAGE_PIXELS:,} pixels (PIL's limit)"


_lock = threading.Lock()
_inside = 0
_filters: warnings.catch_warnings[None] | None = None


@contextmanager
def _quiet_pil() -> Iterator[None]:
    """Suppress all warnings of PIL.

    `catch_warnings` alone would restore the wrong filters when threads interleave. So the first thread to
    enter sets the filters, and the last one to leave restores them.
    """
    global _inside, _filters
    with _lock:
        _inside += 1
        if _filters is None:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _filters is not None:
                _filters.__exit__(None, None, None)
                _filters = None
