"""Image files, arrays and DICOM files."""

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from sdmad_lite.data import read_image

from .world import Case

GREY = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)


def packed(image, kind="PNG", **options) -> bytes:
    """An image as the bytes of a file."""
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def bomb() -> bytes:
    """A PNG that declares 400 million pixels in some dozen bytes."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    parts = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def file(what, name, content, message):
    """A case of an image file with these bytes."""

    def prepare(world):
        path = world.write(name, content)
        return lambda: read_image(path)

    return Case("An image", what, prepare, message)


def value(what, given, message):
    """A case of something that is no path."""
    return Case("An image", what, lambda world: lambda: read_image(given), message)


def place(what, name, message):
    """A case of a path at which there is no file."""
    return Case("An image", what, lambda world: lambda: read_image(world.path / name), message)


def dicom(pixels=GREY, **changes) -> bytes:
    """A DICOM file of one grey frame; a change of None removes the entry."""
    header, bits = Dataset(), pixels.dtype.itemsize * 8
    entries = {
        "Modality": "DX",
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
        "PixelData": pixels.tobytes(),
    }
    header.file_meta, stream = FileMetaDataset(), io.BytesIO()
    header.file_meta.TransferSyntaxUID = changes.pop("syntax", ExplicitVRLittleEndian)
    header.SOPClassUID, header.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid(entropy_srcs=["case"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the values that are wrong on purpose
        for name, entry in (entries | changes).items():
            if entry is not None:
                setattr(header, name, entry)
        header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def scan(what, content, message):
    """A case of a DICOM file."""

    def prepare(world):
        path = world.write("scan.dcm", content)
        return lambda: read_image(path)

    return Case("A DICOM file", what, prepare, message)


DEEP = b"P6 8 8 65535\n" + bytes(384)
COLOUR = np.zeros((32, 32, 3), np.uint8) + np.array([200, 20, 20], np.uint8)

CASES = [
    place("an image that is not there", "none.png", "{path}/none.png: no such image file; correct the path"),
    place("a folder", "", "{path}: no such image file; correct the path"),
    place("a name too long for a file", "a" * 300, "{path}/{name}: no such image file; correct the path"),
    file("an empty file", "empty.png", b"", "{path}/empty.png: the file is empty; copy it again"),
    file(
        "a truncated file",
        "half.png",
        packed(GREY)[:400],
        (
            "{path}/half.png: cannot be read as an image ({reason}); truncated, or nothing that Pillow reads: "
            "copy it again, or save it as PNG"
        ),
    ),
    file(
        "a text called .png",
        "note.png",
        b"dear colleague",
        (
            "{path}/note.png: cannot be read as an image ({reason}); truncated, or nothing that Pillow reads: "
            "copy it again, or save it as PNG"
        ),
    ),
    file(
        "a program called .png (EPS)",
        "run.png",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        (
            "{path}/run.png: cannot be read as an image ({reason}); truncated, or nothing that Pillow reads: "
            "copy it again, or save it as PNG"
        ),
    ),
    file(
        "16 bits per colour",
        "deep.ppm",
        DEEP,
        "{path}/deep.ppm: has colours or see-through parts of 16 bits; save it with 8 bits from 0 to 255",
    ),
    file(
        "a colour image in a grey modality",
        "red.png",
        packed(COLOUR),
        ('{path}/red.png: is a colour image, but this modality is grey; convert it, or set "color": true in the bank'),
    ),
    file(
        "several frames",
        "stack.tif",
        packed(Image.fromarray(GREY), "TIFF", save_all=True, append_images=[Image.fromarray(GREY)]),
        "{path}/stack.tif: has 2 frames; save the one to use as a file of its own",
    ),
    file(
        "far too many pixels",
        "bomb.png",
        bomb(),
        "{path}/bomb.png: has more than 100,000,000 pixels; reduce it, or cut out the part to look at",
    ),
    value(
        "an array of floats",
        GREY / 255.0,
        "image: an array must be uint8 of shape (H, W) or (H, W, 3), not float64 (32, 32)",
    ),
    value(
        "a batch of arrays",
        np.zeros((4, 3, 32, 32), np.uint8),
        "image: an array must be uint8 of shape (H, W) or (H, W, 3), not uint8 (4, 3, 32, 32)",
    ),
    value("an empty array", np.zeros((0, 32), np.uint8), "image: the array is empty, its shape is (0, 32)"),
    value("something else", 7, "image: expected a path, array or PIL image, not int"),
    scan(
        "a file without the letters DICM",
        b"DICM" * 100,
        "{path}/scan.dcm: holds no image (unknown modality); remove it from the set",
    ),
    scan("an empty file", b"", "{path}/scan.dcm: the file is empty; copy it again"),
    scan(
        "several frames",
        dicom(np.stack([GREY, GREY]), NumberOfFrames=2),
        "{path}/scan.dcm: has 2 frames; export the frame or slice to use as a file of its own",
    ),
    scan(
        "a report, no image",
        dicom(Modality="SR", PixelData=None, Rows=None, Columns=None),
        "{path}/scan.dcm: holds no image (SR); remove it from the set",
    ),
    scan(
        "a header without pixels",
        dicom(PixelData=None),
        "{path}/scan.dcm: declares 32 x 32 pixels, but none are found in it; export it again",
    ),
    scan(
        "too few pixels",
        dicom(PixelData=b"\0" * 100),
        (
            "{path}/scan.dcm: its pixels cannot be decoded (Explicit VR Little Endian, 1.2.840.10008.1.2.1: {reason}); "
            "copy the file again if it is damaged"
        ),
    ),
    scan(
        "more pixels than anybody has",
        dicom(Rows=60_000, Columns=60_000),
        "{path}/scan.dcm: declares 60000 x 60000 pixels; at most 100,000,000 are read",
    ),
    scan(
        "colours of an unknown kind",
        dicom(PhotometricInterpretation="CMYK", SamplesPerPixel=4),
        ("{path}/scan.dcm: photometric interpretation 'CMYK' with 4 samples is not read; convert it"),
    ),
    scan(
        "a compression without decoder",
        dicom(syntax=JPEGLSLossless, PixelData=encapsulate([b"\0" * 10])),
        (
            "{path}/scan.dcm: its pixels cannot be decoded (JPEG-LS Lossless Image Compression, "
            "1.2.840.10008.1.2.4.80: {reason}); install its decoder (pip install pyjpegls), "
            "or unpack it: dcmdjpls"
        ),
    ),
    scan(
        "a deflated file",
        dicom(syntax=DeflatedExplicitVRLittleEndian),
        ("{path}/scan.dcm: is a deflated DICOM, which can unpack to any size; inflate it: dcmconv +te"),
    ),
    scan(
        "a rescale slope that is no number",
        dicom(GREY.astype(np.uint16), RescaleSlope="nan", RescaleIntercept="0"),
        (
            "{path}/scan.dcm: cannot be read as DICOM (pixel values or the rescale slope are not fini"
            "te); it may be damaged, copy or export it again"
        ),
    ),
]
