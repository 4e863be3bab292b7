"""The guest is the machine it says it is, and hands back what its command says."""

from __future__ import annotations

import guest
import pytest

LOOK = """
uname -r
id -u
cat /sys/fs/cgroup/job/memory.max
python -c 'from frontswap.core.plane import kernel_features; print(kernel_features())'
touch /work-is-read-only "$PWD/x" 2>/dev/null || echo read-only
dd if=/dev/zero of=/var/tmp/x bs=4096 count=1 oflag=direct status=none && stat -f -c %T /var/tmp
exit 41
"""


@pytest.mark.slow
def test_an_ordinary_user_on_debians_kernel(capfd: pytest.CaptureFixture[str]) -> None:
    if reason := guest.why_not():
        pytest.skip(reason)
    assert guest.Guest(["sh", "-c", LOOK], memory_max=512 << 20, timeout=300).run() == 41
    release, user, most, features, *rest = capfd.readouterr().out.splitlines()
    assert release.startswith("6.1.")
    assert (user, int(most)) == ("65534", 512 << 20)
    assert features == str({"userfaultfd": True, "sigbus": True, "write_protect": True, "move": False, "poison": False})
    assert rest == ["read-only", "ext2/ext3"]


@pytest.mark.slow
def test_what_hangs_is_killed_and_what_dies_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    if reason := guest.why_not():
        pytest.skip(reason)
    assert guest.Guest(["sleep", "1000"], timeout=5).run() == guest.TIMED_OUT
    with pytest.raises(guest.GuestError, match="the guest died"):
        guest.Guest(["true"], memory=64 << 20, timeout=300).run()
    assert "killed" in capfd.readouterr().err
