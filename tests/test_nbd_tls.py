"""`frontswap serve --tls-cert`: real clients behind TLS, and those that are not let in."""

from __future__ import annotations

import errno
import gc
import shlex
import shutil
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers import FRONTSWAP, PATIENCE, MiB, census, left_since, noise, together, wait_until
from nbd import SIZE, Command, command, need, run, where
from test_nbd_serve import fails

from frontswap.errors import ParameterError
from frontswap.nbd.exports import Exports, Wanted
from frontswap.nbd.protocol import IHAVEOPT, Option, Reply
from frontswap.nbd.server import Server, listen_tcp
from frontswap.nbd.tls import Tls, psk_context, read_keys, tls_context
from frontswap.testing.nbd_client import Client, text

assert where  # a fixture
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="not installed: openssl")


@dataclass
class Papers:
    """A folder as libnbd and QEMU read it: ca-cert.pem, and certificates and keys of a server and of a client."""

    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "ca-cert.pem"

    def of(self, name: str) -> tuple[Path, Path]:
        """Certificate and key."""
        return self.folder / f"{name}-cert.pem", self.folder / f"{name}-key.pem"

    def client(self, *, known: bool = True) -> ssl.SSLContext:
        """What a client needs; `known`: with a certificate of its own."""
        context = ssl.create_default_context(cafile=self.authority)
        if known:
            context.load_cert_chain(*self.of("client"))
        return context


def papers(folder: Path) -> Papers:
    """An authority with two certificates of its own."""
    folder.mkdir()
    made = Papers(folder)
    key = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout"]
    run(*key, str(folder / "ca-key.pem"), "-x509", "-subj", "/CN=authority", "-out", str(made.authority))
    for name in ("server", "client"):
        certificate, private = made.of(name)
        extensions = folder / f"{name}.ext"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        request = folder / f"{name}.csr"
        run(*key, str(private), "-subj", f"/CN={name}", "-out", str(request))
        signed = ["openssl", "x509", "-req", "-in", str(request), "-CA", str(made.authority), "-out", str(certificate)]
        run(*signed, "-CAkey", str(folder / "ca-key.pem"), "-CAcreateserial", "-extfile", str(extensions))
    return made


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return papers(tmp_path_factory.mktemp("tls") / "ours")


@dataclass
class Served:
    """A server behind TLS in this process."""

    server: Server
    address: tuple[str, int]
    papers: Papers

    def plain(self) -> Client:
        return Client(self.address, timeout=60 * PATIENCE)

    def connect(self, context: ssl.SSLContext | None = None) -> Client:
        """A client that has its export."""
        client = self.plain()
        try:
            start_tls(client, context or self.papers.client())
            for option, data in ((Option.STRUCTURED_REPLY, b""), (Option.GO, text("") + struct.pack(">H", 0))):
                assert client.option(option, data)[-1][0] == Reply.ACK
        except BaseException:
            client.close()
            raise
        return client

    def reads(self, context: ssl.SSLContext | None = None) -> None:
        """A client is let in."""
        with self.connect(context) as client:
            assert client.read(0, 4096) == bytes(4096)


def start_tls(client: Client, context: ssl.SSLContext) -> None:
    client.hello()
    assert client.option(Option.STARTTLS) == [(Reply.ACK, b"")]
    client.socket = context.wrap_socket(client.socket, server_hostname="localhost")


@contextmanager
def served(papers: Papers, *, known: bool = False) -> Iterator[Served]:
    """`known`: clients need a certificate."""
    exports = Exports([Wanted("", SIZE, None)], memory=64 * MiB)
    try:
        context = tls_context(*papers.of("server"), papers.authority if known else None)
        listeners = listen_tcp("127.0.0.1:0")
        server = Server(exports, listeners, Tls(context))
        address = listeners[0].getsockname()[:2]
        server.start()
        try:
            yield Served(server, address, papers)
        finally:
            server.stop()
    finally:
        exports.close()


@contextmanager
def uri(where: Path, papers: Papers, *options: str) -> Iterator[str]:
    """The command, as clients of libnbd find it."""
    certificate, key = map(str, papers.of("server"))
    with command(where, "--tls-cert", certificate, "--tls-key", key, *options) as server:
        yield f"nbds+unix://localhost/?socket={server.socket}&tls-certificates={papers.folder}&tls-hostname=localhost"


# --- real clients --------------------------------------------------------------------------------


@need("nbdinfo", "nbdcopy")
@pytest.mark.parametrize("known", [False, True])
def test_libnbd(where: Path, ours: Papers, known: bool) -> None:
    source, back = where / "source", where / "back"
    noise(SIZE).tofile(source)
    with uri(where, ours, *(["--tls-ca", str(ours.authority)] if known else [])) as at:
        assert "protocol: newstyle-fixed with TLS" in run("nbdinfo", at).stdout
        run("nbdcopy", "--connections=4", "--requests=64", str(source), at)
        run("nbdcopy", "--connections=4", "--requests=64", at, str(back))
        assert source.read_bytes() == back.read_bytes()


@need("qemu-img")
def test_qemu(where: Path, ours: Papers) -> None:
    source = where / "source"
    noise(SIZE).tofile(source)
    certificate, key = map(str, ours.of("server"))
    options = ["--tls-cert", certificate, "--tls-key", key, "--tls-ca", str(ours.authority)]
    with command(where, *options) as server:
        disk = f"driver=nbd,server.type=unix,server.path={server.socket},tls-creds=tls,tls-hostname=localhost"
        creds = ["--object", f"tls-creds-x509,id=tls,dir={ours.folder},endpoint=client"]
        run("qemu-img", "convert", *creds, "-n", "-f", "raw", str(source), "--target-image-opts", disk)
        source_disk = f"driver=raw,file.driver=file,file.filename={source}"
        run("qemu-img", "compare", *creds, "--image-opts", source_disk, disk)


@need("qemu-img")
def test_a_client_without_tls_is_told_so(where: Path, ours: Papers) -> None:
    certificate, key = map(str, ours.of("server"))
    with command(where, "--tls-cert", certificate, "--tls-key", key) as server:
        refused = run("qemu-img", "info", server.uri, check=False)
    assert refused.returncode == 1
    assert "this server speaks TLS only" in refused.stderr, refused


# --- bytes ---------------------------------------------------------------------------------------


def test_connections_at_once_see_what_was_written(ours: Papers) -> None:
    """Each has a part of the export; what is large is in flight both ways at the same time."""
    with served(ours) as at:

        def work(number: int) -> None:
            rng = np.random.default_rng(number)
            part = SIZE // 4
            expected = np.zeros(part, np.uint8)
            with at.connect() as client:
                for turn in range(40):
                    if number == 0 and turn % 4 == 0:
                        gc.collect()  # a tunnel that waits is not garbage
                    first = int(rng.integers(0, part - 1))
                    length = int(rng.integers(1, min(part - first, MiB) + 1))
                    data = rng.integers(0, 256 if rng.random() < 0.5 else 2, length, np.uint8)
                    client.write(number * part + first, data.tobytes())
                    expected[first : first + length] = data
                    assert client.read(number * part, part) == expected.tobytes()
                client.disconnect()

        together(4, work)


@pytest.mark.slow
def test_requests_that_nobody_reads_the_replies_of(ours: Papers) -> None:
    """Its own connection waits; the others go on, and the server stops all the same."""
    with served(ours) as at:
        lazy = at.connect()
        data = noise(MiB).tobytes()
        with at.connect() as client:
            client.write(0, data)
            for _ in range(64):
                lazy.request(0, 0, MiB)
            for _ in range(20):
                assert client.read(0, MiB) == data
            at.server.stop()
        lazy.close()


# --- who is not let in ---------------------------------------------------------------------------


def test_nothing_but_tls_is_answered_before_it(ours: Papers) -> None:
    with served(ours) as at, at.plain() as client:
        client.hello()
        for option, data in (
            (Option.LIST, b""),
            (Option.STRUCTURED_REPLY, b""),
            (Option.GO, text("") + struct.pack(">H", 0)),
            (Option.SET_META_CONTEXT, text("") + struct.pack(">I", 0)),
        ):
            assert client.option(option, data)[-1][0] == Reply.ERR_TLS_REQD
        assert client.option(Option.STARTTLS, b"x")[-1][0] == Reply.ERR_INVALID
        assert client.option(Option.ABORT)[-1][0] == Reply.ACK
        assert client.ended()


def test_the_option_without_an_answer_is_the_end(ours: Papers) -> None:
    with served(ours) as at, at.plain() as client:
        client.hello()
        client.send(IHAVEOPT + struct.pack(">II", Option.EXPORT_NAME, 0))
        assert client.ended()


def test_it_begins_once(ours: Papers) -> None:
    """What was agreed on before it is forgotten, and inside there is no other."""
    with served(ours) as at, at.plain() as client:
        start_tls(client, ours.client())
        assert client.option(Option.STARTTLS)[-1][0] == Reply.ERR_UNSUP
        assert client.option(Option.LIST)[-1][0] == Reply.ACK
        assert client.option(Option.SET_META_CONTEXT, text("") + struct.pack(">I", 0))[-1][0] == Reply.ERR_INVALID


def test_what_was_sent_before_it_is_not_taken_for_what_is_inside(ours: Papers) -> None:
    """A man in the middle who puts a request behind STARTTLS has spoilt the handshake, no more."""
    with served(ours) as at, at.plain() as client:
        client.hello()
        go = text("") + struct.pack(">H", 0)
        begin = IHAVEOPT + struct.pack(">II", Option.STARTTLS, 0)
        client.send(begin + IHAVEOPT + struct.pack(">II", Option.GO, len(go)) + go)
        assert client.receive(20)[8:16] == struct.pack(">II", Option.STARTTLS, Reply.ACK)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ours.client().wrap_socket(client.socket, server_hostname="localhost").recv(1)


@pytest.mark.parametrize("known", [False, True])
def test_who_has_no_certificate(ours: Papers, known: bool) -> None:
    with served(ours, known=known) as at:
        if not known:
            at.reads(ours.client(known=False))
            return
        with pytest.raises((ssl.SSLError, ConnectionError)):  # TLS 1.3 tells it with the first bytes that are read
            at.reads(ours.client(known=False))
        at.reads()


def test_who_has_another_authoritys(ours: Papers, tmp_path: Path) -> None:
    theirs = papers(tmp_path / "theirs")
    context = ssl.create_default_context(cafile=ours.authority)
    context.load_cert_chain(*theirs.of("client"))
    with served(ours, known=True) as at, pytest.raises((ssl.SSLError, ConnectionError)):
        at.reads(context)


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.0\r\n\r\n", bytes(70000)])
def test_what_is_no_tls_is_sent_away(ours: Papers, said: bytes) -> None:
    with served(ours) as at:
        with at.plain() as client:
            client.hello()
            assert client.option(Option.STARTTLS) == [(Reply.ACK, b"")]
            try:
                client.send(said)
                client.socket.shutdown(socket.SHUT_WR)
                while client.socket.recv(4096):
                    pass
            except OSError as gone:
                # Whoever is sent away while he still speaks is reset; afterwards his socket is none that could be shut.
                if gone.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
                    raise
        at.reads()


def test_old_versions_are_refused(ours: Papers) -> None:
    context = ours.client()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with served(ours) as at, pytest.raises((ssl.SSLError, ConnectionError)):
        at.reads(context)


# --- pre-shared keys: Python 3.13 serves them, tests/test_wheel.py has one -----------------------


def test_keys_as_psktool_writes_them(tmp_path: Path) -> None:
    file = tmp_path / "keys.psk"
    file.write_text(f"# two\nboard:{'0f' * 32}\n\na:b:{'Ff' * 16}\n")
    assert read_keys(file) == {"board": bytes([15] * 32), "a:b": bytes([255] * 16)}


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ("", "at least one line"),
        ("board", "line 1"),
        (f":{'0f' * 32}", "line 1"),
        (f"board:{'0f' * 32}\nother:{'0f' * 15}", "line 2"),
        (f"board:{'0f' * 513}", "16 to 512 bytes"),
        (f"board:{'0g' * 32}", "in hexadecimal"),
        ("b\xff", "line 1"),
    ],
)
def test_what_is_no_file_of_keys(tmp_path: Path, said: str, where: str) -> None:
    file = tmp_path / "keys.psk"
    file.write_text(said, "latin-1")
    with pytest.raises(ParameterError, match="tls_psk.*" + (where if said != "b\xff" else "utf-8")):
        read_keys(file)
    with pytest.raises(ParameterError, match="No such file"):
        read_keys(tmp_path / "none")


def test_pythons_without_them_say_so(where: Path) -> None:
    file = where / "keys.psk"
    file.write_text(f"board:{'0f' * 32}\n")
    options = ["--size=4M", "--memory=8M", f"--socket={where / 'socket'}", f"--tls-psk={file}"]
    if sys.version_info < (3, 13):
        with pytest.raises(ParameterError, match=r"Python 3\.13"):
            psk_context(file)
        assert "Python 3.13" in fails(*options)
    assert "--tls-cert: one of them" in fails(*options, "--tls-cert=x")


# --- what is left --------------------------------------------------------------------------------


def test_clients_that_vanish_leave_nothing(ours: Papers) -> None:
    """In the middle of the handshake, of a request, of a reply; threads and descriptors are those of before."""
    with served(ours) as at:
        at.connect().disconnect()  # the loop is there
        wait_until(lambda: at.server.clients == 0, "the first has gone")
        before = census()
        for turn in range(30):
            if turn % 3 == 0:
                client = at.plain()
                client.hello()
                assert client.option(Option.STARTTLS) == [(Reply.ACK, b"")]
                client.send(b"\x16\x03\x01")
            else:
                client = at.connect()
                client.send(
                    struct.pack(">IHHQQI", 0x25609513, 0, turn % 3 - 1, 1, 0, MiB) + bytes(1000) * (turn % 3 - 1)
                )
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", turn % 2, 0))
            client.close()
        wait_until(lambda: not left_since(before), "all of them have gone")


# --- settings ------------------------------------------------------------------------------------


def test_wrong_papers(ours: Papers, tmp_path: Path) -> None:
    certificate, key = ours.of("server")
    nothing = tmp_path / "nothing.pem"
    with pytest.raises(ParameterError, match=r"tls_cert=.*No such file"):
        tls_context(nothing, nothing, None)
    with pytest.raises(ParameterError, match="tls_cert="):
        tls_context(certificate, ours.of("client")[1], None)
    nothing.write_text("nothing")
    with pytest.raises(ParameterError, match="tls_ca="):
        tls_context(certificate, key, nothing)
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "ec", "-in", key, "-aes128", "-passout", "pass:secret", "-out", locked],
        check=True,
        capture_output=True,
    )
    with pytest.raises(ParameterError, match="without a password"):
        tls_context(certificate, locked, None)


def test_a_key_without_a_certificate(where: Path, ours: Papers) -> None:
    done = run(
        FRONTSWAP,
        "serve",
        "--size=8M",
        "--memory=64M",
        f"--socket={where / 'socket'}",
        f"--tls-key={ours.of('server')[1]}",
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("frontswap: tls_cert=None: must be given")


def test_one_file_with_both(ours: Papers, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text("".join(path.read_text() for path in ours.of("server")))
    assert tls_context(both, both, None).verify_mode == ssl.CERT_NONE


# --- frontswap attach ------------------------------------------------------------------------------------------------


def lists(server: Command, *tls: str) -> bool:
    """Does nbd-client, with what `frontswap attach` gives it for TLS, see the exports? It needs no device for that."""
    words = [FRONTSWAP, "attach", "--connect", server.address, *tls, "/dev/nbd0", "--print"]
    command = shlex.split(run(*words).stdout.splitlines()[1])
    host, port = command[1:3]
    options = command[command.index("-connections") + 2 : command.index("-swap")]
    assert options or not tls
    done = run("/usr/sbin/nbd-client", "-l", host, port, *options, check=False)
    print(done.stdout, done.stderr, server.log.read_text())
    return done.returncode == 0


@need("nbd-client")
@pytest.mark.parametrize("known", [False, True])
def test_the_options_of_attach_let_nbd_client_in(where: Path, ours: Papers, known: bool) -> None:
    certificate, key = map(str, ours.of("server"))
    asks = ["--tls-ca", str(ours.authority)] if known else []
    with command(where, "--tls-cert", certificate, "--tls-key", key, *asks, listen="localhost:0") as server:
        trust = ("--tls-ca", str(ours.authority))
        who = ("--tls-cert", str(ours.of("client")[0]), "--tls-key", str(ours.of("client")[1]))
        assert lists(server, *trust, *who)
        assert lists(server, *trust, *who, "--tls-host", "localhost")
        assert lists(server, *trust) != known, "without a certificate only where nobody asks for one"
        assert not lists(server, *trust, *who, "--tls-host", "other"), "another one's certificate"
        assert not lists(server), "without TLS"
        other = papers(where / "other")
        assert not lists(server, "--tls-ca", str(other.authority), *who), "of an authority that is not trusted"
