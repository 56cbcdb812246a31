"""Fetch a file and unpack an archive, each whole or not at all; the network is used only when somebody calls this."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from sdmad_lite.errors import DataError, DownloadError, SDMADError, needs
from sdmad_lite.files import new_folder

MAX_BYTES = 128 << 30
LOCAL = re.compile(r"https?://(localhost|127\.[\d.]+|\[::1\])(?![\w.-])", re.IGNORECASE)  # never through a proxy
PROXIES, CERTIFICATES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class _Bar(tqdm):
    """pooch's progress bar, which also stops a server that sends more than it should."""

    def watch(self, url: str, file: str, size: int | None) -> _Bar:
        self.url, self.file, self.size = url, file, size
        return self

    def __bool__(self) -> bool:
        return True  # tqdm's own is about its total; pooch asks whether there is a bar

    def update(self, n: float | None = 1) -> bool | None:
        if self.size is not None and max(self.total or 0, os.path.getsize(self.file)) > self.size:
            raise DownloadError(f"{self.url}: sends more than {self.size:,} bytes; check the address")
        return super().update(n)


def fetch(
    url: str,
    path: str | Path,
    checksum: str | None = None,
    size: int | None = None,
    progress: bool = True,
    retries: int = 2,
) -> Path:
    """Download `url` to `path` by pooch (extra [datasets]); a file that is already there and right is left as it is.

    Args:
        url: http or https; redirects are followed.
        path: of the file to write.
        checksum: "sha256:..." or "md5:..." in hexadecimal, which must agree.
        size: bytes the file must have; more are not taken.
        progress: whether to show a bar.
        retries: tries after the first, where the connection is lost or the server refuses.

    Raises:
        DownloadError: refused, not found, lost, no room, or not what was expected. Nothing of it is kept.
        MissingExtraError: pooch is not installed.
    """
    pooch, requests = needs("pooch", "datasets"), needs("requests.exceptions", "datasets")
    path, log = Path(path), pooch.get_logger()

    def check(answer, *_, **__) -> None:
        if answer.status_code < 400 and answer.status_code != 200 and not answer.is_redirect:
            raise DownloadError(f"{url}: answers {answer.status_code} {answer.reason}, no file; check the address")

    def download(address: str, file: str, _) -> None:
        with _Bar(desc=path.name, unit="B", unit_scale=True, disable=not progress).watch(url, file, size) as bar:
            more = {"proxies": dict.fromkeys(("http", "https", "all"))} if LOCAL.match(url) else {}
            get = pooch.HTTPDownloader(bar, chunk_size=1 << 20, timeout=60, hooks={"response": check}, **more)
            get(address, file, None)
        if not os.path.getsize(file):
            raise DownloadError(f"{url}: sends an empty file; check the address")
        if size not in (None, os.path.getsize(file)):
            raise DownloadError(f"{url}: has {os.path.getsize(file):,} bytes, not {size:,}; check the address")

    level = log.level
    log.setLevel("WARNING")  # the bar says enough
    try:
        if os.path.exists(path):
            algorithm, _, known = (checksum or "").rpartition(":")
            same = not checksum or pooch.file_hash(str(path), algorithm or "sha256") == known.lower()
            if not same or size not in (None, path.stat().st_size):
                raise DownloadError(f"{path}: exists but is another file; move it away to fetch it anew")
            return path
        registry = {path.name: checksum}
        store = pooch.create(path.parent, "", registry=registry, urls={path.name: url}, retry_if_failed=retries)
        return Path(store.fetch(path.name, downloader=download))
    except DownloadError:
        raise
    except requests.RequestException as error:
        named = [name for name in os.environ if name.upper() in PROXIES and not LOCAL.match(url)]
        through = f", or the proxy of {', '.join(named)}" if named else ""
        problem = f"{url}: cannot be fetched ({error}); check the address and the network{through}"
    except OSError as error:
        problem = f"{path}: cannot be written ({error}); free some space or choose another place"
        if "certificate" in str(error):  # requests looks for its file
            problem = f"{url}: {error}; correct or unset {', '.join(n for n in CERTIFICATES if n in os.environ)}"
    except ValueError as error:  # another checksum, or no address
        problem = f"{url}: {error}; check the address and the checksum"
    finally:
        log.setLevel(level)
    raise DownloadError(problem)


def unpack(archive: str | Path, folder: str | Path, max_bytes: int = MAX_BYTES) -> list[Path]:
    """Unpack a zip or tar (plain, gz, bz2, xz) of files and folders into a new or empty folder.

    Returns:
        The files written, sorted.

    Raises:
        DataError: no archive, damaged, encrypted, larger than `max_bytes` or the free disk, or with a member that
            is a link, a device or outside the folder. Nothing of it is kept.
    """
    archive, folder = Path(archive), Path(folder)
    if not os.path.isfile(archive):
        raise DataError(f"{archive}: no such archive; correct the path")
    if os.path.isdir(folder) and any(folder.iterdir()):
        raise DataError(f"{folder}: is not empty; unpack into a new folder")
    try:
        # a tar that holds a zip can look like one
        if not (tar := tarfile.is_tarfile(archive)) and not zipfile.is_zipfile(archive):
            raise DataError(f"{archive}: is no zip or tar archive, or damaged; fetch it again")
        with (
            new_folder(folder, "unpacked") as new,
            tarfile.open(archive) if tar else zipfile.ZipFile(archive) as opened,
        ):
            room = min(max_bytes, shutil.disk_usage(new).free)
            for name, size, plain in _members(opened):
                pure, room = PurePosixPath(name), room - size
                outside = pure.is_absolute() or ".." in pure.parts or re.search(r"\\|\0|^[A-Za-z]:", name)
                if outside or not plain:
                    what = "would leave the folder" if outside else "is a link or a device"
                    raise DataError(f"{archive}: {name!r} {what}; unpack it by hand if you trust it")
                if room < 0:
                    raise DataError(f"{archive}: unpacks to more than max_bytes or the free disk; raise it")
            try:
                opened.extractall(new, **({"filter": "data"} if tar else {}))
            except OSError as error:  # of a member's name, so that it is the archive's fault and not the place's
                raise ValueError(error) from None
            files = sorted(path.relative_to(new) for path in new.rglob("*") if path.is_file())
            if not files:
                raise DataError(f"{archive}: holds no file; fetch it again")
    except SDMADError:
        raise
    except Exception as error:  # damaged archives make zipfile, tarfile and their decoders raise many things
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{archive}: cannot be unpacked ({reason}); it may be damaged, fetch it again") from None
    return [folder / name for name in files]


def _members(opened: tarfile.TarFile | zipfile.ZipFile) -> Iterator[tuple[str, int, bool]]:
    """Name, bytes, and whether it is a file or a folder; neither library unpacks more bytes than are declared."""
    if isinstance(opened, tarfile.TarFile):
        return ((m.name, m.size, m.isreg() or m.isdir()) for m in opened)
    kinds = (0, stat.S_IFREG, stat.S_IFDIR)
    return ((m.filename, m.file_size, stat.S_IFMT(m.external_attr >> 16) in kinds) for m in opened.infolist())
