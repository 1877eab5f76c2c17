"""Pixels of every kind of image file are converted to 8 bits, as in image viewers."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vaedist.data.sources import folder
from vaedist.data.sources.pixels import Target, UnreadableImageError, decode, decoded_suffixes, eight_bit_values
from vaedist.errors import DataError

RAMP = np.linspace(0, 65535, 1600).round().astype(np.uint16).reshape(40, 40)
GREY, GREY_ALPHA, COLOUR, COLOUR_ALPHA, PALETTE = 0, 4, 2, 6, 3  # a PNG's kinds of pixels


def write_png(path, bits, kind, pixels, **chunks):
    """Writes a PNG of pixels [H, W, C] after PLTE or tRNS chunks; Pillow can write only few of these kinds."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width, _ = pixels.shape
    if bits < 8:
        parts = np.unpackbits(pixels.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
        rows = [np.packbits(row.reshape(-1)).tobytes() for row in parts]
    else:
        rows = [row.astype(f">u{bits // 8}").tobytes() for row in pixels]
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    before = b"".join(chunk(name.encode(), content) for name, content in chunks.items())
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", content) + chunk(b"IEND", b"")
    )
    return path


def write_tiff(path, bits, content, photometric, size):
    """Writes an uncompressed grey TIFF."""
    width, height = size
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: height,
        279: len(content),
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    folder = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(content)) + content + folder)
    return path


def decoded(path, **target):
    return decode(path, Target(Image.open(path).size[::-1], **target))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2", ".pgm"])
@pytest.mark.parametrize("grey", [True, False])
def test_a_16_bit_ramp_becomes_an_8_bit_ramp(tmp_path, suffix, grey):
    """The grey levels of the ramp are uniform, so that their mean is 127.5."""
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.fromarray(RAMP).save(tmp_path / split / "a" / f"ramp{suffix}")
    ((images, _),) = folder(tmp_path, (40, 40), grey=grey).read("train")
    assert abs(images.mean() - 127.5) < 0.1
    expected = (RAMP * 255.0 / 65535).round()
    np.testing.assert_array_equal(images[0], np.repeat(expected[..., None], images.shape[-1], axis=-1))


def test_every_16_bit_level_is_rounded():
    levels = np.arange(65536)
    np.testing.assert_array_equal(eight_bit_values(levels.astype(np.uint16)), (levels * 255 / 65535).round())
    np.testing.assert_array_equal(eight_bit_values(levels[:4096], 4095), (levels[:4096] * 255 / 4095).round())


@pytest.mark.parametrize(("kind", "channels"), [(COLOUR, 3), (COLOUR_ALPHA, 4), (GREY_ALPHA, 2)])
def test_16_bit_colour_is_at_most_one_level_off(tmp_path, kind, channels):
    """Pillow returns only the upper 8 bits."""
    pixels = np.repeat(RAMP[..., None], channels, axis=-1)
    if kind != COLOUR:
        pixels[..., -1] = 65535
    found = decoded(write_png(tmp_path / "1.png", 16, kind, pixels))
    assert abs(found - RAMP[..., None] * 255.0 / 65535).max() <= 1
    assert abs(found.mean() - 127.5) < 0.5


def test_12_bit_and_white_is_zero_tiffs(tmp_path):
    """Pillow reads 12 bits as 0 to 4095, and does not invert 16-bit levels in which 0 is white."""
    deep = np.array([[0, 4095, 2048, 819]])
    packed = b"".join(struct.pack(">I", a << 12 | b)[1:] for a, b in deep.reshape(-1, 2).tolist())
    found = decoded(write_tiff(tmp_path / "12.tif", 12, packed, 1, (4, 1)), grey=True)
    np.testing.assert_array_equal(found[..., 0], [[0, 255, 128, 51]])
    found = decoded(write_tiff(tmp_path / "0.tif", 16, RAMP.astype("<u2").tobytes(), 0, (40, 40)), grey=True)
    np.testing.assert_array_equal(found[..., 0], 255 - (RAMP * 255.0 / 65535).round())


@pytest.mark.parametrize(("mode", "kind"), [("I", "integers of up to 32 bits"), ("F", "floats")])
def test_pixels_of_an_unknown_range_are_refused_by_name(tmp_path, mode, kind):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        Image.new(mode, (9, 9), 100).save(tmp_path / split / "1.tif")
        Image.new("L", (9, 9), 100).save(tmp_path / split / "2.tif")
    with pytest.raises(DataError) as caught:
        list(folder(tmp_path).read("train"))
    message = str(caught.value)
    assert "cannot read 2 images: " in message
    assert (
        f"train/1.tif (its pixels are {kind} of no known range (TIFF, mode {mode}); pixels must have 8 bits" in message
    )


def black_shape(mode):
    """The image is a black square on a transparent background, whose hidden pixels are black, too."""
    picture = Image.new("RGBA", (12, 12), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (4, 4, 8, 8))
    return picture.quantize(4) if mode == "P" else picture.convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGBA", ".png"), ("RGBA", ".tif"), ("RGBA", ".webp"), ("LA", ".png"), ("LA", ".tga"), ("P", ".png"),
     ("RGBA", ".gif"), ("RGBA", ".ico"), ("RGBA", ".avif"), ("PA", ".tif")],
)  # fmt: skip
@pytest.mark.parametrize("grey", [True, False])
def test_transparency_is_blended_onto_white_or_a_colour_that_is_asked_for(tmp_path, mode, suffix, grey):
    path = tmp_path / f"shape{suffix}"
    black_shape(mode).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    for background, ground in [((255, 255, 255), 255), ((100, 100, 100), 100)]:
        found = decode(path, Target((12, 12), grey=grey, background=background)).astype(int)
        assert abs(found[0, 0] - ground).max() <= 3  # AVIF is lossy
        assert found[6, 6].max() <= 3


def test_a_half_transparent_pixel_is_half_of_the_background(tmp_path):
    Image.new("RGBA", (4, 4), (200, 0, 0, 128)).save(tmp_path / "1.png")
    found = decoded(tmp_path / "1.png", background=(0, 0, 200))
    assert abs(found[0, 0].astype(int) - [100, 0, 100]).max() <= 1


LEVELS = np.array([[[0], [1], [0], [1]]])


@pytest.mark.parametrize(
    ("bits", "kind", "pixels", "chunks", "expected"),
    [
        (1, GREY, LEVELS, {"tRNS": b"\0\0"}, [9, 255, 9, 255]),
        (2, GREY, LEVELS, {"tRNS": b"\0\1"}, [0, 9, 0, 9]),
        (4, GREY, LEVELS, {"tRNS": b"\0\1"}, [0, 9, 0, 9]),
        (8, GREY, LEVELS * 200, {"tRNS": b"\0\xc8"}, [0, 9, 0, 9]),
        (16, GREY, LEVELS * 25700, {"tRNS": b"\0\0"}, [9, 100, 9, 100]),
        (8, COLOUR, np.repeat(LEVELS * 200, 3, -1), {"tRNS": b"\0\xc8" * 3}, [0, 9, 0, 9]),
        (16, COLOUR, np.repeat(LEVELS * 25700, 3, -1), {"tRNS": b"\x64\x64" * 3}, [0, 9, 0, 9]),
        (4, PALETTE, LEVELS, {"PLTE": bytes([50] * 3 + [150] * 3), "tRNS": b"\0"}, [9, 150, 9, 150]),
    ],
)
def test_one_transparent_colour_of_a_png(tmp_path, bits, kind, pixels, chunks, expected):
    path = write_png(tmp_path / "1.png", bits, kind, pixels, **chunks)
    assert decoded(path, background=(9, 9, 9))[0, :, 0].tolist() == expected
    opaque = {name: content for name, content in chunks.items() if name == "PLTE"}
    assert 9 not in decoded(write_png(tmp_path / "2.png", bits, kind, pixels, **opaque), background=(9, 9, 9))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", ".png"), ("RGB", ".png"), ("P", ".gif"), ("CMYK", ".tif"), ("CMYK", ".jpg"), ("YCbCr", ".tif"),
     ("LAB", ".tif"), ("RGB", ".ppm"), ("RGB", ".bmp"), ("RGB", ".tga"), ("RGB", ".jp2"), ("RGB", ".jfif")],
)  # fmt: skip
@pytest.mark.parametrize("grey", [True, False])
def test_other_colour_spaces_are_converted(tmp_path, mode, suffix, grey):
    path = tmp_path / f"1{suffix}"
    steps = Image.fromarray(np.repeat(np.arange(8, dtype=np.uint8) * 36, 8).reshape(8, 8))
    neutral = Image.new("L", (8, 8), 128)
    colour = steps if mode == "P" else steps.convert("RGB")
    picture = Image.merge("LAB", [steps, neutral, neutral]) if mode == "LAB" else colour.convert(mode)
    picture.save(path)
    expected = np.asarray(steps)[..., None].astype(int)
    assert abs(decoded(path, grey=grey) - expected).max() <= (14 if mode == "LAB" else 5)  # L* is not linear in grey


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (10, 110, 210)]
    for suffix in (".gif", ".png", ".tif", ".webp"):
        path = tmp_path / f"1{suffix}"
        options = {"lossless": True} if suffix == ".webp" else {}
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        assert (decoded(path)[..., 0] == 10).all()


def test_a_16_bit_image_is_turned_upright_too(tmp_path):
    wide = np.zeros((20, 40), np.uint16)
    wide[:, :10] = 65535
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(wide).save(tmp_path / "1.png", exif=exif)
    upright = decode(tmp_path / "1.png", Target((40, 20), grey=True))[..., 0]
    assert (upright[:10] == 255).all()
    assert (upright[10:] == 0).all()


def test_the_readable_formats_are_those_of_pillow():
    assert {".png", ".jfif", ".ppm", ".tga", ".jp2", ".webp", ".tiff", ".bmp", ".gif"} <= decoded_suffixes()
    assert not {".txt", ".heic", ".pdf", ".eps", ".h5", ".mpg"} & decoded_suffixes()


@pytest.mark.parametrize("content", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_a_file_that_is_not_an_image_is_damaged(tmp_path, content):
    (tmp_path / "1.png").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"^cannot identify image file$") as caught:
        decode(tmp_path / "1.png", Target((8, 8)))
    assert caught.value.damaged


def test_unreadable_files_do_not_count_as_damaged(tmp_path):
    with pytest.raises(UnreadableImageError, match=r"^No such file or directory$") as caught:
        decode(tmp_path / "1.png", Target((8, 8)))
    assert not caught.value.damaged
