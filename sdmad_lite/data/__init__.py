"""Images and labels: from what a user has on disk to an `ImageTable`, and few-shot draws from it.

`load.py` looks at what is there; `folder.py` reads a labels.csv from its `cells.py`, `classes.py` a folder per class;
`names.py` says what a class is, `copies.py` which pictures are the same. `table.py` has the table, its splits and
draws; `images.py` finds images, `pictures.py` opens one; `paths.py` says why a file cannot be read. What publishers and
scanners write is read by companions: `sdmad_datasets` the .npz of MedMNIST, `sdmad_dicom` a DICOM file.
"""

from .classes import load_classes
from .copies import digests, without_copies, without_those_of
from .folder import load_folder
from .images import IMAGE_ENDINGS, as_images, walk_images
from .load import load_data
from .pictures import read_image, read_images
from .table import (
    META,
    SPLITS,
    SUBGROUP_COLUMNS,
    ImageTable,
    check_split,
    draw_support,
    patient_folds,
    split_train_test,
)

__all__ = ["IMAGE_ENDINGS", "META", "SPLITS", "SUBGROUP_COLUMNS", "ImageTable", "as_images", "check_split"]
__all__ += ["digests", "without_copies", "without_those_of"]
__all__ += ["draw_support", "load_classes", "load_data", "load_folder"]
__all__ += ["patient_folds", "read_image", "read_images", "split_train_test", "walk_images"]
