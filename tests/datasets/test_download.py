"""Downloads from a real server on this machine: whole or refused by name; and archives that mean harm."""

import hashlib
import io
import os
import stat
import sys
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from sdmad_datasets import fetch, unpack
from sdmad_lite.errors import DataError, DownloadError, MissingExtraError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT at any path; the fields say what goes wrong, `asked` counts the requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.stops, self.status, self.announce, self.asked = [], [], True, 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/set.zip"

    def handle_error(self, request, client_address):
        """A client that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        """Quiet."""

    def do_GET(self):
        server = self.server
        server.asked += 1
        if self.path in ("/elsewhere", "/loop"):
            return self.answer(302, {"Location": "/set.zip" if self.path == "/elsewhere" else "/loop"})
        if server.status:
            return self.answer(server.status.pop(0), {"ETag": "\xff"})
        self.answer(200, {"Content-Length": str(len(CONTENT))} if server.announce else {})
        self.wfile.write(CONTENT[: server.stops.pop(0)] if server.stops else CONTENT)

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
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(server, path, *args, **kwargs):
    return fetch(server.url, path, *args, **{"progress": False, **kwargs})


# What arrives


@pytest.mark.parametrize("checksum", [f"sha256:{SHA256.upper()}", SHA256, f"md5:{MD5}"])
def test_a_file_arrives_whole_and_is_not_fetched_twice(server, tmp_path, checksum):
    path = get(server, tmp_path / "deep" / "set.zip", checksum, size=len(CONTENT))
    assert path.read_bytes() == CONTENT and os.listdir(path.parent) == ["set.zip"]
    assert get(server, path, checksum) == path and server.asked == 1


def test_a_redirect_is_followed(server, tmp_path):
    server.url = server.url.replace("set.zip", "elsewhere")
    assert get(server, tmp_path / "set.zip").read_bytes() == CONTENT


def test_progress_is_shown_when_asked_for(server, tmp_path, capsys):
    get(server, tmp_path / "a")
    assert capsys.readouterr() == ("", "")
    get(server, tmp_path / "set.zip", progress=True)
    assert "set.zip" in capsys.readouterr().err


def test_after_a_lost_connection_and_from_a_busy_server_it_is_fetched_anew(server, tmp_path):
    server.stops, server.status = [100_000], [503]
    assert get(server, tmp_path / "set.zip", SHA256).read_bytes() == CONTENT and server.asked == 3


# What does not


def test_a_download_that_ends_early_is_refused_and_nothing_is_kept(server, tmp_path):
    server.stops = [100_000] * 3
    with pytest.raises(DownloadError, match=rf"{server.url}: cannot be fetched .*100000.*check the address"):
        get(server, tmp_path / "set.zip")
    assert server.asked == 3 and os.listdir(tmp_path) == []


@pytest.mark.parametrize("status", [204, 206, 302])
def test_an_answer_without_a_file_is_refused(server, tmp_path, status):
    """A redirect that says nowhere among them."""
    server.status = [status]
    with pytest.raises(DownloadError, match=rf"{server.url}: answers {status} .*, no file; check the address"):
        get(server, tmp_path / "set.zip", retries=0)
    server.stops = [0]
    server.announce = False
    with pytest.raises(DownloadError, match="sends an empty file"):
        get(server, tmp_path / "set.zip", retries=0)
    assert os.listdir(tmp_path) == []


def test_several_at_once_into_one_folder(server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda _: get(server, tmp_path / "new" / "set.zip", SHA256), range(4)))
    assert {path.read_bytes() for path in got} == {CONTENT} and os.listdir(tmp_path / "new") == ["set.zip"]


def test_a_full_disk_is_named_and_nothing_is_kept(server, tmp_path):
    """A limit on the size of files, which is an error of the same kind."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, limits[1]))
    try:
        with pytest.raises(DownloadError, match=r"cannot be written .*free some space"):
            get(server, tmp_path / "set.zip", SHA256)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("checksum", ["0" * 64, "sha256:" + "0" * 64, "md5:" + "0" * 32, "crc:0"])
def test_a_wrong_checksum_leaves_nothing(server, tmp_path, checksum):
    with pytest.raises(DownloadError, match=rf"{server.url}: .*(does not match|crc).*check the address and the check"):
        get(server, tmp_path / "set.zip", checksum)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("announce", [True, False])
@pytest.mark.parametrize("size", [1000, len(CONTENT) - 1, len(CONTENT) + 1])
def test_another_size_is_refused(server, tmp_path, size, announce):
    server.announce = announce
    with pytest.raises(DownloadError, match=rf"set\.zip: .*{size:,}"):
        get(server, tmp_path / "set.zip", size=size)
    assert os.listdir(tmp_path) == []


def test_nobody_there_is_named(tmp_path):
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:1/set\.zip: .*check the address and the network$"):
        fetch("http://127.0.0.1:1/set.zip", tmp_path / "set.zip", progress=False, retries=0)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HTTPS_PROXY", "socks://127.0.0.1:9", r"SOCKS .*or the proxy of HTTPS_PROXY"),
        ("https_proxy", "http://u:secret@127.0.0.1:9", "or the proxy of https_proxy"),
        ("ALL_PROXY", "http://[::1", "or the proxy of ALL_PROXY"),
        ("REQUESTS_CA_BUNDLE", "/none.pem", r"set.zip: .*/none.pem; correct or unset REQUESTS_CA_BUNDLE"),
    ],
)
def test_an_odd_proxy_is_named_and_a_server_of_this_machine_needs_none(
    server, tmp_path, monkeypatch, name, value, said
):
    monkeypatch.setenv(name, value)
    assert get(server, tmp_path / "set.zip").read_bytes() == CONTENT
    with pytest.raises(DownloadError, match=said) as caught:
        fetch("https://example.invalid/set.zip", tmp_path / "other.zip", progress=False, retries=0)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "no address", "http://", "http://[1", ""])
def test_only_web_addresses_are_fetched(tmp_path, url):
    with pytest.raises(DownloadError, match="check the address"):
        fetch(url, tmp_path / "a", progress=False, retries=0)
    assert os.listdir(tmp_path) == []


def test_a_loop_of_redirects_is_refused(server, tmp_path):
    server.url = server.url.replace("set.zip", "loop")
    with pytest.raises(DownloadError, match="redirect"):
        get(server, tmp_path / "set.zip", retries=0)


@pytest.mark.parametrize("check", [{"size": len(CONTENT)}, {"checksum": SHA256}])
def test_a_file_of_ones_own_is_not_replaced(server, tmp_path, check):
    (tmp_path / "set.zip").write_bytes(b"mine")
    with pytest.raises(DownloadError, match=r"set\.zip: exists but is another file; move it away"):
        get(server, tmp_path / "set.zip", **check)
    assert (tmp_path / "set.zip").read_bytes() == b"mine" and server.asked == 0


def test_a_place_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / "set.zip", tmp_path / ("a" * 300)):
        with pytest.raises(DownloadError, match="cannot be written"):
            get(server, path)


def test_without_pooch_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(MissingExtraError, match=r"sdmad_lite\[datasets\]"):
        fetch("http://127.0.0.1:1/set.zip", tmp_path / "set.zip")


# Archives


def archive(path, members: dict, mode="gz"):
    """A zip or tar with these members; None is a folder, text the target of a link."""
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
def test_archives_unpack_into_a_new_or_empty_folder(tmp_path, name, mode):
    path = archive(tmp_path / name, {"images": None, "images/1.png": b"one", "./labels.csv": b"two"}, mode)
    folder = tmp_path / "set"
    folder.mkdir()
    assert unpack(path, folder) == [folder / "images" / "1.png", folder / "labels.csv"]
    assert left(folder) == {"images/1.png", "labels.csv"} and (folder / "labels.csv").read_bytes() == b"two"
    with pytest.raises(DataError, match="set: is not empty; unpack into a new folder"):
        unpack(path, folder)
    assert unpack(path, tmp_path / "deep" / "set")[0].read_bytes() == b"one"


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path):
    inner = archive(tmp_path / "inner.zip", {"x": b"x"}).read_bytes()
    assert unpack(archive(tmp_path / "a.tar", {"inner.zip": inner}, ""), tmp_path / "set") == [
        tmp_path / "set" / "inner.zip"
    ]


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
@pytest.mark.parametrize(
    ("member", "content", "named"),
    [
        ("/evil", b"x", "would leave the folder"),
        ("a/../../evil", b"x", "would leave the folder"),
        ("..\\evil", b"x", "would leave the folder"),
        ("C:evil", b"x", "would leave the folder"),
        ("link", "../../secret", "is a link or a device"),
        ("b" * 300, b"x", "cannot be unpacked"),
        ("good", b"x", "cannot be unpacked"),
    ],
)
def test_harm_is_refused_and_nothing_is_left(tmp_path, name, member, content, named):
    members = {"good/file": b"x", member: content} if member == "good" else {"good": b"x", member: content}
    with pytest.raises(DataError, match=named):
        unpack(archive(tmp_path / name, members), tmp_path / "deep" / "set")
    assert left(tmp_path) == {name}


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_bombs_stop_at_the_size(tmp_path, name):
    path = archive(tmp_path / name, {f"{i}": bytes(1_000_000) for i in range(5)})
    assert path.stat().st_size < 50_000
    with pytest.raises(DataError, match="unpacks to more than max_bytes"):
        unpack(path, tmp_path / "set", max_bytes=3_500_000)
    assert left(tmp_path) == {name}


def test_a_zip_that_declares_less_than_it_holds_gives_no_more_than_it_declares(tmp_path):
    path = archive(tmp_path / "a.zip", {"0": bytes(1_000_000)})
    size = (1_000_000).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(path, tmp_path / "set")
    assert left(tmp_path) == {"a.zip"}


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_what_is_no_file_is_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as opened:
        info = tarfile.TarInfo("thing")
        info.type, info.linkname = kind, "/etc/hostname"
        opened.addfile(info)
    with pytest.raises(DataError, match="'thing' is a link or a device"):
        unpack(tmp_path / "a.tar", tmp_path / "set")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar"])
def test_a_damaged_archive_leaves_nothing(tmp_path, name):
    path = archive(tmp_path / name, {f"{i}": np.random.default_rng(i).bytes(2000) for i in range(3)}, name[6:])
    whole = path.read_bytes()
    parts = [whole[:n] for n in range(0, len(whole) - 1200, 397)]
    for i, content in enumerate([*parts, b"text", whole[:300] + bytes(200) + whole[500:]]):
        path.write_bytes(content)
        try:
            unpack(path, tmp_path / "out" / f"{i}")
        except DataError as error:
            assert name in str(error) and not (tmp_path / "out" / f"{i}").exists()


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a\.zip: no such archive"):
        unpack(tmp_path / "a.zip", tmp_path)
    with pytest.raises(DataError, match="holds no file"):
        unpack(archive(tmp_path / "a.zip", {"folder": None}), tmp_path / "set")
