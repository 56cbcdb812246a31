"""Images and labels: from what a user has on disk to an `ImageTable`, and few-shot draws from it.

`load.py` looks at what is there; `folder.py` reads a labels.csv, `classes.py` a folder per class, `npz.py` the
form of MedMNIST; `names.py` finds the normal class. `table.py` has the table, its splits and draws; `images.py`
opens one image, `dicom.py` one of DICOM.
"""

from .classes import load_classes
from .dicom import dicom_meta
from .folder import load_folder
from .images import IMAGE_ENDINGS, as_images, read_image, walk_images
from .load import load_data
from .npz import load_npz
from .table import GROUPS, META, SPLITS, ImageTable, draw_support, split_train_test

__all__ = ["GROUPS", "IMAGE_ENDINGS", "META", "SPLITS", "ImageTable", "as_images", "dicom_meta", "draw_support"]
__all__ += ["load_classes", "load_data", "load_folder", "load_npz", "read_image", "split_train_test", "walk_images"]
