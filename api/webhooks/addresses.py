"""Which addresses webhooks are sent to.

Not to any that has a special purpose by IANA's registries (RFC 6890), for a webhook must not make
this server speak to its own machine's and network's secrets; but to loopback and private networks,
where most receivers live. An IPv4 address inside an IPv6 one is judged as what it is, and a carrier
of one that nobody uses any more (6to4, Teredo) is refused as a whole.

What is checked is what is connected to: a name server could answer otherwise the
second time (DNS rebinding), so it is resolved once.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from domain.errors import CasebookError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Looks up a host's name and port: its addresses, the best first. Raises OSError."""

# https://www.iana.org/assignments/iana-ipv4-special-registry and, for IPv6, all that is not global
# unicast, and iana-ipv6-special-registry within that. Both of 2025.
_SPECIAL_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_SPECIAL_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo, benchmarking, ORCHID ...
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_LOOPBACK_AND_PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::1/128",
        "fc00::/7",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})  # RFC 5214, section 6.1
_METADATA = frozenset(
    map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254"))
)
"""Where clouds serve machines their secrets, other than at the link-local address."""


class AddressRefused(CasebookError):
    """A webhook's address is one that is not sent to: for example a cloud's metadata service."""

    def __init__(self, address: str) -> None:
        super().__init__("address_refused", f"{address} is not sent to")


def is_refused(host: str) -> bool:
    """Return whether a URL's host is an IP address that is not sent to; a name is none."""
    try:
        return _is_refused(ipaddress.ip_address(host.strip("[]").partition("%")[0]))
    except ValueError:
        pass
    with suppress(OSError):  # resolvers take 2130706433, 0x7f.1 and 0177.0.0.1 for addresses
        return _is_refused(ipaddress.IPv4Address(socket.inet_aton(host)))
    return False


def _is_refused(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return _is_refused(address.ipv4_mapped)
        inner = ipaddress.IPv4Address(int(address) % 2**32)
        if address in _NAT64:  # which carries to the public network only (RFC 6052, section 3.1)
            return _is_special(inner) or inner in _METADATA
        if int(address) >> 32 & 0xFFFFFFFF in _ISATAP and _is_refused(inner):
            return True
    if address in _METADATA:
        return True
    if any(address in network for network in _LOOPBACK_AND_PRIVATE):
        return False
    return _is_special(address)


def _is_special(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return any(address in network for network in _SPECIAL_V4)
    return address not in _GLOBAL_V6 or any(address in network for network in _SPECIAL_V6)


async def resolve(host: str, port: int) -> list[str]:
    """Look up a name as the system does."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def addresses_of(host: str, port: int, resolve: Resolve = resolve) -> Sequence[str]:
    """Return the addresses that a host may be connected to at.

    Raises AddressRefused if one of them is not sent to, and OSError if there is none.
    """
    found = await resolve(host, port)
    for address in found:
        if is_refused(address):
            raise AddressRefused(address)
    if not found:
        raise OSError(f"{host} has no address")
    return found
