"""The client's address behind trusted proxies, as proxies write it."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.forwarded import address_block, client_address

PEER = "10.0.0.1"
TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:51234", "192.0.2.7"),  # aio-libs/aiohttp-remotes#102, goauthentik/authentik#25679: with the port
        ("192.0.2.7:99999", "192.0.2.7"),  # akka/akka-http#3790
        ("192.0.2.7:", "192.0.2.7"),
        ("192.0.2.7:_p1", "192.0.2.7"),  # RFC 7239 section 6: an obfuscated port
        ('"192.0.2.7"', "192.0.2.7"),
        ('"192.0.2.7:80"', "192.0.2.7"),
        ("2001:DB8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),  # xorbitsai/xagent#1185
        ('"[2001:db8::1]:443"', "2001:db8::1"),
        ("for=192.0.2.7", "192.0.2.7"),
        ('For="[2001:db8:cafe::17]:4711";proto=https', "2001:db8:cafe::17"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:80", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("192.0.2.7%1", "192.0.2.7"),  # F5: the number of a route domain
        ("192.0.2.7, ", "192.0.2.7"),
        (", ,192.0.2.7,,", "192.0.2.7"),
        ("198.51.100.9, 192.0.2.7 , ::ffff:10.0.0.7", "192.0.2.7"),
        ("192.0.2.7, [fd00::5]:80", "192.0.2.7"),
        ('"2.2.2.2, 192.0.2.7', "192.0.2.7"),  # dotnet/aspnetcore#36537: garbage before the hop does not matter
        ("unknown, 192.0.2.7", "192.0.2.7"),
        ("'{${print(1)}}', 192.0.2.7", "192.0.2.7"),
    ],
)
def test_hop_is_read_as_proxies_write_it(forwarded: str, address: str) -> None:
    """Ports, brackets, quotes, zones, IPv4-mapped addresses and empty elements."""
    found = client_address(PEER, [forwarded], TRUSTED)

    assert (address, None) == (found.address, found.problem)


@pytest.mark.parametrize(
    ("forwarded", "address", "problem"),
    [
        ([], PEER, "missing"),
        ([""], PEER, "missing"),
        ([" , ,"], PEER, "missing"),
        (["192.0.2.7, unknown"], PEER, "unknown"),  # home-assistant/core#108712, pbojinov/request-ip#18
        (["UNKNOWN:80"], PEER, "unknown"),
        (["_hidden"], "_hidden", "obfuscated"),
        (['for="_SEVKISEK"'], "_SEVKISEK", "obfuscated"),
        (["'{${print(9347655345-4954366)}}'"], PEER, "unreadable"),  # stefanprodan/AspNetCoreRateLimit#415
        (["192.0.2.7, -"], PEER, "unreadable"),
        (["192.0.2.999"], PEER, "unreadable"),
        (["010.0.0.1"], PEER, "unreadable"),
        (["[2001:db8::1"], PEER, "unreadable"),
        (["client.example"], PEER, "unreadable"),
        (["unix:"], PEER, "unreadable"),
        (["192.0.2.7, CANARY, 10.0.0.2"], "10.0.0.2", "unreadable"),
        (["_" + "x" * 500], PEER, "unreadable"),
    ],
)
def test_hop_without_address_has_a_problem(forwarded: list[str], address: str, problem: str) -> None:
    """The proxy's own address is used, or its identifier for the client; addresses before such a hop are not trusted."""
    found = client_address(PEER, forwarded, TRUSTED)

    assert (address, problem) == (found.address, found.problem)
    assert len(found.hop) <= 100


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("::ffff:10.0.0.1", "192.0.2.7"),
        ("fd00::1%eth0", "192.0.2.7"),
        ("203.0.113.5", "203.0.113.5"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        (None, "unknown"),
        ("", "unknown"),
        ("@abstract", "@abstract"),  # a Unix socket
    ],
)
def test_header_is_read_from_trusted_peers_only(peer: str | None, address: str) -> None:
    """A dual-stack listener reports IPv4 peers as IPv4-mapped addresses; a trusted IPv4 network includes them."""
    assert address == client_address(peer, ["192.0.2.7"], TRUSTED).address


def test_hops_of_several_headers_are_one_list() -> None:
    """In the order of the headers (RFC 9110 section 5.3)."""
    assert "192.0.2.7" == client_address(PEER, ["198.51.100.1", "192.0.2.7", "10.1.1.1"], TRUSTED).address


def test_all_hops_trusted_gives_the_first_hop() -> None:
    """A client within the trusted networks is itself; a long list is not walked to its start."""
    assert "10.0.0.9" == client_address(PEER, ["10.0.0.9, 10.0.0.8"], TRUSTED).address
    assert "10.0.0.8" == client_address(PEER, ["10.0.0.9, " + ", ".join(["10.0.0.8"] * 20_000)], TRUSTED).address


HOPS = st.one_of(
    st.text(max_size=40),
    st.text(alphabet='0123456789abcdef.:[]%"_;=\\ ', max_size=40),
    st.ip_addresses().map(str),
    st.sampled_from(["unknown", "_x", "for=", '"', "[", "]", "[]", "[]:", ":", "::", "%", "::%", "1.2.3.4%", "\udc80"]),
)


@given(st.one_of(st.none(), HOPS), st.lists(st.lists(HOPS, max_size=5).map(",".join), max_size=3))
def test_no_header_raises(peer: str | None, forwarded: list[str]) -> None:
    """The address is bounded and printable, whatever the header holds."""
    for trusted in ((), TRUSTED, (ip_network("0.0.0.0/0"), ip_network("::/0"))):
        found = client_address(peer, forwarded, trusted)
        assert 0 < len(found.address) <= 100
        assert found.address.isprintable()
        assert found.address.isascii()
        assert found.hop.isascii()


@pytest.mark.parametrize(
    ("written", "block"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::FFFF:cb00:7107", "203.0.113.7"),
        ("[::ffff:203.0.113.7]:443", "203.0.113.7"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:DB8::1:ffff:ffff:ffff:ffff", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ('"[fe80::2%25eth1]:80"', "fe80::/64"),
        ("_hidden", "_hidden"),
    ],
)
def test_address_counts_as_one_however_it_is_written(written: str, block: str) -> None:
    """An IPv6 host may own its whole /64."""
    found = client_address(PEER, [written], TRUSTED)

    assert block == address_block(found.address)
