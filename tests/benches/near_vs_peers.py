"""Near duplicates, Parquet in, zstd Parquet out: trommel beside datatrove, rensa and datasketch on the same files, and what each got right.

usage: near_vs_peers.py [--trommel PATH] [--data FOLDER | --input GLOB] [--cache FOLDER] [--rounds 3] [--threads 2] [--subset 8000]
                        [--sample 2000] [--peers datatrove rensa datasketch] [--json FILE]
       (pip install pyarrow numpy; the peers go into an environment of their own below --cache; Linux)

All have 14 bands of 8 and 5-word shingles. trommel and rensa read everything; datatrove and datasketch, which are slow, a subset: every
n-th row of every file, so that copies of a document stay together (compare rows/s; trommel and rensa read it too, for what they find there).
Each program is a process of its own, and writes the kept rows. Seconds are those of the whole process for trommel, and without the start of
Python for the peers; CPU and memory are those of all processes. trommel's seconds are the median of --rounds. datatrove has --threads
workers; rensa and datasketch are libraries, used from one Python process, and drop a row that shares a band with an earlier row.

`trommel none` does what the peers do: `verify: none, rule: components`.

How right they are stands in near_referee.py: one referee for all, with its own words (`\\w+`). Programs cut words in other ways, so a pair
that is just over the threshold for one may be just under it for the referee; near_truth.py compares like with like.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import inputs
import near
from near_referee import judge
from process import tree_usage

SMALL = ["datatrove", "datasketch"]  # peers that read the subset only


def subset(options, pattern, folder):
    """Every n-th row of every file, as two files."""
    paths = inputs.shards(pattern)
    step = max(1, round(sum(pq.read_metadata(path).num_rows for path in paths) / options.subset))
    tables = []
    for path in paths:
        table = pq.read_table(path)
        tables.append(table.take(pa.array(range(0, table.num_rows, step))))
    table = pa.concat_tables(tables)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.parquet"):
        old.unlink()
    half = (table.num_rows + 1) // 2
    for n in range(2):
        inputs.publish(table.slice(n * half, half), folder / f"part-{n}.parquet", 512)
    return f"{folder}/*.parquet"


def size(pattern, text):
    """Rows and bytes of text."""
    rows = volume = 0
    for path in inputs.shards(pattern):
        column = pq.read_table(path, columns=[text])[text]
        rows += len(column)
        volume += pc.sum(pc.binary_length(column)).as_py() or 0
    return rows, volume


def run_trommel(options, pattern, verify):
    """One cold run."""
    stage = {"column": options.text, "shingle": {"words": near.SHINGLE_WORDS}, "bands": near.BANDS, "rows": near.ROWS}
    stage |= {"verify": "none", "rule": "components"} if verify == "none" else {"verify": verify, "threshold": options.threshold}
    outcome = near.run_trommel(options, pattern, stage, options.cache / "near-runs/trommel", text=options.text)
    if (outcome.kept[outcome.dropped] < 0).any():
        raise SystemExit(f"trommel {verify}: dropped rows without a representative")
    return {"seconds": outcome.usage.seconds, "cpu": outcome.usage.cpu, "peak": outcome.usage.peak, "kept": outcome.kept, "section": outcome.section}


def run_peer(options, peer, pattern, rows):
    """One run of a peer."""
    script, out = Path(__file__).with_name("near_peers.py"), options.cache.absolute() / "near-runs" / peer
    command = [near.peers_python(options.cache), str(script), peer, str(Path(pattern).absolute()), str(out)]
    command += ["--workers", str(options.threads), "--text", options.text]
    log = options.cache / "near-runs" / f"{peer}.log"
    used = tree_usage(command, log)
    said = json.loads(log.read_text(errors="replace").splitlines()[-1])
    kept = np.full(rows, -1, np.int64)
    table = pq.read_table(out / "dropped.parquet")
    kept[table["row"].to_numpy()] = table["survivor"].to_numpy()
    written = sum(pq.read_metadata(path).num_rows for path in (out / "kept").rglob("*.parquet"))
    if written != (kept < 0).sum():
        raise SystemExit(f"{peer} wrote {written} rows and decided to keep {(kept < 0).sum()}")
    return {"seconds": said["seconds"], "cpu": used.cpu, "peak": used.peak, "kept": kept, "parts": said["parts"], "version": said["version"]}


def compare(options, title, pattern, contestants):
    """Runs, judges and prints one table."""
    rows, volume = size(pattern, options.text)
    print(f"\n{title}: {len(inputs.shards(pattern))} files, {rows} rows, {volume / 1e6:.0f} MB of text", flush=True)
    runs = {name: [] for name in contestants}
    for number in range(options.rounds):
        for name in contestants:
            if number > 0 and not name.startswith("trommel"):
                continue
            kind, _, verify = name.partition(" ")
            run = run_trommel(options, pattern, verify) if kind == "trommel" else run_peer(options, name, pattern, rows)
            runs[name].append(run)
            print(f"round {number + 1}: {name:15} {run['seconds']:8.2f} s {json.dumps(run.get('parts', {}))}", flush=True)
    verdicts = judge(pattern, options.text, {name: of[-1]["kept"] for name, of in runs.items()}, options.threshold, options.sample)
    head = ["", "seconds", "rows/s", "MB/s", "CPU s", "MiB", "dropped", f"named>={options.threshold:g}", "lowest", "orphans", "pair recall"]
    widths = [16, 8, 8, 7, 7, 6, 8, 10, 7, 8, 12]
    print("\n" + " ".join(f"{h:>{w}}" for h, w in zip(head, widths)))
    figures = {}
    for name, of in runs.items():
        seconds, cpu = statistics.median(r["seconds"] for r in of), statistics.median(r["cpu"] for r in of)
        peak, verdict = max(r["peak"] for r in of), verdicts[name]
        figures[name] = {"version": of[-1].get("version"), "rows": rows, "text_bytes": volume}
        figures[name] |= {"seconds": seconds, "all_seconds": [r["seconds"] for r in of]}
        figures[name] |= {"cpu": cpu, "peak": peak, "parts": of[-1].get("parts"), "section": of[-1].get("section")} | verdict
        cells = [f"{rows / seconds:.0f}", f"{volume / 1e6 / seconds:.1f}", f"{cpu:.1f}", f"{peak / 2**20:.0f}", str(verdict["dropped"])]
        cells += [f"{verdict['named']:.4f}", f"{verdict['lowest']:.3f}", f"{verdict['orphans']:.4f}", f"{verdict['recall']:.4f}"]
        print(" ".join(f"{c:>{w}}" for c, w in zip([name, f"{seconds:.2f}", *cells], widths)))
    first = next(iter(verdicts.values()))
    print(f"judged: {options.sample} dropped rows of each at most, {first['pairs']} true pairs of {options.sample} rows")
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    near.common_options(parser)
    parser.add_argument("--input", help="a glob of your own files in one folder instead of the ones made from --data")
    parser.add_argument("--text", default="text")
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--subset", type=int, default=8000, help="rows for the slow peers")
    parser.add_argument("--sample", type=int, default=2000, help="rows that the referee looks at")
    parser.add_argument("--verify", nargs="*", default=["exact", "none"], choices=["exact", "estimate", "none"])
    parser.add_argument("--peers", nargs="*", default=["datatrove", "rensa", "datasketch"])
    parser.add_argument("--no-full", action="store_true", help="only the subset")
    options = parser.parse_args()
    if options.verify:
        near.need_trommel(options)
    pattern = options.input or f"{inputs.large_corpus(options.data, options.cache)}/*.parquet"
    (options.cache / "near-runs").mkdir(parents=True, exist_ok=True)
    ours = [f"trommel {verify}" for verify in options.verify]
    figures = {}
    if not options.no_full:
        figures["all"] = compare(options, "all rows", pattern, ours + [p for p in options.peers if p not in SMALL])
    if options.peers:
        part = subset(options, pattern, options.cache / "near-runs/subset")
        figures["subset"] = compare(options, "subset", part, ours + options.peers)
    for name, run in figures.get("all", figures.get("subset", {})).items():
        if run["section"]:
            print(f"\n{name}, the stage's section of the manifest:")
            near.print_section(run["section"])
    near.finish(options, figures)


if __name__ == "__main__":
    main()
