"""Downloads from a real server on this machine: cut off, resumed, changed, refused; and archives that mean harm."""

import hashlib
import io
import os
import shutil
import stat
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from sdmad_datasets.archive import unpack
from sdmad_datasets.download import fetch
from sdmad_lite.errors import DataError, DownloadError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` at any path; the fields say what goes wrong, `asked` keeps the headers of requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.ranges, self.cuts, self.status = CONTENT, '"v1"', True, [], []
        self.announce, self.shift, self.asked = True, 0, []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/set.zip"

    def handle_error(self, request, client_address):
        """A client that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        """Quiet."""

    def do_GET(self):
        server = self.server
        server.asked.append(dict(self.headers))
        if self.path == "/elsewhere":
            return self.answer(302, {"Location": "/set.zip"})
        if self.path == "/loop":
            return self.answer(302, {"Location": "/loop"})
        if server.status:
            status, headers = server.status.pop(0)
            return self.answer(status, headers)
        start, body = 0, server.content
        wanted = self.headers.get("Range")
        if wanted and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                return self.answer(416, {"Content-Range": f"bytes */{len(body)}"})
        headers = {"ETag": server.etag} if server.etag else {}
        if start:
            headers["Content-Range"] = f"bytes {start + server.shift}-{len(body) - 1}/{len(body)}"
        if server.announce:
            headers["Content-Length"] = str(len(body) - start)
        self.answer(206 if start else 200, headers)
        self.wfile.write(body[start : start + server.cuts.pop(0)] if server.cuts else body[start:])

    def answer(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(server, path, **kwargs):
    return fetch(server.url, path, **{"progress": False, "backoff": 0.0, "retries": 2, **kwargs})


def ranges(server) -> list[str | None]:
    return [asked.get("Range") for asked in server.asked]


# What arrives


def test_a_file_arrives_whole_and_is_not_fetched_twice(server, tmp_path):
    path = get(server, tmp_path / "deep" / "set.zip", sha256=SHA256.upper(), md5=MD5, size=len(CONTENT))
    assert path.read_bytes() == CONTENT and os.listdir(path.parent) == ["set.zip"]
    assert get(server, path, sha256=SHA256) == path and len(server.asked) == 1


def test_a_redirect_is_followed(server, tmp_path):
    server.url = server.url.replace("set.zip", "elsewhere")
    assert get(server, tmp_path / "set.zip").read_bytes() == CONTENT


def test_progress_is_shown_when_asked_for(server, tmp_path, capsys):
    get(server, tmp_path / "a")
    assert capsys.readouterr() == ("", "")
    get(server, tmp_path / "set.zip", progress=True)
    assert "set.zip" in capsys.readouterr().err


def test_a_cut_download_goes_on_in_the_same_call(server, tmp_path):
    server.cuts = [100_000, 50_000]
    assert get(server, tmp_path / "set.zip", sha256=SHA256).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-", "bytes=150000-"]
    assert [asked.get("If-Range") for asked in server.asked] == [None, '"v1"', '"v1"']


def test_a_cut_download_goes_on_in_a_later_call(server, tmp_path):
    server.cuts = [100_000]
    with pytest.raises(DownloadError, match=r"after 1 tries.*kept in set\.zip\.part: call again"):
        get(server, tmp_path / "set.zip", retries=0)
    assert sorted(os.listdir(tmp_path)) == ["set.zip.part", "set.zip.part.version"]
    assert get(server, tmp_path / "set.zip").read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-"] and os.listdir(tmp_path) == ["set.zip"]


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.cuts, server.ranges = [100_000], False
    assert get(server, tmp_path / "set.zip", sha256=SHA256).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-"]


def test_a_file_that_changed_meanwhile_starts_again(server, tmp_path):
    server.cuts = [100_000]
    with pytest.raises(DownloadError):
        get(server, tmp_path / "set.zip", retries=0)
    server.content, server.etag = CONTENT[::-1], '"v2"'
    assert get(server, tmp_path / "set.zip").read_bytes() == CONTENT[::-1]


def test_without_version_and_checksum_nothing_is_pieced_together(server, tmp_path):
    server.cuts, server.etag = [100_000], ""
    assert get(server, tmp_path / "set.zip").read_bytes() == CONTENT
    assert ranges(server) == [None, None]


def test_a_part_of_another_version_shows_by_the_checksum_and_is_fetched_anew(server, tmp_path):
    server.etag = ""
    (tmp_path / "set.zip.part").write_bytes(b"of last year" * 1000)
    assert get(server, tmp_path / "set.zip", sha256=SHA256).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=12000-", None]


def test_a_part_that_is_already_whole_needs_only_its_name(server, tmp_path):
    for size in (len(CONTENT), None):
        (tmp_path / "set.zip.part").write_bytes(CONTENT)
        assert get(server, tmp_path / "set.zip", sha256=SHA256, size=size).read_bytes() == CONTENT
        (tmp_path / "set.zip").unlink()
    assert ranges(server) == [f"bytes={len(CONTENT)}-"]  # with the size, nothing was asked


def test_another_range_than_asked_for_starts_again(server, tmp_path):
    server.cuts, server.shift = [100_000], 5
    assert get(server, tmp_path / "set.zip", sha256=SHA256).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-", None]


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.status = [(503, {}), (429, {"Retry-After": "0"})]
    assert get(server, tmp_path / "set.zip").read_bytes() == CONTENT


def test_waits_grow_and_follow_the_server(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr("sdmad_datasets.download.time.sleep", waits.append)
    server.status = [(503, {}), (503, {}), (429, {"Retry-After": "7"}), (503, {"Retry-After": "9999"})]
    get(server, tmp_path / "set.zip", backoff=0.5, retries=4)
    assert waits == [0.5, 1.0, 7.0, 60.0]


# What does not


@pytest.mark.parametrize(
    ("status", "named"),
    [
        (404, "404 Not Found; the file may have moved"),
        (403, "403 Forbidden; it may want a login"),
        (400, "400 Bad Request"),
    ],
)
def test_a_refusal_is_final(server, tmp_path, status, named):
    server.status = [(status, {})]
    with pytest.raises(DownloadError, match=rf"{server.url}: the server answers {named}"):
        get(server, tmp_path / "set.zip")
    assert len(server.asked) == 1 and os.listdir(tmp_path) == []


def test_tries_are_bounded(server, tmp_path):
    server.status = [(503, {})] * 9
    with pytest.raises(DownloadError, match="503 Service Unavailable, after 3 tries"):
        get(server, tmp_path / "set.zip")
    assert len(server.asked) == 3


@pytest.mark.parametrize("check", [{"sha256": "0" * 64}, {"md5": "0" * 32}])
def test_a_wrong_checksum_leaves_nothing(server, tmp_path, check):
    with pytest.raises(DownloadError, match=r"has (sha256|md5) \w+, not 0+; it was removed"):
        get(server, tmp_path / "set.zip", **check)
    assert os.listdir(tmp_path) == [] and len(server.asked) == 1


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_another_size_is_refused_before_the_first_byte(server, tmp_path, size):
    with pytest.raises(DownloadError, match=f"has 300,000 bytes on the server, not {size:,}"):
        get(server, tmp_path / "set.zip", size=size)
    assert os.listdir(tmp_path) == []


def test_no_more_than_the_size_is_taken(server, tmp_path):
    server.announce = False
    with pytest.raises(DownloadError, match="sends more than 1,000 bytes; nothing is kept"):
        get(server, tmp_path / "set.zip", size=1000)
    assert os.listdir(tmp_path) == []


def test_too_little_disk_is_said_first(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("sdmad_datasets.download.shutil.disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match="has 1,000 bytes free, but 300,000 are to come; free some space"):
        get(server, tmp_path / "set.zip")


def test_nobody_there_is_named(server, tmp_path):
    server.url = "http://127.0.0.1:1/set.zip"
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:1/set\.zip: .*after 3 tries; check the network$"):
        get(server, tmp_path / "set.zip")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a", "file:///etc/hostname", "no address", "http://", "http://[1", ""])
def test_only_web_addresses_are_fetched(tmp_path, url):
    with pytest.raises(DownloadError, match=r"correct|check"):
        fetch(url, tmp_path / "a", progress=False, backoff=0, retries=0)
    assert os.listdir(tmp_path) == []


def test_a_loop_of_redirects_is_refused(server, tmp_path):
    server.url = server.url.replace("set.zip", "loop")
    with pytest.raises(DownloadError, match="redirect"):
        get(server, tmp_path / "set.zip")


def test_a_checksum_that_is_none_is_refused_at_once(server, tmp_path):
    with pytest.raises(DownloadError, match="sha256: 'abc' is no such checksum"):
        get(server, tmp_path / "set.zip", sha256="abc")
    assert server.asked == []


def test_a_file_of_ones_own_is_not_replaced(server, tmp_path):
    (tmp_path / "set.zip").write_bytes(b"mine")
    with pytest.raises(DownloadError, match=r"set\.zip: exists but has 4 bytes, not 300,000; move it away"):
        get(server, tmp_path / "set.zip", size=len(CONTENT))
    assert (tmp_path / "set.zip").read_bytes() == b"mine"


def test_a_place_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / "set.zip", tmp_path / ("a" * 300)):
        with pytest.raises(DownloadError, match="cannot be written"):
            get(server, path)


# Archives


def archive(path, members: dict, mode="gz"):
    """A zip or tar with these members; None is a folder, a TarInfo or ZipInfo goes in as it is."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in members.items():
                info = zipfile.ZipInfo(name + "/" * (content is None))
                info.compress_type = zipfile.ZIP_DEFLATED
                if isinstance(content, str):
                    info.external_attr = (stat.S_IFLNK | 0o777) << 16
                opened.writestr(info, content or b"")
    else:
        with tarfile.open(path, f"w:{mode}") as opened:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                if isinstance(content, str):
                    info.type, info.linkname = tarfile.SYMTYPE, content
                elif content is None:
                    info.type = tarfile.DIRTYPE
                else:
                    info.size = len(content)
                opened.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def left(folder) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("name", "mode"), [("a.zip", ""), ("a.tar", ""), ("a.tar.gz", "gz"), ("a.txz", "xz")])
def test_archives_unpack_beside_other_files(tmp_path, name, mode):
    path = archive(tmp_path / name, {"images": None, "images/1.png": b"one", "./labels.csv": b"two"}, mode)
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "mine.txt").write_bytes(b"mine")
    assert unpack(path, folder) == [folder / "images" / "1.png", folder / "labels.csv"]
    assert left(folder) == {"images/1.png", "labels.csv", "mine.txt"} and (folder / "labels.csv").read_bytes() == b"two"
    with pytest.raises(DataError, match="exists already"):
        unpack(path, folder)
    assert (folder / "labels.csv").read_bytes() == b"two"


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path):
    inner = archive(tmp_path / "inner.zip", {"x": b"x"}).read_bytes()
    assert unpack(archive(tmp_path / "a.tar", {"inner.zip": inner}, ""), tmp_path / "set") == [
        tmp_path / "set" / "inner.zip"
    ]


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
@pytest.mark.parametrize(
    ("member", "content", "named"),
    [
        ("../evil", b"x", "would leave the folder"),
        ("/evil", b"x", "would leave the folder"),
        ("a/../../evil", b"x", "would leave the folder"),
        ("..\\evil", b"x", "would leave the folder"),
        ("C:evil", b"x", "would leave the folder"),
        ("link", "../../secret", "is a link or a device"),
        ("b" * 300, b"x", "cannot be unpacked"),
        ("good", b"x", "cannot be unpacked .*exists"),
    ],
)
def test_harm_is_refused_and_nothing_is_left(tmp_path, name, member, content, named):
    members = {"good/file": b"x", member: content} if member == "good" else {"good": b"x", member: content}
    with pytest.raises(DataError, match=named):
        unpack(archive(tmp_path / name, members), tmp_path / "deep" / "set")
    assert left(tmp_path) == {name}


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_bombs_stop_at_the_size_and_the_number(tmp_path, name):
    path = archive(tmp_path / name, {f"{i}": bytes(1_000_000) for i in range(5)})
    assert path.stat().st_size < 50_000
    with pytest.raises(DataError, match="unpacks to more than max_bytes"):
        unpack(path, tmp_path / "set", max_bytes=3_500_000)
    with pytest.raises(DataError, match="more than 4 files"):
        unpack(path, tmp_path / "set", max_files=4)
    assert left(tmp_path) == {name}


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_what_is_no_file_is_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as opened:
        info = tarfile.TarInfo("thing")
        info.type, info.linkname = kind, "/etc/hostname"
        opened.addfile(info)
    with pytest.raises(DataError, match="'thing' is a link or a device"):
        unpack(tmp_path / "a.tar", tmp_path / "set")


def test_a_link_in_the_folder_leads_nowhere(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "images").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="lies behind a link"):
        unpack(archive(tmp_path / "a.zip", {"a": b"x", "images/1.png": b"x"}), tmp_path / "set")
    assert left(tmp_path) == {"a.zip"}


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar"])
def test_a_damaged_archive_leaves_nothing(tmp_path, name):
    path = archive(tmp_path / name, {f"{i}": np.random.default_rng(i).bytes(2000) for i in range(3)}, name[6:])
    whole = path.read_bytes()
    cuts = [whole[:n] for n in range(0, len(whole) - 1200, 397)]
    for content in [*cuts, b"text", whole[:300] + bytes(200) + whole[500:]]:
        path.write_bytes(content)
        try:
            unpack(path, tmp_path / "set")
        except DataError as error:
            assert name in str(error) and left(tmp_path) == {name}
        shutil.rmtree(tmp_path / "set", ignore_errors=True)


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a\.zip: no such archive"):
        unpack(tmp_path / "a.zip", tmp_path)
    with pytest.raises(DataError, match="holds no file"):
        unpack(archive(tmp_path / "a.zip", {"folder": None}), tmp_path)
