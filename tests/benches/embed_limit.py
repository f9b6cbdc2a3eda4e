"""Embedding: trommel's whole run on real text beside the limit, raw ONNX Runtime on pre-tokenised, perfectly packed batches, in turns.

usage: embed_limit.py MODEL_FOLDER [--models model.onnx model_fp16.onnx model_int8.onnx] [--kinds short long] [--short-rows 4000] [--long-rows 300]
       [--rounds 3] [--threads 2] [--trommel PATH] [--data FOLDER] [--cache FOLDER] [--json FILE]
       (pip install pyarrow numpy onnxruntime tokenizers; MODEL_FOLDER from tests/models/minilm_to_onnx.py --int8 --fp16)

Short texts are Bible verses, long ones documentation cut at 512 tokens. The limit runs batches that stand in memory, made of as many tokens as the
texts have, sorted by length and packed to the token budget, each row of a batch as long as the mean of its rows: no padding. It runs them on one
session with all threads and on one single-threaded session a thread, with the budgets of --budgets; the best on an eighth of the batches is what the
rounds measure. trommel reads Parquet, tokenises, packs, embeds and writes vectors: the embed stage as run.json states it, and the whole process with
its start, its model loads and its output. Tokens are without padding, special tokens included.
"""

import argparse
import json
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import inputs
from embed_vs_onnxruntime import run_trommel

SOURCES = {"short": "verses/*.parquet", "long": "documents/longhorn/*.parquet"}
SHARE = 8  # one of so many batches decides which settings the limit has


def texts(options, kind, rows):
    """Rows spread over all texts of a kind, as one shard of its own."""
    path = options.cache / "embed" / f"{kind}-{rows}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.concat_tables([pq.read_table(f, columns=["id", "text"]) for f in inputs.shards(options.data / SOURCES[kind])])
        picked = np.linspace(0, table.num_rows - 1, min(rows, table.num_rows)).astype(int)
        inputs.publish(table.take(pa.array(picked)), path, 5_000)
    return path


def token_counts(options, source):
    """Tokens of each text, special ones included, after the cut."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(options.max_tokens)
    return [len(encoded.ids) for encoded in tokenizer.encode_batch(pq.read_table(source)["text"].to_pylist())]


def shapes(counts, budget):
    """(rows, tokens a row) of the batches: sorted texts packed to the budget, the padding taken out."""
    counts = np.sort(counts)
    made, place = [], 0
    while place < len(counts):
        end = place + 1
        while end < len(counts) and counts[end] * (end - place + 1) <= budget:
            end += 1
        made.append((end - place, max(1, round(counts[place:end].mean()))))
        place = end
    return made


def padding(counts, budget):
    """The share of the batches' places that padding would take."""
    counts, spent = np.sort(counts), 0
    place = 0
    for rows, _ in shapes(counts, budget):
        spent += rows * counts[place + rows - 1]
        place += rows
    return 1 - counts.sum() / spent


def limit(model, counts, way, budget, threads, share):
    """Tokens a second of the runtime alone; runs in a process of its own."""
    import onnxruntime

    def session(intra):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = intra
        options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    sessions = [session(threads)] if way == "one session" else [session(1) for _ in range(threads)]
    names = [entry.name for entry in sessions[0].get_inputs()]
    draws = np.random.default_rng(1)

    def feed(rows, width):
        ids = draws.integers(1_000, 30_000, (rows, width))
        both = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        return {name: both[name] for name in names}

    wanted = shapes(np.array(counts), budget)[::share]
    # The dearest first: no thread is left alone with a large batch at the end.
    feeds = [feed(*shape) for shape in sorted(wanted, key=lambda shape: -shape[0] * shape[1])]
    for one in sessions:
        one.run(None, feeds[-1])
    waiting = queue.SimpleQueue()
    for one in feeds:
        waiting.put(one)

    def work(one):
        while True:
            try:
                batch = waiting.get_nowait()
            except queue.Empty:
                return
            one.run(None, batch)

    begin = time.monotonic()
    workers = [threading.Thread(target=work, args=(one,)) for one in sessions]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.monotonic() - begin
    return sum(rows * width for rows, width in wanted) / seconds, onnxruntime.__version__


def run_limit(options, name, counts, way, budget, share):
    """`limit` in a process of its own."""
    request = json.dumps([str(options.model / name), counts, way, budget, options.threads, share])
    said = subprocess.run([sys.executable, __file__, "limit"], input=request, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(said.splitlines()[-1])


def measure(options, kind, name, source, counts, scratch):
    """Medians of one model on one kind of text."""
    options.file = name
    ways = [(way, budget) for way in ("one session", "a session a thread") for budget in options.budgets]
    share = SHARE if len(shapes(np.array(counts), max(options.budgets))) >= 4 * SHARE else 1
    tried = {setting: run_limit(options, name, counts, *setting, share)[0] for setting in ways}
    best = max(tried, key=tried.get)
    raw, stage, whole = [], [], []
    for _ in range(options.rounds):
        rate, version = run_limit(options, name, counts, *best, 1)
        in_stage, in_all = run_trommel(options, source, scratch)
        report = next(s["report"] for s in json.loads((scratch / "out/manifest.json").read_text())["stages"] if s["stage"] == "vectors")
        if report["tokens"] != sum(counts):
            sys.exit(f"trommel and the tokenizers library count other tokens: {report['tokens']} and {sum(counts)}")
        raw.append(rate)
        stage.append(report["tokens"] / in_stage)
        whole.append(report["tokens"] / in_all)
    raw, stage, whole = map(statistics.median, (raw, stage, whole))
    print(
        f"{kind:5} {name:16} {len(counts):6} texts {sum(counts):8} tokens: limit {raw:7.0f} tokens/s ({best[0]}, {best[1]} tokens a batch), "
        f"embed stage {stage:7.0f} ({stage / raw:.3f}), whole process {whole:7.0f} ({whole / raw:.3f})",
        flush=True,
    )
    return {
        "kind": kind, "model": name, "texts": len(counts), "tokens": sum(counts), "limit": raw, "way": best[0], "budget": best[1],
        "stage": stage, "whole": whole, "stage_ratio": stage / raw, "whole_ratio": whole / raw, "padding": padding(counts, options.batch_tokens),
        "tried": {f"{way}, {budget}": rate for (way, budget), rate in tried.items()}, "onnxruntime": version, "threads": options.threads,
    }  # fmt: skip


def main():
    if sys.argv[1:] == ["limit"]:
        print(json.dumps(limit(*json.load(sys.stdin))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("model", type=Path, help="folder with the models and tokenizer.json")
    parser.add_argument("--models", nargs="+", default=["model.onnx", "model_fp16.onnx", "model_int8.onnx"], help="ONNX files in it")
    parser.add_argument("--kinds", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--short-rows", type=int, default=4000)
    parser.add_argument("--long-rows", type=int, default=300)
    parser.add_argument("--trommel", default=str(root / "target/release/trommel"))
    parser.add_argument("--data", type=Path, default=inputs.default_data())
    parser.add_argument("--cache", type=Path, default=inputs.default_cache())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=4096, help="of trommel's batches")
    parser.add_argument("--budgets", type=int, nargs="+", default=[1024, 4096, 16384], help="tokens a batch that the limit may choose from")
    parser.add_argument("--json", type=Path, help="write all figures to this file too")
    options = parser.parse_args()
    if not os.access(options.trommel, os.X_OK):
        sys.exit(f"no program at {options.trommel}: cargo build --release, or --trommel PATH")
    scratch = options.cache / "embed-runs"
    scratch.mkdir(parents=True, exist_ok=True)
    found = []
    for kind in options.kinds:
        source = texts(options, kind, options.short_rows if kind == "short" else options.long_rows)
        counts = token_counts(options, source)
        print(f"{kind}: {len(counts)} texts, {sum(counts)} tokens, {max(counts)} at most; padding in trommel's batches {padding(counts, options.batch_tokens):.1%}", flush=True)
        for name in options.models:
            found.append(measure(options, kind, name, source, counts, scratch))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    print(f"onnxruntime {found[-1]['onnxruntime']}, {options.threads} threads, median of {options.rounds}; in brackets the share of the limit")


if __name__ == "__main__":
    main()
