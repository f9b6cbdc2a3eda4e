"""One lineage for every number of threads, batch size, memory budget and cut of the shards, for each method of `semantic_dedup`; bad vectors counted.

usage: vectors_determinism.py [--trommel PATH] [--cache FOLDER] [--methods auto ivf flat hnsw kmeans] [--rows 30000] [--dimensions 64]
                              [--epsilon 0.05] [--threads-of 1 2 4] [--batches 8192 1000] [--memories none 512MiB] [--one-at-a-time] [--json FILE]
       (pip install pyarrow numpy)

A method is a word of `method`, with other keys of the stage after commas where wanted (`ivf,probe=8`); `default` names none.

The input has clusters, copies, groups of equal rows, and bad vectors: NaN, infinite, zero and null. It is cut in three ways that keep the order
of rows: one file; three files, made last first; seven files of unequal length and other row groups, one of them empty. A run's lineage is all
rows sorted by id, with decision, stage, reason, representative's id, score (every bit), copies and detail; its hash must be the same in all runs
of a method. So must be the stage's report in the manifest, and the counts of bad vectors must be those planted. Every combination is run; with
--one-at-a-time each setting is varied alone.

Two more runs of each method: `on_bad_vector: drop` must drop exactly the planted rows; and with the rows in another order and `keep: {by: rank}`
for a rank that goes with the row, `flat` must drop the same rows for the same representatives (for an approximate index the rows that differ are
printed, no more). Prints mismatches and ends with 1 if there are any.
"""

import argparse
import hashlib
import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import near
import vectors

BAD = {"nan": np.nan, "infinite": np.inf, "zero": 0.0, "null": None}
BAD_EACH = 37
CUTS = {"one": [1.0], "three": [1 / 3, 2 / 3, 1.0], "seven": [0.02, 0.02, 0.3, 0.31, 0.5, 0.93, 1.0]}
COLUMNS = ["doc_id", "decision", "stage", "reason", "kept_doc_id", "score", "copies", "detail"]


def table(options):
    """Rows in their order, and how many are bad in each way."""
    draw = np.random.default_rng(7)
    half = options.rows // 2
    rows = np.concatenate([vectors.planted(half, options.dimensions, copies, seed) for seed, copies in enumerate(("tight", "spread"))])
    equal = draw.choice(len(rows), len(rows) // 20, replace=False)
    rows[equal] = rows[equal[: max(1, len(equal) // 10)]][draw.integers(0, max(1, len(equal) // 10), len(equal))]
    bad = draw.choice(len(rows), BAD_EACH * len(BAD), replace=False).reshape(len(BAD), BAD_EACH)
    for value, chosen in zip(BAD.values(), bad):
        if value is None:
            continue
        if value == 0:
            rows[chosen] = 0
        else:
            rows[chosen, draw.integers(0, options.dimensions, BAD_EACH)] = value
    nulls = np.zeros(len(rows), bool)
    nulls[bad[list(BAD).index("null")]] = True
    values = pa.array(rows.reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(values, options.dimensions, mask=pa.array(nulls))
    ids = [f"v{row:08}" for row in range(len(rows))]
    return pa.table({"id": ids, "vector": column, "rank": draw.permutation(len(rows))}), {ids[row] for row in bad.ravel().tolist()}


def write(options, whole, name, ends, row_group_rows):
    """The rows in files of a folder; a glob. The last file is made first."""
    folder = options.cache.absolute() / "vectors-determinism" / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.parquet"):
        old.unlink()
    cuts = [0, *(round(end * whole.num_rows) for end in ends)]
    for number in reversed(range(len(ends))):
        part = whole.slice(cuts[number], cuts[number + 1] - cuts[number])
        vectors.publish(part, folder / f"part-{number}.parquet", row_group_rows)
    return f"{folder}/*.parquet"


def lineage(options, pattern, stage, threads, batch, memory):
    """Rows of the lineage sorted by id, and the stage's report."""
    options.threads = threads
    arguments = ["--batch-rows", str(batch)] + (["--memory", memory] if memory != "none" else [])
    scratch = options.cache.absolute() / "vectors-determinism/run"
    vectors.run_trommel(options, pattern, stage, scratch, arguments, read=False)
    paths = sorted((scratch / "out/lineage").rglob("*.parquet"))
    rows = pa.concat_tables(pq.read_table(path, columns=COLUMNS) for path in paths).sort_by("doc_id")
    manifest = json.loads((scratch / "out/manifest.json").read_text())
    return rows, next(stage for stage in manifest["stages"] if stage["stage"] == "semantic")["report"]


def digest(rows):
    """A hash of a lineage. Floats are written so that every bit shows."""
    values = (json.dumps(row) for row in zip(*(rows[name].to_pylist() for name in COLUMNS)))
    return hashlib.sha256("\n".join(values).encode()).hexdigest()


def settings(options):
    """Threads, batch size, memory and cut of each run; the first is what the others are compared with."""
    axes = [options.threads_of, options.batches, options.memories, list(CUTS)]
    if not options.one_at_a_time:
        return list(itertools.product(*axes))
    base = tuple(axis[0] for axis in axes)
    return [base] + [base[:n] + (value,) + base[n + 1 :] for n, axis in enumerate(axes) for value in axis[1:]]


def differing(one, other):
    """Rows, sorted by id, whose decision or representative is another."""
    parts = ["doc_id", "decision", "kept_doc_id"]
    return sum(a != b for a, b in zip(*(zip(*(rows[name].to_pylist() for name in parts)) for rows in (one, other))))


def try_method(options, method, whole, bad, patterns, failures):
    """All runs of one method."""
    stage = vectors.stage_of(method, epsilon=options.epsilon)
    seen, first = {}, None
    for setting in settings(options):
        threads, batch, memory, cut = setting
        rows, report = lineage(options, patterns[cut], stage, threads, batch, memory)
        first, hashed = first or (rows, report), digest(rows)
        seen.setdefault(hashed, []).append(setting)
        said = f"{method}: {threads} threads, batches of {batch}, memory {memory}, cut {cut}"
        if hashed != next(iter(seen)):
            failures.append(f"{said}: another lineage than {settings(options)[0]}, {differing(first[0], rows)} rows decided otherwise")
        if report != first[1]:
            failures.append(f"{said}: another report, in {sorted(key for key in report if report[key] != first[1].get(key))}")
    rows, report = first
    dropped = sum(decision == "drop" for decision in rows["decision"].to_pylist())
    counted = sum(report.get("bad_vectors", {}).values())
    if counted != len(bad):
        failures.append(f"{method}: {counted} bad vectors counted, {len(bad)} planted")
    strays = {id for id, decision in zip(rows["doc_id"].to_pylist(), rows["decision"].to_pylist()) if id in bad and decision != "keep"}
    if strays:
        failures.append(f"{method}: {len(strays)} bad vectors were compared")
    base = settings(options)[0]
    rows, _ = lineage(options, patterns[base[3]], stage | {"on_bad_vector": "drop"}, *base[:3])
    gone = {id for id, reason in zip(rows["doc_id"].to_pylist(), rows["reason"].to_pylist()) if reason == "bad_vector"}
    if gone != bad:
        failures.append(f"{method}: `on_bad_vector: drop` dropped {len(gone)} rows, of which {len(gone & bad)} are bad")
    by_rank = stage | {"keep": {"by": "rank"}}
    one, _ = lineage(options, patterns[base[3]], by_rank, *base[:3])
    other, _ = lineage(options, patterns["reordered"], by_rank, *base[:3])
    moved = differing(one, other)
    if moved and stage.get("method") == "flat":
        failures.append(f"{method}: {moved} rows differ where the rows come in another order")
    runs = sum(map(len, seen.values()))
    print(f"{method}: {runs} runs, {len(seen)} lineages, the first {next(iter(seen))[:16]}; {dropped} dropped; bad vectors", end=" ")
    print(f"{json.dumps(report.get('bad_vectors', {}), sort_keys=True)}; in another order of rows {moved} rows differ", flush=True)
    lineages = {hashed: len(of) for hashed, of in seen.items()}
    return {"runs": runs, "lineages": lineages, "dropped": dropped, "bad": report.get("bad_vectors"), "moved": moved}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    near.common_options(parser)
    parser.add_argument("--methods", nargs="+", default=["auto", "ivf", "flat", "hnsw", "kmeans"])
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--epsilon", type=float, default=0.05)
    parser.add_argument("--threads-of", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--batches", type=int, nargs="+", default=[8192, 1000])
    parser.add_argument("--memories", nargs="+", default=["none", "512MiB"])
    parser.add_argument("--one-at-a-time", action="store_true")
    options = parser.parse_args()
    near.need_trommel(options)
    whole, bad = table(options)
    patterns = {name: write(options, whole, name, ends, 5000 if name != "seven" else 777) for name, ends in CUTS.items()}
    order = np.random.default_rng(8).permutation(whole.num_rows)
    patterns["reordered"] = write(options, whole.take(pa.array(order)), "reordered", CUTS["three"], 5000)
    figures, failures = {}, []
    print(f"{whole.num_rows} x {options.dimensions}, {len(bad)} bad vectors, {len(settings(options))} settings", flush=True)
    for method in options.methods:
        try:
            figures[method] = try_method(options, method, whole, bad, patterns, failures)
        except SystemExit as failure:
            failures.append(f"{method}: {vectors.first_words(failure)}")
    print("\none lineage for each method" if not failures else f"\n{len(failures)} mismatches")
    near.finish(options, figures, failures)


if __name__ == "__main__":
    main()
