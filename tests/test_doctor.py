"""`frontswap doctor`: what it finds on this machine, on machines made of files, and behind a real seccomp filter."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from helpers import DUMPABLE, FORBID, ROOT, forbidden, run_child
from rich.console import Console
from tree import Tree

import frontswap
from frontswap import causes, cli, errors
from frontswap.machine import Machine
from frontswap.observe import checks, doctor
from frontswap.observe.checks import Finding, Level
from frontswap.swap import file_system

MiB, GiB = 1 << 20, 1 << 30
DOCS = Path(__file__).parent.parent / "docs" / "doctor.md"

# A whole report in a child, as JSON in one line. What is imported must be so before root is given up.
IMPORT = """
import dataclasses
from frontswap.observe.doctor import examine
"""
ORDINARY = IMPORT + ("soak.become_ordinary_user()\n" if ROOT else "")
SAY = """
report = examine()
print(json.dumps([report.verdict, report.works, [dataclasses.asdict(f) for f in report.findings]]))
"""
EXAMINE = IMPORT + SAY


def of(found: list[dict[str, str]], name: str) -> dict[str, str]:
    (finding,) = [finding for finding in found if finding["name"] == name]
    return finding


def one(check: object, machine: Machine, where: str = "auto") -> dict[str, Finding]:
    """The findings of one check, by name."""
    return {finding.name: finding for finding in check(machine, where)}  # type: ignore[operator]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "root")


# --- this machine --------------------------------------------------------------------------------


@pytest.mark.parametrize("ordinary", [False, True], ids=["as we are", "ordinary"])
def test_a_report_of_this_machine(ordinary: bool, tmp_path: Path) -> None:
    """Memory works where the tests run, so the doctor must say so, to whoever asks."""
    if file_system(tmp_path) in ("tmpfs", ""):
        pytest.skip(f"{tmp_path} is not on a disk")
    before = ORDINARY + DUMPABLE * forbidden() if ordinary else IMPORT
    verdict, works, found = run_child(before + SAY).check().result
    assert works
    assert verdict.startswith("frontswap works here")
    assert not [finding for finding in found if finding["level"] == "fails"]
    assert of(found, "trial")["level"] == "ok"
    if ordinary and not forbidden() and Machine().number("/proc/sys/vm/unprivileged_userfaultfd") == 0:
        assert of(found, "kernel faults")["command"] == "sudo sysctl vm.unprivileged_userfaultfd=1"


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from frontswap.cli import main; sys.argv = ['frontswap', *sys.argv[1:]]; main()"
    env = {**os.environ, **environment}
    line = [sys.executable, "-c", code, "doctor", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=120, env=env)


def test_the_command_in_80_columns_and_without_colours() -> None:
    done = command(COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("frontswap works here")
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in done.stdout
    assert f"{'!' if forbidden() else '✓'} userfaultfd" in done.stdout
    assert f"{'!' if forbidden() else '+'} userfaultfd" in command(PYTHONIOENCODING="ascii").stdout


def test_json_says_the_same() -> None:
    done = command("--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["works"]) == (0, True)
    assert set(found["findings"][0]) == {"name", "what", "meaning", "command", "level"}
    assert found["verdict"] in " ".join(command().stdout.split())


def test_a_swap_directory_that_is_ram_is_exit_code_1() -> None:
    if file_system(Path("/dev/shm")) != "tmpfs":
        pytest.skip("/dev/shm is no tmpfs here")
    done = command("--swap", "/dev/shm")
    assert done.returncode == 1
    assert done.stdout.startswith("frontswap does not work here: /dev/shm is a tmpfs, which is RAM itself.")
    assert "trial" not in done.stdout


def test_nothing_changes(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd")), os.listdir(tmp_path)
    for section in doctor.CHECKS.values():
        for check in section:
            list(check(Machine(), str(tmp_path)))
    assert (sorted(os.listdir("/proc/self/fd")), os.listdir(tmp_path)) == before


# --- a filter that forbids userfaultfd -----------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS], ids=["EPERM", "ENOSYS"])
def test_seccomp_forbids_userfaultfd(number: int) -> None:
    """The doctor and the error of Memory() name the same command. (Nor may /proc/self/mem be opened.)"""
    code = f"""
forbid({number})
assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0  # PR_SET_DUMPABLE
try:
    frontswap.Memory("16M")
except frontswap.KernelSupportError as error:
    print(error)
"""
    done = run_child(FORBID + ORDINARY + code + SAY).check()
    said, (verdict, works, found) = done.out, done.result
    assert not works
    assert verdict == "frontswap does not work here: a seccomp filter forbids userfaultfd."
    finding = of(found, "userfaultfd")
    assert finding["command"] == "docker run --security-opt seccomp=unconfined ..."
    assert finding["what"] in said
    assert finding["command"] in said
    assert "`frontswap doctor`" in said
    assert of(found, "seccomp")["level"] == "note"
    assert not [finding for finding in found if finding["name"] == "trial"]


def test_root_has_the_device_where_the_system_call_is_forbidden() -> None:
    if forbidden() or not ROOT or not Path("/dev/userfaultfd").exists():
        pytest.skip("needs root and /dev/userfaultfd")
    _, works, found = run_child(FORBID + f"forbid({errno.EPERM})" + EXAMINE).check().result
    assert works
    assert (of(found, "userfaultfd")["level"], of(found, "seccomp")["level"]) == ("ok", "note")


@pytest.mark.parametrize(
    ("release", "user", "said"),
    [
        ("6.8.0-generic", 0, "docker run --device /dev/userfaultfd ..."),
        ("5.15.0", 0, "docker run --security-opt seccomp=unconfined ..."),
        ("6.8.0-generic", 1000, "docker run --security-opt seccomp=unconfined ..."),
    ],
)
def test_the_narrowest_command_that_helps(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, release: str, user: int, said: str
) -> None:
    """From 6.1 on root in a container can have the device, and its filter stays."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    tree.write("/proc/self/status", "Name:\tpython\nSeccomp:\t2\n")
    tree.write("/proc/sys/kernel/osrelease", release)
    assert causes.userfaultfd(errno.EPERM, tree.machine).command == said


def test_forbidden_without_a_filter(tree: Tree) -> None:
    tree.write("/proc/sys/kernel/osrelease", "5.10.0-28-amd64\n")
    assert causes.userfaultfd(errno.EPERM, tree.machine).command == "sudo sysctl vm.unprivileged_userfaultfd=1"
    tree.write("/proc/sys/kernel/osrelease", "6.1.0-28-amd64\n")
    assert "SELinux" in str(causes.userfaultfd(errno.EPERM, tree.machine))
    assert "no userfaultfd" in causes.userfaultfd(errno.ENOSYS, tree.machine).what


# --- older kernels -------------------------------------------------------------------------------


def features(monkeypatch: pytest.MonkeyPatch, *missing: str, user_mode: bool = False) -> dict[str, Finding]:
    have = dict.fromkeys(("userfaultfd", "sigbus", "write_protect", "move", "poison"), True)
    monkeypatch.setattr(checks, "kernel_features", lambda: have | dict.fromkeys(missing, False))
    monkeypatch.setattr(checks, "kernel_access", lambda: (0, user_mode))
    return one(checks.userfaultfd, Machine())


def test_debian_12_works_with_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    found = features(monkeypatch, "move", "poison", user_mode=True)
    assert {name: f.level for name, f in found.items() if f.level is not Level.OK} == {
        "MOVE": Level.LIMIT,
        "POISON": Level.NOTE,
        "kernel faults": Level.NOTE,
    }
    report = doctor.Report({"Kernel": tuple(found.values())})
    assert (report.works, report.verdict) == (True, "frontswap works here, but look at: MOVE.")
    assert "mem.pin" in found["MOVE"].meaning


def test_no_write_protection_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    found = features(monkeypatch, "write_protect")
    assert found["write protect"].level is Level.FAILS
    assert found["write protect"].what == causes.userfaultfd(errno.EINVAL).what


# --- memory cgroups ------------------------------------------------------------------------------


def test_cgroup_v2_the_lowest_limit_may_be_of_an_ancestor(tree: Tree) -> None:
    tree.cgroup2("/kubepods/pod1/job")
    tree.group("/kubepods/pod1/job", current=100 * MiB, max="max", high="max", oom__group=0)
    tree.group("/kubepods/pod1", current=512 * MiB, max=2 * GiB, high="max", oom__group=1)
    tree.group("/kubepods", current=5 * GiB, max=8 * GiB, high="max")
    assert [group.path.removeprefix("/sys/fs/cgroup") for group in tree.machine.groups()] == [
        "/kubepods/pod1/job",
        "/kubepods/pod1",
        "/kubepods",
    ]
    (finding,) = one(checks.memory_limit, tree.machine).values()
    assert finding.what == "2 GiB, 512 MiB in use (memory.max of /sys/fs/cgroup/kubepods/pod1)"
    assert (finding.command, finding.level) == ("frontswap run --memory 1536M job.py", Level.NOTE)
    (finding,) = one(checks.out_of_memory, tree.machine).values()
    assert "memory.oom.group" in finding.what


def test_cgroup_v2_high_is_a_limit_too(tree: Tree) -> None:
    tree.cgroup2("/job")
    tree.group("/job", current=1000 * MiB, max=2 * GiB, high=1 * GiB)
    (finding,) = one(checks.memory_limit, tree.machine).values()
    assert finding.what == "1 GiB, 1000 MiB in use (memory.high of /sys/fs/cgroup/job)"
    assert "slows down" in finding.meaning
    assert finding.level is Level.LIMIT  # nearly full


@pytest.mark.parametrize("mounted", ["/", "/docker/abc"], ids=["with a namespace", "without"])
def test_cgroup_v2_inside_a_container(tree: Tree, mounted: str) -> None:
    tree.cgroup2(mounted, mounted)
    tree.group("", current=MiB, max=3 * GiB, high="max", swap__max=0)
    (group,) = tree.machine.groups()
    assert (group.path, group.most, group.high, group.swap) == ("/sys/fs/cgroup", 3 * GiB, None, 0)


def test_cgroup_v1(tree: Tree) -> None:
    tree.write("/proc/self/cgroup", "5:cpu,cpuacct:/other\n4:memory:/docker/abc\n0::/\n")
    tree.write(
        "/proc/self/mountinfo",
        "34 31 0:31 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct\n"
        "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
    )
    tree.group("/memory", limit_in_bytes=256 * MiB, usage_in_bytes=64 * MiB, oom_control="oom_kill_disable 1")
    (finding,) = one(checks.memory_limit, tree.machine).values()
    assert finding.what == "256 MiB, 64 MiB in use (memory.limit_in_bytes of /sys/fs/cgroup/memory)"
    (finding,) = one(checks.out_of_memory, tree.machine).values()
    assert ("hangs" in finding.meaning, finding.level) == (True, Level.LIMIT)


def test_no_limit_is_ram(tree: Tree) -> None:
    tree.cgroup2("/job")
    tree.group("/job", current=MiB, max="max", high="max")
    (finding,) = one(checks.memory_limit, tree.machine).values()
    assert finding.what == "none below the 16 GiB of RAM, 8 GiB available (1 cgroups looked at)"
    tree.write("/proc/self/mountinfo", "")
    (finding,) = one(checks.memory_limit, tree.machine).values()
    assert "no memory cgroup" in finding.what
    v1 = "35 31 0:32 / /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    tree.write("/proc/self/mountinfo", v1)
    tree.write("/proc/self/cgroup", "4:memory:/\n")
    tree.group("/memory", limit_in_bytes=9223372036854771712, usage_in_bytes=MiB)
    assert tree.machine.groups()[0].most is None


# --- pressure, signals, swap, processes ----------------------------------------------------------


def test_no_psi(tree: Tree) -> None:
    found = one(checks.pressure, tree.machine)
    assert found["PSI"].what == "no trigger (No such file or directory)"
    assert "psi=1" in found["PSI"].meaning
    assert found["cgroup pressure"].what == "no memory cgroup"


def test_psi_of_the_cgroup(tree: Tree) -> None:
    tree.cgroup2("/job")
    tree.group("/job", current=MiB, pressure="")
    tree.write("/proc/pressure/memory", "")
    found = one(checks.pressure, tree.machine)
    assert {name: f.level for name, f in found.items()} == {"PSI": Level.OK, "cgroup pressure": Level.OK}
    assert tree.machine.text("/sys/fs/cgroup/job/memory.pressure").startswith("some ")


def test_threads_that_block_sigbus(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    if forbidden():
        pytest.skip("without userfaultfd a fault is SIGSEGV: see test_protection")
    blocked, free = f"SigBlk:\t{1 << (signal.SIGBUS - 1):016x}\n", "SigBlk:\t0000000000000000\n"
    tree.write(f"/proc/self/task/{os.getpid()}/status", free)
    tree.write(f"/proc/self/task/{os.getpid() + 7}/status", blocked)
    assert tree.machine.threads_that_block(signal.SIGBUS) == [os.getpid() + 7]
    monkeypatch.setenv("FRONTSWAP_FAULTS", "sigbus")
    assert one(checks.blocked_signals, tree.machine)["SIGBUS"].level is Level.LIMIT
    tree.write(f"/proc/self/task/{os.getpid()}/status", blocked)
    finding = one(checks.blocked_signals, tree.machine)["SIGBUS"]
    assert (finding.level, finding.command) == (Level.FAILS, "export FRONTSWAP_FAULTS=auto")
    monkeypatch.delenv("FRONTSWAP_FAULTS")
    assert one(checks.blocked_signals, tree.machine)["SIGBUS"].level is Level.NOTE


def test_a_parent_that_blocks_sigbus() -> None:
    """For real; and the command that is named does help."""
    if forbidden():
        pytest.skip("without userfaultfd a fault is SIGSEGV: see test_protection")
    block = (
        "import subprocess; code = sys.argv[1]\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGBUS])\n"
        "sys.exit(subprocess.run([sys.executable, '-c', code], restore_signals=False).returncode)"
    )
    code = "import json, dataclasses" + EXAMINE

    def said(**environment: str) -> list[Any]:
        line = [sys.executable, "-c", f"import signal, sys\n{block}", code]
        done = subprocess.run(line, env=os.environ | environment, capture_output=True, text=True, check=True)
        found: list[Any] = json.loads(done.stdout)
        return found

    _, works, found = said(FRONTSWAP_FAULTS="sigbus")
    assert not works
    assert of(found, "SIGBUS")["level"] == "fails"
    variable, _, value = of(found, "SIGBUS")["command"].removeprefix("export ").partition("=")
    verdict, works, found = said(**{variable: value})
    assert works, verdict
    assert (of(found, "SIGBUS")["level"], of(found, "trial")["level"]) == ("note", "ok")


@pytest.mark.parametrize(
    ("swaps", "zswap", "said"),
    [
        ("", "N", "none"),
        ("/dev/zram0 partition 1 0 5\n", "N", "/dev/zram0"),
        ("/swapfile file 1 0 -2\n", "Y", "/swapfile, zswap on"),
    ],
)
def test_machine_swap(tree: Tree, swaps: str, zswap: str, said: str) -> None:
    tree.write("/proc/swaps", "Filename Type Size Used Priority\n" + swaps)
    tree.write("/sys/module/zswap/parameters/enabled", zswap)
    finding = one(checks.machine_swap, tree.machine)["machine's swap"]
    assert finding.what == said
    assert ("compressing" in finding.meaning) == (said not in ("none",))


def test_swap_that_is_closed_to_the_cgroup(tree: Tree) -> None:
    tree.write("/proc/swaps", "Filename Type Size Used Priority\n/swapfile file 1 0 -2\n")
    tree.cgroup2("/job")
    tree.group("/job", current=MiB, swap__max=0)
    assert "memory.swap.max" in one(checks.machine_swap, tree.machine)["machine's swap"].what


def test_huge_pages(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.write("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n")
    found = one(checks.huge_pages, tree.machine)
    assert found["huge pages"].command.startswith("echo madvise | sudo tee")
    tree.write("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
    assert one(checks.huge_pages, tree.machine)["huge pages"].what == "madvise"
    said = run_child(EXAMINE, environment={"NUMPY_MADVISE_HUGEPAGE": "0"}, fresh=True).check().result[2]
    assert of(said, "numpy's huge pages")["command"] == "export NUMPY_MADVISE_HUGEPAGE=1"


@pytest.mark.parametrize(
    ("name", "limit", "finding", "level", "command"),
    [
        ("RLIMIT_AS", 1 << 38, "addresses", "fails", "ulimit -v unlimited"),
        ("RLIMIT_NOFILE", 40, "descriptors", "limit", "ulimit -n 4096"),
    ],
)
def test_limits_of_the_process(name: str, limit: int, finding: str, level: str, command: str) -> None:
    code = f"resource.setrlimit(resource.{name}, ({limit}, {limit}))"
    said = of(run_child(code + EXAMINE).check().result[2], finding)
    assert (said["level"], said["command"]) == (level, command)


def test_the_error_of_a_memory_without_addresses_names_the_command() -> None:
    code = """
resource.setrlimit(resource.RLIMIT_AS, (1 << 38, 1 << 38))
try:
    frontswap.Memory("16M")
except frontswap.OutOfMemoryError as error:
    print(error)
"""
    said = run_child(code).check().out
    assert "ulimit -v unlimited" in said
    assert "`frontswap doctor`" in said


def test_strict_overcommit_has_another_command(tree: Tree) -> None:
    tree.write("/proc/sys/vm/overcommit_memory", "2\n")
    assert causes.addresses(GiB, tree.machine).command == "sudo sysctl vm.overcommit_memory=0"


def test_few_mappings(tree: Tree) -> None:
    tree.write("/proc/sys/vm/max_map_count", "5000\n")
    tree.write("/proc/self/maps", "a mapping\n" * 4000)
    found = one(checks.process_limits, tree.machine)["mappings"]
    assert (found.level, found.command) == (Level.LIMIT, "sudo sysctl vm.max_map_count=262144")


# --- the swap directory --------------------------------------------------------------------------


def test_tmpdir_that_is_ram_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    if file_system(Path("/dev/shm")) != "tmpfs" or file_system(Path("/var/tmp")) in ("tmpfs", ""):
        pytest.skip("needs a tmpfs and a disk")
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    finding = one(checks.swap_directory, Machine())["swap directory"]
    assert (finding.level, "TMPDIR=/dev/shm is RAM or missing" in finding.what) == (Level.OK, True)


def test_the_default_directory_is_ram(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor, the error and a disk that both know of."""
    for name in ("frontswap.swap.default_directory", "frontswap.observe.checks.default_directory"):
        monkeypatch.setattr(name, lambda: Path("/dev/shm"))
    if file_system(Path("/dev/shm")) != "tmpfs":
        pytest.skip("/dev/shm is no tmpfs here")
    finding = one(checks.swap_directory, Machine())["swap directory"]
    assert finding.level is Level.FAILS
    assert finding.command.startswith("export TMPDIR=/")
    with pytest.raises(frontswap.SwapDirectoryError) as caught:
        frontswap.Memory("16M")
    assert finding.command in str(caught.value)
    assert finding.what in str(caught.value)


def test_a_small_disk(small_disk: Path) -> None:
    found = one(checks.swap_directory, Machine(), str(small_disk))
    assert (found["swap space"].level, found["swap directory"].level) == (Level.LIMIT, Level.OK)
    assert "ext4" in found["swap directory"].what
    assert os.listdir(small_disk) in ([], ["lost+found"])


# --- documents and errors ------------------------------------------------------------------------


def test_every_finding_is_documented_and_every_documented_finding_is_made() -> None:
    documented = re.findall(r"^### (.*)$", DOCS.read_text(), re.MULTILINE)
    if forbidden():
        for name in ("write protect", "SIGBUS mode", "MOVE", "POISON", "kernel faults", "SIGBUS"):
            documented.remove(name)
    else:  # what is said only where userfaultfd is forbidden
        documented.remove("protection")
        documented.remove("SIGSEGV")
    assert documented == [finding.name for finding in doctor.examine().findings]
    assert all(section in DOCS.read_text() for section in doctor.CHECKS)


def test_commands_that_causes_name_are_in_the_document(tree: Tree) -> None:
    text = DOCS.read_text()
    source = "".join(Path(str(module.__file__)).read_text() for module in (causes, checks))
    for said in re.findall(r'"((?:sudo sysctl|ulimit|docker run|echo madvise|export [A-Z_]+=)[^"]*)"', source):
        assert said in text, said


def test_readme_and_help_name_it() -> None:
    assert "frontswap doctor" in (DOCS.parent.parent / "README.md").read_text()
    assert cli.doctor.__doc__ is not None
    assert "docs/doctor.md" in cli.doctor.__doc__


def test_causes_import_nothing_heavy() -> None:
    """They are said when something has failed already, perhaps for want of memory."""
    code = "import sys, frontswap; assert 'rich' not in sys.modules; assert 'frontswap.observe' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "doctor" in causes.DOCTOR
    assert issubclass(errors.KernelSupportError, OSError)


def test_a_core_that_is_not_compiled_says_so(tmp_path: Path) -> None:
    """Then no doctor can be run: the import names the command."""
    source = Path(frontswap.__file__).parent
    shutil.copytree(source, tmp_path / "frontswap", ignore=shutil.ignore_patterns("*.so"))
    line = [sys.executable, "-c", "import frontswap"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"ImportError: {causes.NOT_COMPILED}\n" in done.stderr
    assert causes.NOT_COMPILED.command in DOCS.read_text()


def test_no_more_threads() -> None:
    code = """
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
try:
    frontswap.Memory("16M")
except frontswap.FrontswapError as error:
    print(error)
"""
    said = run_child(code, ordinary=True).check().out
    assert "no more threads can be started" in said
    assert "ulimit -u" in said


def test_what_fails_is_first_and_the_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Finding("swap directory", "/x is not a directory", "So it is.", "export TMPDIR=/y", Level.FAILS)
    good = Finding("kernel", "Linux", "Good.")
    monkeypatch.setattr(doctor, "examine", lambda where: doctor.Report({"Swap file": (good, bad)}))
    out = StringIO()
    assert doctor.show(None, as_json=False, console=Console(file=out, width=80)) == 1
    assert out.getvalue().startswith("frontswap does not work here: /x is not a directory.\n")
    assert "$ export TMPDIR=/y" in out.getvalue()
