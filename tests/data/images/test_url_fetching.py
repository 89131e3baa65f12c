"""Nothing is fetched but images and clips, from allowed hosts, within the limits."""

import itertools
import shutil
import socket
import ssl
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

from tests.data.images.picture_server import serving
from visor_jax.data.images.read_image import read_image
from visor_jax.data.images.url_fetching import UrlFetcher

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
PNG = "Content-Type: image/png"
HERE = "127.0.0.1/32"


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    return (tmp_path / "a.png").read_bytes()


def fetcher(server, *hosts, **limits):
    hosts = hosts or (f"127.0.0.1:{server.port}",)
    return UrlFetcher(hosts=hosts, **{"networks": (HERE,), "seconds": 5.0} | limits)


def url(server, path="/a.png", host="127.0.0.1"):
    return f"http://{host}:{server.port}{path}"


def test_pictures_of_allowed_hosts_are_read(server, picture):
    server.has("/a%20b.png?size=%C3%BC&x=1", picture, PNG)
    server.has("/raw", picture, "Content-Type: application/octet-stream")
    chunks = "".join(f"1\r\n{chr(byte)}\r\n" for byte in picture).encode("latin-1")
    head = f"HTTP/1.1 200 OK\r\n{PNG}\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.answers["/chunks"] = lambda asked: asked.send(head, chunks, "0\r\n\r\n")
    server.leads("/moved", "raw")
    server.leads("/away", url(server, "/moved"))
    fetch = fetcher(server)
    for path in ("/a%20b.png?size=ü&x=1", "/raw", "/chunks", "/moved", "/away"):
        found = read_image(url(server, path), fetch=fetch)
        np.testing.assert_array_equal(found, PIXELS)
    assert {host for host, _ in server.asked} == {f"127.0.0.1:{server.port}"}


@pytest.mark.parametrize(
    ("hosts", "networks", "problem"),
    [
        (("img.example.org",), (HERE,), "is not among the allowed hosts"),
        (("127.0.0.1",), (HERE,), "is not among the allowed hosts"),
        (("127.0.0.1:{port}",), (), "has an address that is not public"),
        (("127.0.0.1:{port}",), ("127.0.0.2/32",), "address that is not public"),
    ],
)
def test_others_are_not_even_asked(server, picture, hosts, networks, problem):
    server.has("/a.png", picture, PNG)
    hosts = tuple(each.format(port=server.port) for each in hosts)
    with pytest.raises(ValueError, match=problem):
        UrlFetcher(hosts=hosts, networks=networks)(url(server))
    assert server.asked == []


@pytest.mark.parametrize("name", ["2130706433", "0x7f000001", "localhost", "[::1]"])
def test_other_names_of_this_machine_are_private_too(server, name):
    with pytest.raises(ValueError, match=r"not public|is not known"):
        UrlFetcher(hosts=(f"{name}:{server.port}",))(url(server, host=name))
    assert server.asked == []


@pytest.mark.parametrize(
    ("to", "problem"),
    [
        ("http://127.0.0.2:{port}/a.png", "has an address that is not public"),
        ("http://127.0.0.3:{port}/a.png", "'127.0.0.3:.*' is not among the allowed"),
        ("//127.0.0.3/a.png", "'127.0.0.3' is not among the allowed"),
        ("file:///etc/passwd", "neither http nor https"),
        ("data:image/png;base64,aGk=", "neither http nor https"),
        ("gopher://127.0.0.1:{port}/", "neither http nor https"),
        ("http://127.0.0.1:{port}@127.0.0.3/", "name or password before its host"),
        ("", "redirected more than 3 times"),
        ("/turn", "redirected more than 3 times"),
    ],
)
def test_redirects_are_checked_like_anything_else(server, picture, to, problem):
    server.leads("/turn", to.format(port=server.port))
    server.has("/a.png", picture, PNG)
    hosts = tuple(f"127.0.0.{i}:{server.port}" for i in (1, 2))
    with pytest.raises(ValueError, match=problem):
        fetcher(server, *hosts)(url(server, "/turn"))
    assert {path for _, path in server.asked} == {"/turn"}
    assert len(server.asked) <= 4


def test_what_is_connected_to_is_the_address_that_was_checked(
    server, picture, monkeypatch
):
    server.has("/a.png", picture, PNG)
    resolve, asked = socket.getaddrinfo, []

    def changing(host, *arguments, **named):
        asked.append(host)
        first = asked.count(host) == 1
        here = "127.0.0.1" if first else "127.0.0.2"
        return resolve(here if host == "img.test" else host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    fetch = fetcher(server, f"img.test:{server.port}")
    assert fetch(url(server, host="img.test")) == picture
    # The name is asked for once, for its check.
    assert asked.count("img.test") == 1
    with pytest.raises(ValueError, match="not public"):
        fetch(url(server, host="img.test"))


def test_one_private_address_of_several_is_enough_to_refuse(server, monkeypatch):
    def several(host, port, **named):
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in ("127.0.0.1", "10.0.0.1")
        ]

    monkeypatch.setattr(socket, "getaddrinfo", several)
    with pytest.raises(ValueError, match="not public"):
        fetcher(server, f"img.test:{server.port}")(url(server, host="img.test"))
    assert server.asked == []


def head(*headers):
    return "".join(f"{each}\r\n" for each in ("HTTP/1.1 200 OK", PNG, *headers, ""))


def test_what_is_too_large_is_not_read_to_its_end(server, picture):
    sent = itertools.count()

    def endless(start, part):
        def answer(asked):
            asked.send(start)
            while True:
                next(sent)
                asked.send(part)

        return answer

    chunk = f"{4096:x}\r\n{'x' * 4096}\r\n"
    chunked = head("Transfer-Encoding: chunked")
    server.answers |= {
        "/said": endless(head("Content-Length: 100001"), "x" * 4096),
        "/unsaid": endless(head(), "x" * 4096),
        "/chunks": endless(chunked, chunk),
        "/trailers": endless(f"{chunked}0\r\n", "x: y\r\n" * 500),
        "/extensions": endless(chunked, f"1;{'x' * 4096}\r\nx\r\n"),
        "/continue": endless("", "HTTP/1.1 100 Continue\r\n\r\n"),
        "/headers": endless(head()[:-2], "".join(f"a{i}: b\r\n" for i in range(99))),
        "/line": endless("HTTP/1.1 200 OK\r\na: ", "b" * 4096),
        "/status": endless("", "HTTP"),
    }
    fetch = fetcher(server, max_bytes=100_000, seconds=20.0)
    for path in server.answers:
        began = time.monotonic()
        with pytest.raises(ValueError, match=r"more than|cannot be fetched|too"):
            fetch(url(server, path))
        assert time.monotonic() - began < 10, path

    def nothing_is_sent():
        before = next(sent)
        time.sleep(0.2)
        return next(sent) == before + 1

    # Connections are closed, not left to be filled.
    assert any(nothing_is_sent() for _ in range(20))
    server.has("/exactly", bytes(100_000), PNG)
    server.has("/more", bytes(100_001), PNG)
    assert len(fetch(url(server, "/exactly"))) == 100_000
    with pytest.raises(ValueError, match="more than 100,000 bytes"):
        fetch(url(server, "/more"))


@pytest.mark.parametrize(
    "text", ["", "HTTP/1.1 200 OK\r\n", head()[:-2], head("Content-Length: 99")]
)
def test_slow_answers_end_at_the_time_limit(server, text):
    def drip(asked):
        asked.send(text)
        asked.drip("H" if not text else "a: b\r\n" if text[-3:] != "\n\r\n" else "x")

    server.answers["/slow"] = drip
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"did not come within 0\.4 s"):
        fetcher(server, seconds=0.4)(url(server, "/slow"))
    assert 0.3 < time.monotonic() - began < 5


def test_a_resolver_that_is_silent_is_not_waited_for(server, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(9))
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"did not come within 0\.3 s"):
        fetcher(server, seconds=0.3)(url(server))
    assert time.monotonic() - began < 5


def test_what_is_no_picture_is_refused(server, picture):
    server.has("/page", b"<html>", "Content-Type: text/html; charset=utf-8")
    server.has("/untold", picture)
    server.has("/gzip", picture, PNG, "Content-Encoding: gzip")
    server.answers["/gone"] = lambda asked: asked.send("HTTP/1.1 404 Gone\r\n\r\n")
    server.answers["/short"] = lambda asked: asked.send(head("Content-Length: 9"), "x")
    server.answers["/old"] = lambda asked: asked.send(picture)
    server.answers["/empty"] = lambda asked: None
    problems = {
        "/page": "is 'text/html', no image or video",
        "/untold": "is '', no image or video",
        "/gzip": "comes compressed",
        "/gone": "answers 404 'Gone'",
        "/short": "ends after 1 of 9 bytes",
        "/old": "cannot be fetched",
        "/empty": "cannot be fetched",
    }
    for path, problem in problems.items():
        with pytest.raises(ValueError, match=problem):
            fetcher(server)(url(server, path))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_100_megapixels_is_refused_before_it_is_decoded(
    server, tmp_path, monkeypatch
):
    Image.new("1", (10_000, 10_000)).save(tmp_path / "bomb.png")
    server.has("/bomb.png", (tmp_path / "bomb.png").read_bytes(), PNG)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="more than 89478485 pixels"):
        read_image(url(server, "/bomb.png"), fetch=fetcher(server))


def test_https_is_of_the_name_that_was_asked_for(server, picture, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=here"
    named = ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", key, "-out", certificate]
    subprocess.run([*command.split(), *named, *files], check=True, capture_output=True)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(certificate, key)
    server.socket = theirs.wrap_socket(server.socket, server_side=True)
    server.has("/a.png", picture, PNG)
    server.leads("/down", url(server))
    ours = ssl.create_default_context(cafile=certificate)
    hosts = [f"{name}:{server.port}" for name in ("127.0.0.1", "localhost")]
    networks = (HERE, "::1/128")
    fetch = UrlFetcher(hosts=tuple(hosts), networks=networks, seconds=5.0, tls=ours)
    assert fetch(f"https://127.0.0.1:{server.port}/a.png") == picture
    with pytest.raises(ValueError, match="from https to http"):
        fetch(f"https://127.0.0.1:{server.port}/down")
    with pytest.raises(ValueError, match="certificate verify failed"):
        fetch(f"https://localhost:{server.port}/a.png")
    with pytest.raises(ValueError, match="certificate verify failed"):
        fetcher(server)(f"https://127.0.0.1:{server.port}/a.png")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"hosts": ("https://a.b",)}, "without https://"),
        ({"hosts": ("*",)}, "Allowed hosts"),
        ({"hosts": ("a.b/c",)}, "Allowed hosts"),
        ({"hosts": ("a.b:x",)}, "Allowed hosts"),
        ({"networks": ("10.0.0.1/8",)}, "Allowed networks"),
        ({"max_bytes": 0}, "max_bytes=0 must be at least 1"),
        ({"redirects": -1}, "redirects=-1 must be at least 0"),
        ({"seconds": 0.0}, "seconds=0.0 must be above 0"),
    ],
)
def test_limits_that_are_none_are_refused(values, problem):
    with pytest.raises(ValueError, match=problem):
        UrlFetcher(**{"hosts": ("a.b",)} | values)
