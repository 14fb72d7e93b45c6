"""Open addresses of the public web alone: no host of the private network, also not by a redirect.

The address of a host is looked up once, checked, and then connected to; a second look-up could
give another address.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPSConnection
from typing import Any
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    UnknownHandler,
)

__all__ = ["is_public", "public_opener"]

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Return whether an IP address, and any IPv4 address inside it, is public."""
    found = ipaddress.ip_address(address)
    inside = []
    if isinstance(found, ipaddress.IPv6Address):
        inside = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        if found in _NAT64:
            inside.append(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF))
    return all(each.is_global and not each.is_multicast for each in (found, *filter(None, inside)))


@contextmanager
def public_opener(seconds: float, accepts: Callable[[str], bool] = is_public) -> Iterator[OpenerDirector]:
    """Yield an opener that connects to IP addresses that `accepts`, and not by a proxy.

    A proxy would look the host up itself. After `seconds` all connections are ended.
    """
    sockets: list[Any] = []
    opener, connect = OpenerDirector(), partial(_connect, accepts)
    for handler in (
        _Http(_connections(HTTPConnection, connect, sockets)),
        _Https(_connections(HTTPSConnection, connect, sockets)),
        _Redirects(), HTTPErrorProcessor(), HTTPDefaultErrorHandler(), UnknownHandler(),
    ):  # fmt: skip
        opener.add_handler(handler)
    timer = threading.Timer(seconds, _end, [sockets])
    timer.daemon = True
    timer.start()
    try:
        yield opener
    finally:
        timer.cancel()


def _end(sockets: list[Any]) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _connect(accepts: Callable[[str], bool], where: tuple[str, int], timeout: Any, source: Any = None) -> socket.socket:
    """Connect to the host and port `where`.

    Raises:
        OSError: If the host has an address that is not accepted, or cannot be reached.
    """
    found = socket.getaddrinfo(*where, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(map(accepts, addresses)):
        raise OSError(f"{where[0]} is not a host of the public internet")
    return socket.create_connection((addresses[0], where[1]), timeout, source)


def _connections(kind: type[HTTPConnection], connect: Callable[..., socket.socket], sockets: list[Any]) -> Any:
    """Return a function that makes connections of a `kind`, which open their sockets by `connect`.

    The sockets are added to `sockets`.
    """

    def make(*arguments: Any, **settings: Any) -> HTTPConnection:
        made: Any = kind(*arguments, **settings)
        made._create_connection, begin = connect, made.connect

        def begin_and_record() -> None:
            begin()
            sockets.append(made.sock)

        made.connect = begin_and_record
        return made  # type: ignore[no-any-return]

    return make


class _Http(HTTPHandler):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self._make = make

    def http_open(self, request: Any) -> Any:
        """Open an http address."""
        return self.do_open(self._make, request)


class _Https(HTTPSHandler):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self._make = make

    def https_open(self, request: Any) -> Any:
        """Open an https address; the certificate is checked."""
        return self.do_open(self._make, request)


class _Redirects(HTTPRedirectHandler):
    def redirect_request(self, request: Any, *arguments: Any) -> Any:
        """Follow a redirect, but not from https to http."""
        new = super().redirect_request(request, *arguments)
        if new is not None and request.type == "https" and new.type != "https":
            raise OSError("it redirects from https to http")
        return new
