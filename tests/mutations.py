"""``python tests/mutations.py [NUMBER ...]``: break the line behind each rule of the hooks, and see its test fail.

Each mutation is one replacement in the core or beside it, in a copy of the tree whose changed module is compiled
again. A mutation whose test still passes is printed as SURVIVED, and the exit status is 1. Takes about ten minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
RULES = "tests/test_rules.py"
BRING = "tests/test_bring.py"
REGISTRATION = "tests/test_registration.py"
RECOMPRESS = "tests/test_recompress.py"
POLICY = "tests/test_memory_policy.py"
INJECTED = "tests/test_injected.py"
NBD_BASES = "tests/test_nbd_bases.py"
NBD_STORM = "tests/test_nbd_storm.py"
NBD_RESIZE = "tests/test_nbd_resize.py"
CORE = "src/frontswap/core"


@dataclass(frozen=True)
class Mutation:
    """What is broken, and the tests (pytest -k) that must notice. `number` is that of the rule, 0 for what is beside."""

    rule: int
    file: str
    old: str
    new: str
    tests: str
    where: str = RULES


MUTATIONS = [
    # 1: a refused page goes to its slot; an accepted one is a copy
    Mutation(1, f"{CORE}/frontswap.py", "    if now < 0:\n        return slot_store", "    if now < -1:\n        return slot_store", "rule_1"),
    Mutation(1, f"{CORE}/adapter.py", "        if answer is False:\n            return REFUSED_OTHER", "        if answer is False:\n            return ACCEPTED", "rule_1"),
    # 2: space is reserved before it is needed; a page that nobody took is lost loudly
    Mutation(2, "src/frontswap/area.py", "            if self._overcommit:\n", "            if True:\n", "rule_2"),
    Mutation(2, f"{CORE}/areapages.py", "        page_poison(pg, page)\n    if result < 0:", "        store32(cython.address(pg.pages[page].state), NONE)\n    if result < 0:", "rule_2"),
    # 3: no older copy is left
    Mutation(3, f"{CORE}/frontswap.py", "        if (old & KIND) == RECORD_BACKEND and had != now:\n            forget", "        if False:\n            forget", "rule_3"),
    Mutation(3, f"{CORE}/areapages.py", "    if kind:\n        store32(cython.address(pg.pages[page].state), OUT | kind)", "    if kind:\n        store32(cython.address(pg.pages[page].state), OUT | kind if kind != SLOT or state == NONE else state)", "rule_3"),
    # 4: a load keeps the copy, an exclusive one takes it
    Mutation(4, f"{CORE}/areapages.py", "if held and loadi(cython.address(pg.exclusive)):", "if held:", "rule_4"),
    Mutation(4, f"{CORE}/areapages.py", "state[0] = OUT | SLOT if (state[0] & SLOT) != 0 else GONE", "state[0] = OUT | SLOT if (state[0] & SLOT) != 0 else NONE", "rule_4"),
    Mutation(4, f"{CORE}/bring.py", "    return not ctx.from_slot and loadi(cython.address(pg.exclusive)) != 0", "    return False", "rule_4"),
    # 5: a load that fails is loud
    Mutation(5, f"{CORE}/frontswap.py", "        if pg.areas == cython.NULL or (state & SLOT) == 0:\n            return error", "        if pg.areas == cython.NULL:\n            return error", "rule_5"),
    Mutation(5, f"{CORE}/areapages.py", "        page_poison(pg, page)\n        return -1", "        store32(cython.address(pg.pages[page].state), NONE)\n        return -1", "rule_5"),
    Mutation(5, f"{CORE}/filters.py", "        return LOAD_CHECKSUM\n", "        return 0\n", "rule_5"),
    # 6: writethrough writes the slot, and it is the answer when the backend has dropped the page
    Mutation(6, f"{CORE}/frontswap.py", "(loadi(cython.address(pg.writethrough)) or ctx.through)", "ctx.through", "rule_6"),
    Mutation(6, f"{CORE}/frontswap.py", "        if written < 0 and loadi(cython.address(pg.writethrough)):\n            return written", "        if False:\n            return written", "rule_6"),
    # 7: order, init for late backends, backends that leave while pages are stored
    Mutation(7, f"{CORE}/frontswap.py", "        if code == ACCEPTED:\n            # Before", "        if code == ACCEPTED and left == 0:\n            # Before", "rule_7"),
    Mutation(7, "src/frontswap/hooks.py", "for area in self._areas() if self._areas else []:\n                    begun.append(area)", "for area in []:\n                    begun.append(area)", "rule_7"),
    Mutation(7, f"{CORE}/hooks.py", "            while loadi(cython.address(pg.stack_users[n])) != 0 and clock_ns() < until:\n                backoff(turn)\n                turn += 1\n            while load64", "            while load64", "rule_7"),
    Mutation(7, f"{CORE}/frontswap.py", "        addi(cython.address(pg.stack_users[had]), 1)\n        if (old", "        addi(cython.address(pg.stack_users[had]), 0)\n        if (old", "stored_over", "tests/test_hooks_life.py"),
    # 8: shrink where there is room; exact counts
    Mutation(8, f"{CORE}/drain.py", "if load64(cython.address(pg.used)) + size > pg.budget - pg.low or charge", "if charge", "rule_8"),
    Mutation(8, f"{CORE}/drain.py", "pages_in_backends(pg) <= target", "pages_in_backends(pg) <= 0", "rule_8"),
    Mutation(8, f"{CORE}/frontswap.py", "        holder_change(pg, page, number, -1)\n        count_area(pg, page, A_INVALIDATES)", "        count_area(pg, page, A_INVALIDATES)", "map_and_counters or invalidated", "tests/test_conformance.py"),
    # 9: the coldest leave, in the background
    Mutation(9, f"{CORE}/writeback.py", "    number = pg.oldest\n", "    number = pg.newest\n", "rule_9"),
    Mutation(9, f"{CORE}/writeback.py", "        found = pool_lighten(pg, ctx)", "        found = -1", "rule_9"),
    # 10: a batch is there as soon as it is handed over
    Mutation(10, f"{CORE}/areapages.py", "        results[at] = cython.cast(int32_t, page_own(pg, block.first + offsets[at]))\n    for i in range(n):\n        at = order[i]\n", "        results[at] = cython.cast(int32_t, page_own(pg, block.first + offsets[at]))\n", "rule_10"),
    # 11: a counter for each reason
    Mutation(11, f"{CORE}/frontswap.py", "        add64(cython.address(pg.counters[C_REJECT + code]), 1)\n    return -1", "        add64(cython.address(pg.counters[C_REJECT + 1]), 1)\n    return -1", "rule_11"),
    Mutation(11, f"{CORE}/filters.py", "        return REFUSED_INJECTED", "        return REFUSED_LIMIT", "rule_11"),
    # 12: not used costs nothing
    Mutation(12, f"{CORE}/frontswap.py", "    if load64(cython.address(pg.order)) != 0:\n        if area", "    if True:\n        if area", "rule_12"),
    Mutation(12, f"{CORE}/arena.py", "    if loadi(cython.address(pg.registered)) == 0 and allocated + loose_counted(pg) + pg.spare_bytes <= budget:", "    if False:", "rule_12", REGISTRATION),
    Mutation(12, f"{CORE}/zap.py", "    if loadi(cython.address(pg.registered)) == 0:", "    if False:", "freed_array", REGISTRATION),
    Mutation(12, f"{CORE}/registration.py", "DIRTY if whole and pg.side != SIDE_PROTECTION else DIRTY | HOLES", "DIRTY", "holes", REGISTRATION),
    Mutation(12, f"{CORE}/whole.py", "        if first + i == owned:\n            continue\n        state =", "        if first + i == owned:\n            return False\n        state =", "one_piece", REGISTRATION),
    # pages that come back a huge page at a time
    Mutation(0, f"{CORE}/evict.py", "        if sum[0] != pg.sums[2 * (first + i)] or sum[1] != pg.sums[2 * (first + i) + 1]:", "        if False:", "in_the_moment", BRING),
    Mutation(0, f"{CORE}/evict.py", "    if (state[0] & UNSURE) != 0:\n        if region", "    if False:\n        if region", "in_the_moment or device", BRING),
    Mutation(0, f"{CORE}/bring.py", "    elif keeps and region_keep(pg, address, PAGE_TABLE) != 0:", "    elif False:", "who_writes_along", BRING),
    # recompression: nobody's newer bytes, and no damage, are overwritten
    Mutation(0, f"{CORE}/packing.py", "        p.where != one.where\n        or p.check != one.check\n        or pg.segments[segment_of(one.where)].serial != one.serial\n        or record_on_disk(pg, one.where)\n", "        p.where != one.where\n", "same_place or to_the_disk", RECOMPRESS),
    Mutation(0, f"{CORE}/packing.py", " or p.where != one.where or not cas32(cython.address(p.state), word, BUSY):\n        return False\n", " or not cas32(cython.address(p.state), word, BUSY):\n        return False\n    one.where, one.check = p.where, p.check\n", "by_hand or meanwhile or anew or gone", RECOMPRESS),
    Mutation(0, f"{CORE}/packing.py", "        and check_of(header.page, header.length, header.codec, cython.cast(bytes_p, header) + HEADER) == one.check\n", "        and True\n", "damage", RECOMPRESS),
    Mutation(0, f"{CORE}/packing.py", "    return load64(cython.address(pg.pool_bytes)) + length > pg.pool_hard or (", "    return False and (", "no_room", RECOMPRESS),
    # the block device door
    Mutation(0, f"{CORE}/areapages.py", "    if data == cython.NULL:\n        memset(ctx.plain + within", "    store32(cython.address(pg.pages[page].state), state)\n    for error in range(20000):\n        load32(cython.address(pg.pages[page].state))\n    error = 0\n    state = page_own(pg, page)\n    if data == cython.NULL:\n        memset(ctx.plain + within", "no_other_one", NBD_STORM),
    Mutation(0, f"{CORE}/areapages.py", "    if state != NONE and area.zeroing and", "    if False and area.zeroing and", "after_a_restart", NBD_BASES),
    Mutation(0, f"{CORE}/nbd.py", "    error = beyond(x, what, offset, length)\n    while", "    while", "began_before", NBD_RESIZE),
    Mutation(0, f"{CORE}/area.py", "            while not alone and clock_ns() < until:\n", "            alone = True\n            while False:\n", "storm_while", NBD_RESIZE),
    Mutation(0, "src/frontswap/nbd/base.py", "size=size, stray=old // PAGE)", "size=size)", "at_any_moment", NBD_RESIZE),
    Mutation(0, "src/frontswap/nbd/base.py", "        self._label(self.fd, self.size, self._worth, stray=self._stray)\n", "        pass\n", "at_any_moment", NBD_RESIZE),
    Mutation(0, "src/frontswap/nbd/base.py", "            found = _read_label(fd, self.size)\n", "            found = None\n", "at_any_moment", NBD_RESIZE),
    # a policy behind the memory door
    Mutation(0, f"{CORE}/victims.py", "            if not policy_has(pg, page):", "            if True:", "heard_again", POLICY),
    Mutation(0, f"{CORE}/victims.py", "    state[0] |= SLOT\n", "    state[0] |= 0\n", "every_byte", POLICY),
    Mutation(0, f"{CORE}/victims.py", "                if length < 0:", "                if length < -9:", "that_a_policy_names", INJECTED),
    Mutation(0, f"{CORE}/frontswap.py", "invalidate_page(pg, page, state | UNTOLD)", "invalidate_page(pg, page, state)", "written_to", POLICY),
]  # fmt: skip


def build(tree: Path) -> None:
    """Compile what has changed."""
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"does not compile:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def test(tree: Path, mutation: Mutation) -> tuple[bool, str]:
    """(all tests passed, the last line)."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=60"]
    command += [mutation.where, "-k", mutation.tests]
    environment = dict(os.environ, PYTHONPATH=str(tree / "src"))
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=600, check=False)
    lines = done.stdout.strip().splitlines() or [done.stderr[-200:]]
    failed = [line for line in lines if line.startswith("FAILED")]
    return done.returncode == 0, (failed or lines)[-1 if not failed else 0]


def main() -> int:
    """Exit code 1: a mutation has survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("numbers", type=int, nargs="*", help="mutations by their place in the list, from 1 (all)")
    wanted = parser.parse_args().numbers or range(1, len(MUTATIONS) + 1)
    survived = 0
    with tempfile.TemporaryDirectory(prefix="frontswap-mutations-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv", ".hypothesis"), symlinks=True)
        build(tree)
        for number in wanted:
            mutation = MUTATIONS[number - 1]
            file = tree / mutation.file
            sound = file.read_text()
            if sound.count(mutation.old) != 1:
                raise SystemExit(
                    f"mutation {number}: {mutation.file} has {sound.count(mutation.old)} of {mutation.old!r}"
                )
            file.write_text(sound.replace(mutation.old, mutation.new))
            build(tree)
            passed, line = test(tree, mutation)
            survived += passed
            what = mutation.new.strip().splitlines()[0]
            print(
                f"{'SURVIVED' if passed else 'noticed '} {number}: rule {mutation.rule}: {what}\n    {line[:150]}",
                flush=True,
            )
            file.write_text(sound)
        build(tree)
    print(f"{len(list(wanted)) - survived} noticed, {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
