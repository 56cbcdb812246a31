"""Images and labels: from what a user has on disk to an `ImageTable`, and few-shot draws from it.

`table.py` has the table, its splits and draws; `images.py` opens one image; `folder.py` reads a folder with
a `labels.csv`.
"""

from .folder import load_folder
from .images import read_image
from .table import GROUPS, META, ImageTable, draw_support, split_train_test

__all__ = ["GROUPS", "META", "ImageTable", "draw_support", "load_folder", "read_image", "split_train_test"]
