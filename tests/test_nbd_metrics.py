"""`frontswap serve --metrics`: what Prometheus reads, parsed by its own library."""

from __future__ import annotations

import subprocess
import urllib.request
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from helpers import PATIENCE, MiB, noise, wait_until
from nbd import SIZE, Command, command, need, where
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse
from test_nbd_serve import fails

import frontswap.extras
from frontswap.errors import MissingPackageError, ParameterError
from frontswap.nbd.metrics import check_metrics
from frontswap.nbd.server import listen_metrics, tcp_address

assert where  # a fixture

Found = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def url(server: Command) -> str:
    """Where its metrics are."""
    return server.said().split("metrics at ")[1].split(",")[0]


def scrape(server: Command, accept: str = "text/plain") -> Found:
    """Samples by name and labels."""
    request = urllib.request.Request(url(server), headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=30 * PATIENCE) as reply:
        text = reply.read().decode()
        assert reply.headers["Content-Type"].startswith(accept)
    read: Any = parse_open if "openmetrics" in accept else parse
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in read(text)
        for sample in family.samples
    }


def of(found: Found, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


METRICS = ("--metrics", "127.0.0.1:0")


def test_each_export_has_its_numbers(where: Path) -> None:
    name = 'm"or\\e'
    with command(where, "--export", f"{name}:4M", *METRICS) as server, server.connect() as client:
        client.write(0, noise(8192).tobytes())
        client.read(0, 4096)
        with server.connect(name) as more:
            more.write(0, bytes(4096))
        for accept in ("text/plain", "application/openmetrics-text"):
            found = scrape(server, accept)
            assert of(found, "frontswap_export_requests_total", export="", request="writes") == 1
            assert of(found, "frontswap_export_requests_total", export=name, request="writes") == 1
            assert of(found, "frontswap_export_requests_total", export=name, request="reads") == 0
            assert of(found, "frontswap_export_bytes_total", export="", direction="written") == 8192
            assert of(found, "frontswap_export_bytes_total", export="", direction="read") == 4096
            assert of(found, "frontswap_export_slot_stores_total", export="") == 2
            assert of(found, "frontswap_export_used_pages", export="") == 2
            assert of(found, "frontswap_export_size_bytes", export="") == SIZE
            assert of(found, "frontswap_export_size_bytes", export=name) == 4 * MiB
            assert of(found, "frontswap_refusals_total", reason="incompressible") == 2
            assert of(found, "frontswap_pool_limit_bytes") > 0
            assert of(found, "frontswap_clients") >= 1


@need("fio")
def test_a_scrape_while_clients_work(where: Path) -> None:
    """What a counter counts only grows, and at the end it is what the client has done."""
    size, last = 4 * MiB, 0.0
    fio = ["fio", "--name=fio", "--ioengine=nbd", "--rw=randwrite", "--bs=4k", "--iodepth=32", f"--size={size}"]
    with command(where, "--force", *METRICS) as server:
        more = [f"--uri={server.uri}", "--time_based", "--runtime=2"]
        with subprocess.Popen([*fio, *more], stdout=subprocess.DEVNULL, cwd=where) as process:
            wait_until(lambda: scrape(server)["frontswap_clients", ()] > 0, "fio has connected")
            scrapes = 0
            while process.poll() is None:
                now = of(scrape(server), "frontswap_export_bytes_total", export="", direction="written")
                assert now >= last
                last, scrapes = now, scrapes + 1
        assert process.returncode == 0
        assert scrapes > 5
        found = scrape(server)
        assert of(found, "frontswap_export_bytes_total", export="", direction="written") >= last > 0
        assert of(found, "frontswap_export_errors_total", export="") == 0
        assert of(found, "frontswap_export_poisoned_total", export="") == 0
        export = server.counters()["exports"][0]
        assert of(found, "frontswap_export_requests_total", export="", request="writes") == export["writes"]
        assert export["written_bytes"] == 4096 * export["writes"]


def test_metrics_are_all_that_others_reach(where: Path) -> None:
    with command(where, *METRICS) as server:
        host, port = tcp_address(url(server).removeprefix("http://").partition("/")[0], "metrics")
        for method, path, body in (("GET", "/statistics", None), ("POST", "/metrics", "{}"), ("GET", "/", None)):
            connection = HTTPConnection(host, port, timeout=30 * PATIENCE)
            connection.request(method, path, body)
            assert connection.getresponse().status == 404
            connection.close()


def test_other_machines_want_consent(where: Path) -> None:
    for every in ("0.0.0.0:0", ":0"):
        with pytest.raises(ParameterError, match=r"a loopback address: whoever reaches .* \(--insecure if"):
            listen_metrics(every)
    for one in listen_metrics("0.0.0.0:0", insecure=True):
        one.close()
    with pytest.raises(ParameterError, match="metrics='localhost': must be HOST:PORT"):
        listen_metrics("localhost")
    base = where / "base"
    options = ["--size=4M", "--memory=8M", f"--socket={where / 'socket'}", f"--base={base}"]
    assert "metrics='0.0.0.0:0'" in fails(*options, "--metrics", "0.0.0.0:0")
    assert not list(where.iterdir())


def test_without_the_package_nothing_begins(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontswap.extras, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"prometheus_client .* pip install 'frontswap\[metrics\]'"):
        check_metrics()


@need("curl")
def test_the_control_socket_has_them_too(where: Path) -> None:
    at = where / "control"
    with command(where, "--control", str(at)):
        done = subprocess.run(
            ["curl", "--silent", "--unix-socket", str(at), "http://localhost/metrics"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert {family.name for family in parse(done.stdout)} >= {"frontswap_clients", "frontswap_export_used_pages"}
