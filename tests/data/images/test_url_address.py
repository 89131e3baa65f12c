"""Addresses that are anybody's, and those that only this network reaches."""

import ipaddress
import socket

import pytest

from visor_jax.data.images.url_address import (
    Place,
    check_hosts,
    checked_addresses,
    is_allowed,
    read_networks,
)


def addresses(monkeypatch, address, *networks):
    def resolved(host, port, **named):
        return [(0, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    place = Place.of("https://img.example.org/a.png")
    return checked_addresses(place, read_networks(networks), 5.0)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_public_addresses_may_be_asked(monkeypatch, address):
    found = addresses(monkeypatch, address)
    assert found == [str(ipaddress.ip_address(address))]


# By RFC 1918, 6598, 3927, 1122, 5735, 5771, 4193, 4291, 3879, 6052, 8215, 3056, 4380.
@pytest.mark.parametrize(
    "address",
    [
        *("10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254"),
        *("127.0.0.1", "0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("192.0.2.1", "198.18.0.1", "::", "::1", "fc00::1", "fe80::1", "fec0::1"),
        *("fe80::1%lo", "ff02::1", "2001:db8::1", "::10.0.0.1", "::8.8.8.8"),
        *("::ffff:10.0.0.1", "::ffff:127.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1"),
        *("2002:a00:1::", "2002:7f00:1::", "2002:808::1", "2001:0:a00:1::"),
    ],
)
def test_all_others_may_not(monkeypatch, address):
    with pytest.raises(ValueError, match="an address that is not public"):
        addresses(monkeypatch, address)


def test_private_networks_may_be_asked_where_they_are_named(monkeypatch):
    for address in ("10.1.2.3", "::ffff:10.1.2.3"):
        assert addresses(monkeypatch, address, "10.1.0.0/16")
        with pytest.raises(ValueError, match="not public"):
            addresses(monkeypatch, address, "10.2.0.0/16", "::1/128")


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://a.b/c", "file:///a", "data:,a", "//a.b/c", "a.b/c", "http:a.b", ""),
        *("http://me@a.b/c", "http://a.b@c.d/", "http://:pw@a.b/", "http:///c"),
        *("http://a.b\\@c.d/", "http://a.b /c", "http://a.b/\r\nX: y", "http://a.b/\t"),
        *(
            "http://a.b:99999/",
            "http://a.b:x/",
            "http://[::1/",
            "http://[fe80::1%25lo]/",
        ),
        *(
            "http://a_b/",
            "http://ä.b/",
            "http://-a.b/",
            "http://a..b/",
            "http://%61.b/",
        ),
        "http://a.b/" + "c" * 9000,
    ],
)
def test_tricks_of_writing_are_refused(url):
    with pytest.raises(ValueError, match=r"URL|neither|before its host|no host"):
        Place.of(url)


def test_urls_are_taken_apart():
    place = Place.of("HTTPS://IMG.Example.org./a b.png?x=ü%20#part".replace(" b", "é"))
    assert place == Place(
        scheme="https",
        host="img.example.org",
        port=443,
        path="/a%C3%A9.png?x=%C3%BC%20",
    )
    assert place.authority == "img.example.org"
    assert Place.of("http://a.b:443").authority == "a.b:443"
    assert Place.of("http://a.b:80/").authority == "a.b"
    assert Place.of("http://[2606:4700::1]:8080/").authority == "[2606:4700::1]:8080"


def test_hosts_are_allowed_by_name_and_port():
    hosts = ("Img.example.org", "*.a.b", "c.d:8080", "[::1]:80")
    check_hosts(hosts)
    allowed = (
        *("https://img.example.org/", "http://img.example.org", "https://x.a.b/"),
        *("http://y.x.a.b/", "https://c.d:8080/", "http://[::1]/"),
    )
    refused = (
        *("https://example.org/", "https://img.example.org:8443/", "https://a.b/"),
        *("https://xa.b/", "http://c.d/", "https://img.example.org.evil.org/"),
        *("https://img-example.org/", "https://[::1]/", "http://img.example.org:443/"),
    )
    assert all(is_allowed(Place.of(url), hosts) for url in allowed)
    assert not any(is_allowed(Place.of(url), hosts) for url in refused)
    assert not is_allowed(Place.of("https://img.example.org/"), ())
