"""A guest with Debian 12's kernel that runs a command on this tree: 6.1, no UFFDIO_MOVE, no UFFDIO_POISON, cgroup v2.

``python -m tests.guest -- .venv/bin/pytest -q tests/test_memory.py`` boots it in QEMU (TCG: neither /dev/kvm nor
root is needed), shows it /usr, /etc, the interpreter and this repository read-only, gives it an ext4 disk for swap
files, and runs the command as an ordinary user in a cgroup with a ``memory.max``. Output and exit status are the
command's.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "frontswap" / "guest"
#: modules whose dependencies come with them: the disk, the tree of this machine
MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic", "9pnet_virtio", "9p")
#: Debian packages, and what of them is needed
TOOLS = {
    "qemu-system-x86": "qemu-system-x86_64",
    "busybox-static": "busybox",
    "e2fsprogs": "mke2fs",
    "dpkg": "dpkg-deb",
}
NOBODY = 65534
DISK = 16 << 30  # sparse
TIMED_OUT = 124  # as of timeout(1)

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
for fd in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do
    ln -s ${fd#*:} /dev/${fd%%:*}
done
end() { echo "$1" >/dev/ttyS2; sync; poweroff -f; }
fail() { echo "guest: failed: $*" >/dev/ttyS1; end failed; }
stty -F /dev/ttyS0 raw
stty -F /dev/ttyS2 raw
while read module; do
    insmod /modules/$module.ko || fail "insmod $module"
done </modules/order
while read tag point; do
    mkdir -p $point
    mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=524288 $tag $point || fail "mount $point"
done </shares
for folder in bin sbin lib lib32 lib64 libx32; do
    [ ! -d /usr/$folder ] || [ -e /$folder ] || ln -s usr/$folder /$folder
done
chmod 0755 /root
mkdir -p /var/tmp /tmp /run
mount -t ext4 /dev/vda /var/tmp || fail "mount /var/tmp"
mount -t tmpfs -o size=256m,mode=1777 tmp /tmp
chmod 1777 /var/tmp
mkdir -m 0777 /var/tmp/home
ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
    ip address add 10.0.2.15/24 dev eth0
    ip link set eth0 up || fail "no network"
fi
echo 1 >/proc/sys/vm/overcommit_memory
mount -t cgroup2 none /sys/fs/cgroup || fail "mount cgroup2"
echo +memory +pids >/sys/fs/cgroup/cgroup.subtree_control || fail "no memory controller"
mkdir /sys/fs/cgroup/job
echo @MEMORY_MAX@ >/sys/fs/cgroup/job/memory.max || fail "memory.max"
echo +memory +pids >/sys/fs/cgroup/job/cgroup.subtree_control
mkdir /sys/fs/cgroup/job/command
for file in "" cgroup.procs cgroup.subtree_control command command/cgroup.procs; do
    chown @USER@ /sys/fs/cgroup/job/$file
done
date -s @@NOW@ >/dev/null
mkfifo /output
cat /output >/dev/ttyS0 &
(
    echo 0 >/sys/fs/cgroup/job/command/cgroup.procs
    cd @WHERE@
    exec @COMMAND@
) </dev/null >/output 2>&1
status=$?
echo 1 >/sys/fs/cgroup/job/cgroup.kill
wait
for file in memory.peak memory.events; do
    echo "guest: $file: $(tr '\\n' ' ' </sys/fs/cgroup/job/$file)" >/dev/ttyS1
done
end $status
"""


class GuestError(Exception):
    """The guest cannot be had, or has died; the message says what to do."""


def say(text: str) -> None:
    """One line of progress, apart from the command's output."""
    print(f"== guest: {text}", file=sys.stderr, flush=True)


# --- what it is made of --------------------------------------------------------------------------


def _missing_tools() -> list[str]:
    return [package for package, program in TOOLS.items() if shutil.which(program, path=_path()) is None]


def _path() -> str:
    return os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def _kernel() -> Path | None:
    """The newest unpacked kernel in the cache."""
    found = sorted(CACHE.glob("*/boot/vmlinuz-6.1.*"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def why_not() -> str:
    """What is missing on this machine, or ""."""
    if os.uname().machine != "x86_64":
        return "the guest is an x86-64 machine; this is not one"
    missing = _missing_tools()
    if missing:
        return f"the guest needs: apt-get install --no-install-recommends {' '.join(missing)}"
    if _kernel() is None:
        return "the guest's kernel is not in the cache: python -m tests.guest --prepare"
    return ""


def prepare() -> None:
    """Get what is missing: tools by apt when root, and the kernel, which is unpacked, not installed."""
    missing = _missing_tools()
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if missing and os.geteuid() != 0:
        raise GuestError(f"missing on this machine: {' '.join(missing)}. Install: sudo {shlex.join(install)}")
    if missing:
        say(shlex.join(install))
        _apt("apt-get", "update", "--quiet", "--quiet")
        _apt(*install)
    if _kernel() is not None:
        return
    depends = _apt("apt-cache", "depends", "--important", "linux-image-amd64")
    name = re.search(r"linux-image-6\.1\.\S+", depends)
    if name is None:
        raise GuestError(
            "apt knows no linux-image-amd64 of Debian 12 (6.1). Unpack one by hand: dpkg-deb -x "
            f"linux-image-6.1.*-amd64_*.deb {CACHE}/6.1"
        )
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        say(f"apt-get download {name[0]}")
        _apt("apt-get", "download", name[0], where=Path(work))
        (package,) = Path(work).glob("*.deb")
        unpacked = Path(work) / "unpacked"
        subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True)
        unpacked.chmod(0o755)
        unpacked.rename(CACHE / name[0])


def _apt(*command: str, where: Path | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=where,
        env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise GuestError(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _modules(kernel: Path, wanted: tuple[str, ...]) -> dict[str, Path]:
    """The modules to load, in order, by name: what each depends on comes before it."""
    folder = kernel.parent.parent / "lib" / "modules" / kernel.name.removeprefix("vmlinuz-")
    have = {path.stem.replace("-", "_"): path for path in folder.rglob("*.ko")}
    order: dict[str, Path] = {}

    def add(name: str) -> None:
        if name in order:
            return
        depends = re.search(rb"\0depends=([^\0]*)\0", have[name].read_bytes())
        for other in depends[1].decode().split(",") if depends and depends[1] else []:
            add(other.replace("-", "_"))
        order[name] = have[name]

    for name in wanted:
        add(name)
    return order


def shares() -> list[Path]:
    """What of this machine the guest sees, each in its own place: no more, and also where only root may look here."""
    places = [Path("/usr"), Path("/etc"), REPOSITORY, Path(sys.base_prefix), Path(sys.prefix)]
    places = [place.resolve() for place in places]
    return [
        place
        for number, place in enumerate(places)
        if not any(place.is_relative_to(other) for other in places[:number])
    ]


@dataclass(frozen=True)
class Guest:
    """One boot for one command."""

    command: list[str]
    memory_max: int = 1 << 30
    memory: int = 3 << 30
    cpus: int = 2
    root: bool = False
    timeout: float = 3600
    environment: dict[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()  #: more that are loaded
    disks: tuple[str, ...] = ()  #: options of -blockdev for more disks, /dev/vdb and on; their nodes are more0 and on
    network: bool = False  #: 10.0.2.2 is this machine's loopback
    monitor: Path | None = None  #: where QEMU's monitor (QMP) listens

    def run(self) -> int:
        """The command's exit status; TIMED_OUT when the guest had to be killed."""
        kernel = _kernel()
        reason = why_not()
        if kernel is None or reason:
            raise GuestError(reason)
        with tempfile.TemporaryDirectory(prefix="frontswap-guest-", dir="/var/tmp") as folder:
            work = Path(folder)
            self._make_initramfs(work, kernel)
            disk = work / "disk.img"
            with disk.open("wb") as file:
                file.truncate(DISK)
            make = ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-E", "nodiscard", str(disk)]
            subprocess.run(make, check=True, env=dict(os.environ, PATH=_path()))
            return self._boot(work, kernel)

    def _init(self) -> str:
        user = 0 if self.root else NOBODY
        identity = ["--reuid", str(user), "--regid", str(user), "--clear-groups"]
        variables = {
            "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": "/var/tmp/home",
            "TMPDIR": "/var/tmp",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",  # the tree is read-only
            "PYTEST_ADDOPTS": "-p no:cacheprovider -o faulthandler_timeout=1800",
            "HYPOTHESIS_STORAGE_DIRECTORY": "/var/tmp/home/hypothesis",
            "FRONTSWAP_TEST_PATIENCE": "20",  # TCG is that much slower
            **self.environment,
        }
        command = ["env", "-i", *(f"{name}={value}" for name, value in variables.items())]
        command += ["/usr/bin/setpriv", *identity, "--", *self.command]
        values = {
            "@MEMORY_MAX@": str(self.memory_max),
            "@USER@": f"{user}:{user}",
            "@NOW@": str(int(time.time())),
            "@WHERE@": shlex.quote(str(REPOSITORY)),
            "@COMMAND@": shlex.join(command),
        }
        return re.sub("|".join(values), lambda found: values[found[0]], INIT)

    def _make_initramfs(self, work: Path, kernel: Path) -> None:
        root = work / "initramfs"
        for name in ("bin", "proc", "sys", "dev", "modules"):
            (root / name).mkdir(parents=True)
        root.chmod(0o755)
        busybox = shutil.which("busybox", path=_path())
        assert busybox is not None
        shutil.copy(busybox, root / "bin" / "busybox")
        modules = _modules(kernel, MODULES + self.modules + (("virtio_net",) if self.network else ()))
        for name, path in modules.items():
            shutil.copy(path, root / "modules" / f"{name}.ko")
        (root / "modules" / "order").write_text("".join(f"{name}\n" for name in modules))
        (root / "shares").write_text("".join(f"share{n} {place}\n" for n, place in enumerate(shares())))
        (root / "init").write_text(self._init())
        (root / "init").chmod(0o755)
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        with (work / "initramfs.cpio").open("wb") as file:
            subprocess.run(
                [busybox, "cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"],
                cwd=root,
                input=f".\n{names}\n".encode(),
                stdout=file,
                check=True,
            )

    def _qemu(self, work: Path, kernel: Path) -> list[str]:
        command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
        # Not "max": QEMU 7.2's VMASKMOV reads what is masked out, too, and np.sort (AVX2) was killed at the end of an
        # array. This one is x86-64-v2, the least that the package is built for.
        command += ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Nehalem"]
        command += ["-smp", str(self.cpus), "-m", f"{self.memory >> 20}M"]
        command += ["-kernel", str(kernel), "-initrd", str(work / "initramfs.cpio")]
        # tsc: the watchdog would fall back to a clock that costs an exit, when this machine is busy
        command += ["-append", "console=ttyS1 panic=-1 loglevel=5 nokaslr mitigations=off tsc=reliable"]
        command += ["-chardev", "stdio,id=out,signal=off", "-serial", "chardev:out"]
        command += ["-serial", f"file:{work / 'kernel'}", "-serial", f"file:{work / 'status'}"]
        command += ["-drive", f"file={work / 'disk.img'},format=raw,if=none,id=disk,cache=unsafe,discard=unmap"]
        command += ["-device", "virtio-blk-pci,drive=disk,romfile="]
        for number, options in enumerate(self.disks):
            command += ["-blockdev", f"{options},node-name=more{number}"]
            command += ["-device", f"virtio-blk-pci,drive=more{number},romfile="]
        if self.network:
            command += ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]
        if self.monitor is not None:
            command += ["-qmp", f"unix:{self.monitor},server=on,wait=off"]
        for number, place in enumerate(shares()):
            command += ["-fsdev", f"local,id=fs{number},path={place},security_model=none,readonly=on,multidevs=remap"]
            command += ["-device", f"virtio-9p-pci,fsdev=fs{number},mount_tag=share{number}"]
        return command

    def _boot(self, work: Path, kernel: Path) -> int:
        user = "root" if self.root else f"uid {NOBODY}"
        say(
            f"{kernel.name.removeprefix('vmlinuz-')}, {self.cpus} processors, {self.memory >> 20} MiB; as {user} in a "
            f"cgroup v2 with memory.max = {self.memory_max >> 20} MiB: {shlex.join(self.command)}"
        )
        start = time.monotonic()
        with subprocess.Popen(self._qemu(work, kernel), stdin=subprocess.DEVNULL) as qemu:
            try:
                qemu.wait(self.timeout)
            except subprocess.TimeoutExpired:
                say(f"not done after {self.timeout:g} s: killed")
                return TIMED_OUT
            finally:
                qemu.kill()
        log = (work / "kernel").read_text(errors="replace") if (work / "kernel").exists() else ""
        found = (work / "status").read_text().strip() if (work / "status").exists() else ""
        for line in log.splitlines():
            if line.startswith("guest: ") or "oom-kill" in line:
                say(line.removeprefix("guest: "))
        if not found.isdigit():
            raise GuestError("the guest died; the end of its kernel's log:\n" + "\n".join(log.splitlines()[-30:]))
        say(f"exit status {found} after {time.monotonic() - start:.0f} s")
        return int(found)


# --- the command line ----------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.guest", description=__doc__)
    parser.add_argument("--prepare", action="store_true", help="get what is missing (apt), and no more")
    parser.add_argument("--root", action="store_true", help="run the command as root, not as an ordinary user")
    parser.add_argument("--memory-max", type=int, default=1024, metavar="MIB", help="of the cgroup (1024)")
    parser.add_argument("--memory", type=int, default=3072, metavar="MIB", help="of the guest (3072)")
    parser.add_argument("--cpus", type=int, default=2, help="processors of the guest (2)")
    parser.add_argument("--timeout", type=float, default=3600, metavar="SECONDS", help="then it is killed (3600)")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for the command")
    parser.add_argument("command", nargs="*", help="found in the environment's bin/ first")
    options = parser.parse_args(arguments)
    try:
        prepare()
        if options.prepare:
            return 0
        if not options.command:
            parser.error("no command to run in the guest")
        guest = Guest(
            options.command,
            memory_max=options.memory_max << 20,
            memory=options.memory << 20,
            cpus=options.cpus,
            root=options.root,
            timeout=options.timeout,
            environment=dict(pair.split("=", 1) for pair in options.env),
        )
        return guest.run()
    except GuestError as error:
        print(f"== guest: {error}", file=sys.stderr)
        return 125


if __name__ == "__main__":
    sys.exit(main())
