"""Addresses: their grammar, the sockets behind them, and the messages where there are none."""

import errno
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiowsgi.config import Config, ListenerConfig
from aiowsgi.errors import BindError, ConfigError
from aiowsgi.net.bind.bind import bind, bind_all
from aiowsgi.net.bind.listening import ListeningSocket
from aiowsgi.net.bind.places import address_of, place_of, url_of

Bind = Callable[[str], list[socket.socket]]

# One of those that are named by their places alone.
HTTP = ListenerConfig("")


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no ::1")


def _listener(text: str) -> ListenerConfig:
    return ListenerConfig.parse(text, backlog=8)


@pytest.fixture
def bound() -> Iterator[Bind]:
    """Return ``bound(address)`` -> sockets, which are closed at the end of the test."""
    listening: list[ListeningSocket] = []

    def make(address: str) -> list[socket.socket]:
        made = bind(_listener(address))
        listening.extend(made)
        return [item.socket for item in made]

    yield make
    for item in listening:
        item.close()


def _resolve_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Let every host name have these addresses."""

    def getaddrinfo(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in hosts
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


# TCP.


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("127.0.0.1:0", "127.0.0.1"),
        ("0.0.0.0:0", "0.0.0.0"),
        ("*:0", "0.0.0.0"),
        (":0", "0.0.0.0"),
        ("127.0.0.1:00000", "127.0.0.1"),
    ],
)
def test_ipv4_address_gives_one_listening_socket(bound: Bind, address: str, host: str) -> None:
    (sock,) = bound(address)
    assert sock.getsockname()[0] == host
    assert sock.getsockname()[1] != 0
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    assert sock.getblocking() is False
    with socket.create_connection(("127.0.0.1", sock.getsockname()[1]), timeout=5):
        pass


@needs_ipv6
def test_ipv6_address_in_brackets(bound: Bind) -> None:
    (sock,) = bound("[::1]:0")
    assert sock.family is socket.AF_INET6
    with socket.create_connection(("::1", sock.getsockname()[1]), timeout=5):
        pass
    assert url_of(sock, HTTP) == f"http://[::1]:{sock.getsockname()[1]}"


def test_localhost_listens_on_the_loopback_interface_only(bound: Bind) -> None:
    sockets = bound("localhost:0")
    assert {sock.getsockname()[0] for sock in sockets} <= {"127.0.0.1", "::1"}
    # The URL that is shown has one port: whichever address a client tries, it is the same.
    assert len({sock.getsockname()[1] for sock in sockets}) == 1


@needs_ipv6
def test_name_with_two_addresses_gives_a_socket_each_on_one_port(
    bound: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    _resolve_to(monkeypatch, "::1", "127.0.0.1")
    sockets = bound("twofold:0")
    assert [sock.getsockname()[0] for sock in sockets] == ["::1", "127.0.0.1"]
    assert sockets[0].getsockname()[1] == sockets[1].getsockname()[1]
    assert sockets[0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


def test_address_that_the_resolver_repeats_is_bound_once(
    bound: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    _resolve_to(monkeypatch, "127.0.0.1", "127.0.0.1")
    assert len(bound("repeated:0")) == 1


def test_address_that_no_interface_has_is_left_out_if_the_name_has_another(
    bound: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
    _resolve_to(monkeypatch, "192.0.2.1", "127.0.0.1")
    (sock,) = bound("partial:0")
    assert sock.getsockname()[0] == "127.0.0.1"


def test_family_that_the_machine_lacks_is_left_out_if_the_name_has_another(
    bound: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithoutIPv6(socket.socket):
        def __init__(self, family: int = -1, *more: Any, **named: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *more, **named)

    _resolve_to(monkeypatch, "::1", "127.0.0.1")
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", WithoutIPv6)
        (sock,) = bound("dual:0")
    assert sock.getsockname()[0] == "127.0.0.1"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_failing_address_closes_the_sockets_of_the_others(
    bound: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        _resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2")
        with pytest.raises(BindError, match="another program listens there"):
            bound(f"twofold:{port}")
        # The first of the two was bound, and is free again.
        with socket.create_server(("127.0.0.1", port)):
            pass


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost:",
        "localhost:http",
        "localhost:-1",
        "localhost:+1",
        "localhost: 1",
        "localhost:65536",
        "localhost:99999",
        "localhost:000080",
        "localhost:٨٠٨٠",
        "localhost:80\n",
        "[::1]8000",
        "[]:8000",
        "UNIX:/tmp/x",
        "UWSGI:localhost:8000",
    ],
)
def test_text_that_is_no_address_is_refused_with_the_grammar(bound: Bind, address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bound(address)
    # What cannot be an address is a wrong command, not a failure of this machine.
    assert not isinstance(caught.value, BindError)
    assert str(caught.value) == (
        f"cannot bind {address!r}: write HOST:PORT, [IPV6]:PORT, unix:PATH or fd:N, or "
        "tls: or uwsgi: before one of these"
    )


@pytest.mark.parametrize("address", ["uwsgi:localhost:http", "uwsgi:localhost:65536"])
def test_text_that_is_no_address_of_a_protocol_is_refused_with_the_grammar(
    bound: Bind, address: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        bound(address)
    assert str(caught.value) == (
        f"cannot bind {address!r}: "
        "write uwsgi:HOST:PORT, uwsgi:[IPV6]:PORT, uwsgi:unix:PATH or uwsgi:fd:N"
    )


@pytest.mark.parametrize("text", ["uwsgi://", "http://"])
def test_protocol_without_an_address_is_refused(bound: Bind, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bound(text)
    assert str(caught.value) == (
        f"cannot bind {text!r}: write HOST:PORT, [IPV6]:PORT, unix:PATH or fd:N, or "
        "tls: or uwsgi: before one of these"
    )


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("8000", "127.0.0.1:8000"),
        ("localhost", "localhost:8000"),
        ("::1:8000", "[::1]:8000"),
        ("[::1]", "[::1]:8000"),
        ("[::1:8000", "[::1]:8000"),
        ("[[::1]]:8000", "[::1]:8000"),
        ("http://localhost:8000", "localhost:8000"),
        ("https://localhost:8443/", "tls:localhost:8443"),
        ("tcp://0.0.0.0:80/", "0.0.0.0:80"),
        ("tcp:localhost:8000", "localhost:8000"),
        ("https:localhost:8443", "tls:localhost:8443"),
        ("ssl:localhost:8443", "tls:localhost:8443"),
        ("tls://localhost:8443", "tls:localhost:8443"),
        ("tls:https://localhost:8443", "tls:localhost:8443"),
        ("tls:http:localhost:80", "http:localhost:80"),
        ("tls:uwsgi:localhost:3031", "uwsgi:localhost:3031"),
        ("uwsgi:tls:unix:/run/s?backlog=9", "tls:unix:/run/s?backlog=9"),
        ("/run/app.sock", "unix:/run/app.sock"),
        ("uwsgi:3031", "uwsgi:127.0.0.1:3031"),
        ("tls:8443", "tls:127.0.0.1:8443"),
        ("tls:", "tls:127.0.0.1:8000"),
        ("uwsgi:localhost", "uwsgi:localhost:8000"),
        ("uwsgi:::1:3031", "uwsgi:[::1]:3031"),
        ("uwsgi:/run/app.sock", "uwsgi:unix:/run/app.sock"),
        ("uwsgi://localhost:3031", "uwsgi:localhost:3031"),
        ("uwsgi://localhost:3031/", "uwsgi:localhost:3031"),
        ("http:8000", "127.0.0.1:8000"),
        ("http:", "127.0.0.1:8000"),
        ("http", "127.0.0.1:8000"),
        ("uwsgi", "uwsgi:127.0.0.1:8000"),
        ("uwsgi:", "uwsgi:127.0.0.1:8000"),
        ("8000?backlog=9", "127.0.0.1:8000?backlog=9"),
        ("uwsgi:/run/s?backlog=9", "uwsgi:unix:/run/s?backlog=9"),
    ],
)
def test_text_that_is_nearly_an_address_gets_a_hint(bound: Bind, address: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"; did you mean {re.escape(meant)}\\?$"):
        bound(address)


def test_port_in_use_says_so_and_is_an_os_error(bound: Bind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = address_of(*taken.getsockname())
        with pytest.raises(BindError) as caught:
            bound(address)
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.EADDRINUSE
    assert isinstance(caught.value.__cause__, OSError)
    assert str(caught.value) == (
        f"cannot bind {address}: another program listens there; stop it, or choose another address"
    )


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_forbidden_port_says_which_ports_are_free(
    bound: Bind, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    # The tests may run as root, whom the kernel forbids nothing.
    class Forbidden(socket.socket):
        def bind(self, address: Any, /) -> None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket, "socket", Forbidden)
    with pytest.raises(BindError, match="permission denied; ports below 1024") as caught:
        bound("127.0.0.1:80")
    assert caught.value.errno == number


def test_foreign_address_says_that_it_is_not_of_this_machine(bound: Bind) -> None:
    with pytest.raises(BindError, match="this machine does not have that address") as caught:
        bound("192.0.2.1:0")
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_other_failure_is_told_in_the_words_of_the_system(
    bound: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Exhausted(socket.socket):
        def listen(self, backlog: int = 0, /) -> None:
            raise OSError(errno.ENOBUFS, "No buffer space available")

    monkeypatch.setattr(socket, "socket", Exhausted)
    with pytest.raises(BindError, match=r"^cannot bind 127\.0\.0\.1:0: No buffer space available$"):
        bound("127.0.0.1:0")


def test_unknown_host_says_so(bound: Bind, monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(BindError, match=r"^cannot bind nowhere:80: the host is not known$"):
        bound("nowhere:80")


@pytest.mark.parametrize("host", ["a" * 64, ".a", "a..b"])
def test_host_that_is_no_domain_name_is_not_known(bound: Bind, host: str) -> None:
    # The resolver is not asked: Python's IDNA codec refuses with a UnicodeError before.
    with pytest.raises(ConfigError, match="the host is not known"):
        bound(f"{host}:80")


# Unix sockets.


def test_unix_socket_is_listened_on_and_its_file_goes_with_it(folder: Path) -> None:
    path = folder / "s"
    (listening,) = bind(_listener(f"unix:{path}"))
    assert listening.socket.getblocking() is False
    assert url_of(listening.socket, HTTP) == f"unix:{path}"
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
    listening.close()
    assert not path.exists()


def test_stale_unix_socket_is_replaced(bound: Bind, folder: Path) -> None:
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    bound(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))


def test_unix_socket_of_a_living_server_is_left_alone(bound: Bind, folder: Path) -> None:
    path = folder / "s"
    bound(f"unix:{path}")
    with pytest.raises(BindError, match="another program listens there") as caught:
        bound(f"unix:{path}")
    assert caught.value.errno == errno.EADDRINUSE
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))


def test_file_that_is_no_socket_is_never_removed(bound: Bind, folder: Path) -> None:
    path = folder / "precious"
    path.write_text("data")
    with pytest.raises(BindError, match=r"is no socket; choose another path$"):
        bound(f"unix:{path}")
    assert path.read_text() == "data"


def test_missing_folder_is_told(bound: Bind, folder: Path) -> None:
    with pytest.raises(BindError, match="the folder does not exist; make it, or choose another"):
        bound(f"unix:{folder}/missing/s")


def test_too_long_path_is_told(bound: Bind, folder: Path) -> None:
    with pytest.raises(BindError, match="path too long"):
        bound(f"unix:{folder}/{'x' * 200}")


def test_forbidden_folder_says_what_to_choose(
    bound: Bind, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forbidden(socket.socket):
        def bind(self, address: Any, /) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "socket", Forbidden)
    with pytest.raises(BindError, match="choose a folder that you may write to"):
        bound(f"unix:{folder}/s")


def test_unix_address_needs_a_path(bound: Bind) -> None:
    with pytest.raises(ConfigError, match="write unix:PATH"):
        bound("unix:")


def test_system_without_unix_sockets_says_so(bound: Bind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(ConfigError, match="this system has no Unix sockets"):
        bound("unix:/tmp/s")


def test_closing_outlives_a_socket_file_that_is_gone(folder: Path) -> None:
    path = folder / "s"
    (listening,) = bind(_listener(f"unix:{path}"))
    path.unlink()
    listening.close()
    assert listening.socket.fileno() == -1


def test_relative_path_where_there_is_no_directory_any_more(
    bound: Bind, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(
        BindError, match="cannot bind unix:s: the folder does not exist; make it, or"
    ):
        bound("unix:s")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract sockets")
def test_abstract_unix_socket_has_no_file(
    bound: Bind, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    name = f"aiowsgi-test-{os.getpid()}"
    (sock,) = bound(f"unix:@{name}")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(f"\0{name}")
    assert url_of(sock, HTTP) == f"unix:@{name}"
    assert list(folder.iterdir()) == []
    with pytest.raises(BindError, match="another program listens there"):
        bound(f"unix:@{name}")


def test_abstract_unix_socket_elsewhere_is_told(
    bound: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigError, match=r"only Linux has abstract .* unix:\./@s for a file"):
        bound("unix:@s")


# Several addresses.


@pytest.fixture
def all_bound() -> Iterator[Bind]:
    """Return ``all_bound(*addresses)`` -> sockets, which are closed at the end of the test."""
    listening: list[ListeningSocket] = []

    def make(*addresses: str) -> list[socket.socket]:
        made = bind_all([_listener(address) for address in addresses])
        listening.extend(made)
        return [item.socket for item in made]

    yield make
    for item in listening:
        item.close()


def _free_port() -> int:
    with socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::", 0))
        port: int = sock.getsockname()[1]
        return port


@needs_ipv6
@pytest.mark.parametrize("ipv4", ["0.0.0.0", "", "*", "127.0.0.1"])
@pytest.mark.parametrize("first", [True, False])
def test_all_interfaces_of_both_families_share_a_port(
    all_bound: Callable[..., list[socket.socket]], ipv4: str, first: bool
) -> None:
    port = _free_port()
    addresses = [f"[::]:{port}", f"{ipv4}:{port}"]
    sockets = all_bound(*(addresses if first else reversed(addresses)))
    assert {sock.family for sock in sockets} == {socket.AF_INET, socket.AF_INET6}
    for sock in sockets:
        host = "127.0.0.1" if sock.family is socket.AF_INET else "::1"
        with socket.create_connection((host, port), timeout=5) as client:
            sock.settimeout(5)
            # It came through the socket of its own family.
            accepted, peer = sock.accept()
            accepted.close()
            assert peer[1] == client.getsockname()[1]


@needs_ipv6
def test_all_interfaces_of_ipv6_alone_take_ipv4_too_whatever_the_system_has_as_default(
    all_bound: Callable[..., list[socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnlyIPv6(socket.socket):
        def __init__(self, family: int = -1, *more: Any, **named: Any) -> None:
            super().__init__(family, *more, **named)
            # As if /proc/sys/net/ipv6/bindv6only were 1.
            if family == socket.AF_INET6:
                self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)

    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", OnlyIPv6)
        # Another port is another matter.
        sock, _ = all_bound("[::]:0", f"127.0.0.1:{_free_port()}")
    sock.settimeout(5)
    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, sock.getsockname()[1]), timeout=5):
            sock.accept()[0].close()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("127.0.0.1:{}", "127.0.0.1:{}"),
        ("0.0.0.0:{}", "127.0.0.1:{}"),
        ("127.0.0.1:{}", ":{}"),
    ],
)
def test_addresses_that_collide_are_both_named(
    all_bound: Callable[..., list[socket.socket]], one: str, other: str
) -> None:
    port = _free_port()
    one, other = one.format(port), other.format(port)
    with pytest.raises(BindError) as caught:
        all_bound(one, other)
    assert str(caught.value) == (
        f"cannot bind {other}: it collides with {one}, which is bound already; leave one out"
    )
    assert caught.value.errno == errno.EADDRINUSE
    # The first one was bound, and is free again.
    all_bound(one)


def test_unix_socket_that_is_named_twice(
    all_bound: Callable[..., list[socket.socket]], folder: Path
) -> None:
    with pytest.raises(BindError, match=r"it collides with unix:.*/s, which is bound already"):
        all_bound(f"unix:{folder}/s", f"unix:{folder}/s")
    assert list(folder.iterdir()) == []


def test_address_that_another_program_has_is_not_blamed_on_the_others(
    all_bound: Callable[..., list[socket.socket]],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match="another program listens there"):
            all_bound("127.0.0.1:0", f"127.0.0.1:{port}")


# Protocols.


def test_sockets_know_the_protocol_of_their_listener(folder: Path) -> None:
    given = socket.socket()
    given.bind(("127.0.0.1", 0))
    texts = ["127.0.0.1:0", f"unix:{folder}/one", "http:127.0.0.1:0"]
    texts += ["uwsgi:127.0.0.1:0", f"uwsgi:unix:{folder}/other", f"uwsgi:fd:{given.detach()}"]
    sockets = bind_all([_listener(text) for text in texts])
    try:
        assert [sock.listener.protocol for sock in sockets] == ["http"] * 3 + ["uwsgi"] * 3
    finally:
        for sock in sockets:
            sock.close()


def test_addresses_collide_whatever_is_spoken_there(
    all_bound: Callable[..., list[socket.socket]],
) -> None:
    port = _free_port()
    with pytest.raises(BindError) as caught:
        all_bound(f"127.0.0.1:{port}", f"uwsgi:127.0.0.1:{port}")
    assert str(caught.value) == (
        f"cannot bind uwsgi:127.0.0.1:{port}: it collides with 127.0.0.1:{port}, "
        "which is bound already; leave one out"
    )


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("uwsgi:unix:", "cannot bind uwsgi:unix:: write uwsgi:unix:PATH"),
        ("uwsgi:fd:x", "cannot bind uwsgi:fd:x: write uwsgi:fd:N with the number"),
        ("uwsgi:unix:/missing/s", "cannot bind uwsgi:unix:/missing/s: the folder does not exist"),
    ],
)
def test_messages_name_the_protocol(bound: Bind, address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        bound(address)


# Inherited descriptors.


@pytest.mark.parametrize("form", ["fd:{}", "fd://{}"])
def test_descriptor_is_listened_on(bound: Bind, form: str) -> None:
    given = socket.socket()
    given.bind(("127.0.0.1", 0))
    name = given.getsockname()
    (sock,) = bound(form.format(given.detach()))
    assert sock.getsockname() == name
    assert sock.getblocking() is False
    with socket.create_connection(name, timeout=5):
        pass


@pytest.mark.parametrize("number", ["", "x", "-1", "1.5", "٣", "1" * 10])
def test_descriptor_must_be_a_number(bound: Bind, number: str) -> None:
    with pytest.raises(ConfigError, match="write fd:N with the number of a descriptor"):
        bound(f"fd:{number}")


def test_descriptor_must_be_a_socket(bound: Bind, folder: Path) -> None:
    with open(folder / "file", "w") as file, pytest.raises(ConfigError, match="not an open socket"):
        bound(f"fd:{file.fileno()}")


def test_descriptor_must_be_open(bound: Bind) -> None:
    # The highest number that a descriptor could have is far from those in use.
    with pytest.raises(ConfigError, match=r"descriptor 999999999 is not an open socket"):
        bound("fd:999999999")


def test_descriptor_that_cannot_listen_stays_the_callers(bound: Bind) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        with pytest.raises(BindError, match=f"cannot bind fd:{datagrams.fileno()}: "):
            bound(f"fd:{datagrams.fileno()}")
        assert datagrams.getsockname()[1] != 0


# URLs.


@pytest.mark.parametrize(
    ("name", "url"),
    [
        (("127.0.0.1", 8000), "http://127.0.0.1:8000"),
        (("0.0.0.0", 8000), "http://127.0.0.1:8000"),
        (("::1", 8000, 0, 0), "http://[::1]:8000"),
        (("::", 8000, 0, 0), "http://[::1]:8000"),
        (("192.0.2.7", 80), "http://192.0.2.7:80"),
        ("/run/app.sock", "unix:/run/app.sock"),
        (b"\0abstract", "unix:@abstract"),
    ],
)
def test_url_is_one_that_a_browser_on_this_machine_can_open(name: Any, url: str) -> None:
    class Named:
        def getsockname(self) -> Any:
            return name

    assert url_of(Named(), HTTP) == url  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "url"),
    [
        (("127.0.0.1", 3031), "uwsgi://127.0.0.1:3031"),
        (("0.0.0.0", 3031), "uwsgi://127.0.0.1:3031"),
        (("::", 3031, 0, 0), "uwsgi://[::1]:3031"),
        ("/run/app.sock", "uwsgi:unix:/run/app.sock"),
        (b"\0abstract", "uwsgi:unix:@abstract"),
    ],
)
def test_url_of_another_protocol_is_none_that_a_browser_opens(name: Any, url: str) -> None:
    class Named:
        def getsockname(self) -> Any:
            return name

    assert url_of(Named(), ListenerConfig("", "uwsgi")) == url  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "url"),
    [
        (("127.0.0.1", 8443), "https://127.0.0.1:8443"),
        (("::", 8443, 0, 0), "https://[::1]:8443"),
        ("/run/app.sock", "tls:unix:/run/app.sock"),
        (b"\0abstract", "tls:unix:@abstract"),
    ],
)
def test_url_of_tls_says_so(name: Any, url: str) -> None:
    class Named:
        def getsockname(self) -> Any:
            return name

    assert url_of(Named(), ListenerConfig("", tls=True)) == url  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "everywhere"),
    [
        ("0.0.0.0:0", True),
        (":0", True),
        ("*:0", True),
        pytest.param("[::]:0", True, marks=needs_ipv6),
        ("127.0.0.1:0", False),
        pytest.param("[::1]:0", False, marks=needs_ipv6),
    ],
)
def test_place_tells_whether_it_is_on_all_interfaces(
    bound: Bind, address: str, everywhere: bool
) -> None:
    (sock,) = bound(address)
    assert place_of(sock, "URL") == f"URL{' (on all interfaces)' if everywhere else ''}"


def test_place_of_a_unix_socket_is_its_path(bound: Bind, folder: Path) -> None:
    (sock,) = bound(f"unix:{folder}/s")
    assert place_of(sock, url_of(sock, HTTP)) == f"unix:{folder}/s"


@pytest.mark.parametrize(
    ("host", "address"),
    [("localhost", "localhost:80"), ("::1", "[::1]:80"), ("10.0.0.1", "10.0.0.1:80")],
)
def test_ipv6_hosts_get_brackets(host: str, address: str) -> None:
    assert address_of(host, 80) == address


def test_file_of_a_successor_stays(folder: Path) -> None:
    path = folder / "s"
    (old,) = bind(_listener(f"unix:{path}"))
    path.unlink()
    (new,) = bind(_listener(f"unix:{path}"))
    old.close()
    assert path.exists()
    new.close()
    assert not path.exists()


# Parameters.


def test_parameters_are_those_of_one_address() -> None:
    first, second = Config(
        bind=("uwsgi:unix:/run/s?mode=660&group=www-data&backlog=7", "127.0.0.1:1"), backlog=9
    ).listeners
    assert (first.address, first.protocol) == ("unix:/run/s", "uwsgi")
    assert (first.mode, first.owner, first.group, first.backlog) == (0o660, "", "www-data", 7)
    assert str(first) == "uwsgi:unix:/run/s?mode=660&group=www-data&backlog=7"
    assert (second.mode, second.group, second.backlog) == (0o666, "", 9)


def test_a_listener_keeps_its_parameters_at_another_address() -> None:
    assert str(_listener("uwsgi:systemd:web?backlog=7").at("fd:3")) == "uwsgi:fd:3?backlog=7"


@pytest.mark.parametrize(
    ("text", "objection"),
    [
        ("127.0.0.1:1?", "has the parameter '', which is not known"),
        (
            "127.0.0.1:1?Backlog=3",
            "has the parameter 'Backlog=3', which is not known; did you mean backlog=3?",
        ),
        (
            "127.0.0.1:1?backlog",
            "has the parameter 'backlog', which is not known; did you mean bac",
        ),
        (
            "unix:/s?mod=660",
            "has the parameter 'mod=660', which is not known; did you mean mode=660?",
        ),
        ("unix:/s?x.sock", "has the parameter 'x.sock', which is not known; behind the question"),
        ("127.0.0.1:1?backlog=3&", "has the parameter '', which is not known"),
        (
            "127.0.0.1:1?tls=on",
            "has the parameter 'tls=on', which is not known; write tls: before the address",
        ),
        (
            "127.0.0.1:1?forwarded_allow_ips=unix",
            "has the parameter 'forwarded_allow_ips=unix', which is not known; it is called trust=",
        ),
        ("127.0.0.1:1?backlog=3&backlog=4", "has the parameter backlog twice"),
        ("127.0.0.1:1?backlog=many", "has backlog=many: 'many' is not a whole number"),
        ("127.0.0.1:1?backlog=0", "has backlog=0, and backlog must be at least 1"),
        (
            "unix:/s?mode=rw",
            "has mode=rw: 'rw' is no mode of a file; write it in octal, such as 660",
        ),
        ("unix:/s?mode=1777", "has mode=1777: '1777' is no mode of a file"),
        ("127.0.0.1:1?owner=www-data", "has the parameter owner, which is for the files of Unix"),
        ("uwsgi:fd:3?group=g", "has the parameter group, which is for the files of Unix sockets"),
        (
            "unix:@s?mode=600",
            "has the parameter mode, which is for the files of Unix sockets (unix:PATH); leave it "
            "out: an abstract socket has none, and every user may connect",
        ),
        (
            "uwsgi:systemd:web?mode=660",
            "has the parameter mode, which is for the files of Unix sockets (unix:PATH); write "
            "SocketMode=, SocketUser= or SocketGroup= in the socket unit",
        ),
        (
            "/run/s?mode=660",
            "has the parameter mode, which is for the files of Unix sockets (unix:PATH); write "
            "unix: before the path",
        ),
    ],
)
def test_parameters_that_are_none_are_told_before_anything_is_bound(
    text: str, objection: str
) -> None:
    address = text.partition("?")[0]
    with pytest.raises(
        ConfigError, match=re.escape(f"bind has a mistake: the address {address} {objection}")
    ):
        Config(bind=("127.0.0.1:2", text))
