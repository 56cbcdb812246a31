"""DICOM files: pixels as a viewer shows them, what the header says of patients, and what is refused."""

import io
import logging
import struct
import sys
import warnings

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import compress
from pydicom.sequence import Sequence
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    KeyObjectSelectionDocumentStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from sdmad_dicom import dicom_meta
from sdmad_lite.data import load_data, read_image, walk_images
from sdmad_lite.data.dicom import is_dicom
from sdmad_lite.errors import DataError, MissingExtraError, SDMADWarning

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def dicom(pixels=None, bits=None, syntax=ExplicitVRLittleEndian, vr=None, **header) -> Dataset:
    """A data set of one frame; header values by keyword, None removes one, `vr` says as what they are written."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid(entropy_srcs=["test"])
    made.Modality = "DX"
    if pixels is not None:
        made.Rows, made.Columns = pixels.shape[:2]
        made.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
        made.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
        if pixels.ndim == 3:
            made.PlanarConfiguration = 0
        made.BitsAllocated = pixels.dtype.itemsize * 8
        made.BitsStored = bits or made.BitsAllocated
        made.HighBit = made.BitsStored - 1
        made.PixelRepresentation = int(pixels.dtype.kind == "i")
        data = pixels.astype(pixels.dtype.newbyteorder(">")) if syntax == ExplicitVRBigEndian else pixels
        made.PixelData = data.tobytes() + b"\0" * (pixels.nbytes % 2)
        made["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some values here are wrong on purpose
        for name, value in header.items():
            if value is None:
                delattr(made, name)
            else:
                setattr(made, name, value)
        for name, form in (vr or {}).items():
            made[name].VR = form
    return made


def save(made: Dataset, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        made.save_as(path, enforce_file_format=True)
    return path


def shown(tmp_path, *args, color=False, **kwargs) -> np.ndarray:
    return np.asarray(read_image(save(dicom(*args, **kwargs), tmp_path / "scan.dcm"), color)).astype(int)


def lut(entries, first, bits, count=None, vr="US") -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [count or len(entries), first, bits]
    item["LUTDescriptor"].VR = vr
    item.add_new("LUTData", "US", [int(v) for v in entries])
    return Sequence([item])


# Pixels


def test_8_bit_pixels_without_a_window_stay_as_they_are(tmp_path):
    pixels = np.random.default_rng(0).integers(20, 200, (9, 7), dtype=np.uint8)
    np.testing.assert_array_equal(shown(tmp_path, pixels), pixels)
    np.testing.assert_array_equal(shown(tmp_path, pixels, RescaleSlope=1, RescaleIntercept=0), pixels)


def test_a_window_maps_its_ends_to_black_and_white(tmp_path):
    """PS3.3 C.11.2.1.2.1, by hand: center 2048 and width 1001 go from 1547.5 to 2547.5."""
    got = shown(tmp_path, RAMP, bits=12, WindowCenter=2048, WindowWidth=1001).ravel()
    assert got[:1548].max() == 0 and got[2548:].min() == 255
    assert got[2047:2049].tolist() == [127, 128] and got[1798] == round((1798 - 2047.5) / 1000 * 255 + 127.5)


def test_the_first_of_several_windows_counts(tmp_path):
    one = shown(tmp_path, RAMP, bits=12, WindowCenter=500, WindowWidth=300)
    two = shown(tmp_path, RAMP, bits=12, WindowCenter=[500, 3000], WindowWidth=[300, 900])
    np.testing.assert_array_equal(one, two)


def test_the_rescale_slope_comes_before_the_window(tmp_path):
    """CT: signed values of half a Hounsfield unit; -1000 HU is air, the window is of soft tissue."""
    stored = np.array([[0, 2000], [2080, 2480]], np.int16)  # -1000, 0, 40, 240 HU
    header = {"RescaleSlope": 0.5, "RescaleIntercept": -1000, "WindowCenter": 40, "WindowWidth": 401}
    assert shown(tmp_path, stored, **header).tolist() == [[0, 102], [128, 255]]


def test_signed_pixels_are_read_as_signed(tmp_path):
    got = shown(tmp_path, np.array([[-100, 0], [50, 100]], np.int16), WindowCenter=0, WindowWidth=201)
    assert got.tolist() == [[1, 128], [192, 255]]


def test_monochrome1_is_turned_round(tmp_path):
    header = {"bits": 12, "WindowCenter": 2000, "WindowWidth": 3000}
    plain = shown(tmp_path, RAMP, **header)
    turned = shown(tmp_path, RAMP, PhotometricInterpretation="MONOCHROME1", **header)
    np.testing.assert_array_equal(turned, 255 - plain)


def test_other_shapes_of_windows(tmp_path):
    sigmoid = shown(tmp_path, RAMP, WindowCenter=2048, WindowWidth=1000, VOILUTFunction="SIGMOID").ravel()
    exact = shown(tmp_path, RAMP, WindowCenter=2048, WindowWidth=1000, VOILUTFunction="LINEAR_EXACT").ravel()
    assert sigmoid[2048] == exact[2048] == 128 and sigmoid[1048] == round(255 / (1 + np.exp(4)))
    assert exact[1548] == 0 and exact[2548] == 255 and (np.diff(sigmoid) >= 0).all()


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_voi_lut_counts_before_a_window(tmp_path, bits):
    """4096 entries of 8 bits among them: a falling curve from the highest value to 0."""
    curve = np.linspace(2**bits - 1, 0, 4096).round()
    header = {"VOILUTSequence": lut(curve, 0, bits), "WindowCenter": 1, "WindowWidth": 1}
    got = shown(tmp_path, RAMP, bits=12, **header).ravel()
    np.testing.assert_allclose(got, np.linspace(255, 0, 4096), atol=1)


def test_a_modality_lut_comes_before_the_window(tmp_path):
    header = {"ModalityLUTSequence": lut(np.arange(4096)[::-1], 0, 16), "WindowCenter": 2048, "WindowWidth": 4096}
    np.testing.assert_allclose(shown(tmp_path, RAMP, bits=12, **header).ravel(), np.linspace(255, 0, 4096), atol=1)


SIGNED, PADDED = RAMP.astype(np.int16) - 2048, np.random.default_rng(0).integers(1000, 1100, (30, 30), np.int16)
PADDED[:9] = -2000
WINDOW, RESCALE = {"WindowCenter": 900, "WindowWidth": 401}, {"RescaleSlope": 2, "RescaleIntercept": -1024}


def frame(**header) -> Sequence:
    """Functional groups of one frame: each keyword is a sequence, its entries a dictionary."""
    return Sequence([dicom(**{name: Sequence([dicom(**entries)]) for name, entries in header.items()})])


MEANS_THE_SAME = {  # pixels, the header as it should be, as it is
    "declared deeper than it is": (RAMP, {"VOILUTSequence": lut(RAMP.ravel(), 0, 12)}, lut(RAMP.ravel(), 0, 16)),
    "declared flatter than it is": (RAMP, {"VOILUTSequence": lut(RAMP.ravel(), 0, 12)}, lut(RAMP.ravel(), 0, 8)),
    "more entries declared": (RAMP, {"VOILUTSequence": lut(RAMP.ravel(), 0, 12)}, lut(RAMP.ravel(), 0, 12, 9000)),
    "a first value without its sign": (
        SIGNED,
        {"VOILUTSequence": lut(RAMP.ravel(), -2048, 12, vr="SS")},
        lut(RAMP.ravel(), 2**16 - 2048, 12),
    ),
    "two entries in a word": (
        RAMP,
        {"VOILUTSequence": lut(RAMP.ravel() >> 4, 0, 8)},
        lut((RAMP.ravel() >> 4).astype(np.uint8).view("<u2"), 0, 8, 4096),
    ),
    "empty rescale": (RAMP, WINDOW, {**WINDOW, "RescaleSlope": "", "RescaleIntercept": ""}),
    "one of two": (RAMP, {**WINDOW, "RescaleSlope": 1, "RescaleIntercept": 9}, {**WINDOW, "RescaleIntercept": 9}),
    "a window that is no number": (RAMP, {}, {"WindowCenter": 900, "WindowWidth": "nan"}),
    "a window of less than nothing": (RAMP, {}, {"WindowCenter": 900, "WindowWidth": -400}),
    "an unknown function": (RAMP, WINDOW, {**WINDOW, "VOILUTFunction": "CUBIC"}),
    "window and rescale of all frames": (
        RAMP,
        {**WINDOW, **RESCALE},
        {"SharedFunctionalGroupsSequence": frame(FrameVOILUTSequence=WINDOW, PixelValueTransformationSequence=RESCALE)},
    ),
    "window of the frame": (RAMP, WINDOW, {"PerFrameFunctionalGroupsSequence": frame(FrameVOILUTSequence=WINDOW)}),
    "padding without its sign": (
        PADDED,
        {"PixelPaddingValue": -2000},
        {"PixelPaddingValue": 63536, "vr": {"PixelPaddingValue": "US"}},
    ),
    "a range of padding": (
        PADDED,
        {"PixelPaddingValue": -2000},
        {"PixelPaddingValue": -1, "PixelPaddingRangeLimit": -3000},
    ),
    "both ways of turning round": (
        RAMP,
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    ),
    "the other way": (RAMP, {"PhotometricInterpretation": "MONOCHROME1"}, {"PresentationLUTShape": "INVERSE"}),
    "an old header": (RAMP, {}, {"PhotometricInterpretation": None, "PixelRepresentation": None}),
    "a name with blanks": (RAMP, {}, {"PhotometricInterpretation": " monochrome2"}),
    "bits on top": (RAMP, {}, {"PixelData": (RAMP << 4).tobytes(), "HighBit": 15}),
}


@pytest.mark.parametrize(("pixels", "plain", "odd"), MEANS_THE_SAME.values(), ids=MEANS_THE_SAME.keys())
def test_what_means_the_same_looks_the_same(tmp_path, pixels, plain, odd):
    bits = 12 if pixels is RAMP else 16
    odd = odd if isinstance(odd, dict) else {"VOILUTSequence": odd}
    expected = shown(tmp_path, pixels, bits, **plain)
    assert np.ptp(expected) > 200
    np.testing.assert_array_equal(shown(tmp_path, pixels, bits, **odd), expected)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_count(tmp_path, kind):
    got = shown(tmp_path, PADDED, PhotometricInterpretation=kind, PixelPaddingValue=-2000)
    assert got[:9].max() == 0 and 100 < np.median(got[9:]) < 155


def test_floats_are_read_and_what_is_no_number_is_padding(tmp_path):
    pixels = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    pixels[0, 0], header = np.nan, {"WindowCenter": 0.5, "WindowWidth": 1}
    made = dicom(pixels, PixelData=None, BitsStored=None, HighBit=None, PixelRepresentation=None, **header)
    made.FloatPixelData = pixels.tobytes()
    got = np.asarray(read_image(save(made, tmp_path / "map.dcm"))).ravel().astype(int)
    assert got[0] == 0 and np.abs(got[1:] - np.linspace(0, 255, 64)[1:]).max() <= 1


def test_bits_that_the_header_does_not_declare_are_passed_over_with_a_word(tmp_path):
    with pytest.warns(SDMADWarning, match="more bits than the header declares for a pixel"):
        got = shown(tmp_path, RAMP | 0x8000, 12)
    np.testing.assert_array_equal(got, shown(tmp_path, RAMP, 12))


def test_a_slope_of_nothing_counts_as_none_with_a_word(tmp_path):
    with pytest.warns(SDMADWarning, match="RescaleSlope 0"):
        got = shown(tmp_path, RAMP, 12, RescaleSlope=0, RescaleIntercept=0, **WINDOW)
    np.testing.assert_array_equal(got, shown(tmp_path, RAMP, 12, **WINDOW))


@pytest.mark.parametrize(
    ("header", "shape"),
    [
        ({"PixelAspectRatio": [2, 1]}, (128, 64)),
        ({"PixelSpacing": [0.5, 0.75]}, (64, 96)),
        ({"PixelAspectRatio": [1, 1], "PixelSpacing": [1, 3]}, (64, 64)),
        ({"PixelSpacing": [0, 1]}, (64, 64)),
        ({"PixelSpacing": [1, 1000]}, (64, 64)),
        ({"PerFrameFunctionalGroupsSequence": frame(PixelMeasuresSequence={"PixelSpacing": [3, 1]})}, (192, 64)),
    ],
)
def test_pixels_that_are_not_square_become_so(tmp_path, header, shape):
    assert shown(tmp_path, RAMP, 12, **header).shape == shape


@pytest.mark.parametrize(
    "window", [{}, {"WindowCenter": "", "WindowWidth": ""}, {"WindowCenter": 40, "WindowWidth": 0}, {"WindowWidth": 9}]
)
def test_without_a_usable_window_percentiles_set_the_contrast(tmp_path, window):
    pixels = np.random.default_rng(0).integers(1000, 2000, (60, 60)).astype(np.uint16)
    pixels[:2, :4] = 65535  # a burnt-in letter
    got = shown(tmp_path, pixels, **window)
    low, high = np.percentile(pixels, [0.5, 99.5])
    np.testing.assert_array_equal(got, np.clip(np.rint((pixels - low) * 255 / (high - low)), 0, 255))
    assert got[:2, :4].min() == 255 and 100 < np.median(got) < 155


def test_images_without_contrast_are_read(tmp_path):
    assert shown(tmp_path, np.full((8, 8), 300, np.uint16)).tolist() == [[0] * 8] * 8
    speck = np.zeros((40, 40), np.uint16)
    speck[3, 3] = 900
    assert shown(tmp_path, speck)[3, 3] == 255


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_every_byte_order_gives_the_same(tmp_path, syntax):
    got = shown(tmp_path, RAMP, bits=12, syntax=syntax, WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_allclose(got.ravel(), np.linspace(0, 255, 4096), atol=1)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_lossless_compression_gives_the_same(tmp_path, syntax):
    made = dicom(RAMP, bits=12, WindowCenter=2048, WindowWidth=4096)
    plain = np.asarray(read_image(save(made, tmp_path / "plain.dcm")))
    if syntax == RLELossless:
        compress(made, syntax)
    else:
        stream = io.BytesIO()
        Image.fromarray(RAMP).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
        made.PixelData, made.file_meta.TransferSyntaxUID = encapsulate([stream.getvalue()]), syntax
        made.BitsStored, made.HighBit = 16, 15
        made["PixelData"].VR = "OB"
    np.testing.assert_array_equal(np.asarray(read_image(save(made, tmp_path / "packed.dcm"))), plain)


def jpeg(pixels, marks=True, **how) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=98, **how)
    whole = stream.getvalue()
    return whole if marks else whole[:2] + whole[4 + int.from_bytes(whole[4:6], "big") :]  # without JFIF or Adobe


SMOOTH = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
COLOURED = np.stack([SMOOTH, SMOOTH[::-1], np.full_like(SMOOTH, 90)], 2)


@pytest.mark.parametrize("kind", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("how", [{}, {"subsampling": 0}, {"keep_rgb": True}])
@pytest.mark.parametrize("marks", [True, False])
def test_the_stream_says_what_the_colours_of_a_jpeg_are(tmp_path, kind, how, marks):
    made, syntax = dicom(COLOURED, PhotometricInterpretation=kind), JPEGBaseline8Bit
    made.PixelData, made.file_meta.TransferSyntaxUID = encapsulate([jpeg(COLOURED, marks, **how)]), syntax
    got = read_image(save(made, tmp_path / "photo.dcm"), color=True)
    np.testing.assert_allclose(np.asarray(got).astype(int), COLOURED, atol=8)


def test_a_jpeg_that_says_nothing_is_what_the_header_says(tmp_path):
    stream = bytearray(jpeg(COLOURED, marks=False, keep_rgb=True))
    for name, number in zip(b"RGB", range(3), strict=True):  # in the frame's and in the scan's header
        stream = stream.replace(bytes([name, 0x11]), bytes([number, 0x11])).replace(
            bytes([name, 0]), bytes([number, 0])
        )
    made = dicom(COLOURED)
    made.PixelData, made.file_meta.TransferSyntaxUID = encapsulate([bytes(stream)]), JPEGBaseline8Bit
    np.testing.assert_allclose(np.asarray(read_image(save(made, tmp_path / "a"), True)).astype(int), COLOURED, atol=8)


def test_jpeg_2000_that_turned_the_colours_itself_gives_rgb(tmp_path):
    made, stream = dicom(COLOURED, PhotometricInterpretation="YBR_FULL"), io.BytesIO()
    Image.fromarray(COLOURED).save(stream, "JPEG2000", irreversible=False, no_jp2=True, mct=1)
    made.PixelData, made.file_meta.TransferSyntaxUID = encapsulate([stream.getvalue()]), JPEG2000Lossless
    np.testing.assert_array_equal(np.asarray(read_image(save(made, tmp_path / "a"), color=True)), COLOURED)


def test_grey_jpeg_is_read(tmp_path):
    made = dicom(SMOOTH)
    made.PixelData, made.file_meta.TransferSyntaxUID = encapsulate([jpeg(SMOOTH)]), JPEGBaseline8Bit
    np.testing.assert_allclose(np.asarray(read_image(save(made, tmp_path / "a"))).astype(int), SMOOTH, atol=8)


def test_colour_is_read_where_the_modality_has_it_and_refused_elsewhere(tmp_path):
    color = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(shown(tmp_path, color, color=True), color)
    np.testing.assert_array_equal(shown(tmp_path, color, color=True, PlanarConfiguration=None), color)
    planes = dicom(color, PlanarConfiguration=1, PixelData=color.transpose(2, 0, 1).tobytes())
    np.testing.assert_array_equal(np.asarray(read_image(save(planes, tmp_path / "planes.dcm"), color=True)), color)
    with pytest.raises(DataError, match=r"planes\.dcm: is a colour image"):
        read_image(tmp_path / "planes.dcm")


def test_luminance_and_chroma_become_rgb(tmp_path):
    color = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    ybr = np.asarray(Image.fromarray(color).convert("YCbCr"))
    got = shown(tmp_path, ybr, PhotometricInterpretation="YBR_FULL", color=True)
    np.testing.assert_allclose(got, color, atol=3)


def palette(order="<H", bits=16, shift=8, first=0, segmented="") -> Dataset:
    """Three colours in entries of that byte order and size; `bits` is what is declared."""
    syntax = ExplicitVRBigEndian if order[0] == ">" else ExplicitVRLittleEndian
    made = dicom(np.array([[0, 1], [2, 1]], np.int16) + first, syntax=syntax, PhotometricInterpretation="PALETTE COLOR")
    for i, name in enumerate(("Red", "Green", "Blue")):
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [3, first % 2**16, bits])
        made[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
        entries = [0, 3] * bool(segmented) + [v + i << shift for v in (10, 100, 200)]
        content = b"".join(struct.pack(order, entry) for entry in entries)
        made.add_new(f"{segmented}{name}PaletteColorLookupTableData", "OW", content + b"\0" * (len(content) % 2))
    return made


@pytest.mark.parametrize(
    "made",
    [
        {},
        {"shift": 0},  # of 8 bits, of 12, and of 16 that are declared as 8
        {"shift": 4},
        {"bits": 8},
        {"order": "<B", "shift": 0, "bits": 8},
        {"first": -5},
        {"order": ">H"},
        {"segmented": "Segmented"},
        {"segmented": "Segmented", "order": "<B", "shift": 0, "bits": 8},
        {"segmented": "Segmented", "order": "<B", "shift": 0, "bits": 8, "first": 300},
        {"order": ">H", "segmented": "Segmented"},
    ],
)
def test_a_palette_is_looked_up(tmp_path, made):
    got = np.asarray(read_image(save(palette(**made), tmp_path / "palette.dcm"), color=True))
    assert got.tolist() == [[[10, 11, 12], [100, 101, 102]], [[200, 201, 202], [100, 101, 102]]]


def test_a_dicom_file_is_known_by_its_content_too(tmp_path):
    pixels = np.full((5, 5), 77, np.uint8)
    for name in ("IM000001", "scan.ima", "1.2.840.113"):
        assert np.asarray(read_image(save(dicom(pixels), tmp_path / name))).tolist() == pixels.tolist()


def without_syntax(whole: bytes) -> bytes:
    """A file whose meta header does not say how the rest is written."""
    at = whole.index(b"\x02\x00\x10\x00UI")  # (0002,0010)
    length = struct.unpack("<H", whole[at + 6 : at + 8])[0]
    rest = whole[:at] + whole[at + 8 + length :]
    group = struct.unpack("<I", rest[140:144])[0] - 8 - length
    return rest[:140] + struct.pack("<I", group) + rest[144:]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_files_without_preamble_or_transfer_syntax_are_read(tmp_path, syntax):
    whole = save(dicom(RAMP, bits=12, syntax=syntax, WindowCenter=900, WindowWidth=400), tmp_path / "a").read_bytes()
    group = 144 + struct.unpack("<I", whole[140:144])[0]  # where the meta header ends
    for name, content in (("b", whole[group:]), ("c", without_syntax(whole))):
        (tmp_path / name).write_bytes(content)
        assert is_dicom(tmp_path / name)
        np.testing.assert_array_equal(np.asarray(read_image(tmp_path / name)), np.asarray(read_image(tmp_path / "a")))
    assert dicom_meta(tmp_path / "b") == dicom_meta(tmp_path / "a")


# What is refused


def patched(name, value):
    """A sound file with one element of the header overwritten."""
    return lambda: dicom(RAMP, bits=12, **{name: value})


def without(made, name) -> Dataset:
    delattr(made, name)
    return made


def in_words(made, tag, text) -> Dataset:
    made.add_new(tag, "LO", text)
    return made


REFUSED = {
    "two frames": (patched("NumberOfFrames", 2), "has 2 frames; export the frame"),
    "no pixels": (patched("PixelData", None), "declares 64 x 64 pixels, but none are found in it; export it again"),
    "a segmented palette in swapped bytes": (
        lambda: palette(">B", 8, 0, segmented="Segmented"),
        "a segmented palette of this depth or byte order",
    ),
    "a report": (lambda: dicom(Modality="SR"), r"holds no image \(SR\)"),
    "no rows": (patched("Rows", 0), "declares 0 x 64 pixels"),
    "huge": (lambda: dicom(RAMP, Rows=65535, Columns=65535), "declares 65535 x 65535 pixels; at most 100,000,000"),
    "more pixels than there are": (patched("Rows", 128), "its pixels cannot be decoded .*copy the file again"),
    "a stream of no known kind": (
        lambda: dicom(RAMP, PixelData=encapsulate([b"\xff\xd8"]), syntax=JPEGBaseline8Bit),
        "names no transfer syntax",
    ),
    "unknown photometry": (patched("PhotometricInterpretation", "HSV"), "photometric interpretation 'HSV'"),
    "colour in one sample": (patched("PhotometricInterpretation", "RGB"), "'RGB' with 1 samples"),
    "odd bits": (patched("BitsAllocated", 7), "cannot be decoded"),
    "no bits": (patched("BitsAllocated", None), "cannot be decoded"),
    "a slope in words": (lambda: in_words(dicom(RAMP), 0x00281053, "1,0"), "RescaleSlope is '1,0', which is no number"),
    "a palette of two colours": (lambda: without(palette(), "GreenPaletteColorLookupTableData"), "palette is missing"),
    "an endless slope": (lambda: dicom(RAMP, RescaleSlope="1e999", RescaleIntercept=0), "DICOM .*not finite"),
    "a palette without colours": (patched("PhotometricInterpretation", "PALETTE COLOR"), "cannot be read as DICOM"),
}


@pytest.mark.parametrize(("make", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_dicom_file_is_refused_by_name(tmp_path, make, named):
    path = save(make(), tmp_path / "scan.dcm")
    if "transfer syntax" in named:
        path.write_bytes(without_syntax(path.read_bytes()))
    with pytest.raises(DataError, match=rf"scan\.dcm: .*{named}"):
        read_image(path)


@pytest.mark.parametrize(
    ("syntax", "pip"),
    [
        (JPEGLosslessSV1, "pylibjpeg pylibjpeg-libjpeg"),
        (JPEGLSLossless, "pyjpegls"),
        (HTJ2KLossless, "pylibjpeg pylibjpeg-openjpeg"),
    ],
)
def test_a_compression_that_needs_more_is_named_with_the_package(tmp_path, syntax, pip):
    if pydicom.pixels.get_decoder(syntax).is_available:
        pytest.skip("a decoder for it is installed here")
    made = dicom(RAMP, bits=12)
    made.PixelData, made.file_meta.TransferSyntaxUID = encapsulate([b"\xff\xd8\xff\xd9"]), syntax
    with pytest.raises(DataError, match=rf"\.dcm: .*decoded .*{syntax}.*; install .* .pip install {pip}\)"):
        read_image(save(made, tmp_path / "scan.dcm"))


@pytest.mark.parametrize(
    ("syntax", "named"),
    [
        ("1.2.840.10008.1.2.4.102", "MPEG-4.*export it uncompressed, or one frame of a film as PNG"),
        ("1.2.840.10008.1.2.4.53", "JPEG Spectral.*; unpack it: dcmdjpeg"),
        (JPEG2000Lossless, "JPEG 2000.*copy the file again.*gdcmconv --raw"),
    ],
)
def test_video_and_damaged_streams_are_refused(tmp_path, syntax, named):
    made = dicom(RAMP)
    made.PixelData, made.file_meta.TransferSyntaxUID = encapsulate([b"no stream at all"]), syntax
    with pytest.raises(DataError, match=rf"scan\.dcm: .*{named}"):
        read_image(save(made, tmp_path / "scan.dcm"))


def test_a_deflated_file_is_refused_before_it_unpacks(tmp_path):
    path = save(dicom(RAMP, syntax=DeflatedExplicitVRLittleEndian), tmp_path / "scan.dcm")
    for read in (read_image, dicom_meta):
        with pytest.raises(DataError, match=r"scan\.dcm: is a deflated DICOM.*dcmconv"):
            read(path)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "the file is empty"),
        (b"no image", "is no DICOM file"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 300, "is no DICOM file"),
        (b"\0" * 128 + b"DICM" + b"x" * 99, "holds no image"),
    ],
)
def test_what_is_no_dicom_is_named(tmp_path, content, named):
    (tmp_path / "scan.dcm").write_bytes(content)
    with pytest.raises(DataError, match=rf"scan\.dcm: {named}"):
        read_image(tmp_path / "scan.dcm")


def test_the_header_of_what_is_no_dicom_is_refused_too(tmp_path):
    (tmp_path / "scan.dcm").write_bytes(b"no image")
    for path in (tmp_path / "scan.dcm", tmp_path / "gone.dcm"):
        with pytest.raises(DataError, match=rf"{path.name}: (is no DICOM file|no such image file)"):
            dicom_meta(path)


def test_a_file_cut_off_or_damaged_anywhere_is_refused_or_read(tmp_path):
    """Never another error than our own, whatever byte is wrong."""
    path = save(dicom(RAMP[:16, :16], bits=12, WindowCenter=100, WindowWidth=200), tmp_path / "scan.dcm")
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    parts = [whole[:n] for n in range(1, len(whole), 29)]
    flips = []
    for at in rng.integers(132, len(whole) - 512, 150):
        flips.append(whole[:at] + bytes([rng.integers(256)]) + whole[at + 1 :])
    for content in parts + flips:
        path.write_bytes(content)
        try:
            assert read_image(path).mode == "L"
        except DataError as error:
            assert "scan.dcm" in str(error)
    path.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"scan\.dcm: its pixels cannot be decoded"):
        read_image(path)


# Patients and views


def test_the_header_tells_patient_sex_age_and_view(tmp_path):
    header = {"PatientID": " p 7 ", "PatientSex": "F", "PatientAge": "045Y", "ViewPosition": "PA"}
    path = save(dicom(RAMP, **header), tmp_path / "a.dcm")
    assert dicom_meta(path) == {"patient_id": "p 7", "sex": "F", "age": "45", "view": "PA"}
    assert dicom_meta(save(dicom(RAMP, PatientAge="018M", PatientID=""), tmp_path / "b.dcm")) == {"age": "1"}
    assert dicom_meta(save(dicom(RAMP, PatientAge="old"), tmp_path / "c.dcm")) == {}


def dicom_folder(folder, people, columns="", cells=None):
    """Images of these people, with a labels.csv of half positives."""
    folder.mkdir(parents=True)
    lines = [f"image,Mass{columns}"]
    for i, person in enumerate(people):
        header = {} if person is None else {"PatientID": person}
        save(dicom(np.full((4, 4), i, np.uint8), ViewPosition="AP", **header), folder / f"{i}.dcm")
        lines.append(f"{i}.dcm,{i % 2}" + (f",{cells[i]}" if cells else ""))
    (folder / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_a_folder_of_dicom_files_takes_patients_from_the_headers(tmp_path):
    got = load_data(dicom_folder(tmp_path / "set", ["../../etc", "p1", "p2"]))
    assert got.has_patients and got.patients().tolist() == ["../../etc", "p1", "p2"]
    assert got.meta["view"] == ("AP",) * 3 and got.labels.tolist() == [[0], [1], [0]]


def test_reports_in_an_export_are_passed_over_with_their_number(tmp_path):
    folder = dicom_folder(tmp_path / "set", ["p1", "p2"])
    for name, kind in (("sr.dcm", BasicTextSRStorage), ("ko", KeyObjectSelectionDocumentStorage)):
        made = dicom(Modality="SR", SOPClassUID=kind)
        made.file_meta.MediaStorageSOPClassUID = kind
        save(made, folder / name)
    save(dicom(RAMP, PixelData=None, Rows=None, Columns=None), folder / "lost.dcm")  # an image, refused when it is read
    with pytest.warns(SDMADWarning, match="DICOM reports, .* passed over: 2"):
        assert [path.name for path in walk_images(folder)] == ["0.dcm", "1.dcm", "lost.dcm"]


def test_what_pydicom_logs_of_a_failing_decoder_stays_inside(tmp_path, caplog):
    made = dicom(RAMP)
    made.PixelData, made.file_meta.TransferSyntaxUID = encapsulate([b"no stream at all"]), JPEG2000Lossless
    with caplog.at_level("DEBUG"), pytest.raises(DataError):
        read_image(save(made, tmp_path / "scan.dcm"))
    assert not caplog.records
    logging.getLogger("pydicom").warning("of somebody else")
    assert [record.message for record in caplog.records] == ["of somebody else"]


def test_a_column_of_the_table_counts_before_the_headers(tmp_path):
    got = load_data(dicom_folder(tmp_path / "set", ["p1", "p2"], ",patient_id", ["x", "y"]))
    assert got.patients().tolist() == ["x", "y"]


@pytest.mark.parametrize("people", [["p1", None], ["ANON", "ANON"], [None, None]])
def test_patients_are_known_for_all_images_or_for_none(tmp_path, people):
    assert not load_data(dicom_folder(tmp_path / "set", people)).has_patients


def test_a_patient_of_the_headers_in_both_splits_is_refused(tmp_path):
    folder = dicom_folder(tmp_path / "set", ["p1", "p1", "p2"], ",split", ["train", "test", "test"])
    with pytest.raises(DataError, match="patients in two parts of the split: 1"):
        load_data(folder)


def test_without_pydicom_dicom_is_known_and_the_extra_named(tmp_path, monkeypatch):
    path = save(dicom(RAMP), tmp_path / "IM1")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert is_dicom(path) and not is_dicom(tmp_path / "gone")
    for read in (read_image, dicom_meta):
        with pytest.raises(MissingExtraError, match=r"needs the package pydicom.*sdmad_lite\[dicom\]"):
            read(path)
