"""One picture: it is read as a viewer shows it, or refused by name."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from sdmad_lite.data import read_image, read_images
from sdmad_lite.errors import DataError, SDMADWarning, noting

MARKER = np.zeros((12, 20), np.uint8)
MARKER[:4, :4] = 255  # at the upper left, as every viewer shows it
RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8)
TURNS = [
    lambda x: x,
    lambda x: x[:, ::-1],
    lambda x: x[::-1, ::-1],
    lambda x: x[::-1],
    lambda x: x.T,
    lambda x: np.rot90(x),
    lambda x: x[::-1, ::-1].T,
    lambda x: np.rot90(x, -1),
]
"""How a picture is stored under each mark, 1 to 8."""


def saved(path, image, kind, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, kind, **options)
    return path


@pytest.mark.parametrize("mark", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_a_picture_stands_as_its_mark_says(tmp_path, kind, options, mark):
    stored = Image.fromarray(np.ascontiguousarray(TURNS[mark - 1](MARKER)))
    exif = Image.Exif()
    exif[274] = mark
    path = saved(tmp_path / "x", stored, kind, exif=exif, **options)
    with Image.open(path) as opened:
        for given in (path, opened):
            got = np.asarray(read_image(given))
            assert got.shape == MARKER.shape and np.abs(got.astype(int) - MARKER).max() < 30


def test_a_damaged_mark_is_none(tmp_path):
    path = saved(tmp_path / "x.jpg", MARKER, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0junk")
    assert read_image(path).size == (20, 12)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("PNG", RAMP * 40),  # 12 bits in 16
        ("PNG", RAMP * 1000),
        ("TIFF", RAMP * 40),
        ("TIFF", RAMP.astype(np.int16) * 30 - 1000),
        ("TIFF", RAMP.astype(np.int32) - 20),
        ("TIFF", (RAMP / 63).astype(np.float32)),
        ("PPM", Image.fromarray(RAMP * 40).convert("I")),
        ("JPEG2000", RAMP * 40),
    ],
)
def test_more_than_8_bits_of_grey_are_stretched_with_a_remark(tmp_path, kind, given):
    if isinstance(given, np.ndarray) and given.dtype == np.int16:
        path = tmp_path / "x"
        path.write_bytes(tiff(given.astype("<i2").tobytes(), 16, 1, 2))
    else:
        path = saved(tmp_path / "x", given, kind)
    with pytest.warns(SDMADWarning, match=r"more than 8 bits, stretched between percentiles 0\.5 and 99\.5: 1, .*x"):
        got = np.asarray(read_image(path)).astype(int).ravel()
    assert got[0] == 0 and got[-1] == 255 and (np.diff(got) >= 0).all() and abs(got[32] - 130) < 4


def tiff(pixels: bytes, bits: int, photometric: int, sample_format: int, samples: int = 1, planar: int = 1) -> bytes:
    """A bare TIFF of 8 x 8 pixels in one strip, or for each sample."""
    count = samples if planar == 2 else 1
    size, behind = len(pixels) // count, 8 + 2 + 12 * 10 + 4
    depth = behind if samples > 2 else 0
    at = behind + 2 * samples * bool(depth)
    offsets = [at + 8 * count * (count > 1) + i * size for i in range(count)]
    tables = struct.pack(f"<{count}I", *offsets) + struct.pack(f"<{count}I", *[size] * count) if count > 1 else b""
    entries = [
        (256, 3, 1, 8),
        (257, 3, 1, 8),
        (258, 3, samples, depth or bits),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
    ]
    entries += [(273, 4, count, at if count > 1 else offsets[0]), (277, 3, 1, samples)]
    entries += [(279, 4, count, at + 4 * count if count > 1 else size), (284, 3, 1, planar), (339, 3, 1, sample_format)]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)
    return head + bytes(4) + struct.pack(f"<{samples}H", *[bits] * samples) * bool(depth) + tables + pixels


@pytest.mark.parametrize(("bits", "kind"), [(8, "u1"), (16, "<u2"), (32, "<f4")])
def test_where_white_is_the_least_value_it_is_bright(tmp_path, bits, kind):
    (tmp_path / "x.tif").write_bytes(tiff(RAMP.astype(kind).tobytes(), bits, 0, 3 if bits == 32 else 1))
    with noting(say=False):
        got = np.asarray(read_image(tmp_path / "x.tif")).astype(int).ravel()
    assert got[0] == 255 and (np.diff(got) <= 0).all()


def png(bits: int, kind: int, row: bytes) -> bytes:
    """A PNG of 2 rows of 2 pixels."""
    import zlib

    parts = [(b"IHDR", struct.pack(">IIBBBBB", 2, 2, bits, kind, 0, 0, 0)), (b"IDAT", zlib.compress((b"\0" + row) * 2))]
    chunks = (
        struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in [*parts, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


DEEP = "has colours or see-through parts of 16 bits; save it with 8 bits from 0 to 255"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (png(16, 2, bytes(range(12))), DEEP),
        (png(16, 4, bytes(range(8))), DEEP),
        (png(16, 6, bytes(range(16))), DEEP),
        (tiff(bytes(384), 16, 2, 1, 3), DEEP),
        (tiff(bytes(384), 16, 2, 1, 3, 2), DEEP),
        (b"P6 8 8 4095\n" + bytes(384), DEEP),
        (b"P6 8 8 65535\n" + bytes(384), DEEP),
        (tiff(bytes(64), 8, 1, 2), "has signed numbers"),
        (tiff(bytes(192), 8, 8, 1, 3), "its colours are LAB, which has no way to RGB here; save it as RGB or grey"),
        (tiff(struct.pack("<f", np.nan) * 64, 32, 1, 3), "has pixels that are not finite"),
        (tiff(bytes(512), 64, 1, 3), "nothing that Pillow reads"),
    ],
)
@pytest.mark.parametrize("color", [False, True])
def test_what_would_be_read_otherwise_than_shown_is_refused(tmp_path, content, named, color):
    (tmp_path / "x.img").write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.img: .*{named}"):
        print(np.asarray(read_image(tmp_path / "x.img", color)))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "La", "RGBa", "P"])
def test_what_is_seen_through_is_black_with_a_remark(tmp_path, mode):
    image = Image.merge(
        "LA", (Image.new("L", (4, 2), 200), Image.fromarray(np.repeat([[255, 0, 255, 0]], 2, 0).astype(np.uint8)))
    )
    if mode == "P":
        path = saved(tmp_path / "x.png", image.convert("RGBA").quantize(4), "PNG")
    else:
        path = (
            image.convert("RGBA").convert("P").convert("PA")
            if mode == "PA"
            else image.convert(mode.upper()).convert(mode)
        )
        if mode == "PA":
            path.putalpha(image.getchannel("A"))
    with pytest.warns(SDMADWarning, match="see-through, read on black: 1"):
        got = np.asarray(read_image(path))
    assert got.tolist() == [[200, 0, 200, 0]] * 2


def test_a_picture_that_pillow_only_warns_of_is_read_and_a_larger_one_told(tmp_path):
    def of(side: int):
        stream = io.BytesIO()
        Image.new("1", (side, 10_000)).save(stream, "PNG")
        (tmp_path / "x.png").write_bytes(stream.getvalue())
        return tmp_path / "x.png"

    assert read_image(of(9_500)).size == (9_500, 10_000)
    for side in (10_001, 20_000):
        with pytest.raises(DataError, match=r"x\.png: has more than 100,000,000 pixels; reduce it"):
            read_image(of(side))


def test_a_few_in_colour_are_read_as_grey_with_a_count_and_most_refused():
    grey, red = np.full((4, 4, 3), 90, np.uint8), np.zeros((4, 4, 3), np.uint8) + np.array([200, 20, 20], np.uint8)
    with pytest.warns(SDMADWarning, match="in colour, read as grey: 2") as said, noting():
        assert [image.mode for image in read_images([grey, red, grey, red.copy()])] == ["L"] * 4
    assert len(said) == 1 and read_images([red], color=True)[0].mode == "RGB"
    for most in ([red], [red, red.copy(), grey]):
        with pytest.raises(DataError, match="image: is a colour image, but this modality is grey"), noting(say=False):
            read_images(most)


def test_few_coarse_levels_of_16_bits_are_stretched(tmp_path):
    levels = np.arange(16, dtype=np.uint16).reshape(4, 4) * np.uint16(256)  # 12 bits, of which 4 are used
    Image.fromarray(levels).save(tmp_path / "x.tif")
    with noting(say=False):
        got = np.asarray(read_image(tmp_path / "x.tif"))
    assert got.min() == 0 and got.max() == 255
