"""A machine that a test makes up: files of /proc and /sys below a directory."""

from __future__ import annotations

from pathlib import Path

from frontswap.machine import Machine


class Tree:
    """A root directory with the /proc and /sys that a test wants."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.machine = Machine(root)
        self.write("/proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:    8388608 kB\n")
        self.write("/proc/self/status", "Name:\tpython\nSeccomp:\t0\nSeccomp_filters:\t0\n")

    def write(self, name: str, text: str) -> None:
        path = self.machine.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def cgroup2(self, own: str, mounted: str = "/") -> None:
        self.write("/proc/self/cgroup", f"0::{own}\n")
        self.write(
            "/proc/self/mountinfo",
            "22 1 8:1 / / rw,relatime - ext4 /dev/vda rw\n"
            f"31 22 0:26 {mounted} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
        )

    def group(self, path: str, **files: object) -> None:
        for name, value in files.items():
            self.write(f"/sys/fs/cgroup{path}/memory.{name.replace('__', '.')}", f"{value}\n")
