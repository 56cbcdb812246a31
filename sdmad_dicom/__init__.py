"""DICOM files as a viewer shows them, by pydicom (extra [dicom]): what `sdmad_lite.data` asks for such a file.

`reader.py` refuses by name what it cannot read, and takes patient and view from the header; `pixels.py` makes stored
values 8 bits, and mends before what real files write wrong. Of the method it knows nothing.
"""

from .reader import dicom_meta, is_document, read_dicom, with_dicom_meta

__all__ = ["dicom_meta", "is_document", "read_dicom", "with_dicom_meta"]
