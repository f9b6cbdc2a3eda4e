"""Labelled sets for the selectors, drawn by a seed from the data folder and embedded once by trommel.

* pages: 8,000 Markdown pages of the Windows API documentation of `corpus`. The label is the folder that its authors put a page into, such as
  DirectShow or Msi: 100 areas with a long tail. Without front matter and link targets, which repeat the folder's name; no two texts are equal.
* verses: 500 Bible verses in all their translations, some of which differ by nothing or by a comma. The label is the verse, so that a label is
  a content, and its rows are its copies and paraphrases.
* planted: 3,000 of the pages and 3,000 copies of them, to train on, and 2,500 other pages to test with. Which page is copied follows Zipf's law:
  a few are copied hundreds of times, most never. Half the copies are equal byte for byte; in the others some words are changed.
"""

import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import inputs
import vectors
from process import usage

PAGES, LEAST_OF_AREA = 8000, 20
VERSES, LEAST_TRANSLATIONS = 500, 15
ORIGINALS, COPIES, TESTED = 3000, 3000, 2500
LEAST_JACCARD = 0.8  # of an edited copy and its original
LEAK = 0.98  # cosine: a page so close to one of the training set is not tested with
MAX_TOKENS, BATCH_TOKENS = 128, 4096
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
TARGET = re.compile(r"\]\([^)\s]*\)")


def pages(data):
    """`id, label, text` of the pages."""
    parts = [pq.read_table(shard) for shard in inputs.shards(data / "corpus" / "*.parquet")]
    table = pa.concat_tables(parts)
    table = table.filter(pc.equal(table["source"], "MicrosoftDocs/win32"))
    found = {}
    for name, text in zip(table["id"].to_pylist(), table["text"].to_pylist()):
        folders = name.partition(":")[2].split("/")
        text = TARGET.sub("]", FRONT_MATTER.sub("", text)).strip()
        if len(folders) > 2 and text:
            found.setdefault(text, (name, folders[1]))
    sizes = Counter(area for _, area in found.values())
    rows = sorted((name, area, text) for text, (name, area) in found.items() if sizes[area] >= LEAST_OF_AREA)
    rows = random.Random("pages").sample(rows, PAGES)
    return pa.table(dict(zip(("id", "label", "text"), map(list, zip(*rows)))))


def verses(data):
    """`id, label, text` of the verses."""
    table = pa.concat_tables(pq.read_table(shard) for shard in inputs.shards(data / "verses" / "*.parquet"))
    sizes = Counter(table["verse"].to_pylist())
    chosen = random.Random("verses").sample(sorted(verse for verse, size in sizes.items() if size >= LEAST_TRANSLATIONS), VERSES)
    table = table.filter(pc.is_in(table["verse"], pa.array(chosen))).sort_by("id")
    order = np.random.default_rng(1).permutation(table.num_rows)
    return pa.table({"id": table["id"], "label": table["verse"], "text": table["text"]}).take(order)


def edits(table, chosen, seed):
    """Texts of some rows with a few of their words changed."""
    draw, texts = random.Random(f"edits {seed}"), table["text"].to_pylist()
    found = []
    for row in chosen:
        words = [match.span() for match in inputs.WORD.finditer(texts[row])]
        found.append(inputs.edited(texts[row], words, draw.uniform(LEAST_JACCARD, 1), draw) if words else texts[row])
    return found


def planted(options, table, seed):
    """The training set (`id, label, text, original` and the vectors), and the rows of `table` to test with."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(table.num_rows)
    originals, tested = order[:ORIGINALS], order[ORIGINALS : ORIGINALS + TESTED]
    weights = 1 / np.arange(1, ORIGINALS + 1)
    copied = originals[draw.choice(ORIGINALS, COPIES, p=weights / weights.sum())]
    equal, changed = copied[: COPIES // 2], copied[COPIES // 2 :]
    edited = pa.table({"id": [f"edited {n}" for n in range(len(changed))], "text": edits(table, changed, seed)})
    edited = embedded(options, f"edits-{seed}", edited)
    parts = [table.take(originals), table.take(equal), table.take(changed)]
    for column in ["text", *options.models]:
        parts[2] = parts[2].set_column(parts[2].schema.get_field_index(column), column, edited[column])
    train = pa.concat_tables(parts).combine_chunks()
    train = train.append_column("original", pa.array(np.concatenate([originals, equal, changed])))
    train = train.take(draw.permutation(train.num_rows))
    train = train.set_column(train.schema.get_field_index("id"), "id", pa.array([f"row {n}" for n in range(train.num_rows)]))
    nearest = (matrix(table.take(tested), options.models[0]) @ matrix(train, options.models[0]).T).max(axis=1)
    return train, tested[nearest < LEAK]


def matrix(table, column):
    """The vectors of a column, of length 1."""
    column = table[column].combine_chunks()
    return vectors.unit(column.flatten().to_numpy().astype(np.float32).reshape(len(column), -1))


def embedded(options, name, table):
    """The table with a column of vectors for each model, made once."""
    folder = (options.cache / "selectors-quality" / name).absolute()
    source, out, work, done = folder / "texts.parquet", folder / "out", folder / "work", folder / "embedded.parquet"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        inputs.publish(table, source, 1000)
        files = {"path": str(options.model / options.file), "tokenizer": str(options.model / "tokenizer.json")}
        transformer = {"model": files, "provider": "cpu", "max_tokens": MAX_TOKENS, "batch_tokens": BATCH_TOKENS}
        document = {
            "version": 1,
            "name": "bench_embedded",
            "sources": {"bench": {"parquet": {"uri": str(source), "text": "text", "id": "id"}}},
            "stages": [
                {"id": "minilm", "embed": transformer},
                {"id": "builtin", "embed": {"model": "builtin", "max_tokens": MAX_TOKENS}},
            ],
            "sink": {"parquet": {"uri": str(out), "add": ["minilm", "builtin"]}},
            "work": {"uri": str(work)},
        }
        (folder / "pipeline.yaml").write_text(json.dumps(document, indent=1))  # JSON is YAML
        command = [options.trommel, "run", str(folder / "pipeline.yaml"), "--threads", str(options.threads)]
        if options.onnxruntime:
            command += ["--onnxruntime", str(options.onnxruntime)]
        usage(command, folder / "trommel.log")
        made = pa.concat_tables(pq.read_table(path) for path in sorted((out / "data").rglob("*.parquet")))
        if not made["id"].equals(table["id"]) or made["minilm"].null_count or made["builtin"].null_count:
            raise SystemExit(f"{name}: trommel's rows are not those that it was given, or lack vectors")
        inputs.publish(made, done, 1000)
        for folder in [out, work]:
            shutil.rmtree(folder)
    return pq.read_table(done)


def sets(options):
    """The pages and the verses with their vectors."""
    return {"pages": embedded(options, "pages", pages(options.data)), "verses": embedded(options, "verses", verses(options.data))}
