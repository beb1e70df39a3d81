"""Each check of a value: whatever text stands there, the answer is a value or a refusal that says what is allowed."""

import ipaddress

import pytest
from configobj import ConfigObj
from hypothesis import given
from hypothesis import strategies as st

from clusterd import configspec, configtypes
from clusterd.configtypes import Refused

SPECS = (configspec.CLUSTER, configspec.NODE, configspec.SERVICE)


def checks() -> list[str]:
    """Every check that stands in a configspec."""
    found: set[str] = set()
    for spec in SPECS:
        parsed = ConfigObj(spec.strip().split("\n"), _inspec=True, interpolation=False)
        parsed.walk(lambda section, key: found.add(section[key]))
    return sorted(found)


@pytest.mark.parametrize("check", checks())
def test_the_refusal_says_what_is_allowed(check: str) -> None:
    assert len(configtypes.allowed(check)) > 8


@given(st.sampled_from(checks()), st.one_of(st.text(), st.lists(st.text())))
def test_any_value_is_taken_or_refused(check: str, value: str | list[str]) -> None:
    try:
        taken = configtypes.validator().check(check, value)
    except Refused as refused:
        assert refused.allowed
    else:
        several = taken if isinstance(taken, tuple) else (taken,)
        assert all(each.isprintable() for each in several if isinstance(each, str))


@given(st.ip_addresses(v=4), st.integers(1, 32))
def test_an_address_is_written_as_the_kernel_does(host: ipaddress.IPv4Address, prefix: int) -> None:
    try:
        assert configtypes.address(f"{host}/{prefix}") == f"{host}/{prefix}"
    except Refused:
        found = ipaddress.ip_interface(f"{host}/{prefix}")
        ends = (found.network.network_address, found.network.broadcast_address)
        odd = host.is_multicast or host.is_reserved or host.is_loopback or host.is_link_local or host.is_unspecified
        assert odd or (prefix < 31 and host in ends)


@given(st.ip_addresses(v=6), st.integers(1, 127))
def test_an_ipv6_address_is_short(host: ipaddress.IPv6Address, prefix: int) -> None:
    try:
        assert configtypes.address(f"{host.exploded.upper()}/{prefix}") == f"{host.compressed}/{prefix}"
    except Refused:
        pass


@pytest.mark.parametrize(
    "text", ["::ffff:10.1.0.1/96", "10.1.0.1/024x", "10.1.0.1/", "/24", "010.1.0.1/24", "1.2.3/24"]
)
def test_odd_addresses(text: str) -> None:
    with pytest.raises(Refused):
        configtypes.address(text)


@pytest.mark.parametrize(
    ("text", "value"), [("10 %", "10 %"), ("10%", "10 %"), ("007", "7"), ("0", "0"), ("100 %", "100 %"), ("0 %", "0 %")]
)
def test_max_delete(text: str, value: str) -> None:
    assert configtypes.max_delete(text) == value


@pytest.mark.parametrize("text", ["", "%", "10 % 5", "-1", "1.5 %", "10%%", "1_0", "²"])
def test_no_max_delete(text: str) -> None:
    with pytest.raises(Refused):
        configtypes.max_delete(text)


@pytest.mark.parametrize(
    "text", ["", "mail", "mail.example.org", "mail:25", "192.0.2.1:587", "[2001:db8::1]:25", "[::2]"]
)
def test_mail_servers(text: str) -> None:
    assert configtypes.smtp(text) == text


@pytest.mark.parametrize(
    "text", ["mail:", "mail:0", "a b", "2001:db8::1", "[mail]:25", "[2001:db8::1", "-x", "mail:25:26"]
)
def test_no_mail_servers(text: str) -> None:
    with pytest.raises(Refused):
        configtypes.smtp(text)


@pytest.mark.parametrize("text", ["root", "admin@example.org", "a.b+c@x-y.example", "on-call@[192.0.2.1]"])
def test_mailboxes(text: str) -> None:
    assert configtypes.mail(text) == text


@pytest.mark.parametrize("text", ["", "-t", "a b", "a@b@c", "a\nBcc: x", "<a@b>", "a;b", '"a"@b', "a,b"])
def test_no_mailboxes(text: str) -> None:
    with pytest.raises(Refused):
        configtypes.mail(text)


@pytest.mark.parametrize("text", ["fence_ipmilan", "/usr/sbin/fence_x", "none"])
def test_programs(text: str) -> None:
    assert configtypes.program(text) == text


@pytest.mark.parametrize("text", ["", "-x", "./x", "a/b", "/usr/sbin/", "a b", "'a'"])
def test_no_programs(text: str) -> None:
    with pytest.raises(Refused):
        configtypes.program(text)


@pytest.mark.parametrize("text", ["/a/", "/a", "/a b/c,d/", "/ä/.hidden", "/a/...", "/a/..b/"])
def test_paths(text: str) -> None:
    assert configtypes.paths([text]) == (text,)


@pytest.mark.parametrize("text", ["", "a", "/", "//", "//a", "/a//", "/a/./b", "/a/..", "/../a", "/a/.", "/a\n"])
def test_no_paths(text: str) -> None:
    with pytest.raises(Refused):
        configtypes.paths([text])
