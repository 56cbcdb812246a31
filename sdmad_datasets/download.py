"""Fetch a file, whole or not at all; the network is used only when somebody calls this.

`fetch` streams to `NAME.part`, goes on there after a cut, and gives the file its name when its checksum is right.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from pathlib import Path

from tqdm import tqdm

from sdmad_lite.errors import DownloadError


def fetch(
    url: str,
    path: str | Path,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    progress: bool = True,
    retries: int = 5,
    backoff: float = 1.0,
    timeout: float = 60.0,
) -> Path:
    """Download `url` to `path`; a file that is already there and right is left as it is.

    A cut download goes on where it stopped (HTTP Range), in this call or a later one, if the server names a
    version of the file (ETag, Last-Modified) or a checksum is given; otherwise it starts again.

    Args:
        url: http or https; redirects are followed.
        path: of the file to write. `PATH.part` and `PATH.part.version` stand beside it meanwhile.
        sha256, md5: hexadecimal checksums, of which any given must agree.
        size: bytes the file must have; more are not taken.
        progress: whether to show a bar.
        retries: tries after the first, on a lost connection, a busy server (429) or its failure (5xx).
        backoff: seconds before the first retry; doubled each time, and at least what Retry-After says, up to 60.
        timeout: seconds without a byte before the connection counts as lost.

    Raises:
        DownloadError: refused, not found, lost too often, no room, or not what was expected; the message
            says whether a part was kept.
    """
    import httpx2

    path = Path(path)
    checks = _Checks({"sha256": sha256, "md5": md5}, size)
    part = _Part(path)
    try:
        if path.exists():
            wrong = checks.fault(path)
            if wrong:
                raise DownloadError(f"{path}: exists but {wrong}; move it away to fetch it anew")
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with httpx2.Client(follow_redirects=True, timeout=timeout) as client:
            for attempt in range(retries + 1):
                wait = min(backoff * 2**attempt, 60.0)
                try:
                    resumed = _stream(client, url, part, checks, progress)
                    wrong = checks.fault(part.path)
                    if not wrong:
                        part.finish(path)
                        return path
                    part.remove()  # a resumed part may have been of another version: worth a fresh try
                    lost = f"what came {wrong}"
                    if not resumed:
                        raise DownloadError(f"{url}: {lost}; it was removed. Check the address and the checksum")
                except _Busy as busy:
                    lost, wait = str(busy), min(max(wait, busy.wait), 60.0)
                except (httpx2.UnsupportedProtocol, httpx2.TooManyRedirects) as error:
                    raise DownloadError(f"{url}: {error}; correct the address") from None
                except httpx2.TransportError as error:
                    lost = str(error) or type(error).__name__
                if attempt < retries:
                    time.sleep(wait)
    except httpx2.InvalidURL as error:
        raise DownloadError(f"{url}: is no address ({error}); correct it") from None
    except OSError as error:
        raise DownloadError(
            f"{path}: cannot be written ({error}); free some space or choose another place{part.kept()}"
        ) from None
    raise DownloadError(f"{url}: {lost}, after {retries + 1} tries; check the network{part.kept()}")


class _Busy(Exception):
    """The server asks to come again; `wait` seconds."""

    def __init__(self, message: str, wait: float):
        super().__init__(message)
        self.wait = wait


class _Checks:
    """What a file must be."""

    def __init__(self, checksums: dict[str, str | None], size: int | None):
        self.checksums = {name: value.strip().lower() for name, value in checksums.items() if value}
        self.size = size
        for name, value in self.checksums.items():
            if not re.fullmatch({"sha256": "[0-9a-f]{64}", "md5": "[0-9a-f]{32}"}[name], value):
                raise DownloadError(f"{name}: {value!r} is no such checksum; copy it again from its source")

    def fault(self, path: Path) -> str | None:
        """What is wrong with a file, None if nothing."""
        if self.size is not None and path.stat().st_size != self.size:
            return f"has {path.stat().st_size:,} bytes, not {self.size:,}"
        for name, value in self.checksums.items():
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, name).hexdigest()
            if found != value:
                return f"has {name} {found}, not {value}"
        return None


class _Part:
    """The unfinished file, and which version of the original it is a part of."""

    def __init__(self, path: Path):
        self.path = path.with_name(path.name + ".part")
        self.version = path.with_name(path.name + ".part.version")

    def length(self) -> int:
        return self.path.stat().st_size if os.path.isfile(self.path) else 0

    def kept(self) -> str:
        """For the end of a message."""
        return f"; what came is kept in {self.path.name}: call again to go on" if self.length() else ""

    def known_version(self) -> str:
        return self.version.read_text(encoding="latin-1") if self.version.is_file() else ""

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)

    def finish(self, path: Path) -> None:
        os.replace(self.path, path)
        self.remove()


def _stream(client, url: str, part: _Part, checks: _Checks, progress: bool) -> bool:
    """One request, to the end of the file; whether it went on from an earlier part."""
    offset, version = part.length(), part.known_version()
    if (offset and not (version or checks.checksums)) or (checks.size is not None and offset > checks.size):
        part.remove()
        offset = 0
    if offset and offset == checks.size:
        return True
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        headers |= {"If-Range": version} if version else {}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416 and offset:  # nothing left to send, or another file now
            if response.headers.get("content-range", "").endswith(f"/{offset}"):
                return True
            part.remove()
            raise _Busy("the file on the server has changed", 0)
        if response.status_code in (408, 429) or response.status_code >= 500:
            after = response.headers.get("retry-after", "")
            raise _Busy(f"the server answers {_status(response)}", float(after) if after.isdecimal() else 0)
        if response.status_code not in (200, 206):
            raise DownloadError(f"{url}: the server answers {_status(response)}; {_hint(response.status_code)}")
        if response.status_code == 206:
            if not response.headers.get("content-range", "").startswith(f"bytes {offset}-"):
                part.remove()
                raise _Busy("the server sends another range than was asked for", 0)
        else:
            offset = 0  # all of it: no ranges here, or another version
            part.remove()
        announced = response.headers.get("content-length", "")
        total = offset + int(announced) if announced.isdecimal() else None
        _expect(url, part, checks, offset, total)
        if offset == 0:
            part.version.write_text(_version(response.headers), encoding="latin-1")
        with (
            part.path.open("ab" if offset else "wb") as stream,
            tqdm(
                desc=part.path.name.removesuffix(".part"),
                total=total or checks.size,
                initial=offset,
                unit="B",
                unit_scale=True,
                disable=not progress,
            ) as bar,
        ):
            written = offset
            for chunk in response.iter_raw():
                written += len(chunk)
                if checks.size is not None and written > checks.size:
                    stream.close()
                    part.remove()
                    raise DownloadError(
                        f"{url}: sends more than {checks.size:,} bytes; nothing is kept, check the address"
                    )
                stream.write(chunk)
                bar.update(len(chunk))
    return offset > 0


def _expect(url: str, part: _Part, checks: _Checks, offset: int, total: int | None) -> None:
    """Refuse before the first byte what cannot come out right."""
    if total is not None and checks.size is not None and total != checks.size:
        part.remove()
        raise DownloadError(f"{url}: has {total:,} bytes on the server, not {checks.size:,}; check the address")
    free, need = shutil.disk_usage(part.path.parent).free, (total or checks.size or 0) - offset
    if need > free:
        raise DownloadError(f"{part.path.parent}: has {free:,} bytes free, but {need:,} are to come; free some space")


def _version(headers) -> str:
    """A strong ETag, else the time of the last change; what If-Range may name."""
    tag = headers.get("etag", "")
    return tag if tag.startswith('"') else headers.get("last-modified", "")


def _status(response) -> str:
    return f"{response.status_code} {response.reason_phrase}".strip()


def _hint(status: int) -> str:
    if status in (401, 403):
        return "it may want a login or an agreement: fetch the file in a browser"
    return "the file may have moved: look at the page of the data set" if status in (404, 410) else "check the address"
