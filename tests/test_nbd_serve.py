"""`frontswap serve`: where it listens, when it stops, what it says."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers import FRONTSWAP, PATIENCE, ROOT, MiB, noise, wait_until
from nbd import SIZE, Command, command, served, where

from frontswap.errors import ListenError, ParameterError
from frontswap.nbd.server import listen_tcp, listen_unix
from frontswap.testing.nbd_client import READ, Client

assert where  # a fixture


def fails(*options: str) -> str:
    """What the command says as it refuses to start."""
    done = subprocess.run(
        [FRONTSWAP, "serve", *options], capture_output=True, text=True, timeout=60 * PATIENCE, check=False
    )
    assert done.returncode == 1, done
    assert done.stderr.startswith("frontswap: ")
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


# --- when it stops -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_server_whose_pages_nobody_has_written(where: Path, number: signal.Signals) -> None:
    with command(where) as server, server.connect() as client:
        client.write(0, b"x")
        client.trim(0, SIZE)
        assert server.end(number) == 0
        assert client.ended()
        assert not server.socket.exists()
        assert "1 writes" in server.said()


def refuses(server: Command, number: signal.Signals = signal.SIGTERM) -> None:
    """A signal is refused, and says why."""
    before = server.said().count("swapoff or disconnect first")
    server.process.send_signal(number)
    wait_until(lambda: server.said().count("swapoff or disconnect first") > before, "it refuses")


def test_the_first_signal_is_refused_while_pages_would_be_lost(where: Path) -> None:
    with command(where) as server, server.connect() as client:
        client.write(0, noise(3 * 4096).tobytes())
        refuses(server)
        assert "SIGTERM: 3 pages are in use and are nowhere else (1 clients)" in server.said()
        client.write(0, b"goes on")
        assert client.read(0, 7) == b"goes on"
        assert server.end(signal.SIGINT) == 0
        assert "0 lost, 3 in use at the end" in server.said()


def test_a_signal_is_heard_again_once_all_pages_are_trimmed(where: Path) -> None:
    with command(where) as server, server.connect() as client:
        client.write(0, b"x")
        refuses(server)
        client.trim(0, SIZE)
        assert server.end() == 0


def test_force_means_the_first_one(where: Path) -> None:
    with command(where, "--force") as server, server.connect() as client:
        client.write(0, b"x")
        assert server.end() == 0


def test_what_is_written_through_need_not_be_waited_for(where: Path) -> None:
    with command(where, "--base", str(where / "base"), "--writethrough") as server, server.connect() as client:
        client.write(0, b"x")
        assert server.end() == 0
    assert (where / "base").read_bytes()[:2] == b"x\0"


@pytest.mark.slow
def test_a_client_that_reads_nothing_does_not_keep_it_from_stopping(where: Path) -> None:
    with command(where, "--force") as server, server.connect() as client:
        client.write(0, noise(4 * MiB).tobytes())
        for _ in range(4):
            client.request(0, 0, 4 * MiB)
        assert server.end() == 0


# --- what it says --------------------------------------------------------------------------------


def nobody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) != 0


def test_a_reply_that_is_ready_can_be_taken_while_it_stops(where: Path) -> None:
    """It is more than the socket holds, so the server waits for this client as it is told to end."""
    data = noise(SIZE).tobytes()
    with command(where, "--force") as server, server.connect() as client:
        client.write(0, data)
        client.request(READ, 0, SIZE)
        waits = select.poll()
        waits.register(client.socket, select.POLLIN)
        assert waits.poll(60_000 * PATIENCE)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: nobody_listens(server.socket), "it stops")
        assert client.answer().data == data
        assert server.process.wait(60 * PATIENCE) == 0


@pytest.mark.parametrize("log", ["a pipe that nobody reads", "a full disk"])
def test_what_it_cannot_say_does_not_end_it(where: Path, log: str) -> None:
    """Neither its counters, nor that it does not end: pages would be lost by that."""
    ours, theirs = os.pipe()
    os.close(ours)
    full = os.open("/dev/full", os.O_WRONLY)
    options = ["--size=8M", "--memory=64M", f"--socket={where / 'socket'}"]
    with subprocess.Popen([FRONTSWAP, "serve", *options], stderr=full if "full" in log else theirs) as process:
        os.close(theirs)
        os.close(full)
        try:
            wait_until(lambda: not nobody_listens(where / "socket") or process.poll() is not None, "it listens")
            with Client(where / "socket").go() as client:
                client.write(0, b"x")
                for number in (signal.SIGUSR1, signal.SIGTERM):
                    process.send_signal(number)
                    with pytest.raises(subprocess.TimeoutExpired):
                        process.wait(0.5)
                    assert client.read(0, 1) == b"x"
                client.trim(0, 4096)
                process.send_signal(signal.SIGTERM)
                assert process.wait(60 * PATIENCE) == 0
        finally:
            process.kill()


def test_counters_on_sigusr1(where: Path) -> None:
    with command(where, "--export", "more:4M") as server, server.connect() as client, server.connect("more") as more:
        client.write(0, noise(8192).tobytes())
        more.read(0, 4096)
        found = server.counters()
        assert found["clients"] == 2
        first, second = found["exports"]
        assert (first["name"], first["writes"], first["slot_stores"], first["used_pages"]) == ("", 1, 2, 2)
        assert (second["name"], second["reads"], second["used_pages"]) == ("more", 1, 0)
        assert found["hooks"]["refusals"]["incompressible"] == 2


def test_quiet(where: Path) -> None:
    log = where / "log"
    with log.open("wb") as out:
        arguments = ["--size", "4M", "--memory", "4M", "--socket", str(where / "socket"), "--quiet"]
        process = subprocess.Popen([FRONTSWAP, "serve", *arguments], stderr=out, stdout=out)
    wait_until((where / "socket").exists, "it listens")
    process.terminate()
    assert process.wait(60 * PATIENCE) == 0
    assert log.read_text() == ""


# --- where it listens ----------------------------------------------------------------------------


def test_the_socket_is_this_users_alone(where: Path) -> None:
    with command(where) as server:
        mode = server.socket.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600


def test_a_socket_that_a_killed_server_has_left_is_taken_over(where: Path) -> None:
    with command(where) as server:
        server.process.kill()
        server.process.wait()
        assert server.socket.exists()
        listen_unix(server.socket).close()


def test_a_socket_of_a_living_server_is_not(where: Path) -> None:
    with served(where) as server:
        with pytest.raises(ListenError, match="another server listens there"):
            listen_unix(server.socket)
        server.connect().disconnect()


def test_where_nobody_can_listen_no_base_is_touched(where: Path) -> None:
    (where / "base").write_text("text")
    more = ["--size", "4M", "--memory", "8M", "--base", str(where / "base"), "--discard"]
    with served(where) as server:
        assert "another server listens there" in fails(*more, "--socket", str(server.socket))
        assert server.socket.exists()
    assert (where / "base").read_text() == "text"


def test_what_is_no_socket_stays(where: Path) -> None:
    (where / "file").write_text("text")
    with pytest.raises(ListenError, match="Address already in use"):
        listen_unix(where / "file")
    assert (where / "file").read_text() == "text"
    with pytest.raises(ListenError, match="No such file"):
        listen_unix(where / "none" / "socket")
    with pytest.raises(ListenError, match="too long"):
        listen_unix(where / ("x" * 200))


def test_tcp(where: Path) -> None:
    log = where / "log"
    with log.open("wb") as out:
        arguments = ["--size", "4M", "--memory", "4M", "--listen", "127.0.0.1:0"]
        process = subprocess.Popen([FRONTSWAP, "serve", *arguments], stderr=out, stdout=out)
    try:
        wait_until(lambda: " of RAM\n" in log.read_text(), "it listens")
        port = int(log.read_text().split("127.0.0.1:")[1].split(",")[0])
        with Client(("127.0.0.1", port)).go() as client:
            client.write(5, b"tcp")
            assert client.read(5, 3) == b"tcp"
            client.trim(0, 4096)
        process.terminate()
        assert process.wait(60 * PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("listen", ["0.0.0.0:0", ":0", "[::]:0", "0.0.0.0"])
def test_what_others_reach_wants_insecure(listen: str) -> None:
    with pytest.raises(ParameterError, match=r"or with --tls-cert or --tls-psk: .*\(--insecure"):
        listen_tcp(listen)


def test_insecure() -> None:
    for one in listen_tcp("0.0.0.0:0", insecure=True):
        one.close()


def test_addresses() -> None:
    for right in ("localhost:0", "127.0.0.1:0"):
        for one in listen_tcp(right):
            one.close()
    for wrong in ("localhost:x", "localhost:70000", "localhost:-1", "no.such.host.invalid:1", "a..b:1", "\udcff:1"):
        with pytest.raises(ParameterError, match="HOST:PORT"):
            listen_tcp(wrong)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ListenError, match="Address already in use"):
            listen_tcp(f"127.0.0.1:{other.getsockname()[1]}")


# --- what it refuses -----------------------------------------------------------------------------


def test_settings_that_are_wrong_are_one_line(where: Path) -> None:
    at = str(where / "socket")
    assert "--listen: one of them" in fails("--size", "8M", "--memory", "8M")
    assert "--listen: one of them" in fails("--size", "8M", "--memory", "8M", "--socket", at, "--listen", "localhost")
    assert "at least one --export" in fails("--memory", "8M", "--socket", at)
    assert "NAME:SIZE:BASE" in fails("--export", "a:8M", "--base", "x", "--memory", "8M", "--socket", at)
    assert "at most --memory, 4 MiB" in fails("--size", "8M", "--memory", "4M", "--socket", at)
    assert "backends=" in fails("--size", "8M", "--memory", "8M", "--socket", at, "--backends", "nothing")
    assert "a name in UTF-8" in fails("--export", os.fsdecode(b"\xff:8M"), "--memory", "8M", "--socket", at)
    assert "--insecure" in fails("--size", "8M", "--memory", "8M", "--listen", "0.0.0.0:0")
    (where / "base").write_text("text")
    assert "--discard" in fails("--size", "8M", "--memory", "8M", "--socket", at, "--base", str(where / "base"))
    assert sorted(path.name for path in where.iterdir()) == ["base"]


@pytest.mark.skipif(not ROOT, reason="all of these run as an ordinary user then")
def test_an_ordinary_user(where: Path) -> None:
    where.chmod(0o777)
    base = where / "base"
    with command(where, "--base", str(base), "--writethrough", ordinary=True) as server, server.connect() as client:
        assert server.socket.stat().st_uid == 65534
        data = noise(MiB).tobytes()
        client.write(0, data)
        client.flush()
        assert client.read(0, MiB) == data
        assert server.end() == 0
    assert base.stat().st_uid == 65534


# --- many connections ----------------------------------------------------------------------------


def test_more_connections_than_there_may_be(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frontswap.nbd.server.MOST_CONNECTIONS", 3)
    with served(where) as server:
        clients = [server.connect() for _ in range(3)]
        with Client(server.socket) as one_more:
            assert one_more.ended()
        clients.pop().close()
        wait_until(lambda: server.server.connections < 3, "its place is free")
        server.connect().close()
        for client in clients:
            client.close()


def test_a_stop_twice_is_no_error(where: Path) -> None:
    with served(where) as server:
        server.server.stop()
        server.server.stop()


def test_a_server_gives_everything_back(where: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for base in ("ram", "file"):
        with served(where, base) as server, server.connect() as client:
            client.write(0, b"x")
            json.dumps(server.exports.statistics())
    assert len(os.listdir("/proc/self/fd")) == before


# --- --lock --------------------------------------------------------------------------------------


def locked(server: Command) -> dict[str, int]:
    """VmLck, VmRSS and VmSize of a server, in bytes."""
    lines = (line.split() for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines())
    return {words[0][:-1]: int(words[1]) << 10 for words in lines if words[0] in ("VmLck:", "VmRSS:", "VmSize:")}


@pytest.mark.skipif(not ROOT, reason="needs root: CAP_IPC_LOCK")
def test_all_memory_is_taken_and_stays(where: Path) -> None:
    with command(where, "--lock", "--base", str(where / "base"), "--force", memory="96M") as server:
        before = locked(server)
        assert before["VmLck"] > 0.9 * before["VmSize"]
        assert before["VmRSS"] > 96 * MiB
        spared = Path(f"/proc/{server.process.pid}/oom_score_adj").read_text() == "-1000\n"
        assert spared or "the out of memory killer may choose this process" in server.said()  # no CAP_SYS_RESOURCE
        data = np.arange(SIZE // 8).tobytes()
        with server.connect() as client:
            for _ in range(3):
                client.write(0, data)
                assert client.read(0, SIZE) == data
                client.trim(0, SIZE)
                assert client.read(0, SIZE) == bytes(SIZE)
            assert locked(server)["VmRSS"] >= before["VmRSS"] - MiB, "nothing is given back"
            # a connection's buffers, the disk's, what Python has imported meanwhile: nothing that grows with the data
            assert locked(server)["VmRSS"] < before["VmRSS"] + 16 * MiB
        assert server.end() == 0


@pytest.mark.skipif(not ROOT, reason="needs root: CAP_IPC_LOCK")
def test_large_reads_leave_no_locked_buffers(where: Path) -> None:
    """Locked memory has an advice of its own; all connections together could take 8 GiB."""
    options = ("--lock", "--base", str(where / "base"), "--force")
    with command(where, *options, size=32 * MiB) as server, contextlib.ExitStack() as opened:
        clients = [opened.enter_context(server.connect()) for _ in range(4)]
        before = locked(server)["VmRSS"]
        for client in clients:
            client.read(0, 32 * MiB)
        wait_until(lambda: locked(server)["VmRSS"] < before + 48 * MiB, "the buffers go back")


def test_who_may_not_lock(where: Path) -> None:
    options = ["--size=8M", "--memory=64M", f"--socket={where / 'socket'}", f"--base={where / 'base'}", "--lock"]
    where.chmod(0o777)
    limits = ["prlimit", "--memlock=1048576"]
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if ROOT else []
    done = subprocess.run(
        [*limits, *drop, FRONTSWAP, "serve", *options],
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert "lock: needs CAP_IPC_LOCK (root), or RLIMIT_MEMLOCK without a limit in place of 1048576" in done.stderr


def test_ram_that_could_be_swapped_out_is_no_base(where: Path) -> None:
    said = fails("--size=8M", "--memory=64M", f"--socket={where / 'socket'}", "--lock")
    assert "lock=True: must be for exports with a base" in said


def faults(server: Command) -> tuple[int, int, int]:
    """Page faults that the server has had, without and with I/O; and bytes of its addresses."""
    words = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[7]), int(words[9]), int(words[20])


@pytest.mark.skipif(not ROOT, reason="needs root: CAP_IPC_LOCK")
@pytest.mark.parametrize("writethrough", [False, True])
def test_a_storm_of_writes_takes_no_memory(where: Path, writethrough: bool) -> None:
    """Four times the pool, of all kinds of data: not one page fault, nor a mapping. Swap may be why it is short."""
    size, piece = 64 * MiB, 128 << 10
    options = ["--lock", "--base", str(where / "base"), "--force", "--idle-after", "never"]
    kinds = [noise(piece).tobytes(), np.arange(piece // 8).tobytes(), b"swap " * (piece // 5) + bytes(piece % 5)]
    with (
        command(where, *options, *["--writethrough"] * writethrough, size=size, memory="16M") as server,
        server.connect() as client,
    ):
        client.read(0, piece)
        before = faults(server)
        for turn in range(2):
            for number in range(size // piece):
                client.write(number * piece, kinds[(number + turn) % 3])
            for number in range(size // piece):
                assert client.read(number * piece, piece) == kinds[(number + turn) % 3]
        client.trim(0, size)
        assert faults(server) == before


@pytest.mark.skipif(not ROOT, reason="needs root: CAP_IPC_LOCK")
def test_what_the_machine_cannot_lock_is_said_before_anything_happens(where: Path) -> None:
    there = Path("/proc/meminfo").read_text().partition("MemTotal:")[2].split()[0]
    base = where / "base"
    options = ["--size=1G", f"--socket={where / 'socket'}", f"--base={base}", "--lock"]
    assert "for the words of 262144 pages and the heap" in fails(f"--memory={there}K", *options)
    assert not base.exists()


@pytest.mark.skipif(not ROOT, reason="needs root: CAP_SYS_NICE")
def test_threads_are_realtime_if_that_is_asked_for(where: Path) -> None:
    """The kernel gives them of its reserve."""

    def policies(server: Command) -> list[int]:
        tasks = [int(one) for one in os.listdir(f"/proc/{server.process.pid}/task")]
        return sorted(os.sched_getscheduler(task) for task in tasks)

    options = ["--lock", "--base", str(where / "base"), "--force"]
    try:
        with command(where, *options, "--realtime") as server, server.connect() as client:
            client.write(0, b"x")
            # main, accept, control, idle, the pool's, this connection; not those of numpy's BLAS
            assert policies(server).count(os.SCHED_RR) >= 6
            assert os.sched_getscheduler(server.process.pid) == os.SCHED_RR
    except AssertionError as error:
        if "needs CAP_SYS_NICE" in str(error):
            pytest.skip(f"no realtime here: {error}")
        raise
    with command(where, *options) as server:
        assert os.SCHED_RR not in policies(server)
    said = fails("--size=8M", "--memory=64M", f"--socket={where / 'socket'}", f"--base={where / 'base'}", "--realtime")
    assert "realtime=True: must be with --lock" in said
