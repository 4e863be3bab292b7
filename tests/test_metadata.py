"""What a page costs beside its record, and what addresses cost that nobody has touched: seen from outside."""

from __future__ import annotations

import pytest
from helpers import MiB, run_child

PER_PAGE = 24

# RSS without what statistics() accounts for: Python itself, the reserve, and the tables.
TOOLS = """
from pathlib import Path

def rss():
    "Resident bytes of this process, exact: /proc/self/status may lag by some pages for each thread."
    found = Path("/proc/self/smaps_rollup").read_text()
    return int(found.split("Rss:")[1].split()[0]) << 10

def beside(memory):
    now = quiet(memory)
    return rss() - now.resident_bytes - now.pool_bytes - now.swap_buffer_bytes
"""


def test_a_page_costs_24_bytes() -> None:
    pages = 128 << 10
    code = f"""
memory = frontswap.Memory("16M", page=4096, overcommit=True)
array = memory.empty({pages} * 4096, "u1")
memory.advise(array, "random")
middle = array[: len(array) // 4]
# Out, both times: of what is protected a page that was only read is the kernel's own page of zeros, and in no RSS.
middle[::4096].sum()
memory.advise(array, "cold")
before = beside(memory)
array[::4096].sum()
memory.advise(array, "cold")
after = beside(memory)
print(after - before)
"""
    grown = run_child(TOOLS + code, fresh=True).check().result
    touched = pages * 3 // 4
    assert grown / touched <= PER_PAGE * 1.05  # a twentieth: page tables of the tables, whole pages of them


@pytest.mark.parametrize("arena", ["1T", "32T"])
def test_addresses_cost_nothing(arena: str) -> None:
    code = f"""
before = rss()
memory = frontswap.Memory("16M", arena="{arena}", overcommit=True)
print(rss() - before - memory.statistics().reserve_bytes)
"""
    assert run_child(TOOLS + code, fresh=True).check().result <= MiB


def test_sparse_array_costs_hardly_more_than_what_is_touched() -> None:
    """Half a TiB, a byte in each GiB written."""
    code = """
memory = frontswap.Memory("16M", page=4096, overcommit=True)
memory.ones(1)
before = beside(memory)
array = memory.empty(1 << 39, "u1")
memory.advise(array, "random")
array[:: 1 << 30] = 1
assert array[:: 1 << 30].sum() == 512
print(beside(memory) - before)
"""
    # For each page that was touched a page of the table of pages; and 24 KiB a GiB: its chunks and swap slots.
    assert run_child(TOOLS + code, fresh=True).check().result <= 512 * (4096 + (24 << 10)) + 2 * MiB


def test_many_small_arrays() -> None:
    """What an array costs beside its pages."""
    code = """
memory = frontswap.Memory("32M", page=4096)
first = [memory.ones(100) for _ in range(200)]
gc.collect()
before = beside(memory)
more = [memory.ones(100) for _ in range(2000)]
print(beside(memory) - before)
"""
    # NumPy's own object, our description of the array, its page in the tables, its page table entries: below a page.
    assert run_child(TOOLS + code, fresh=True).check().result <= 2000 * 4096
