"""``frontswap serve``: exports, a server, and the signals that end it."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ParameterError
from ..sizes import format_size, parse_size
from ..times import parse_duration
from .administration import answers
from .base import PAGE
from .control import Control, as_json, default_control
from .exports import Exports, Wanted, check_bases, parse_export, with_shares
from .idle import Idle
from .locked import check_room, lock_memory, run_realtime
from .metrics import check_metrics, metrics
from .server import Server, listen_metrics, listen_tcp, listen_unix

if TYPE_CHECKING:
    from .tls import Tls

#: seconds in which a second signal means "all the same"
INSIST = 60.0
#: --idle-after
NEVER = "never"
_ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def serve(
    *,
    size: str | None,
    base: Path | None,
    exports: tuple[str, ...],
    memory: str,
    quotas: tuple[str, ...],
    weights: tuple[str, ...],
    idle_after: str,
    backends: str,
    socket_path: Path | None,
    listen: str | None,
    control: Path | None,
    metrics_at: str | None,
    writethrough: bool,
    overcommit: bool,
    discard: bool,
    lock: bool,
    realtime: bool,
    insecure: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    tls_psk: Path | None,
    force: bool,
    quiet: bool,
) -> int:
    """Serve until a signal ends it; the exit status: 0, or 1 if what was written through may not be on the disk.

    Raises:
        ParameterError: a setting is not allowed.
        BaseError: a base cannot be used.
        ListenError: nobody can be listened to.
        LockError: memory cannot be locked.
        MissingPackageError: there are no metrics.
    """
    if (socket_path is None) == (listen is None):
        given = None if socket_path is None else str(socket_path)
        raise ParameterError("socket", given, "given, or --listen: one of them")
    if base is not None and size is None:
        raise ParameterError("base", str(base), "with --size; --export has it as NAME:SIZE:BASE")
    if tls_cert is None and (tls_key is not None or tls_ca is not None):
        raise ParameterError("tls_cert", None, "given, with --tls-key or --tls-ca")
    if tls_cert is not None and tls_psk is not None:
        raise ParameterError("tls_psk", str(tls_psk), "given, or --tls-cert: one of them")
    if metrics_at is not None:
        check_metrics()
    tls = _tls(tls_cert, tls_key, tls_ca, tls_psk)
    logging.basicConfig(format="frontswap serve: %(message)s", level=logging.WARNING)
    wanted = [Wanted("", parse_size(size, "size"), base)] if size is not None else []
    wanted += [parse_export(text) for text in exports]
    wanted = with_shares(wanted, quotas, weights)
    idle = None if idle_after == NEVER else parse_duration(idle_after, "idle_after") / 1e9
    if realtime and not lock:
        raise ParameterError("realtime", True, "with --lock: who waits for memory is late whatever its priority")
    check_bases(wanted, writethrough=writethrough, lock=lock)
    if lock:
        check_room(parse_size(memory, "memory"), sum(one.size for one in wanted) // PAGE)
        lock_memory()
    if realtime:
        run_realtime()
    signals = _hear_signals()
    with ExitStack() as stack:
        # Before the bases: where nobody can listen nothing is changed in them.
        if socket_path is not None:
            listeners = [listen_unix(socket_path)]
            stack.callback(socket_path.unlink, missing_ok=True)
        else:
            assert listen is not None
            listeners = listen_tcp(listen, insecure=insecure or tls is not None)
        for one in listeners:
            stack.callback(one.close)
        asked = _listen_control(control, stack)
        scraped = [] if metrics_at is None else listen_metrics(metrics_at, insecure=insecure)
        for one in scraped:
            stack.callback(one.close)
        opened = Exports(
            wanted,
            memory=memory,
            backends=backends,
            writethrough=writethrough,
            overcommit=overcommit,
            discard=discard,
            lock=lock,
        )
        stack.callback(opened.close)
        where = str(socket_path) if socket_path else _addresses(listeners)
        server = Server(opened, listeners, tls)
        server.start()
        stack.callback(server.stop)
        if idle is not None:
            idle_exports = Idle(opened, idle)
            idle_exports.start()
            stack.callback(idle_exports.stop)
        _administer(server, asked, scraped, stack, ready=lock)
        if not quiet:
            shown = f", metrics at http://{_addresses(scraped)}/metrics" if scraped else ""
            locked = f", {format_size(opened.locked)} locked" if lock else ""
            _say(f"{_names(opened)} at {where}{shown}{locked}, {format_size(opened.memory)} of RAM")
        _notify("READY=1")
        _wait(server, force, signals)
        _notify("STOPPING=1")
        server.stop()
        return _finish(opened, quiet)


def _listen_control(path: Path | None, stack: ExitStack) -> socket.socket | None:
    """The control socket. None: nobody has said where, and the usual place cannot be had: it goes without."""
    try:
        at = path or default_control()
        made = listen_unix(at)
    except OSError as error:
        if path is not None:
            raise
        _say(f"no control socket, for `frontswap stats`: {error}; --control PATH says another place")
        return None
    stack.callback(at.unlink, missing_ok=True)
    stack.callback(made.close)
    return made


def _tls(certificate: Path | None, key: Path | None, authority: Path | None, psk: Path | None) -> Tls | None:
    """TLS, of which a server without it has nothing in its RAM: OpenSSL and asyncio are 7 MiB."""
    if certificate is None and psk is None:
        return None
    from .tls import Tls, psk_context, tls_context

    if psk is not None:
        return Tls(psk_context(psk))
    assert certificate is not None
    return Tls(tls_context(certificate, key or certificate, authority))


def _administer(
    server: Server, asked: socket.socket | None, scraped: list[socket.socket], stack: ExitStack, *, ready: bool
) -> None:
    """Answer on the control socket, and to Prometheus."""
    control = Control(ready=ready)
    scrape = {("GET", "/metrics"): metrics(lambda: statistics(server))}
    if asked is not None:
        counters = {("GET", "/statistics"): as_json(lambda _: statistics(server))}
        control.listen(asked, counters | answers(server) | scrape)
    for one in scraped:
        control.listen(one, scrape)
    control.start()
    stack.callback(control.stop)


def _hear_signals() -> int:
    """A descriptor from which the numbers of signals can be read, whatever thread the kernel gives them to."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(theirs, False)
    signal.set_wakeup_fd(theirs)
    for number in (*_ENDING, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)
    return ours


def _wait(server: Server, force: bool, signals: int) -> None:
    """Until a signal that counts: while pages would be lost by it, the first one is refused."""
    refused = -INSIST
    while True:
        number = os.read(signals, 1)[0]
        if number == signal.SIGUSR1:
            _print(json.dumps(statistics(server)))
            continue
        pages = server.exports.unsaved_pages
        if force or pages == 0 or time.monotonic() - refused < INSIST:
            return
        refused = time.monotonic()
        _say(
            f"{signal.Signals(number).name}: {pages} pages are in use and are nowhere else ({server.clients} clients): "
            f"swapoff or disconnect first. The same signal again within {INSIST:g} s drops them."
        )


def _notify(state: str) -> None:
    """Tell systemd, if it has started us (Type=notify). Source: sd_notify(3)."""
    where = os.environ.get("NOTIFY_SOCKET")
    if not where:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.sendto(state.encode(), "\0" + where[1:] if where.startswith("@") else where)
    except OSError as error:
        _say(f"{state}: systemd cannot be told at {where!r}: {error}")


def statistics(server: Server) -> dict[str, Any]:
    """All counters of this moment: for the control socket, SIGUSR1, and `frontswap stats`."""
    return {"clients": server.clients, "pid": os.getpid(), **server.exports.statistics()}


def _finish(exports: Exports, quiet: bool) -> int:
    failed = [export.name for export in exports.values() if not export.transmission.sync()]
    for name in failed:
        _say(f"export {name!r}: its base could not be written to the disk; what was written through may be lost")
    if not quiet:
        for export in exports.values():
            found = export.statistics()
            _say(
                f"export {export.name!r}: {found['reads']} reads ({format_size(found['read_bytes'])}), "
                f"{found['writes']} writes ({format_size(found['written_bytes'])}), {found['errors']} errors; "
                f"pages: {found['succ_stores']} stored by backends, {found['slot_stores']} in slots, "
                f"{found['poisoned']} lost, {found['used_pages']} in use at the end"
            )
    return 1 if failed else 0


def _names(exports: Exports) -> str:
    return ", ".join(
        f"{export.name!r} ({format_size(export.size)}, {export.description})" for export in exports.values()
    )


def _addresses(listeners: list[socket.socket]) -> str:
    """With the ports that port 0 has become."""
    return ", ".join("{}:{}".format(*one.getsockname()[:2]) for one in listeners)


def _say(text: str) -> None:
    _print(f"frontswap serve: {text}")


def _print(line: str) -> None:
    # A log whose reader has gone, or whose disk is full, is no reason to end with pages that nobody else has.
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)
