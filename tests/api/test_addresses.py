"""Which addresses webhooks are sent to. Nothing here is connected to."""

import ipaddress

import pytest

from api.webhooks.addresses import AddressRefused, addresses_of, is_refused

REFUSED_V4 = (
    *("0.0.0.0", "0.1.2.3", "100.64.0.1", "100.100.100.200", "100.127.255.255"),  # noqa: S104
    *("169.254.0.1", "169.254.169.254", "192.0.0.1", "192.0.0.9", "192.0.0.192", "192.0.2.1"),
    *("192.31.196.1", "192.52.193.1", "192.88.99.1", "192.175.48.1", "198.18.0.1"),
    *("198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250"),
    *("240.0.0.1", "255.255.255.255", "168.63.129.16"),
)
REFUSED_V6 = (
    *("::", "::2", "64:ff9b:1::1", "64:ff9b:1:ffff::a9fe:a9fe", "100::1", "100:0:0:1::1"),
    *("2001::1", "2001:1::1", "2001:2::1", "2001:20::1", "2001:db8::1", "2002:808:808::1"),
    *("2620:4f:8000::1", "3fff::1", "5f00::1", "fe80::1", "fe80::1%eth0", "fec0::1"),
    *("ff02::1", "ff0e::1", "fd00:ec2::254", "fd20:ce::254", "4000::1"),
)
TAKEN = (
    *("127.0.0.1", "127.255.255.254", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("8.8.8.8", "100.63.255.255", "100.128.0.1", "172.32.0.1", "198.17.255.255", "223.255.255.1"),
    *("::1", "fc00::1", "fd12:3456::1", "2606:4700::1111", "2001:4860:4860::8888"),
    *("::ffff:8.8.8.8", "::ffff:127.0.0.1", "64:ff9b::808:808", "2606::5efe:808:808"),
)


@pytest.mark.parametrize("address", [*REFUSED_V4, *REFUSED_V6])
def test_special_purpose_addresses_are_not_sent_to(address):
    assert is_refused(address)
    assert is_refused(f"[{address}]")


@pytest.mark.parametrize("address", TAKEN)
def test_public_private_and_loopback_addresses_are_sent_to(address):
    assert not is_refused(address)


@pytest.mark.parametrize("address", REFUSED_V4)
def test_an_ipv4_address_inside_an_ipv6_one_is_judged_as_what_it_is(address):
    inner = int(ipaddress.IPv4Address(address))
    high, low = f"{inner >> 16:x}", f"{inner & 0xFFFF:x}"
    for carrier in (
        f"::ffff:{address}",  # mapped
        f"::{address}",  # compatible
        f"::ffff:0:{address}",  # translated
        f"64:ff9b::{address}",  # NAT64
        f"64:ff9b:1::{address}",
        f"2002:{high}:{low}::1",  # 6to4
        f"2001:0:808:808:0:ffff:{inner >> 16 ^ 0xFFFF:x}:{inner & 0xFFFF ^ 0xFFFF:x}",  # Teredo
        f"2606:4700::5efe:{address}",  # ISATAP
        f"2606:4700::200:5efe:{address}",
        f"fd12::5efe:{address}",
    ):
        assert is_refused(carrier), carrier


def test_what_carries_to_the_public_network_carries_to_no_private_one():
    for address in ("10.0.0.1", "127.0.0.1", "192.168.0.1"):
        assert is_refused(f"64:ff9b::{address}")


@pytest.mark.parametrize(
    "host", ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.16689662"]
)
def test_an_address_is_known_in_whatever_way_it_is_written(host):
    assert is_refused(host)


@pytest.mark.parametrize("host", ["example.org", "localhost", "2130706433", "cafe", "a.b"])
def test_a_name_is_judged_by_what_it_stands_for(host):
    assert not is_refused(host)


async def test_a_name_that_stands_for_a_refused_address_too_is_refused():
    async def resolve(host, port):
        return ["8.8.8.8", "169.254.169.254"]

    with pytest.raises(AddressRefused, match=r"169\.254\.169\.254"):
        await addresses_of("example.org", 443, resolve)


async def test_a_name_without_an_address_is_told():
    async def resolve(host, port):
        return []

    with pytest.raises(OSError, match="has no address"):
        await addresses_of("example.org", 443, resolve)
    assert await addresses_of("127.0.0.1", 80) == ["127.0.0.1"]
