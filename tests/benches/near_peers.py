"""The peers' half of near_vs_peers.py, near_drift.py and near_parity.py; runs in the environment that those make.

usage: near_peers.py datatrove|rensa|datasketch IN_GLOB OUT_FOLDER [--text text] [--workers 2] [--tokens spacy|spaces]
       near_peers.py tokens IN_GLOB OUT_FOLDER                       (both tokenisations of datatrove's text, one JSON line a row)

Reads the files of a glob in one folder, writes the kept rows as zstd Parquet to OUT_FOLDER/kept and the decisions to
OUT_FOLDER/dropped.parquet (`row`, `survivor`: numbers over all files in order). All have 14 bands of 8 and 5-word shingles. The last
line printed is JSON: seconds without the start of Python, and the parts of it.
"""

import argparse
import glob
import json
import re
import shutil
import struct
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BANDS, ROWS, SHINGLE_WORDS = 14, 8, 5
WORD = re.compile(r"\w+")


def shingles(text):
    """Distinct word 5-grams, joined by a space."""
    found = WORD.findall(text.lower())
    return {" ".join(found[i : i + SHINGLE_WORDS]) for i in range(max(1, len(found) - SHINGLE_WORDS + 1))} if found else set()


def write_kept(paths, out, dropped):
    """The rows that are not dropped, one file a file."""
    (out / "kept").mkdir()
    place = 0
    for path in paths:
        table = pq.read_table(path)
        stays = np.ones(table.num_rows, bool)
        stays[[row - place for row in dropped if place <= row < place + table.num_rows]] = False
        pq.write_table(table.filter(pa.array(stays)), out / "kept" / Path(path).name, compression="zstd", compression_level=3)
        place += table.num_rows


def insert_and_query(paths, out, text, sketch, query, insert):
    """A row is dropped if the index has a row that shares a band; the first such row is its survivor, a kept one if there is one."""
    dropped, parts = {}, {"shingle": 0.0, "sketch": 0.0, "lsh": 0.0}
    row = 0
    for path in paths:
        for value in pq.read_table(path, columns=[text])[text].to_pylist():
            begin = time.monotonic()
            units = shingles(value)
            shingled = time.monotonic()
            signature = sketch(units)
            sketched = time.monotonic()
            if units:
                found = sorted(query(signature))
                if found:
                    dropped[row] = next((f for f in found if f not in dropped), found[0])
                insert(row, signature)
            end = time.monotonic()
            parts["shingle"] += shingled - begin
            parts["sketch"] += sketched - shingled
            parts["lsh"] += end - sketched
            row += 1
    begin = time.monotonic()
    write_kept(paths, out, dropped)
    parts["write"] = time.monotonic() - begin
    return dropped, parts


def run_rensa(paths, out, options):
    """rensa: sketches of full sets of shingles, its LSH index."""
    import rensa

    index = rensa.RMinHashLSH(threshold=0.8, num_perm=BANDS * ROWS, num_bands=BANDS)

    def sketch(units):
        signature = rensa.RMinHash(num_perm=BANDS * ROWS, seed=42)
        signature.update(list(units))
        return signature

    return insert_and_query(paths, out, options.text, sketch, index.query, index.insert)


def run_datasketch(paths, out, options):
    """datasketch: update_batch and MinHashLSH with fixed bands."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))

    def sketch(units):
        signature = MinHash(num_perm=BANDS * ROWS)
        signature.update_batch([unit.encode() for unit in units])
        return signature

    insert = lambda row, signature: index.insert(row, signature, check_duplication=False)
    return insert_and_query(paths, out, options.text, sketch, index.query, insert)


class Spaces:
    """A word tokeniser that cuts at spaces, instead of spaCy's."""

    def word_tokenize(self, text):
        return text.split()


def run_datatrove(paths, out, options):
    """datatrove's four stages with its local executor."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter

    config = MinhashConfig(n_grams=SHINGLE_WORDS, num_buckets=BANDS, hashes_per_bucket=ROWS)
    reader = lambda: ParquetReader(str(options.input.parent), text_key=options.text, glob_pattern=options.input.name)
    folder = lambda name: str(out / name)
    signature = MinhashDedupSignature(output_folder=folder("signatures"), config=config)
    if options.tokens == "spaces":
        signature.word_tokenizer = Spaces()
    writer = ParquetWriter(folder("kept"), compression="zstd")
    stages = {
        "signature": (len(paths), [reader(), signature]),
        "buckets": (BANDS, [MinhashDedupBuckets(folder("signatures"), folder("buckets"), config=config)]),
        "cluster": (1, [MinhashDedupCluster(folder("buckets"), folder("clusters"), config=config, save_cluster_id=True)]),
        "filter": (len(paths), [reader(), MinhashDedupFilter(folder("clusters")), writer]),
    }
    parts = {}
    for name, (tasks, pipeline) in stages.items():
        begin = time.monotonic()
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=options.workers, logging_dir=str(out / "logs" / name)).run()
        parts[name] = time.monotonic() - begin
    return datatrove_decisions(paths, out, options.text), parts


def datatrove_decisions(paths, out, text):
    """Survivor of each removed row, from the files of stage 3."""
    survivor, removed, cluster_of = {}, set(), {}
    place = 0
    for number, path in enumerate(paths):
        values = pq.read_table(path, columns=[text])[text]
        if any(not value for value in values.to_pylist()):
            raise SystemExit(f"{path}: an empty text, which datatrove's reader leaves out: its row numbers would shift")
        name = out / "clusters" / f"{number:06d}"
        if name.with_suffix(".remove").exists():
            removed |= {place + row for (row,) in struct.iter_unpack("<I", name.with_suffix(".remove").read_bytes())}
        if name.with_suffix(".clusters").exists():
            cluster_of |= {place + row: c for row, c in struct.iter_unpack("<II", name.with_suffix(".clusters").read_bytes())}
        place += len(values)
    for row, cluster in cluster_of.items():
        if row not in removed:
            survivor[cluster] = row
    return {row: survivor[cluster_of[row]] for row in sorted(removed)}


def print_tokens(paths, options):
    """Tokens of datatrove's simplified text by spaCy and by spaces."""
    from datatrove.utils.text import simplify_text
    from datatrove.utils.word_tokenizers import load_word_tokenizer

    tokenizer = load_word_tokenizer("en")
    with open(options.output / "tokens.jsonl", "w") as sink:
        for path in paths:
            for text in pq.read_table(path, columns=[options.text])[options.text].to_pylist():
                simple = simplify_text(text)
                sink.write(json.dumps([tokenizer.word_tokenize(simple), simple.split()]) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=["datatrove", "rensa", "datasketch", "tokens"])
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--text", default="text")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tokens", choices=["spacy", "spaces"], default="spacy")
    options = parser.parse_args()
    paths = sorted(glob.glob(str(options.input)))
    shutil.rmtree(options.output, ignore_errors=True)
    options.output.mkdir(parents=True)
    if options.peer == "tokens":
        return print_tokens(paths, options)
    run = {"datatrove": run_datatrove, "rensa": run_rensa, "datasketch": run_datasketch}[options.peer]
    begin = time.monotonic()
    dropped, parts = run(paths, options.output, options)
    seconds = time.monotonic() - begin
    table = pa.table({"row": pa.array(list(dropped), pa.int64()), "survivor": pa.array(list(dropped.values()), pa.int64())})
    pq.write_table(table, options.output / "dropped.parquet")
    print(json.dumps({"seconds": seconds, "parts": parts, "version": version(options.peer)}))


if __name__ == "__main__":
    main()
