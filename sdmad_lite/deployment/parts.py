"""A long table in the making: parts that are each written whole, so that a run that is killed goes on.

Beside `scores.parquet` stands `scores.parquet.parts/` until the run ends well:

    images.jsonl     the list of images, a line each: nobody keeps it in memory
    manifest.json    what the parts belong to: detector, settings, list of images; and where each part's lines start
    00012.parquet    rows of part 12, by whichever process had it

`begin` makes or checks the folder, `Parts.join` turns it into one file. All is ours; the format is Arrow's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, DataError, OutputError
from ..files import write_text

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST, IMAGES = "manifest.json", "images.jsonl"
FORMATS = (".parquet", ".csv", ".jsonl")
"""Endings of a table that can be written."""


@contextmanager
def _in_place(path: Path, temporary: Path) -> Iterator[Path]:
    """Write `temporary`; it takes the place of `path` only when the block ends well."""
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error}); free some space or choose another place, then run again: it goes on"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def begin(out: Path, images: Iterable[str | list], identity: dict[str, str], rows: int, resume: bool) -> None:
    """Make the folder of parts, or check that one is there that belongs to the same run.

    Args:
        out: the file to write at the end.
        images: a path, or something else of JSON that names an image, each; read once, in order.
        identity: what else the rows depend on, name -> fingerprint.
        rows: of a part. resume: whether to go on with parts that are there, or to start anew.

    Raises:
        CheckpointError: parts are there of another detector, other settings or another list of images.
        DataError: there are no images. OutputError: nothing can be written there.
    """
    folder = _folder(out)
    if out.suffix.lower() not in FORMATS:
        raise OutputError(f"{out}: unknown ending {out.suffix!r}; use one of {', '.join(FORMATS)}")
    if out.is_dir():
        raise OutputError(f"{out}: is a folder; name a file in it")
    there = (folder / MANIFEST).exists()
    ours = (IMAGES, f".{MANIFEST}.")  # of a process that was killed before the manifest stood
    if folder.exists() and not there and any(not name.startswith(ours) for name in os.listdir(folder)):
        raise OutputError(f"{folder}: is needed for the parts of {out.name}, but holds something else; move it away")
    if there and resume:
        return _check(folder, images, identity, rows)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        offsets, digest, count = [], hashlib.sha256(), 0
        with (folder / IMAGES).open("wb") as stream:
            for count, line in enumerate(_lines(images), 1):
                if count % rows == 1 or rows == 1:
                    offsets.append(stream.tell())
                digest.update(line)
                stream.write(line)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise OutputError(
                f"{folder}: cannot be written ({error}); free some space or choose another place"
            ) from None
        raise
    if not count:
        shutil.rmtree(folder)
        raise DataError("there is no image to score; give a folder that holds some, or a list that is not empty")
    manifest = {"identity": identity | {"list of images": digest.hexdigest()}, "rows": rows, "count": count}
    write_text(folder / MANIFEST, json.dumps(manifest | {"offsets": offsets}))


def _check(folder: Path, images: Iterable[str | list], identity: dict[str, str], rows: int) -> None:
    manifest = _manifest(folder)
    found = manifest["identity"]
    differs = [name for name, value in identity.items() if found.get(name) != value]
    if manifest["rows"] != rows:
        differs.append("rows in a part")
    if not differs:  # the list takes longest
        digest = hashlib.sha256()
        for line in _lines(images):
            digest.update(line)
        differs = [] if digest.hexdigest() == found.get("list of images") else ["list of images"]
    if differs:
        raise CheckpointError(
            f"{folder}: was begun with another {' and another '.join(differs)}; give the same again, "
            "or start anew with resume=False"
        )
    for left in folder.glob("*.tmp"):  # of a process that was killed while it wrote
        left.unlink(missing_ok=True)


def _lines(images: Iterable[str | list]) -> Iterator[bytes]:
    return (json.dumps(image).encode() + b"\n" for image in images)


def _folder(out: Path) -> Path:
    return out.with_name(out.name + ".parts")


def _manifest(folder: Path) -> dict:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        identity, offsets = dict(manifest["identity"]), [int(offset) for offset in manifest["offsets"]]
        whole = {"rows": int(manifest["rows"]), "count": int(manifest["count"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / MANIFEST}: cannot be read ({error}); remove {folder} to start anew. Several machines need a "
            "folder that all of them see"
        ) from None
    return whole | {"identity": identity, "offsets": offsets}


@dataclass(frozen=True)
class Parts:
    """The parts of `out`, numbered from 0; `count` images, `rows` in each part but the last."""

    out: Path
    rows: int
    count: int
    offsets: tuple[int, ...]

    @classmethod
    def of(cls, out: Path) -> Parts:
        """What `begin` made."""
        manifest = _manifest(_folder(out))
        return cls(out, manifest["rows"], manifest["count"], tuple(manifest["offsets"]))

    def __len__(self) -> int:
        return len(self.offsets)

    def size(self, part: int) -> int:
        """Images in a part."""
        return min(self.rows, self.count - part * self.rows)

    def images(self, part: int, start: int, stop: int) -> list:
        """Images start to stop of a part, as `begin` was given them."""
        with (_folder(self.out) / IMAGES).open("rb") as stream:
            stream.seek(self.offsets[part])
            return [json.loads(line) for line in islice(stream, start, stop)]

    def file(self, part: int) -> Path:
        return _folder(self.out) / f"{part:05}.parquet"

    def missing(self) -> list[int]:
        """Parts that are not there, or not whole."""
        return [part for part in range(len(self)) if not self._whole(part)]

    def _whole(self, part: int) -> bool:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_metadata(self.file(part)).num_rows == self.size(part)
        except (OSError, pa.ArrowException):  # it was not written, or a crash of the machine left it empty
            return False

    def write(self, part: int, table: pa.Table, maker: int) -> None:
        """Write a part, whole or not at all, with the number of the process that made it."""
        import pyarrow.parquet as pq

        with _in_place(self.file(part), self.file(part).with_suffix(".tmp")) as temporary:
            pq.write_table(table.replace_schema_metadata({"maker": str(maker)}), temporary, write_page_checksum=True)

    def join(self, about: dict) -> dict:
        """Write `out` from all parts in order, one at a time in memory, and remove them.

        Args:
            about: what a reader should know of the columns. It goes into the metadata of a Parquet file under the key
                "sdmad", else into a JSON file beside `out`.

        Returns:
            "errors", the number of rows with one, and "makers", the process that made each part.

        Raises:
            CheckpointError: a part was damaged since it was written. OutputError: `out` cannot be written.
        """
        errors, makers, writer, note = 0, [], None, json.dumps(about, indent=1, ensure_ascii=False) + "\n"
        with _in_place(self.out, _folder(self.out) / "joined.tmp") as temporary:
            try:
                for part in range(len(self)):
                    table = self._read(part)
                    makers.append(int(table.schema.metadata[b"maker"]))
                    table = table.replace_schema_metadata(None)
                    errors += table.num_rows - table["error"].null_count
                    if writer is None:
                        writer = _writer(self.out.suffix.lower(), temporary, table.schema, note)
                    writer.write_table(table)
            finally:
                if writer is not None:
                    writer.close()
            if self.out.suffix.lower() != ".parquet":
                write_text(self.out.with_name(self.out.name + ".about.json"), note)
        shutil.rmtree(_folder(self.out), ignore_errors=True)
        return {"errors": errors, "makers": makers}

    def _read(self, part: int) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = self.file(part)
        try:
            table = pq.read_table(file, page_checksum_verification=True)
            if table.num_rows != self.size(part):
                raise OSError(f"{table.num_rows} rows instead of {self.size(part)}")
            return table
        except (OSError, pa.ArrowException) as error:
            raise CheckpointError(
                f"{file}: is damaged ({error}); remove this one file and run again: only its rows are scored again"
            ) from None


def _writer(ending: str, path: Path, schema: pa.Schema, note: str):
    """Something with `write_table` and `close`."""
    if ending == ".parquet":
        from pyarrow.parquet import ParquetWriter

        return ParquetWriter(path, schema.with_metadata({"sdmad": note}))
    if ending == ".csv":
        from pyarrow.csv import CSVWriter

        return CSVWriter(path, schema)
    return _JsonLines(path)


class _JsonLines:
    """A JSON object each line."""

    def __init__(self, path: Path):
        self.stream = path.open("w", encoding="utf-8", newline="\n")

    def write_table(self, table: pa.Table) -> None:
        self.stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())

    def close(self) -> None:
        self.stream.close()
