"""What an increment costs: 1 % of new rows against a corpus that is known, beside a run over all, at two sizes of the corpus.

usage: increments.py [--trommel PATH] [--data FOLDER] [--cache FOLDER] [--rows 50000 200000] [--threads 2] [--rounds 3] [--json FILE]
       (pip install pyarrow; Linux)

The corpus are the texts of memory.py, from one line to a thousand, or a part of them. Exact and near duplicates, 14 x 8, 5-word shingles, each
pair verified. The new rows are every hundredth text: half of them with some words changed, half with their words in another order, which is
new. Printed are seconds, what was read from files (artefacts and state included, counted by the kernel as `rchar`) and the rows dropped; and
that the increment kept what one run over all keeps.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import inputs

SHARDS = 8
STAGES = [
    {"id": "exact", "exact_dedup": {"columns": ["text"]}},
    {"id": "near", "minhash_dedup": {"threshold": 0.8, "bands": 14, "rows": 8, "shingle": {"words": 5}}},
]


def corpus(options, rows, folder):
    """So many of the texts, spread over all, in eight shards; and a shard of new rows beside."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "in").mkdir(parents=True)
    table = pa.concat_tables([pq.read_table(path, columns=["id", "text"]) for path in inputs.shards(inputs.many_texts(options.data, options.cache) / "*.parquet")])
    rows = min(rows, table.num_rows)
    table = table.take(pa.array([place * table.num_rows // rows for place in range(rows)])).combine_chunks()
    share = -(-rows // SHARDS)
    for n in range(SHARDS):
        inputs.publish(table.slice(n * share, share), folder / "in" / f"part-{n}.parquet", 2048)
    draws = random.Random(rows)
    ids, texts = [], []
    for place in range(0, rows, 100):
        words = table["text"][place].as_py().split(" ")
        if len(ids) % 2 == 0:
            for _ in range(1 + len(words) // 100):
                words[draws.randrange(len(words))] = f"changed{draws.randrange(1000)}"
        else:
            draws.shuffle(words)
        ids.append(f"new/{place}")
        texts.append(" ".join(words))
    new = folder / "new.parquet"
    inputs.publish(pa.table({"id": ids, "text": texts}), new, 512)
    return rows, len(ids), new


def run(options, folder, name, state, sink):
    """Seconds, bytes read, and the summary of one run."""
    pipeline = {
        "version": 1,
        "name": name,
        "sources": {"bench": {"parquet": {"uri": str(folder / "in"), "text": "text", "id": "id"}}},
        "stages": STAGES,
        "sink": {"parquet": {"uri": str(folder / sink)}},
        "work": {"uri": str(folder / f"work-{name}")},
    }
    if state:
        pipeline["state"] = {"uri": str(folder / state)}
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(pipeline))
    shutil.rmtree(folder / f"work-{name}", ignore_errors=True)
    # A shell counts what its children have read once it has waited for them.
    command = '"$@"; code=$?; grep rchar /proc/$$/io >&2; exit $code'
    arguments = [options.trommel, "run", file, "--quiet", "--overwrite", "--format", "json", "--threads", options.threads]
    begin = time.monotonic()
    ended = subprocess.run(["sh", "-c", command, "sh", *map(str, arguments)], capture_output=True, text=True)
    seconds = time.monotonic() - begin
    if ended.returncode != 0:
        sys.exit(f"{name} ended with {ended.returncode}:\n{ended.stderr}")
    return seconds, int(ended.stderr.split("rchar:")[1]), json.loads(ended.stdout)


def kept(folder):
    """The ids that a dataset holds."""
    return {value for path in folder.glob("data/*.parquet") for value in pq.read_table(path, columns=["id"])["id"].to_pylist()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trommel", default=Path(__file__).resolve().parents[2] / "target/release/trommel", type=Path)
    parser.add_argument("--data", default=inputs.default_data(), type=Path)
    parser.add_argument("--cache", default=inputs.default_cache(), type=Path)
    parser.add_argument("--rows", nargs="*", type=int, default=[50_000, 200_000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = []
    failed = False
    for wanted in options.rows:
        folder = options.cache / "increments" / str(wanted)
        rows, new_rows, new = corpus(options, wanted, folder)
        first = run(options, folder, "first", "state", "out/first")
        shutil.copy(new, folder / "in" / "zz-new.parquet")
        increments = []
        for _ in range(options.rounds):
            shutil.rmtree(folder / "state-again", ignore_errors=True)
            shutil.copytree(folder / "state", folder / "state-again")
            increments.append(run(options, folder, "increment", "state-again", "out/increment"))
        alls = [run(options, folder, "all", None, "out/all") for _ in range(options.rounds)]
        size = sum(file.stat().st_size for file in (folder / "state").rglob("*") if file.is_file())
        shards = sum(file.stat().st_size for file in (folder / "in").iterdir())
        same = kept(folder / "out/first") | kept(folder / "out/increment") == kept(folder / "out/all")
        failed |= not same
        increment, whole = (statistics.median(run[0] for run in runs) for runs in (increments, alls))
        read, read_whole = increments[0][1], alls[0][1]
        dropped = increments[0][2]["rows"]["dropped"]
        figures.append({
            "rows": rows, "new_rows": new_rows, "dropped": dropped, "first": first[0], "increment": increment, "all": whole, "read": read,
            "read_all": read_whole, "state": size, "shards": shards, "same": same,
        })
        print(
            f"{rows:>8} rows known, {new_rows} new: increment {increment:6.2f} s, {read / 1e6:8.1f} MB read, {dropped} dropped; "
            f"all at once {whole:6.2f} s, {read_whole / 1e6:8.1f} MB read; shares {increment / whole:.1%}, {read / read_whole:.1%}; "
            f"first run {first[0]:.2f} s; shards {shards / 1e6:.0f} MB, state {size / 1e6:.0f} MB; {'the same rows kept' if same else 'OTHER ROWS KEPT'}"
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    sys.exit(failed)


if __name__ == "__main__":
    main()
