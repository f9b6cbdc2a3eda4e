"""Peak resident memory of 200,000 texts through filter, exact_dedup, embed and semantic_dedup under a budget.

usage: memory.py [--trommel PATH] [--data FOLDER | --input GLOB] [--cache FOLDER] [--memory 1GiB] [--limit-mib 1280] [--threads 2]
       (pip install pyarrow)

The peak is `ru_maxrss` of the process, as the kernel counted it. Ends with 1 where it is over the limit.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq

import inputs
from process import measured

PIPELINE = """version: 1
name: bench_memory
sources:
  bench: {{ parquet: {{ uri: {uri}, text: text, id: id }} }}
stages:
  - id: long_enough
    filter: {{ where: "length(text) >= 20" }}
  - id: exact
    exact_dedup: {{ columns: [text], normalize: [nfkc, lowercase, collapse_whitespace] }}
  - id: vectors
    embed: {{ model: builtin }}
  - id: semantic
    semantic_dedup: {{ epsilon: 0.1 }}
sink: {{ parquet: {{ uri: {out} }} }}
work: {{ uri: {work} }}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("--trommel", default=str(root / "target/release/trommel"))
    parser.add_argument("--data", type=Path, default=inputs.default_data())
    parser.add_argument("--cache", type=Path, default=inputs.default_cache())
    parser.add_argument("--input", help="a glob of your own files (columns id, text) instead of the ones made from --data")
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--limit-mib", type=float, default=1280)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if not os.access(options.trommel, os.X_OK):
        sys.exit(f"no program at {options.trommel}: cargo build --release, or --trommel PATH")
    pattern = options.input or f"{inputs.many_texts(options.data, options.cache)}/*.parquet"
    pattern = str(Path(pattern).absolute())
    rows = sum(pq.read_metadata(f).num_rows for f in inputs.shards(pattern))
    scratch = options.cache / "memory-runs"
    scratch.mkdir(parents=True, exist_ok=True)
    out, work, pipeline = scratch / "out", scratch / "work", scratch / "pipeline.yaml"
    for folder in [out, work]:
        shutil.rmtree(folder, ignore_errors=True)
    fields = {"uri": pattern, "out": out, "work": work}
    pipeline.write_text(PIPELINE.format(**{name: json.dumps(str(value)) for name, value in fields.items()}))
    command = [options.trommel, "run", str(pipeline), "--memory", options.memory, "--threads", str(options.threads)]
    seconds, peak = measured(command, scratch / "trommel.log")
    print((scratch / "trommel.log").read_text(errors="replace")[-3000:])
    spilled = sum(f.stat().st_size for f in work.rglob("*") if f.is_file()) / 1e6
    print(f"{rows} rows, --memory {options.memory}: peak resident {peak / 2**20:.0f} MiB in {seconds:.1f} s; work folder {spilled:.0f} MB")
    if peak > options.limit_mib * 2**20:
        sys.exit(f"over the limit of {options.limit_mib:.0f} MiB")


if __name__ == "__main__":
    main()
