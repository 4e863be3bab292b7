"""The jobs of `python -m bench.jobs`, as users have them: `python tasks.py NAME ROWS` prints what it found as JSON.

pandas, polars and duckdb answer the questions of h2o.ai's db-benchmark (groupby, joins, a sort) on
tables like its own: K=100 groups, keys as text and as numbers. Their answers are reduced to numbers that no order of
rows or threads changes: v3 has 20 binary places, so its sums are exact, and what is not exact (deviations, regressions)
is rounded. So all three must print the same digest.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

GROUPS = 100  # the benchmark's K
SEED = 108  # and its seed
THREADS = 2  # where a result depends on their number

Columns = dict[str, np.ndarray]
Answers = Iterator[object]
Joins = tuple[tuple[str, str, Any], ...]  # with which table, on which column, how

SMALL: Joins = (("small", "id1", "inner"), ("medium", "id2", "inner"), ("medium", "id2", "left"))
BIG: Joins = (("big", "id3", "inner"),)


def table(rows: int) -> tuple[Columns, dict[str, np.ndarray]]:
    """G1: three keys as text (codes, and their words), three as numbers, three values."""
    rng = np.random.default_rng(SEED)
    many = max(rows // GROUPS, 1)
    levels = {"id1": GROUPS, "id2": GROUPS, "id3": many, "id4": GROUPS, "id5": GROUPS, "id6": many}
    found: Columns = {name: rng.integers(0, most, rows, np.int32) for name, most in levels.items()}
    found["v1"] = rng.integers(1, 6, rows, np.int32)
    found["v2"] = rng.integers(1, 16, rows, np.int32)
    found["v3"] = rng.integers(0, 100 << 20, rows, np.int32) / float(1 << 20)
    few = np.array([f"id{number:03d}" for number in range(GROUPS)], object)
    return found, {"id1": few, "id2": few, "id3": np.array([f"id{number:010d}" for number in range(many)], object)}


def sides(rows: int, joins: Joins) -> dict[str, Columns]:
    """J1: the large table x, and those to join it with; a tenth of their keys are only there, and as many only in x."""
    rng = np.random.default_rng(SEED + 1)
    sizes = {"small": max(rows // 1_000_000, 10), "medium": max(rows // 1000, 10), "big": rows}
    x: Columns = {"v1": rng.integers(1, 1000, rows, np.int32)}
    found = {"x": x}
    for name, key, _ in joins:
        if name not in found:
            size = sizes[name]
            keys = rng.permutation(size + size // 10)[:size].astype(np.int32)
            x[key] = rng.integers(0, size, rows, np.int32)
            found[name] = {key: keys, "v2": rng.integers(1, 1000, size, np.int32)}
    return found


def rounded(value: float) -> str:
    """What is left of a number whose last digits depend on the order of a sum."""
    return f"{value:.6g}"


def bits(*columns: Any) -> str:
    """A digest of columns in their order, text or numbers."""
    digest = hashlib.sha256()
    for column in columns:
        array = np.asarray(column)
        if array.dtype.kind in "iuf":
            digest.update(np.ascontiguousarray(array, "f8" if array.dtype.kind == "f" else "i8").data)
        else:
            digest.update("\n".join(array.tolist()).encode())
    return digest.hexdigest()


def pandas_frame(rows: int) -> Any:
    """G1 as h2o has it for pandas."""
    import pandas as pd

    columns, words = table(rows)
    for name, known in words.items():
        columns[name] = pd.Categorical.from_codes(columns[name], known)
    return pd.DataFrame(columns, copy=False)


def pandas(rows: int) -> Answers:
    """h2o's questions: malloc, and mimalloc for text."""
    x = pandas_frame(rows)
    yield int(x.memory_usage().sum())

    def by(*keys: str) -> Any:
        return x.groupby(list(keys), observed=True, sort=True)

    def digest(frame: Any) -> str:
        frame = frame.reset_index()
        return bits(*(frame[name].to_numpy() for name in frame))

    yield digest(by("id1").agg({"v1": "sum"}))
    yield digest(by("id1", "id2").agg({"v1": "sum"}))
    yield digest(by("id3").agg({"v1": "sum", "v3": "mean"}))
    yield digest(by("id4").agg({"v1": "mean", "v2": "mean", "v3": "mean"}))
    yield digest(by("id6").agg({"v1": "sum", "v2": "sum", "v3": "sum"}))
    both = by("id4", "id5").v3.agg(["median", "std"])
    yield digest(both[["median"]])
    yield rounded(both["std"].sum())
    both = by("id3").agg({"v1": "max", "v2": "min"})
    yield digest((both.v1 - both.v2).to_frame())
    two = x[["id6", "v3"]].sort_values("v3", ascending=False).groupby("id6", sort=False).head(2)
    yield digest(two.sort_values(["id6", "v3"]).set_index("id6"))
    squares = x[["id2", "id4"]].assign(a=x.v1 * x.v2, b=x.v1 * x.v1, c=x.v2 * x.v2, v1=x.v1, v2=x.v2, n=1)
    yield regression(*(v.to_numpy() for _, v in squares.groupby(["id2", "id4"], observed=True).sum().items()))
    del squares
    ordered = x.sort_values(["id6", "v3", "id5", "id4", "v1", "v2"])
    yield digest(ordered[["id6", "v3", "id4", "id5", "v1", "v2"]].iloc[::97].set_index("id6"))
    ordered = x = None

    yield from pandas_joins(rows, SMALL)


def pandas_joins(rows: int, joins: Joins) -> Answers:
    import pandas as pd

    frames = {name: pd.DataFrame(found, copy=False) for name, found in sides(rows, joins).items()}
    for name, key, how in joins:
        joined = frames["x"].merge(frames[name], on=key, how=how)
        matched = joined.v2.notna()
        v1, v2 = joined.v1[matched], joined.v2[matched]
        yield len(joined), int(matched.sum()), int(v1.sum()), int(v2.sum()), int((v1.astype("i8") * v2).sum())


def pandas_large(rows: int) -> Answers:
    """Hash tables with an entry for every row, read and written at random: q10, and the join with the big table."""
    x = pandas_frame(rows)
    yield int(x.memory_usage().sum())
    each = x.groupby([f"id{key}" for key in range(1, 7)], observed=True).agg(v3=("v3", "sum"), count=("v1", "size"))
    yield len(each), float(each.v3.sum()), int((each["count"] ** 2).sum()), float((each.v3 * each["count"]).sum())
    each = x = None
    yield from pandas_joins(rows, BIG)


def regression(a: Any, b: Any, c: Any, v1: Any, v2: Any, n: Any) -> str:
    """The squares of the correlations of v1 and v2 of each group, from its exact sums."""
    a, b, c, v1, v2, n = (np.asarray(column, "f8") for column in (a, b, c, v1, v2, n))
    with np.errstate(divide="ignore", invalid="ignore"):  # a group of one row
        squares = (n * a - v1 * v2) ** 2 / ((n * b - v1**2) * (n * c - v2**2))
    return rounded(float(np.nansum(squares)))


def polars_frame(rows: int) -> Any:
    """G1 with its text as it is."""
    import polars as pl

    columns, words = table(rows)
    return pl.DataFrame(
        {
            name: pl.Series(name, words[name].tolist()).gather(column) if name in words else pl.Series(name, column)
            for name, column in columns.items()
        }
    )


def polars(rows: int) -> Answers:
    """h2o's questions: jemalloc."""
    import polars as pl

    x = polars_frame(rows)
    yield int(x.estimated_size())

    def digest(frame: Any) -> str:
        return bits(*(frame[name].to_numpy() for name in frame.columns))

    v1, v2, v3 = pl.col("v1").cast(pl.Int64), pl.col("v2").cast(pl.Int64), pl.col("v3")
    yield digest(x.group_by("id1").agg(v1.sum()).sort("id1"))
    yield digest(x.group_by("id1", "id2").agg(v1.sum()).sort("id1", "id2"))
    yield digest(x.group_by("id3").agg(v1.sum(), v3.mean()).sort("id3"))
    yield digest(x.group_by("id4").agg(v1.mean(), v2.mean(), v3.mean()).sort("id4"))
    yield digest(x.group_by("id6").agg(v1.sum(), v2.sum(), v3.sum()).sort("id6"))
    both = x.group_by("id4", "id5").agg(v3.median(), v3.std().alias("std")).sort("id4", "id5")
    yield digest(both.drop("std"))
    yield rounded(float(both["std"].sum()))
    yield digest(x.group_by("id3").agg(range=v1.max() - v2.min()).sort("id3"))
    two = x.group_by("id6").agg(v3.top_k(2)).explode("v3")
    yield digest(two.sort("id6", "v3"))
    sums = x.group_by("id2", "id4").agg(
        (v1 * v2).sum().alias("a"),
        (v1 * v1).sum().alias("b"),
        (v2 * v2).sum().alias("c"),
        v1.sum(),
        v2.sum(),
        pl.len().alias("n"),
    )
    yield regression(*(sums[name].to_numpy() for name in ("a", "b", "c", "v1", "v2", "n")))
    ordered = x.sort("id6", "v3", "id5", "id4", "v1", "v2")
    yield digest(ordered.select("id6", "v3", "id4", "id5", "v1", "v2").gather_every(97))
    ordered = x = None
    yield from polars_joins(rows, SMALL)


def polars_joins(rows: int, joins: Joins) -> Answers:
    import polars as pl

    v1, v2 = pl.col("v1").cast(pl.Int64), pl.col("v2").cast(pl.Int64)
    frames = {name: pl.DataFrame(found) for name, found in sides(rows, joins).items()}
    for name, key, how in joins:
        joined = frames["x"].join(frames[name], on=key, how=how)
        matched = joined.filter(pl.col("v2").is_not_null())
        sums = matched.select(v1.sum(), v2.sum(), (v1 * v2).sum().alias("both"))
        yield len(joined), len(matched), *(int(value) for value in sums.row(0))


def polars_large(rows: int) -> Answers:
    """As pandas_large."""
    import polars as pl

    x = polars_frame(rows)
    yield int(x.estimated_size())
    keys = [f"id{key}" for key in range(1, 7)]
    each = x.group_by(keys).agg(pl.col("v3").sum(), pl.len().cast(pl.Int64).alias("count"))
    count = each["count"]
    yield len(each), float(each["v3"].sum()), int((count * count).sum()), float((each["v3"] * count).sum())
    each = count = x = None
    yield from polars_joins(rows, BIG)


def duckdb_table(connection: Any, rows: int) -> int:
    """G1 as table x; its size."""
    frame = pandas_frame(rows)
    connection.execute("set preserve_insertion_order = false")
    connection.register("frame", frame)
    text = ", ".join(f"{name}::varchar as {name}" for name in ("id1", "id2", "id3"))
    connection.execute(f"create table x as select * replace ({text}) from frame")
    connection.unregister("frame")
    return int(frame.memory_usage().sum())


def duckdb(rows: int) -> Answers:
    """h2o's questions: malloc, in blocks of 256 KiB."""
    import duckdb as database

    with database.connect() as connection:
        yield duckdb_table(connection, rows)

        def ask(question: str) -> list[np.ndarray]:
            return list(connection.execute(question).fetchnumpy().values())

        yield bits(*ask("select id1, sum(v1)::bigint from x group by all order by all"))
        yield bits(*ask("select id1, id2, sum(v1)::bigint from x group by all order by all"))
        yield bits(*ask("select id3, sum(v1)::bigint, avg(v3) from x group by all order by id3"))
        yield bits(*ask("select id4, avg(v1), avg(v2), avg(v3) from x group by all order by id4"))
        yield bits(*ask("select id6, sum(v1)::bigint, sum(v2)::bigint, sum(v3) from x group by all order by id6"))
        *keys, median, deviation = ask("select id4, id5, median(v3), stddev(v3) from x group by all order by id4, id5")
        yield bits(*keys, median)
        yield rounded(float(deviation.sum()))
        yield bits(*ask("select id3, max(v1) - min(v2) from x group by all order by id3"))
        two = "select id6, unnest(max(v3, 2)) as v3 from x group by id6 order by all"
        yield bits(*ask(two))
        sums = "sum(v1 * v2)::bigint, sum(v1 * v1)::bigint, sum(v2 * v2)::bigint, sum(v1)::bigint, sum(v2)::bigint"
        yield regression(*ask(f"select {sums}, count(*) from x group by id2, id4"))
        order = "id6, v3, id5, id4, v1, v2"
        numbered = f"select id6, v3, id4, id5, v1, v2, row_number() over (order by {order}) as place from x"
        yield bits(*ask(f"select * exclude (place) from ({numbered}) where place % 97 = 1 order by place"))
        connection.execute("drop table x")

        yield from duckdb_joins(connection, rows, SMALL)


def duckdb_joins(connection: Any, rows: int, joins: Joins) -> Answers:
    import pandas as pd

    for name, columns in sides(rows, joins).items():
        side = pd.DataFrame(columns, copy=False)
        connection.register("frame", side)
        connection.execute(f'create table "{name}" as select * from frame')
        connection.unregister("frame")
        del side, columns
    for name, key, how in joins:
        joined = f'select x.v1, r.v2 from x {how} join "{name}" r using ({key})'
        matched = "count(v2), sum(v1) filter (v2 is not null), sum(v2), sum(v1 * v2)"
        found = connection.execute(f"select count(*), {matched} from ({joined})").fetchone()
        yield tuple(int(value) for value in found)


def duckdb_large(rows: int) -> Answers:
    """As pandas_large."""
    import duckdb as database

    with database.connect() as connection:
        yield duckdb_table(connection, rows)
        each = "select sum(v3) as v3, count(*) as n from x group by id1, id2, id3, id4, id5, id6"
        sums = "count(*), sum(v3), sum(n * n)::bigint, sum(v3 * n)"
        yield connection.execute(f"select {sums} from ({each})").fetchone()
        connection.execute("drop table x")
        yield from duckdb_joins(connection, rows, BIG)


def forest(rows: int) -> Answers:
    """A random forest of whole trees: malloc, and realloc as they grow."""
    from sklearn.ensemble import RandomForestClassifier

    samples, features = max(rows // 20, 1000), 20
    rng = np.random.default_rng(SEED)
    x = (rng.integers(0, 4000, (samples, features), np.int32) / 100).astype(np.float32)
    noise = rng.integers(0, 1200, samples) / 10  # much of it: large trees
    y = ((x[:, 0] + x[:, 1] * (x[:, 2] > 20) + noise) / 20).astype(np.int8)
    yield x.nbytes + y.nbytes
    model = RandomForestClassifier(16, random_state=SEED, n_jobs=THREADS).fit(x, y)
    yield [tree.tree_.node_count for tree in model.estimators_]
    yield bits(*(column for tree in model.estimators_ for column in (tree.tree_.feature, tree.tree_.threshold)))
    yield bits(model.apply(x))


def svd(rows: int) -> Answers:
    """The largest singular values of a sparse matrix, as recommendations are made of: malloc, and OpenBLAS."""
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import svds

    each = 40  # of a row: small values, and ids of which some are frequent, in order
    columns = max(rows // 100, 1000)
    rng = np.random.default_rng(SEED)
    places = np.sort((rng.random((rows // 4, each), np.float32) ** 3 * columns).astype(np.int32), axis=1).ravel()
    stars = rng.integers(1, 11, places.size, np.int8) / 2.0
    a = csr_array((stars, places, np.arange(0, places.size + 1, each, dtype=np.int32)), shape=(rows // 4, columns))
    del places, stars
    yield a.data.nbytes + a.indices.nbytes + a.indptr.nbytes
    found = svds(a, 6, v0=np.ones(min(a.shape)), return_singular_vectors=False)
    yield [rounded(value) for value in sorted(found)]


def torch(rows: int) -> Answers:
    """Training with Adam: parameters, gradients and two moments of each; posix_memalign."""
    import torch
    from torch import nn

    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    width, depth = 4096 if rows >= 1_000_000 else 512, max(rows // 1_600_000, 1)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    yield sum(parameter.nbytes for parameter in model.parameters())
    adam = torch.optim.Adam(model.parameters(), lr=1e-4)
    for _ in range(8):
        x, y = torch.rand(128, width), torch.randint(0, 10, (128,))
        adam.zero_grad()
        loss: Any = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        adam.step()
        yield rounded(loss.item())
    for parameter in model.parameters():
        yield rounded(float(parameter.detach().double().square().sum()))


JOBS: dict[str, Callable[[int], Answers]] = {
    job.__name__.replace("_", "-"): job
    for job in (pandas, polars, duckdb, pandas_large, polars_large, duckdb_large, forest, svd, torch)
}


def main() -> None:
    begun = time.perf_counter()
    size, *answers = JOBS[sys.argv[1]](int(sys.argv[2]))
    seconds = time.perf_counter() - begun
    digest = hashlib.sha256("\n".join(map(str, answers)).encode()).hexdigest()
    print(json.dumps({"bytes": size, "seconds": seconds, "digest": digest}))


if __name__ == "__main__":
    main()
