"""Downloads, archives and language models, by servers on loopback that answer wrongly."""

import io
import json
import tarfile
import zipfile

from sdmad_datasets import fetch, unpack
from sdmad_llm import generate_signs

from .world import Case, serving

CONTENT = b"forty-two bytes that a server might well send"


def reply(handler, status, content=CONTENT, length=None, kind="application/json"):
    """One HTTP answer; a length above the content's is a connection that was cut."""
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(length or len(content)))
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(content)
    handler.close_connection = True


def download(what, answer, message, address=None, **checks):
    """A case of `fetch` from a server that answers by `answer`."""

    def prepare(world):
        def act():
            with serving(answer) as world.server:
                fetch(address or f"{world.server}/set.zip", world.path / "set.zip", progress=False, retries=0, **checks)

        return act

    return Case("A download", what, prepare, message)


def archive(what, content, message):
    """A case of `unpack`."""

    def prepare(world):
        path = world.write("set.zip", content)
        (world.path / "out").mkdir()
        return lambda: unpack(path, world.path / "out")

    return Case("An archive", what, prepare, message)


def zipped(**files) -> bytes:
    """A zip archive of these files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return stream.getvalue()


def linked() -> bytes:
    """A tar archive with a link out of its folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        link = tarfile.TarInfo("0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "../../secret.png"
        made.addfile(link)
    return stream.getvalue()


def asked(what, answer, message, categories=("Effusion", "Nodule"), **changes):
    """A case of `generate_signs` with a server that answers by `answer`."""

    def prepare(world):
        def act():
            with serving(answer) as address:
                world.server = address.removeprefix("http://")
                given = {"model": "m", "base_url": f"{address}/v1", "api_key": "k", "cache": None, "timeout": 5}
                generate_signs(list(categories), "chest radiograph", retries=0, **(given | changes))

        return act

    return Case("Signs by a language model", what, prepare, message)


def says(content, finish="stop"):
    """A server whose model answers this text."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
    whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return lambda handler: reply(handler, 200, json.dumps(whole).encode())


def refuses(status, problem):
    """A server that refuses every request."""
    return lambda handler: reply(handler, status, json.dumps({"error": {"message": problem}}).encode())


CASES = [
    download(
        "a file that is not there",
        lambda handler: reply(handler, 404),
        "{server}/set.zip: cannot be fetched (404 Client Error: {reason}); check the address and the network",
    ),
    download(
        "a server that is out of order",
        lambda handler: reply(handler, 503),
        "{server}/set.zip: cannot be fetched (503 Server Error: {reason}); check the address and the network",
    ),
    download(
        "another file than was meant",
        lambda handler: reply(handler, 200),
        (
            "{server}/set.zip: SHA256 hash of downloaded file (set.zip) does not match the known hash: expected "
            "{zeros} but got {sum}. Deleted download for safety. {reason}; check the address and the checksum"
        ),
        checksum="0" * 64,
    ),
    download(
        "a file of another size",
        lambda handler: reply(handler, 200),
        "{server}/set.zip: sends more than 10 bytes; check the address",
        size=10,
    ),
    download(
        "a connection that is lost",
        lambda handler: reply(handler, 200, length=100),
        "{server}/set.zip: cannot be fetched ({reason}); check the address and the network",
    ),
    download(
        "an address of another kind",
        lambda handler: reply(handler, 200),
        "ftp://example.org/set.zip: cannot be fetched ({reason}); check the address and the network",
        address="ftp://example.org/set.zip",
    ),
    archive(
        "a file that is no archive",
        b"<html>please log in</html>",
        "{path}/set.zip: is no zip or tar archive, or damaged; fetch it again",
    ),
    archive(
        "a path out of the folder",
        zipped(**{"../evil.txt": "x"}),
        "{path}/set.zip: '../evil.txt' would leave the folder; unpack it by hand if you trust it",
    ),
    archive(
        "a link out of the folder",
        linked(),
        "{path}/set.zip: '0.png' is a link or a device; unpack it by hand if you trust it",
    ),
    asked(
        "a key that is refused",
        refuses(401, "bad key"),
        (
            "category 'Effusion': {server} with the model 'm' gave no usable answer ("
            "'Error code: 401 - bad key'); "
            "check api_key=, model= and base_url= (it often ends in /v1), or raise timeout= and retries=. "
            "Nothing was written"
        ),
    ),
    asked(
        "a model that the server has not",
        refuses(404, "no model m"),
        (
            "category 'Effusion': {server} with the model 'm' gave no usable answer ("
            "'Error code: 404 - no model m'); "
            "check api_key=, model= and base_url= (it often ends in /v1), or raise timeout= and retries=. "
            "Nothing was written"
        ),
    ),
    asked(
        "a server that fails",
        refuses(500, "out of memory"),
        (
            "category 'Effusion': {server} with the model 'm' gave no usable answer ("
            "'Error code: 500 - out of memory'); "
            "check api_key=, model= and base_url= (it often ends in /v1), or raise timeout= and retries=. "
            "Nothing was written"
        ),
    ),
    asked(
        "a page in place of an answer",
        lambda handler: reply(handler, 200, b"<html>", kind="text/html"),
        (
            "category 'Effusion': {server} with the model 'm' gave no usable answer ("
            "the response was cut off, or is not of the protocol); "
            "raise timeout= or retries=, or take another model. Nothing was written"
        ),
    ),
    asked(
        "an answer that is cut off",
        says('{"signs": [', "length"),
        (
            "category 'Effusion': {server} with the model 'm' gave no usable answer (it was cut off because "
            "it was too long; write fewer and shorter signs); raise timeout= or retries=, or take another "
            "model. Nothing was written"
        ),
    ),
    asked(
        "prose in place of JSON",
        says("I am sorry, I cannot help with that."),
        (
            "category 'Effusion': {server} with the model 'm' gave no usable answer (it holds no JSON "
            "object); raise timeout= or retries=, or take another model. Nothing was written"
        ),
    ),
    asked(
        "reasoning without an end",
        says("<think>The user wants signs"),
        (
            "category 'Effusion': {server} with the model 'm' gave no usable answer (it holds reasoning and no "
            "answer); raise timeout= or retries=, or take another model. Nothing was written"
        ),
    ),
    asked(
        "an error under the status of an answer",
        refuses(200, "Rate limit exceeded"),
        (
            "category 'Effusion': {server} with the model 'm' gave no usable answer ('Rate limit exceeded'); "
            "check api_key=, model= and base_url= (it often ends in /v1), or raise timeout= and retries=. "
            "Nothing was written"
        ),
    ),
    asked(
        "a context that is too short",
        refuses(400, "the request exceeds the available context size"),
        (
            "category 'Effusion': {server} with the model 'm' gave no usable answer ('Error code: 400 - the request "
            "exceeds the available context size'); take a model or a server with a longer context (Ollama num_ctx, "
            "llama-server -c, vLLM --max-model-len). Nothing was written"
        ),
    ),
    asked(
        "no sign",
        says('{"signs": []}'),
        (
            "category 'Effusion': {server} with the model 'm' gave no usable answer (0 of 0 signs can be "
            "used, at least 3 are needed: write more); raise timeout= or retries=, or take another model. "
            "Nothing was written"
        ),
    ),
    asked(
        "an address that is none",
        says("{}"),
        ("base_url: Input should be a valid URL, relative URL without a base"),
        base_url="localhost",
    ),
    asked(
        "no category",
        says("{}"),
        "categories: Dictionary should have at least 1 item after validation, not 0",
        categories=(),
    ),
    asked(
        "too many signs",
        says("{}"),
        "signs_per_category: Input should be less than or equal to 20",
        signs_per_category=1000,
    ),
]
