"""What is decided before a client's connection is opened: which codec it speaks, and whether its page may.

Answers for: the headers as one mapping, the negotiation of the codec, the origin check, and whose word counts about
addresses behind a proxy. Refuses to know: how the request came in and how the answer goes out; both doors ask here.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import parse_qs

from hubbub.protocol.codec import Codec, JsonCodec

log = logging.getLogger(__name__)

#: What browsers send (RFC 6454, section 6.2), but for "null": scheme, host, and the port if it is not the scheme's own.
_ORIGIN = re.compile(r"[a-z][-+.a-z0-9]*://((?:\[[0-9a-f:.]+\]|[^]\s/?#@:\[]+)(?::[0-9]+)?)", re.ASCII)

#: What `*` stands for among trusted proxies.
_ANYWHERE = ("0.0.0.0/0", "::/0")

JSON, PROTOBUF = "centrifuge-json", "centrifuge-protobuf"


def headers_of(lines: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A request's headers by lower-case name; what was sent several times is joined, in its order.

    By ", " (RFC 9110, 5.3), cookies by "; " (RFC 6265, 5.4), as everybody reads them who reads one line.
    """
    headers: dict[str, str] = {}
    for name, line in lines:
        key, value = name.lower(), line.strip(" \t")  # which parsers keep at the end, or do not
        glue = "; " if key == "cookie" else ", "
        headers[key] = f"{headers[key]}{glue}{value}" if key in headers else value
    return headers


class Codecs:
    """One codec of each kind for all connections: the hub tells variants apart by identity."""

    def __init__(self) -> None:
        self.json: Codec = JsonCodec()
        self._protobuf: Codec | None = None

    @property
    def protobuf(self) -> Codec:
        """Made when the first client wants it: most processes never see one."""
        if self._protobuf is None:
            from hubbub.protocol.protobuf import ProtobufCodec

            self._protobuf = ProtobufCodec()
        return self._protobuf

    def negotiate(self, subprotocols: Sequence[str], query: str) -> tuple[Codec, str | None]:
        """The codec, and the subprotocol to confirm. By subprotocol, or by URL as older clients do; else JSON."""
        for subprotocol in subprotocols:
            if subprotocol == PROTOBUF:
                return self.protobuf, subprotocol
            if subprotocol == JSON:
                return self.json, subprotocol
        parameters = parse_qs(query)
        if "protobuf" in (*parameters.get("cf_protocol", ()), *parameters.get("format", ())):
            return self.protobuf, None
        return self.json, None


class Gate:
    """Which pages may connect, and which peers may say who they speak for.

    `allowed_origins`: empty for the page's own host alone; `*` for any; else origins such as `https://example.com`,
    with `*` as a wild card inside (`http://localhost:*`). `trusted_proxies`: addresses or networks whose X-Forwarded
    headers count, or `*` for any; a Unix socket's peer is trusted, since only this machine reaches it.
    """

    def __init__(self, allowed_origins: Sequence[str] = (), trusted_proxies: Sequence[str] = ()) -> None:
        self._admits_any = "*" in allowed_origins
        self._origins = [_pattern(origin.lower()) for origin in allowed_origins]
        networks = [network for proxy in trusted_proxies for network in (_ANYWHERE if proxy == "*" else (proxy,))]
        self._trusted = [ipaddress.ip_network(network, strict=False) for network in networks]

    def admits(self, headers: Mapping[str, str], peer: str) -> bool:
        """Whether the page that this request comes from may connect; logs it. `headers` by lower-case name."""
        origin = headers.get("origin", "")
        if not origin or self._is_allowed(origin.lower(), self.host(headers, peer)):
            if log.isEnabledFor(logging.INFO):
                log.info("a connection from %s", self.client_address(headers, peer) or "a Unix socket")
            return True
        log.warning(
            "refused a connection from %s, from a page of origin %s to host %s;"
            " server.allowed_origins = [%r] would allow it",
            self.client_address(headers, peer) or "a Unix socket",
            origin,
            headers.get("host", ""),
            origin,
        )
        return False

    def host(self, headers: Mapping[str, str], peer: str) -> str:
        """The host that the client believes it speaks to."""
        forwarded = headers.get("x-forwarded-host", "") if self._trusts(peer) else ""
        return (forwarded or headers.get("host", "")).split(",")[0].strip().lower()

    def client_address(self, headers: Mapping[str, str], peer: str) -> str:
        """Where the client really is: the last address in X-Forwarded-For that is not a trusted proxy.

        Where all are trusted, the first: nobody vouches for it, but who trusts everybody asked for that.
        """
        if not self._trusts(peer):
            return peer
        addresses = [address.strip() for address in headers.get("x-forwarded-for", "").split(",") if address.strip()]
        strangers = [address for address in addresses if not self._trusts(address)]
        return [peer, *addresses[:1], *strangers][-1]

    def _is_allowed(self, origin: str, host: str) -> bool:
        if self._admits_any:
            return True
        parts = _ORIGIN.fullmatch(origin)
        if not self._origins:
            return parts is not None and parts[1] == host
        # What is no origin is admitted by its own name alone ("null", "file://"): no wild card may stretch into a path.
        return any(
            allowed.fullmatch(origin) for allowed in self._origins if parts or allowed.pattern == re.escape(origin)
        )

    def _trusts(self, peer: str) -> bool:
        if not peer:
            return True
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._trusted)


def _pattern(origin: str) -> re.Pattern[str]:
    """An origin with `*` for anything. People copy addresses with a slash at the end; "file://" ends in two."""
    named = origin if origin.endswith("://") else origin.rstrip("/")
    return re.compile(re.escape(named).replace(r"\*", ".*"))
