"""The wheel: built for each Python present, it installs and works where there is no compiler."""

import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.wheel

ROOT = Path(__file__).parent.parent
VERSIONS = ["3.11", "3.12", "3.13"]
LICENSES = ["LICENSE", "bitshuffle.txt", "c-blosc2.txt", "lz4.txt", "zstd.txt"]

# a tiny piece of work: a page codec, then an array four times as large as the RAM it may use
WORK = """
import os, shutil
assert not shutil.which("gcc") and not shutil.which("cc")
import numpy as np
import frontswap
from frontswap.core import codec
assert "site-packages" in frontswap.__file__
page = np.arange(8192.0).view("u1")
assert codec.decompress(*codec.compress(page, 8), 65536) == page.tobytes()
with frontswap.Memory(limit="16M") as memory:
    a = memory.empty(8 << 20, "f8")
    a[:] = np.arange(8 << 20)
    assert a.sum() == (8 << 20) * ((8 << 20) - 1) / 2
    assert memory.statistics().resident_bytes <= 16 << 20
    del a
print("works")
"""


JOB = "import numpy as np; a = np.arange(8 << 20); print(a[::-1].copy().sum() == a.sum())"


def pythons(version: str) -> Iterator[Path]:
    """Interpreters that may be of this version: pyenv's, then those on the PATH."""
    for root in (os.environ.get("PYENV_ROOT"), Path.home() / ".pyenv"):
        if root:
            yield from sorted(Path(root).glob(f"versions/{version}.*/bin/python"))
    if found := shutil.which(f"python{version}"):
        yield Path(found)


def python_that_builds(version: str) -> Path:
    """The first that is of this version and can make environments and compile; else skip, saying why."""
    probe = (
        "import ensurepip, os, sys, sysconfig, venv\n"
        f"sys.exit('%d.%d' % sys.version_info[:2] != {version!r}"
        " or not os.path.exists(sysconfig.get_path('include') + '/Python.h'))"
    )
    for python in pythons(version):
        if subprocess.run([python, "-c", probe], check=False, capture_output=True).returncode == 0:
            return python
    pytest.skip(f"no Python {version} with venv and headers on this machine")


def pre_shared_keys(there: Path, folder: Path) -> None:
    """A server that lets clients of libnbd and QEMU in by a key, and nobody else."""
    if not shutil.which("nbdinfo") or not shutil.which("qemu-img"):
        pytest.skip("all but pre-shared keys: nbdinfo or qemu-img is not installed")
    keys, at = folder / "keys.psk", folder / "socket"
    keys.write_text(f"board:{os.urandom(32).hex()}\n")
    (folder / "wrong").mkdir()
    (folder / "wrong" / "keys.psk").write_text(f"board:{os.urandom(32).hex()}\n")
    serve = [
        str(there / "frontswap"),
        "serve",
        "--force",
        "--size=4M",
        "--memory=8M",
        f"--socket={at}",
        f"--tls-psk={keys}",
    ]
    with subprocess.Popen(serve, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            assert "4 MiB" in server.stderr.readline()

            def nbdinfo(name: str, file: Path) -> subprocess.CompletedProcess[str]:
                uri = f"nbds+unix://{name}@/?socket={at}&tls-psk-file={file}"
                return subprocess.run(["nbdinfo", uri], capture_output=True, text=True, check=False)

            assert "newstyle-fixed with TLS" in nbdinfo("board", keys).stdout
            assert nbdinfo("board", folder / "wrong" / "keys.psk").returncode != 0
            disk = f"driver=nbd,server.type=unix,server.path={at},tls-creds=tls"
            for username, status in (("board", 0), ("other", 1)):
                creds = f"tls-creds-psk,id=tls,dir={folder},username={username},endpoint=client"
                asked = ["qemu-img", "info", "--object", creds, "--image-opts", disk]
                assert subprocess.run(asked, capture_output=True, check=False).returncode == status
        finally:
            server.terminate()


@pytest.mark.parametrize("version", VERSIONS)
def test_wheel_works_without_a_compiler(version: str, tmp_path: Path) -> None:
    python = python_that_builds(version)
    subprocess.run([ROOT / ".ci" / "wheel", python, tmp_path / "dist"], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert "manylinux" in wheel.name

    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.endswith((".c", ".pxd")) or ".libs/" in name]
    assert {"frontswap/py.typed", "frontswap/core/codec.pyi", "frontswap_run.pth"} <= set(names)
    assert {Path(name).name for name in names if "/licenses/" in name and not name.endswith("/")} == set(LICENSES)

    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    there = tmp_path / "venv" / "bin"
    subprocess.run([there / "pip", "install", "--quiet", "--only-binary=:all:", wheel], check=True)
    nothing = {"PATH": str(there), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [there / "python", "-X", "faulthandler", "-W", "error", "-c", WORK],
        check=True,
        cwd=tmp_path,
        env=nothing,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "works\n"
    subprocess.run([there / "frontswap", "--help"], check=True, env=nothing, capture_output=True)
    done = subprocess.run(
        [there / "frontswap", "run", "--memory", "16M", "-c", JOB],
        check=True,
        cwd=tmp_path,
        env=nothing,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "True\n"
    assert "pages came back" in done.stderr
    if version == "3.13":
        pre_shared_keys(there, tmp_path)
