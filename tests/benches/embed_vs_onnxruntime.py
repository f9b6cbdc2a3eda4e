"""Embedding: trommel beside Python onnxruntime on the same model, texts and packing, in turns.

usage: embed_vs_onnxruntime.py MODEL_FOLDER [--trommel PATH] [--data FOLDER | --input GLOB] [--cache FOLDER] [--rows 4000] [--rounds 3]
       (pip install pyarrow numpy onnxruntime tokenizers; MODEL_FOLDER from tests/models/minilm_to_onnx.py)

Python tokenises all texts, sorts them by length and packs them to the token budget: the best that a batch program does. Its time is
tokenising plus inference, without start and model load. trommel's is the same part as run.json states it for the embed stage (which also
reads the column and writes the vectors), and beside it that of the whole process.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import inputs
from process import measured

PYTHON = r"""
import glob, json, sys, time
import numpy as np, onnxruntime, pyarrow.parquet as pq
from tokenizers import Tokenizer
model, tokenizer, pattern, limit, budget, threads = *sys.argv[1:4], *map(int, sys.argv[4:])
texts = [text for path in sorted(glob.glob(pattern)) for text in pq.read_table(path, columns=["text"])["text"].to_pylist()]
tokenizer = Tokenizer.from_file(tokenizer)
tokenizer.enable_truncation(limit)
tokenizer.no_padding()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
names = [entry.name for entry in session.get_inputs()]
begin = time.monotonic()
encoded = tokenizer.encode_batch(texts)
between = time.monotonic()
lengths = [len(e.ids) for e in encoded]
order = sorted(range(len(encoded)), key=lengths.__getitem__)
place = 0
while place < len(order):
    end = place
    while end < len(order) and lengths[order[end]] * (end - place + 1) <= budget:
        end += 1
    end = max(end, place + 1)
    batch = order[place:end]
    ids = np.zeros((len(batch), lengths[batch[-1]]), np.int64)
    mask = np.zeros_like(ids)
    for row, index in enumerate(batch):
        ids[row, : lengths[index]] = encoded[index].ids
        mask[row, : lengths[index]] = 1
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    session.run(None, {name: feed[name] for name in names})
    place = end
end = time.monotonic()
print(json.dumps({"tokenise": between - begin, "infer": end - between, "tokens": sum(lengths), "version": onnxruntime.__version__}))
"""

PIPELINE = """version: 1
name: bench_embed
sources:
  bench: {{ parquet: {{ uri: {uri}, text: text, id: id }} }}
stages:
  - id: vectors
    embed: {{ model: {{ path: {model}, tokenizer: {tokenizer} }}, provider: cpu, max_tokens: {limit}, batch_tokens: {budget} }}
  - id: all_rows
    prototypes: {{ keep_fraction: 1.0, k: 1 }}
sink: {{ parquet: {{ uri: {out} }} }}
work: {{ uri: {work} }}
"""


def texts(options):
    """The first rows of the mixed texts, as one shard of its own."""
    path = options.cache / "embed" / f"texts-{options.rows}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        pattern = options.input or f"{inputs.many_texts(options.data, options.cache)}/*.parquet"
        table = pa.concat_tables([pq.read_table(f, columns=["id", "text"]) for f in inputs.shards(pattern)])
        inputs.publish(table.slice(0, options.rows), path, 5_000)
    return path


def run_trommel(options, source, scratch):
    """Seconds of the embed stage and of the process."""
    out, work, pipeline = scratch / "out", scratch / "work", scratch / "pipeline.yaml"
    for folder in [out, work]:
        shutil.rmtree(folder, ignore_errors=True)
    fields = {"uri": source, "out": out, "work": work, "model": options.model / options.file, "tokenizer": options.model / "tokenizer.json"}
    quoted = {name: json.dumps(str(Path(value).absolute())) for name, value in fields.items()}
    pipeline.write_text(PIPELINE.format(limit=options.max_tokens, budget=options.batch_tokens, **quoted))
    command = [options.trommel, "run", str(pipeline), "--threads", str(options.threads)]
    whole, _ = measured(command, scratch / "trommel.log")
    run = json.loads((out / "run.json").read_text())
    phase = next(phase for phase in run["phases"] if phase.get("stage") == "vectors" or "vectors" in phase.get("name", ""))
    return phase["seconds"], whole


def run_python(options, source):
    """Seconds of tokenising and inference, and what else the program says."""
    arguments = [options.model / options.file, options.model / "tokenizer.json", source, options.max_tokens, options.batch_tokens, options.threads]
    command = [sys.executable, "-c", PYTHON, *map(str, arguments)]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return said["tokenise"] + said["infer"], said


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("model", type=Path, help="folder with model.onnx and tokenizer.json")
    parser.add_argument("--file", default="model.onnx", help="name of the ONNX file in it")
    parser.add_argument("--trommel", default=str(root / "target/release/trommel"))
    parser.add_argument("--data", type=Path, default=inputs.default_data())
    parser.add_argument("--cache", type=Path, default=inputs.default_cache())
    parser.add_argument("--input", help="a glob of your own files (columns id, text) instead of the ones made from --data")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    options = parser.parse_args()
    if not os.access(options.trommel, os.X_OK):
        sys.exit(f"no program at {options.trommel}: cargo build --release, or --trommel PATH")
    source = texts(options)
    scratch = options.cache / "embed-runs"
    scratch.mkdir(parents=True, exist_ok=True)
    ours, whole, theirs = [], [], []
    for number in range(options.rounds):
        stage, process = run_trommel(options, source, scratch)
        seconds, said = run_python(options, source)
        ours.append(stage)
        whole.append(process)
        theirs.append(seconds)
        print(f"round {number + 1}: trommel {stage:.2f} s ({process:.2f} s whole), onnxruntime {seconds:.2f} s", flush=True)
    rows, tokens = pq.read_metadata(source).num_rows, said["tokens"]
    print(f"\n{options.file}, {rows} texts, {tokens} tokens, {options.threads} threads, onnxruntime {said['version']}, median of {options.rounds}")
    for name, runs in {"trommel, embed stage": ours, "trommel, whole process": whole, "Python onnxruntime": theirs}.items():
        seconds = statistics.median(runs)
        print(f"{name:23} {seconds:7.2f} s {rows / seconds:9.0f} rows/s {tokens / seconds:9.0f} tokens/s")
    print(f"trommel's stage is {statistics.median(theirs) / statistics.median(ours):.2f} x as fast as packed Python onnxruntime")


if __name__ == "__main__":
    main()
