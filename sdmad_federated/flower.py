"""A federation over Flower: `serve` runs in one place, `join` in each hospital, gRPC between them. [ours]

Flower counts the server and the client started here (`start_server`, `start_client`) as its older way; they need one
process in each place and no accounts, where its newer one needs a SuperLink, SuperNodes and an app. What Flower tells
its makers of its use is switched off, and its log.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from sdmad_lite.detector import SDMAD
from sdmad_lite.errors import FederationError, SDMADError, needs

from .federation import Arrays, Ask, Site, fit_together

ADDRESS, CERTIFICATES = "127.0.0.1:8470", ("ca.pem", "server.pem", "server.key")
AGAIN = "start server and sites again with the same commands: with checkpoint= they go on where they were"


def serve(
    detector: SDMAD,
    sites: int,
    address: str = ADDRESS,
    *,
    certificates: Any = None,
    patience: float = 600.0,
    **how: Any,
) -> SDMAD:
    """`fit_together` with sites that `join` from elsewhere.

    Args:
        sites: how many to wait for. address: HOST:PORT to listen at.
        certificates: folder with ca.pem, server.pem and server.key; needed where other machines join.
        patience: seconds to wait for all sites, and for each answer. how: local_steps and checkpoint.
    Raises FederationError: a site did not come, went away, or sent what cannot be used; or nobody can listen there.
    """
    secret = tuple(_read(Path(certificates, name)) for name in CERTIFICATES) if certificates else None
    _check(address, secret, "certificates=")
    flower, common = _flower("flwr.server"), _flower("flwr.common")
    stopped: list[BaseException] = []
    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    class Server(flower.Server):  # type: ignore[name-defined]
        def fit(self, num_rounds: int, timeout: float | None) -> tuple[Any, float]:
            """All of it; what stops it is raised when the sites have been told and the connections are closed."""
            manager, clients = self.client_manager(), list[Any]()
            for number, handler in ours.items():  # which Flower took
                signal.signal(number, handler)
            try:
                if not manager.wait_for(sites, patience):
                    came = f"{manager.num_available()} of {sites} sites came"
                    raise FederationError(f"{came} within patience={patience:g} s; {AGAIN}")
                clients += manager.all().values()
                fit_together(detector, _asking(common, clients, patience), **how)
            except (SDMADError, KeyboardInterrupt) as error:
                stopped.append(error)
                for client in clients:
                    with suppress(Exception):  # it went away
                        client.fit(_message(common, "stop", str(error), {}), 10, 0)
            return flower.History(), 0.0

    server, config = Server(client_manager=flower.SimpleClientManager()), flower.ServerConfig(num_rounds=1)
    flower.start_server(server_address=address, server=server, config=config, certificates=secret)
    if stopped:
        raise stopped[0]
    return detector


def join(site: Site, address: str = ADDRESS, *, certificate: Any = None, patience: float = 600.0) -> SDMAD:
    """Take part in a federation, until the detector of all is there.

    Args:
        address: HOST:PORT of the server. certificate: ca.pem of the server; needed where it is another machine.
        patience: seconds to wait for a server that is not there yet.
    Raises FederationError: there is no server, it stopped, or it cannot use this site.
    """
    secret = _read(Path(certificate)) if certificate else None
    _check(address, secret, "certificate=")
    flower, grpc = _flower("flwr.client"), needs("grpc", "federated")
    stopped: list[SDMADError] = []

    class Client(flower.NumPyClient):  # type: ignore[name-defined]
        def fit(self, parameters: list, config: dict) -> tuple[list, int, dict]:
            try:
                if config["task"] == "stop":
                    raise FederationError(f"the server stopped: {config['names']}")
                answer = site.answer(config["task"], dict(zip(json.loads(config["names"]), parameters, strict=True)))
            except SDMADError as error:
                stopped.append(error)
                return [], 0, {"site": site.name, "error": str(error)}
            return list(answer.values()), 1, {"site": site.name, "names": json.dumps(list(answer))}

    end, client = time.monotonic() + patience, Client().to_client()
    while not stopped and not site.sent["end"][0]:
        why = "the server ended before the detector was there"
        try:
            flower.start_client(server_address=address, client=client, root_certificates=secret)
        except grpc.RpcError as error:
            if not site.sent["begin"][0] and time.monotonic() < end:
                time.sleep(0.5)
                continue
            why = f"no connection to the server within patience={patience:g} s ({error.code().name})"
        if not site.sent["end"][0]:
            stopped.append(FederationError(f"{address}: {why}; {AGAIN}"))
    if stopped:
        raise stopped[0]
    return site.detector


def _flower(module: str) -> Any:
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # read when Flower is imported
    found = needs(module, "federated")
    logging.getLogger("flwr").setLevel(logging.CRITICAL)  # which it sets when imported
    return found


def _asking(common: Any, clients: list[Any], patience: float) -> Ask:
    """Ask all clients at once; answers in the order of the sites' names."""
    names: dict[str, str] = {}

    def one(client: Any, task: str, given: Arrays) -> Arrays:
        try:
            found = client.fit(_message(common, task, json.dumps(list(given)), given), patience, 0)
        except Exception:  # Flower's own, when a connection ends
            gone = f"went away in {task!r}, or did not answer within patience={patience:g} s"
            raise FederationError(f"{names.get(client.cid, 'a site')}: {gone}; {AGAIN}") from None
        names[client.cid] = str(found.metrics["site"])
        if "error" in found.metrics:
            raise FederationError(f"{names[client.cid]}: {found.metrics['error']}")
        arrays = common.parameters_to_ndarrays(found.parameters)
        return dict(zip(json.loads(found.metrics["names"]), arrays, strict=True))

    def ask(task: str, given: Arrays) -> dict[str, Arrays]:
        with ThreadPoolExecutor(len(clients)) as pool:  # those that are there end their turn, whoever went away
            turns = [pool.submit(one, client, task, given) for client in clients]
        answers = {client.cid: turn.result() for client, turn in zip(clients, turns, strict=True)}
        if len(set(names.values())) < len(clients):
            raise FederationError(f"two sites have one name of {sorted(names.values())}; give each name= of its own")
        return {names[cid]: answers[cid] for cid in sorted(answers, key=names.__getitem__)}

    return ask


def _message(common: Any, task: str, names: str, arrays: Arrays) -> Any:
    return common.FitIns(common.ndarrays_to_parameters(list(arrays.values())), {"task": task, "names": names})


def _check(address: str, secret: Any, needed: str) -> None:
    """Refuse what is no address, one where nobody can listen, and an open line to another machine."""
    found = re.fullmatch(r"([^:]+):(\d{1,5})", address)
    if not found or not 0 < int(found[2]) < 65536:
        raise FederationError(f"address={address!r}: write HOST:PORT, such as {ADDRESS}")
    if not secret and found[1] not in ("127.0.0.1", "localhost"):
        raise FederationError(f"{address}: is another machine, and all could be read on the way; give {needed}")
    if needed == "certificates=":
        try:
            socket.create_server((found[1], int(found[2]))).close()
        except OSError as error:
            raise FederationError(f"{address}: cannot listen there ({error.strerror}); choose another port") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FederationError(f"{path}: cannot be read ({error.strerror}); docs/scale.md has the commands") from None
