"""What the kernel says about this machine and this process, as it stands in /proc and /sys. Sizes in bytes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")
#: cgroup v1 says "no limit" as the largest long, rounded down to pages of 4 or 64 KiB
_NO_LIMIT = 1 << 62
_USED = {1: "memory.usage_in_bytes", 2: "memory.current"}
_MOST = {1: "memory.limit_in_bytes", 2: "memory.max"}
_CACHE = {
    1: ("total_inactive_file", "total_active_file"),
    2: ("inactive_file", "active_file", "slab_reclaimable"),
}
PSI = "/proc/pressure/memory"
#: to be woken when somebody has waited for memory a tenth of the time. An ordinary user may only ask for windows of 2 s
#: (Documentation/accounting/psi.rst)
TRIGGER = b"some 200000 2000000"


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo (proc_pid_mountinfo(5))."""

    root: str  #: what of the file system is mounted
    point: str
    kind: str
    options: frozenset[str]  #: of the file system; those of cgroup v1 name its controllers


@dataclass(frozen=True, slots=True)
class Group:
    """A memory cgroup that this process is in, itself or through a group below. None: no limit, or not known."""

    path: str
    version: int
    most: int | None  #: above it the OOM killer comes: memory.max, memory.limit_in_bytes
    high: int | None  #: above it processes are slowed down: memory.high
    swap: int | None  #: of the machine's own swap: memory.swap.max
    used: int
    kill: str  #: who is killed: "process", "group", or "nobody" (they wait)

    @property
    def pressure(self) -> str:
        """The file that tells of its memory pressure, as a path on this machine."""
        return f"{self.path}/{'memory.pressure' if self.version == 2 else 'memory.pressure_level'}"

    @property
    def control(self) -> str:
        """Where version 1 is asked to tell of it."""
        return f"{self.path}/cgroup.event_control"

    @property
    def usage(self) -> str:
        """The file with what is used."""
        return f"{self.path}/{_USED[self.version]}"

    @property
    def bound(self) -> str:
        """The file with the limit above which the OOM killer comes."""
        return f"{self.path}/{_MOST[self.version]}"

    @property
    def numbers(self) -> str:
        """The file with what that is."""
        return f"{self.path}/memory.stat"

    @property
    def cached(self) -> tuple[str, ...]:
        """What of that holds files, and kernel objects that the kernel frees when it wants memory."""
        return _CACHE[self.version]


@dataclass(frozen=True, slots=True)
class Machine:
    """Reads below ``root``, which tests fill as they like. What is not there reads as "" or None."""

    root: Path = Path("/")

    def path(self, name: str) -> Path:
        """Where a file of /proc or /sys is."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str:
        """The contents of a file, "" if it cannot be read."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return ""

    def number(self, name: str) -> int | None:
        """The number in a file; None for "max" and where there is none."""
        found = self.text(name).strip()
        return int(found) if found.lstrip("-").isdigit() else None

    def entries(self, name: str) -> int:
        """How many there are in a directory; 0 if this process may not look (it has given up root)."""
        try:
            return len(os.listdir(self.path(name)))
        except OSError:
            return 0

    def fields(self, name: str) -> dict[str, str]:
        """A file of lines such as "Name: value" or "name value"."""
        found = {}
        for line in self.text(name).splitlines():
            key, _, value = line.partition(":" if ":" in line else " ")
            found[key] = value.strip()
        return found

    # --- the kernel and what it lets this process do -------------------------------------------------

    def release(self) -> tuple[int, int]:
        """(6, 8) for Linux 6.8, (0, 0) if unknown."""
        found = re.match(r"(\d+)\.(\d+)", self.text("/proc/sys/kernel/osrelease"))
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def seccomp(self) -> bool:
        """True if a filter decides which system calls this process may make."""
        return self.fields("/proc/self/status").get("Seccomp") == "2"

    def resident(self) -> int:
        """Bytes of this process in RAM, files and all; 0 if not known."""
        found = self.text("/proc/self/statm").split()
        return int(found[1]) * os.sysconf("SC_PAGESIZE") if len(found) > 1 else 0

    def root_of_the_machine(self) -> bool:
        """True for root outside of user namespaces: devices of mode 0600 are his."""
        return os.geteuid() == 0 and self.text("/proc/self/uid_map").split() in ([], ["0", "0", "4294967295"])

    def threads_that_block(self, signal: int) -> list[int]:
        """Thread numbers of this process, of threads in which a signal is blocked (SigBlk)."""
        try:
            names = os.listdir(self.path("/proc/self/task"))
        except OSError:
            return []
        masks = {name: self.fields(f"/proc/self/task/{name}/status").get("SigBlk", "0") for name in names}
        return sorted(int(name) for name, mask in masks.items() if int(mask or "0", 16) >> (signal - 1) & 1)

    # --- file systems, control groups ----------------------------------------------------------------

    def mounts(self) -> list[Mount]:
        """What is mounted, in the order of mounting."""
        found = []
        for line in self.text("/proc/self/mountinfo").splitlines():
            before, _, after = line.partition(" - ")
            root, point = (_OCTAL.sub(lambda code: chr(int(code[1], 8)), text) for text in before.split(" ")[3:5])
            kind, _, options = [*after.split(" "), "", ""][:3]
            found.append(Mount(root, point, kind, frozenset(options.split(","))))
        return found

    def groups(self) -> list[Group]:
        """The memory cgroup of this process and all above it that can be seen from here, the innermost first.

        A limit anywhere above holds too, so all count. Inside a container the outermost may be out of sight.
        """
        own = {}
        for line in self.text("/proc/self/cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            own.update(dict.fromkeys(controllers.split(","), path))
        found = []
        for mount in self.mounts():
            version = 2 if mount.kind == "cgroup2" else 1 if "memory" in mount.options else 0
            path = own.get("" if version == 2 else "memory", "")
            if not path or version == 0 or (version == 1 and mount.kind != "cgroup"):
                continue
            # Without a cgroup namespace the path begins with what of the hierarchy is mounted.
            inside = os.path.relpath(path, mount.root)
            parts = [] if inside.startswith(".") else inside.split("/")
            for depth in range(len(parts), -1, -1):
                group = self._group("/".join([mount.point, *parts[:depth]]), version)
                if group is not None:
                    found.append(group)
        return found

    def used(self, group: Group) -> int | None:
        """What is used in a group now."""
        return self.number(group.usage)

    def cache(self, group: Group) -> int | None:
        """The part of a group's memory that is :attr:`Group.cached`; None if it is not known."""
        found = self.fields(group.numbers)
        numbers = [int(found[name]) for name in group.cached if found.get(name, "").isdigit()]
        return sum(numbers) if numbers else None

    def stalls(self, groups: list[Group]) -> tuple[float, int] | None:
        """PSI "some": (part of the last 10 seconds, microseconds ever) in which a task waited for memory.

        Of the innermost of these groups that says so (v2), else of the machine; None where the kernel keeps no account.
        """
        own = [group.pressure for group in groups if group.version == 2]
        for name in [*own, PSI]:
            found = re.match(r"some avg10=([\d.]+) .*total=(\d+)", self.text(name))
            if found is not None:
                return float(found[1]) / 100, int(found[2])
        return None

    def _group(self, path: str, version: int) -> Group | None:
        """None where there is no memory controller (the root of v2, a path that cannot be seen)."""
        used = self.number(f"{path}/{_USED[version]}")
        if used is None:
            return None
        if version == 2:
            most, high, swap = (self.number(f"{path}/memory.{name}") for name in ("max", "high", "swap.max"))
            kill = "group" if self.number(f"{path}/memory.oom.group") else "process"
            return Group(path, version, most, high, swap, used, kill)
        most = self.number(f"{path}/{_MOST[1]}")
        waits = self.fields(f"{path}/memory.oom_control").get("oom_kill_disable") == "1"
        kill = "nobody" if waits else "process"
        return Group(path, version, most if most is not None and most < _NO_LIMIT else None, None, None, used, kill)
