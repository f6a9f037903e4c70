"""Decoding: every kind of image becomes upright 8-bit RGB, all else is a reproducible error."""

from __future__ import annotations

import contextlib
import io
import re
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from featcache.errors import SampleError
from featcache.sources._image import decode, from_array

RED, WHITE = (255, 0, 0), (255, 255, 255)


def corner(data):
    image = decode(data)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def test_grayscale_is_repeated(make):
    assert corner(make.png(np.full((2, 2), 77, np.uint8))) == (77, 77, 77)


def test_one_bit_is_black_and_white(make):
    assert corner(make.png(Image.new("1", (2, 2), 1))) == WHITE


def test_one_pixel(make):
    assert decode(make.png(Image.new("RGB", (1, 1), RED))).size == (1, 1)


def test_palette(make):
    assert corner(make.png(Image.new("RGB", (2, 2), RED).quantize())) == RED


def test_palette_with_transparency_lies_on_white(make):
    image = Image.new("RGB", (2, 2), RED).quantize()
    opaque, clear = make.png(image), make.png(image, transparency=image.getpixel((0, 0)))
    assert (corner(opaque), corner(clear)) == (RED, WHITE)


def test_palette_with_a_transparency_table(make):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    decoded = decode(make.png(image, transparency=bytes([128, 0])))
    assert decoded.getpixel((0, 0)) == (255, 127, 127)
    assert decoded.getpixel((1, 0)) == WHITE


def test_alpha_lies_on_white(make):
    assert corner(make.png(Image.new("RGBA", (2, 2), (255, 0, 0, 0)))) == WHITE
    assert corner(make.png(Image.new("RGBA", (2, 2), (255, 0, 0, 128)))) == (255, 127, 127)
    assert corner(make.png(Image.new("LA", (2, 2), (0, 0)))) == WHITE


def test_cmyk_jpeg(make):
    red = corner(make.png(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert np.allclose(red, RED, atol=3)


@pytest.mark.parametrize(("kind", "expected"), [("PNG", 128), ("TIFF", 128)])
def test_sixteen_bits_are_scaled(make, kind, expected):
    ramp = np.array([[0, 257, 32896, 65535]], np.uint16)
    decoded = np.asarray(decode(make.png(ramp, kind)))
    assert decoded[0, :, 0].tolist() == [0, 1, expected, 255]
    assert (decoded[..., 0] == decoded[..., 2]).all()


def test_sixteen_bit_pgm_held_in_32_bits():
    data = b"P5 2 1 65535\n" + np.array([65535, 257], ">u2").tobytes()
    assert np.asarray(decode(data))[0, :, 0].tolist() == [255, 1]


def test_float_tiff(make):
    assert corner(make.png(np.full((2, 2), 0.5, np.float32), "TIFF")) == (128, 128, 128)
    with pytest.raises(SampleError, match=r"(?s)out of range.*0 to 7.*floats from 0 to 1"):
        decode(make.png(np.array([[0, 7]], np.float32), "TIFF"))


def test_first_frame_of_an_animation(make):
    frames = [Image.new("RGB", (2, 2), color) for color in (RED, (0, 255, 0))]
    assert corner(make.png(frames[0], "GIF", save_all=True, append_images=frames[1:])) == RED


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(make, orientation):
    marked = Image.new("RGB", (16, 8), "black")
    marked.paste("white", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = np.asarray(decode(make.png(marked, "PNG", exif=exif)))
    assert decoded.shape == ((8, 16, 3) if orientation < 5 else (16, 8, 3))
    top_left, bottom_right = decoded[0, 0, 0] == 255, decoded[-1, -1, 0] == 255
    assert (top_left, bottom_right) == ((True, False) if orientation in (1, 4, 5, 6) else (False, True))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\xff"]
)
def test_corrupt_exif_does_not_cost_the_image(make, exif):
    assert decode(make.png(Image.new("RGB", (9, 7)), "JPEG", exif=exif)).size == (9, 7)


def reasons(data):
    messages = set()
    for _ in range(2):
        with pytest.raises(SampleError) as caught:
            decode(bytes(bytearray(data)))
        messages.add(str(caught.value))
    assert len(messages) == 1
    message = messages.pop()
    assert not re.search(r"0x[0-9a-f]{4}|object at|/\w+/", message)
    return message


def test_truncated_jpeg(make):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = make.png(noise, "JPEG")
    assert "truncated" in reasons(data[: len(data) // 2])


def test_no_bytes():
    assert "empty" in reasons(b"")


def test_not_an_image():
    message = reasons(b"<html>not found</html>")
    assert "not an image" in message
    assert "22 bytes" in message


def test_damaged_png(make):
    data = bytearray(make.png(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)))
    data[60:80] = bytes(20)
    assert "damaged" in reasons(bytes(data))


def bomb(width, height):
    def chunk(name, body):
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("width", [10_000, 100_000])  # beyond the limit, and beyond twice the limit
def test_decompression_bomb(width):
    message = reasons(bomb(width, 10_000))
    assert "too large" in message
    assert f"{Image.MAX_IMAGE_PIXELS:,}" in message


@given(st.binary(min_size=1, max_size=200), st.integers(0, 200))
def test_damage_anywhere_is_an_image_or_a_sample_error(junk, at):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), RED).save(stream, "PNG")
    data = stream.getvalue()
    with contextlib.suppress(SampleError):
        assert decode(data[:at] + junk + data[at + len(junk) :]).mode == "RGB"


def test_warning_filters_are_as_before_however_threads_interleave(make):
    data = make.png(Image.new("RGB", (64, 64)))
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [decode(data) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_arrays():
    gray = np.array([[0, 255]], np.uint8)
    for array in (
        gray,
        gray[..., None],
        gray > 0,
        gray / 255,
        gray.astype(np.uint16) * 257,
        gray.astype(np.float16) / 255,
    ):
        assert np.asarray(from_array(array))[0, :, 1].tolist() == [0, 255]
    clear = np.zeros((1, 1, 4), np.uint8)
    assert from_array(clear).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2), np.int64), "unknown kind.*int64"),
        (np.full((2, 2), np.nan), "out of range.*nan"),
        (np.full((2, 2), 200.0), "200.*floats from 0 to 1"),
        (np.zeros((2, 2, 2), np.uint8), r"not an image.*\(2, 2, 2\)"),
        (np.zeros((0, 2), np.uint8), r"not an image.*\(0, 2\)"),
    ],
)
def test_arrays_that_are_no_images(array, message):
    with pytest.raises(SampleError, match=f"(?s){message}"):
        from_array(array)
