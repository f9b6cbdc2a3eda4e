"""Semantic deduplication of 0.1M, 0.3M and 1M planted vectors under a memory budget: seconds a million rows, their slope, peak memory, recall.

usage: vectors_scale.py [--trommel PATH] [--cache FOLDER] [--rows 100000 300000 1000000] [--dimensions 384] [--memory 2GiB] [--limit-mib 2560]
                        [--methods auto ivf kmeans] [--epsilon 0.05] [--rounds 1] [--threads 2] [--make-only] [--json FILE]
       (pip install pyarrow numpy; 1M x 384 take 1.6 GB of disk for the input, as much again for the output, and what trommel spills)

A method is a word of `method`, with other keys of the stage after commas where wanted (`ivf,probe=8`); `default` names none.

The input is made shard by shard (50,000 rows, uncompressed float32), each from its own seed and with centres of its own, so that a centre has 50
rows at any size; a tenth of a shard's rows are copies, at a cosine of about .98, of rows of one other shard among those made before (or its own). A
size is the first so many shards of the largest. Nothing is held but two shards.

* planted: of the copies whose original is over the cosine, the share of which not both rows were kept: what the run found of the planted pairs.
* recall: what the stage measured on a sample itself, from the manifest.
* slope: how many times the seconds grow for each tenfold of rows, as a power: log of the ratio of seconds over log of the ratio of rows; 1 is linear.

The peak is `ru_maxrss` of the process, as the kernel counted it. Ends with 1 where one is over the limit, or a run fails.
"""

import argparse
import math
import os
import shutil
import statistics
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import near
import vectors

SHARD_ROWS = 50_000
COPY_SHARE = 10  # one in so many rows is a copy


def shard_path(folder, number):
    """Names sort as the numbers do."""
    return folder / f"part-{number:04}.parquet"


def make_shard(folder, number, dimensions, seed=1):
    """One shard: noisy points around its own centres; then copies of its own rows or of a shard before."""
    draw = np.random.default_rng([seed, number])
    matrix = np.random.default_rng([seed]).standard_normal((vectors.LATENT, dimensions), dtype=np.float32) / math.sqrt(vectors.LATENT)
    centres = SHARD_ROWS // vectors.ROWS_A_CENTRE
    points = draw.standard_normal((centres, vectors.LATENT), dtype=np.float32)[draw.integers(0, centres, SHARD_ROWS)]
    points += vectors.SPREAD * draw.standard_normal(points.shape, dtype=np.float32)
    rows = points @ matrix
    rows += vectors.NOISE * draw.standard_normal(rows.shape, dtype=np.float32)
    rows = vectors.unit(rows)
    count = SHARD_ROWS // COPY_SHARE
    replaced, sources = draw.choice(SHARD_ROWS, count, replace=False), draw.integers(0, SHARD_ROWS, count)
    from_shard = int(draw.integers(0, number + 1))
    originals = rows if from_shard == number else vectors.read_vectors(shard_path(folder, from_shard))
    rows[replaced] = originals[sources] + vectors.TIGHT_NOISE * draw.standard_normal((count, dimensions), dtype=np.float32)
    original = np.full(SHARD_ROWS, -1, np.int64)
    original[replaced] = from_shard * SHARD_ROWS + sources
    first = number * SHARD_ROWS
    vectors.publish(vectors.vector_table(vectors.unit(rows), first, original=pa.array(original)), shard_path(folder, number))


def planted(options, rows):
    """A glob of the first shards; made where they are not there yet."""
    folder = options.cache / "vectors" / f"scale-{options.dimensions}"
    count = max(1, round(rows / SHARD_ROWS))
    part = options.cache / "vectors" / f"scale-{options.dimensions}-{count}"
    part.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = shard_path(folder, number)
        if not path.exists():
            make_shard(folder, number, options.dimensions)
        link = part / path.name
        if not link.exists():
            os.link(path, link)
    return f"{part}/*.parquet"


def planted_pairs(pattern, least):
    """Rows of the copies and of their originals whose cosine is over the threshold (an original may have become a copy itself)."""
    copies, originals = [], []
    paths = vectors.inputs.shards(pattern)
    for place, path in enumerate(paths):
        original = pq.read_table(path, columns=["original"])["original"].to_numpy()
        copy = np.flatnonzero(original >= 0)
        sources = original[copy]
        own = vectors.read_vectors(path)
        other = {shard: vectors.read_vectors(paths[shard]) for shard in np.unique(sources // SHARD_ROWS).tolist()}
        for shard, held in other.items():
            inside = sources // SHARD_ROWS == shard
            a, b = vectors.unit(own[copy[inside]]), vectors.unit(held[sources[inside] % SHARD_ROWS])
            near_enough = (a * b).sum(axis=1) > least
            copies.append(copy[inside][near_enough] + place * SHARD_ROWS)
            originals.append(sources[inside][near_enough])
    return np.concatenate(copies), np.concatenate(originals)


def measure(options, method, pattern):
    """The median of --rounds cold runs, the largest peak."""
    stage, scratch = vectors.stage_of(method, epsilon=options.epsilon), options.cache / "vectors-scale"
    runs = []
    for _ in range(options.rounds):
        runs.append(vectors.run_trommel(options, pattern, stage, scratch, ["--memory", options.memory]))
        for folder in ["out", "work"]:  # as large as the input
            shutil.rmtree(scratch / folder, ignore_errors=True)
    last = runs[-1]
    figure = {"seconds": statistics.median(run.usage.seconds for run in runs), "search": statistics.median(run.search_seconds for run in runs)}
    figure |= {"cpu": statistics.median(run.usage.cpu for run in runs), "peak": max(run.usage.peak for run in runs)}
    figure |= {"dropped": int(last.gone.sum()), "recall": vectors.sampled_recall(last.report), "work_bytes": last.work_bytes}
    return figure | {"phases": last.phases, "report": last.report}, last.gone


def slope(one, other, part):
    """Growth of a part's seconds between two sizes, as a power of the rows."""
    return math.log(other[part] / one[part]) / math.log(other["rows"] / one["rows"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    near.common_options(parser)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000, 1_000_000], help=f"in steps of {SHARD_ROWS}")
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--limit-mib", type=float, default=2560)
    parser.add_argument("--methods", nargs="+", default=["auto", "ivf", "kmeans"])
    parser.add_argument("--epsilon", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--make-only", action="store_true", help="make the input and leave trommel out")
    options = parser.parse_args()
    if not options.make_only:
        near.need_trommel(options)
    figures, failures, lines = {"memory": options.memory, "runs": []}, [], []
    last = {}
    for rows in sorted(options.rows):
        pattern = planted(options, rows)
        size = sum(Path(path).stat().st_size for path in vectors.inputs.shards(pattern))
        rows = sum(pq.read_metadata(path).num_rows for path in vectors.inputs.shards(pattern))
        copies, originals = planted_pairs(pattern, 1 - options.epsilon)
        print(f"{rows} x {options.dimensions}: {size / 1e6:.0f} MB of Parquet, {len(copies)} copies within epsilon of their original", flush=True)
        for method in [] if options.make_only else options.methods:
            try:
                figure, gone = measure(options, method, pattern)
            except SystemExit as failure:
                failures.append(f"{method}, {rows} rows: {vectors.first_words(failure)}")
                continue
            figure |= {"method": method, "rows": rows, "planted": float((gone[copies] | gone[originals]).mean())}
            before = last.get(method)
            figure |= {f"slope_{part}": slope(before, figure, part) if before else None for part in ("seconds", "search")}
            figures["runs"].append(figure)
            last[method] = figure
            print(f"  {method}: {figure['seconds']:.1f} s, peak resident {figure['peak'] / 2**20:.0f} MiB", flush=True)
            vectors.print_report(figure["report"], "    ")
            if figure["peak"] > options.limit_mib * 2**20:
                failures.append(f"{method}, {rows} rows: {figure['peak'] / 2**20:.0f} MiB, over the limit of {options.limit_mib:.0f}")
    head = ["method", "rows", "seconds", "s/M rows", "slope", "search", "s/M rows", "slope", "CPU s", "MiB", "work MB"]
    head += ["recall", "planted", "dropped"]
    for run in sorted(figures["runs"], key=lambda run: (options.methods.index(run["method"]), run["rows"])):
        cells = [run["method"], run["rows"]]
        for part in ("seconds", "search"):
            cells += [f"{run[part]:.2f}", f"{run[part] * 1e6 / run['rows']:.1f}", vectors.shown(run[f"slope_{part}"], 2)]
        cells += [f"{run['cpu']:.1f}", f"{run['peak'] / 2**20:.0f}", f"{run['work_bytes'] / 1e6:.0f}"]
        lines.append([*cells, vectors.shown(run["recall"]), vectors.shown(run["planted"]), run["dropped"]])
    if lines:
        print(f"\n--memory {options.memory}, {options.threads} threads")
        vectors.print_table(head, [14, 8, 8, 8, 6, 8, 8, 6, 7, 6, 7, 7, 8, 8], lines)
    near.finish(options, figures, failures)


if __name__ == "__main__":
    main()
