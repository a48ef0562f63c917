"""Clusters: the connection to one, and how many actors of how many CPUs it holds; ray is imported on first use."""

from __future__ import annotations

import importlib
import os
import socket
from typing import Any

__all__ = ["connect", "cpus_of_nodes", "plan", "ray"]

# Seconds for an address to answer; Ray itself tries for more than 20.
_PATIENCE = 4.0
# How HTTP/2 begins, and its empty frame of settings: a server of gRPC, as each address of Ray is, answers with its own.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def ray(name: str = "ray") -> Any:
    """Return a module of Ray; ImportError that says what to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"Ray cannot be imported ({error}): pip install 'fastattn[ray]'") from error


def connect(address: str | None = None) -> bool:
    """Connect to a cluster, as `ray.init` does, unless this process is connected; tell whether it was not."""
    module = ray()
    if module.is_initialized():
        if address is not None:
            raise ValueError(f"address: this process is connected to a cluster already, got {address!r}")
        return False
    if address is None:
        address = os.environ.get("RAY_ADDRESS") or None
    if address not in (None, "auto", "local"):
        _check_reachable(str(address))
    try:
        module.init(address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConnectionError(f"{address or 'Ray'}: cannot connect: {error}") from error
    return True


def _check_reachable(address: str) -> None:
    """Raise a ConnectionError if nothing at an address speaks gRPC."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        raise ValueError(f"address must be HOST:PORT, ray://HOST:PORT, auto or local, got {address!r}")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _PATIENCE) as peer:
            peer.settimeout(_PATIENCE)
            peer.sendall(_GREETING)
            answer = peer.recv(4)
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"{address}: no cluster of Ray can be reached there: {error}") from error
    # The fourth byte of a frame is its type: settings.
    if answer[3:] != b"\4":
        raise ConnectionError(f"{address}: what answers there is no cluster of Ray")


def cpus_of_nodes() -> list[float]:
    """Return the number of CPUs of each node that has some."""
    found = [node["Resources"].get("CPU", 0.0) for node in ray().nodes() if node["Alive"]]
    return [cpus for cpus in found if cpus]


def plan(nodes: list[float], actors: int | None, num_cpus: float | None, spare: int) -> tuple[int, float]:
    """Return the number of actors, and the CPUs of each; `spare` CPUs of the cluster are left to other work.

    By default an actor takes a node, or if the number of actors is given, its share.
    """
    if actors is not None and (isinstance(actors, bool) or not isinstance(actors, int) or actors < 1):
        raise ValueError(f"actors must be a positive integer or None, got {actors!r}")
    is_number = isinstance(num_cpus, (int, float)) and not isinstance(num_cpus, bool)
    if num_cpus is not None and not (is_number and 0 < num_cpus < float("inf")):
        raise ValueError(f"num_cpus must be positive or None, got {num_cpus!r}")
    total, least = sum(nodes), min(nodes, default=0.0)
    if num_cpus is None:
        num_cpus = float(max(1, int(least - spare if actors is None else min(least, (total - spare) // actors))))
    most = min(sum(_fitting(cpus, num_cpus) for cpus in nodes), _fitting(total - spare, num_cpus))
    asked = 1 if actors is None else actors
    if asked > most:
        left = ", of which reading and writing need one" if spare else ""
        fewer = f"actors={most}, or a smaller num_cpus" if most else "a smaller num_cpus, such as 0.5, or more CPUs in ray.init"
        raise ValueError(
            f"{asked} {'actor' if asked == 1 else 'actors'} of {num_cpus:g} CPUs do not fit: the cluster has {total:g} CPUs in "
            f"{len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}{left}: {fewer}"
        )
    return (most if actors is None else actors), num_cpus


def _fitting(cpus: float, each: float) -> int:
    """Return how many actors fit; of a share that binary numbers do not have, such as 0.1, as many as its decimals say."""
    return int(cpus / each + 1e-6)
