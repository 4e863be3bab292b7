"""Pools of workers under `frontswap run`: each worker is a process of the run, whoever has started it, and however."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from helpers import same_under_run

# What all of them do: rows of an array that is larger than the budget, by several processes, and back.
WORK = """
import hashlib
import numpy as np

def rows(seed):
    return np.random.default_rng(seed).integers(0, 1 << 60, (4 << 20) // 8)

def change(part):
    index, values = part
    assert (values == rows(index)).all()
    scratch = np.concatenate([values, values + index])     # of the worker's own
    return index, scratch[len(values):] * 3

def tell(results):
    digest = hashlib.sha256()
    for index, values in sorted(results, key=lambda result: result[0]):
        assert (values == (rows(index) + index) * 3).all()
        digest.update(values.tobytes())
    print(digest.hexdigest())
"""
POOL = """
import multiprocessing
from work import *
if __name__ == "__main__":
    multiprocessing.set_start_method("{method}")
    parts = [(index, rows(index)) for index in range(16)]
    with multiprocessing.Pool(2) as pool:
        tell(pool.map(change, parts, chunksize=2))
"""
JOBLIB = """
from joblib import Parallel, delayed
from work import *
if __name__ == "__main__":
    parts = [(index, rows(index)) for index in range(16)]
    # 1M: what is larger goes by way of a file that the workers map
    tell(Parallel(n_jobs=2, backend="{backend}", max_nbytes={nbytes})(delayed(change)(part) for part in parts))
"""
SHARED = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import shared_memory
from work import *

def at(name):
    memory = shared_memory.SharedMemory(name)
    return memory, np.ndarray((16, (4 << 20) // 8), np.int64, memory.buf)

def put(arguments):
    name, index = arguments
    memory, array = at(name)
    array[index] = change((index, array[index].copy()))[1]
    del array
    memory.close()

if __name__ == "__main__":
    made = shared_memory.SharedMemory(create=True, size=16 * (4 << 20))
    array = np.ndarray((16, (4 << 20) // 8), np.int64, made.buf)
    for index in range(16):
        array[index] = rows(index)
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(put, [(made.name, index) for index in range(16)]))
    tell([(index, array[index].copy()) for index in range(16)])
    del array
    made.unlink()
"""
DATALOADER = """
import torch
from torch.utils.data import DataLoader, Dataset
from work import *

class Rows(Dataset):
    def __init__(self):
        self.all = np.concatenate([rows(index) for index in range(16)]).reshape(16, -1)
    def __len__(self):
        return 16
    def __getitem__(self, index):
        return index, torch.from_numpy(change((index, self.all[index]))[1])

if __name__ == "__main__":
    torch.multiprocessing.set_sharing_strategy("file_system")
    loader = DataLoader(Rows(), batch_size=2, num_workers=2, multiprocessing_context="{method}")
    tell([(int(i), row.numpy()) for index, batch in loader for i, row in zip(index, batch)])
"""
PROGRAMS = {
    **{f"multiprocessing-{method}": POOL.format(method=method) for method in ("fork", "forkserver", "spawn")},
    "joblib-loky": JOBLIB.format(backend="loky", nbytes="'1M'"),
    "joblib-loky-pickled": JOBLIB.format(backend="loky", nbytes=None),
    "joblib-multiprocessing": JOBLIB.format(backend="multiprocessing", nbytes="'1M'"),
    "joblib-threading": JOBLIB.format(backend="threading", nbytes=None),
    "futures": SHARED,
    "dataloader-fork": DATALOADER.format(method="fork"),
    "dataloader-spawn": DATALOADER.format(method="spawn"),
}
NEEDS = {"joblib": "joblib", "dataloader": "torch"}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PROGRAMS))
def test_the_same_results(name: str, tmp_path: Path) -> None:
    package = NEEDS.get(name.partition("-")[0], "numpy")
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    (tmp_path / "work.py").write_text(WORK)
    program = tmp_path / "program.py"
    program.write_text(PROGRAMS[name])

    environment = {"PATH": "/usr/bin:/bin", "JOBLIB_TEMP_FOLDER": str(tmp_path)}
    found = same_under_run("48M", str(program), environment=environment)
    assert found["evicted_dirty"] > 0, found
    assert found["poisoned"] == 0
