"""Decode images to 8-bit RGB; raise SampleError with a reproducible reason for anything else.

Files may come from anybody: pixels are counted before any is decoded, decoding ends after a time, and only
formats are tried whose decoders are made for images from anywhere.
"""

from __future__ import annotations

import io
import re
import struct
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from featcache.errors import SampleError

_ADDRESS_OR_PATH = re.compile(r"0x[0-9a-fA-F]+|(?:/[^\s/'\"]+){2,}")
_DEPTH_MODES = ("I", "F")
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000")
"""Formats of Pillow. Others are left out, such as EPS, for which Pillow starts Ghostscript."""
MAX_PIXELS = 2**30 // 12
"""Pixels of an image: 89 million, Pillow's own limit, which other code in the process may lift."""
MAX_SECONDS = 60
"""Time to decode an image; a JPEG of some megabytes can ask for hours, by thousands of passes."""
_STRIP = 1024
"""Rows that are converted at a time."""


def decode(data: bytes) -> Image.Image:
    """Return the first frame of an encoded image as RGB.

    The image is turned upright by its EXIF tag, transparency is laid over white, and 16 bits are scaled to 8.
    Raise SampleError for data that is not a whole image of at most `MAX_PIXELS`, or that takes longer than
    `MAX_SECONDS` to decode, and MemoryError where the machine lacks memory for it.
    """
    if not data:
        raise SampleError("the file is empty", got="0 bytes", expected="an image")
    with _quiet_pil():
        try:
            with _open(_Timed(data)) as image:
                _check_size(image)
                bits = _bits(image)
                image.load()
                return rgb(_upright(image), bits)
        except (SampleError, MemoryError):
            raise
        except UnidentifiedImageError:
            raise SampleError("not an image", got=f"{len(data)} bytes of no known format") from None
        except Image.DecompressionBombError:
            raise SampleError("the image is too large", expected=_size_limit()) from None
        except Exception as error:  # decoders raise many types of errors for damaged data
            reason = _ADDRESS_OR_PATH.sub("...", f"{type(error).__name__}: {error}")
            raise SampleError("the image is damaged", got=reason) from None


def has_frames(stream: BinaryIO) -> bool:
    """Return True for an image with a second frame; False for what is no image."""
    with _quiet_pil():
        try:
            with _open(stream) as image:
                image.seek(1)
        except Exception:  # also where there is no second frame
            return False
    return True


def _open(stream: BinaryIO) -> Image.Image:
    """Read the header of an image, in one of the formats that are read."""
    Image.init()
    return Image.open(stream, formats=[name for name in _FORMATS if name in Image.OPEN])


class _Timed(io.BytesIO):
    """The bytes of an image, which cannot be read any more when decoding takes too long."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._end = time.monotonic() + MAX_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes; raise SampleError when the time is over."""
        if time.monotonic() > self._end:
            raise SampleError("the image takes too long to decode", expected=f"at most {MAX_SECONDS} s")
        return super().read(size)


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
    return rgb(Image.fromarray(np.ascontiguousarray(_to_uint8(array))))


def _to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale pixels to uint8; raise SampleError for another type or range."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return _by_strips(array, lambda part: (part.astype(np.uint32) + 128) // 257)
    if array.dtype.kind != "f":
        raise SampleError(
            "pixels of an unknown kind", got=array.dtype, expected="bool, uint8, uint16 or float"
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # also where one is NaN
        raise SampleError("pixels out of range", got=f"{low:g} to {high:g}", expected="floats from 0 to 1")
    return _by_strips(array, lambda part: np.rint(part.astype(np.float64) * 255))


def _by_strips(array: NDArray[Any], scale: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[np.uint8]:
    """Scale an image some rows at a time, as a wider type takes several times the memory."""
    scaled = np.empty(array.shape, np.uint8)
    for top in range(0, len(array), _STRIP):
        scaled[top : top + _STRIP] = scale(array[top : top + _STRIP])
    return scaled


def rgb(image: Image.Image, bits: int = 16) -> Image.Image:
    """Convert any mode to RGB, with transparency laid over white; `bits` are those of a deep gray image."""
    if image.mode.startswith(_DEPTH_MODES):
        return rgb(Image.fromarray(_to_uint8(_depth(np.asarray(image), bits))))
    if not image.has_transparency_data:
        return image.convert("RGB")
    flat = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP):
        box = (0, top, image.width, min(top + _STRIP, image.height))
        rgba = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        flat.paste(Image.alpha_composite(white, rgba).convert("RGB"), box)
    return flat


def _bits(image: Image.Image) -> int:
    """Return the bits of a gray sample that is stored in 16; TIFF has 12 as well, as cameras give them."""
    stored = getattr(image, "tag_v2", {}).get(258)
    return 12 if stored == (12,) else 16


def _depth(array: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return pixels as uint16, as PIL holds 16-bit samples in 32-bit integers for some formats."""
    if array.dtype.kind not in "iu":
        return array
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= 2**bits:
        raise SampleError("pixels out of range", got=f"{low} to {high}", expected=f"{bits} bits")
    deep = array.astype(np.uint16)
    return deep if bits == 16 else np.rint(deep * (65535 / (2**bits - 1))).astype(np.uint16)


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image upright by its EXIF tag, if the tag can be read."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        # The tag cannot be read, but the pixels can.
        return image
    return image


def _check_size(image: Image.Image) -> None:
    """Raise SampleError for an image with too many pixels."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise SampleError("the image is too large", got=f"{pixels:,} pixels", expected=_size_limit())


def _size_limit() -> str:
    return f"at most {MAX_PIXELS:,} pixels"


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
