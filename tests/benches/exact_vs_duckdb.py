"""Exact deduplication, Parquet in, zstd Parquet out: trommel beside DuckDB on the same files, in turns.

usage: exact_vs_duckdb.py [--trommel PATH] [--data FOLDER | --input GLOB] [--cache FOLDER] [--rounds 3] [--threads 2] [--level 3]
       (pip install pyarrow duckdb)

Both read all columns, drop the rows whose `text` equals, byte for byte, that of an earlier row, and write the rest as zstd at the same
level. trommel also hashes inputs and outputs, syncs them and writes the lineage. Its time is that of the whole process; DuckDB's
leaves out the start of Python. DuckDB runs two statements for the job; the faster one counts.
"""

import argparse
import glob
import json
import os
import shutil
import statistics
import sys
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

import inputs
from process import measured

DUCKDB = r"""
import json, os, sys, time
import duckdb
pattern, out, text, threads, level, statement = sys.argv[1:]
source = f"read_parquet('{pattern}', filename=true, file_row_number=true)"
if statement == "window":
    rows = f'''select * exclude (rn, filename, file_row_number) from (select *, row_number() over
        (partition by md5("{text}") order by filename, file_row_number) rn from {source}) where rn = 1'''
else:
    rows = f'''select * exclude (filename, file_row_number) from {source} semi join
        (select min((filename, file_row_number)) as first from {source} group by md5("{text}"))
        on first = (filename, file_row_number)'''
connection = duckdb.connect()
connection.execute(f"set threads = {threads}")
begin = time.monotonic()
connection.execute(f"copy ({rows}) to '{out}' (format parquet, compression zstd, compression_level {level})")
print(json.dumps({"seconds": time.monotonic() - begin, "version": duckdb.__version__}))
"""

PIPELINE = """version: 1
name: bench_exact
sources:
  bench: {{ parquet: {{ uri: {uri}, text: {text} }} }}
stages:
  - id: exact
    exact_dedup: {{ columns: [{text}] }}
sink: {{ parquet: {{ uri: {out}, compression: zstd({level}) }} }}
work: {{ uri: {work} }}
"""


def run_trommel(options, pattern, scratch):
    """One cold run of the pipeline: no work folder, no output."""
    out, work, pipeline = scratch / "trommel", scratch / "work", scratch / "pipeline.yaml"
    for folder in [out, work]:
        shutil.rmtree(folder, ignore_errors=True)
    fields = {"uri": pattern, "out": out, "work": work}
    quoted = {name: json.dumps(str(value)) for name, value in fields.items()}
    pipeline.write_text(PIPELINE.format(text=options.text, level=options.level, **quoted))
    command = [options.trommel, "run", str(pipeline), "--threads", str(options.threads)]
    seconds, peak = measured(command, scratch / "trommel.log")
    files = glob.glob(f"{out}/data/**/*.parquet", recursive=True)
    return {"seconds": seconds, "peak": peak, "files": files}


def run_duckdb(options, pattern, scratch, statement):
    """One run of one statement."""
    out = scratch / "duckdb.parquet"
    out.unlink(missing_ok=True)
    arguments = [pattern, str(out), options.text, str(options.threads), str(options.level), statement]
    _, peak = measured([sys.executable, "-c", DUCKDB, *arguments], scratch / "duckdb.log")
    said = json.loads((scratch / "duckdb.log").read_text().splitlines()[-1])
    return {"seconds": said["seconds"], "peak": peak, "files": [str(out)], "version": said["version"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("--trommel", default=str(root / "target/release/trommel"))
    parser.add_argument("--data", type=Path, default=inputs.default_data())
    parser.add_argument("--cache", type=Path, default=inputs.default_cache())
    parser.add_argument("--input", help="a glob of your own files instead of the ones made from --data")
    parser.add_argument("--text", default="text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--level", type=int, default=3)
    options = parser.parse_args()
    if not os.access(options.trommel, os.X_OK):
        sys.exit(f"no program at {options.trommel}: cargo build --release, or --trommel PATH")
    pattern = options.input or f"{inputs.large_corpus(options.data, options.cache)}/*.parquet"
    pattern = str(Path(pattern).absolute())
    files = inputs.shards(pattern)
    size = sum(os.path.getsize(f) for f in files)
    text = sum(pc.sum(pc.binary_length(pq.read_table(f, columns=[options.text])[options.text])).as_py() for f in files)
    rows = sum(pq.read_metadata(f).num_rows for f in files)
    print(f"input: {len(files)} shards, {rows} rows, {text / 1e6:.0f} MB of text, {size / 1e6:.0f} MB of Parquet")
    scratch = options.cache / "exact-runs"
    scratch.mkdir(parents=True, exist_ok=True)
    contestants = {
        "trommel": lambda: run_trommel(options, pattern, scratch),
        "duckdb window": lambda: run_duckdb(options, pattern, scratch, "window"),
        "duckdb semi join": lambda: run_duckdb(options, pattern, scratch, "semi"),
    }
    results = {name: [] for name in contestants}
    for number in range(options.rounds):
        for name, contestant in contestants.items():
            result = contestant()
            result["rows"] = sum(pq.read_metadata(f).num_rows for f in result["files"])
            result["size"] = sum(os.path.getsize(f) for f in result["files"])
            results[name].append(result)
            print(f"round {number + 1}: {name:17} {result['seconds']:6.2f} s", flush=True)
    version = results["duckdb window"][0]["version"]
    print(f"\nexact deduplication, zstd({options.level}), {options.threads} threads, median of {options.rounds}; DuckDB {version}")
    print(f"{'':17} {'seconds':>8} {'MB/s of text':>13} {'rows out':>9} {'MB out':>7} {'peak MiB':>9}")
    median = {}
    for name, runs in results.items():
        median[name] = statistics.median(r["seconds"] for r in runs)
        peak = max(r["peak"] for r in runs) / 2**20
        last = runs[-1]
        line = f"{median[name]:8.2f} {text / 1e6 / median[name]:13.1f} {last['rows']:9} {last['size'] / 1e6:7.1f} {peak:9.0f}"
        print(f"{name:17} {line}")
    best = min(seconds for name, seconds in median.items() if name != "trommel")
    print(f"trommel is {best / median['trommel']:.2f} x as fast as the faster DuckDB statement")
    if len({runs[-1]["rows"] for runs in results.values()}) != 1:
        sys.exit("the programs kept different numbers of rows")


if __name__ == "__main__":
    main()
