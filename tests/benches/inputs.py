"""The inputs of the benchmarks, made once into a cache folder from a folder of texts; two runs give the same rows.

usage: inputs.py DATA_FOLDER CACHE_FOLDER
"""

import glob
import os
import random
import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

COPIES = 4  # of the corpus: 705 MB of text in 172 MB of Parquet
MEMORY_ROWS = 200_000
EDITIONS = 10  # of the corpus: 1.75 GB of text
LEAST_JACCARD = 0.4  # of an edition's text and the first edition's
WORD = re.compile(r"\w+")


def default_data():
    """The data folder beside the checkout."""
    return Path(__file__).resolve().parents[3] / "shared" / "data"


def default_cache():
    """A folder that survives runs."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "trommel-bench"


def shards(pattern):
    """Sorted paths of a glob; an error where there are none."""
    found = sorted(glob.glob(str(pattern)))
    if not found:
        sys.exit(f"no Parquet files at {pattern}")
    return found


def publish(table, path, row_group_rows):
    """Write aside, then rename: a killed run leaves no half shard."""
    aside = path.with_suffix(".tmp")
    pq.write_table(table, aside, compression="zstd", compression_level=1, row_group_size=row_group_rows)
    aside.rename(path)


def large_corpus(data, cache):
    """Copies of the corpus, each text with its copy's own first line: as many bytes as copies, as few duplicates as in one."""
    folder = cache / "exact"
    if (folder / "done").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for copy in range(COPIES):
        for n, shard in enumerate(shards(data / "corpus" / "*.parquet")):
            table = pq.read_table(shard)
            table = table.set_column(0, "id", pc.binary_join_element_wise(f"copy{copy}", table["id"], "/"))
            text = pc.binary_join_element_wise(f"<!-- printing number {copy} -->", table["text"], "\n")
            table = table.set_column(table.schema.get_field_index("text"), "text", text)
            publish(table, folder / f"copy{copy}-{n:03}.parquet", 512)
    (folder / "done").touch()
    return folder


def many_texts(data, cache):
    """200,000 texts from one line to a thousand, mixed: verses, documentation pages, and the corpus to fill up."""
    folder = cache / "memory"
    if (folder / "done").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for pattern in ["verses/*.parquet", "documents/longhorn/*.parquet", "corpus/*.parquet"]:
        for shard in shards(data / pattern):
            parts.append(pq.read_table(shard, columns=["id", "text"]))
    table = pa.concat_tables(parts).slice(0, MEMORY_ROWS)
    if table.num_rows != MEMORY_ROWS:
        sys.exit(f"{data} has {table.num_rows} texts, {MEMORY_ROWS} are needed")
    step = 7919  # prime to 200,000: every shard gets texts of every kind
    table = table.take(pa.array([(i * step) % MEMORY_ROWS for i in range(MEMORY_ROWS)])).combine_chunks()
    for n in range(8):
        publish(table.slice(n * 25_000, 25_000), folder / f"part-{n}.parquet", 5_000)
    (folder / "done").touch()
    return folder


def edited(text, words, target, draw):
    """The text with so many of its words (their spans) replaced, followed by another one or taken out that its word 5-grams and
    those of the text have about the Jaccard similarity `target`: where a share e of words changes, (1 - e)^5 of the 5-grams stay."""
    share = 1 - (2 * target / (1 + target)) ** (1 / 5)
    pieces, end = [], 0
    for place in sorted(draw.sample(range(len(words)), round(share * len(words)))):
        begin, after = words[place]
        other = text[slice(*draw.choice(words))]
        pieces.append(text[end:begin])
        pieces.append(draw.choice([other, f"{text[begin:after]} {other}", ""]))
        end = after
    pieces.append(text[end:])
    return "".join(pieces)


def edited_corpus(data, cache, editions=EDITIONS):
    """Editions of the corpus: the first as it is, in each other one every text edited by a share of its words of its own."""
    folder = cache / f"editions-{editions}"
    if (folder / "done").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for n, shard in enumerate(shards(data / "corpus" / "*.parquet")):
        table = pq.read_table(shard)
        ids, texts = table["id"].to_pylist(), table["text"].to_pylist()
        words = [[match.span() for match in WORD.finditer(text)] for text in texts]
        for edition in range(editions):
            draw = random.Random(f"edition {edition} of shard {n}")
            if edition > 0:
                changed = [edited(t, w, draw.uniform(LEAST_JACCARD, 1), draw) for t, w in zip(texts, words)]
                table = table.set_column(table.schema.get_field_index("text"), "text", pa.array(changed))
            table = table.set_column(table.schema.get_field_index("id"), "id", pa.array([f"edition{edition}/{i}" for i in ids]))
            publish(table, folder / f"edition{edition}-{n:03}.parquet", 512)
    (folder / "done").touch()
    return folder


def main():
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else default_data()
    cache = Path(sys.argv[2]) if len(sys.argv) > 2 else default_cache()
    for folder in [large_corpus(data, cache), many_texts(data, cache), edited_corpus(data, cache)]:
        files = shards(folder / "*.parquet")
        rows = sum(pq.read_metadata(f).num_rows for f in files)
        text = sum(pc.sum(pc.binary_length(pq.read_table(f, columns=["text"])["text"])).as_py() for f in files)
        size = sum(os.path.getsize(f) for f in files)
        print(f"{folder}: {len(files)} shards, {rows} rows, {text / 1e6:.1f} MB of text, {size / 1e6:.1f} MB of Parquet")


if __name__ == "__main__":
    main()
