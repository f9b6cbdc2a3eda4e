"""Cuts the documents of this folder from the Longhorn set and compares all pairs of them by brute force; two runs give the same bytes.

usage: make.py DATA_FOLDER          (pip install pyarrow==26.0.1; DATA_FOLDER holds documents/longhorn and golden/data_prep_kit)

documents.parquet: `id`, `text` (the page as it is), `words` (the truth's words joined by spaces: `\\w+` of the lower-cased text).
data_prep_kit.parquet: the two input files of that tool's test, one after the other.
pairs.parquet: `a`, `b` (row numbers, a < b), `shared`, `union`, `jaccard`: every pair whose sets of word 5-grams have Jaccard >= .5.
"""

import collections
import random
import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
ROWS = 400  # distinct word sequences
REPEATS = 20  # rows more whose words are those of another row
MOST_WORDS = 1500
LEAST_WORDS = 10
SHINGLE_WORDS = 5
WORD = re.compile(r"\w+")


def words(text):
    """The truth's words."""
    return WORD.findall(text.lower())


def shingles(found):
    """Distinct word 5-grams."""
    return {tuple(found[i : i + SHINGLE_WORDS]) for i in range(len(found) - SHINGLE_WORDS + 1)}


def documents(folder):
    """Whole families of pages, drawn by a seed: all versions of a page that differ in words, and some that do not."""
    families = collections.defaultdict(list)
    for path in sorted(folder.glob("*.parquet")):
        for row in pq.read_table(path, columns=["id", "cluster", "text"]).to_pylist():
            families[row["cluster"]].append((row["id"], row["text"]))
    draw = random.Random(1)
    names = sorted(families)
    draw.shuffle(names)
    distinct, repeats = [], []
    for name in names:
        seen, again = {}, []
        for row in sorted(families[name]):
            found = tuple(words(row[1]))
            (again if found in seen else seen.setdefault(found, [])).append(row)
        if len(seen) < 2 or not all(LEAST_WORDS <= len(found) <= MOST_WORDS for found in seen):
            continue
        distinct += [rows[0] for rows in seen.values()]
        repeats += again[:1]
        if len(distinct) >= ROWS:
            break
    rows = distinct[:ROWS] + repeats[:REPEATS]
    draw.shuffle(rows)
    return rows


def all_pairs(sets):
    """Every pair with Jaccard >= 1/2."""
    for b, other in enumerate(sets):
        for a, one in enumerate(sets[:b]):
            shared = len(one & other)
            union = len(one) + len(other) - shared
            if 2 * shared >= union:
                yield a, b, shared, union, shared / union


def write(table, name):
    """One row group, so that versions of a page compress against each other."""
    options = {"compression": "zstd", "compression_level": 19, "use_dictionary": False, "data_page_size": 1 << 24, "write_statistics": False}
    pq.write_table(table, HERE / name, row_group_size=table.num_rows, **options)


def main():
    data = Path(sys.argv[1])
    rows = documents(data / "documents/longhorn")
    found = [words(text) for _, text in rows]
    columns = {"id": [name for name, _ in rows], "text": [text for _, text in rows], "words": [" ".join(of) for of in found]}
    write(pa.table(columns, pa.schema([(name, pa.utf8()) for name in columns])), "documents.parquet")
    types = {"a": pa.uint32(), "b": pa.uint32(), "shared": pa.uint32(), "union": pa.uint32(), "jaccard": pa.float64()}
    values = zip(*sorted(all_pairs([shingles(of) for of in found])))
    pairs = pa.table({name: pa.array(column, kind) for (name, kind), column in zip(types.items(), values)})
    write(pairs, "pairs.parquet")
    parts = [pq.read_table(data / f"golden/data_prep_kit/input_{n}.parquet") for n in (1, 2)]
    write(pa.concat_tables(parts).combine_chunks(), "data_prep_kit.parquet")
    bins = collections.Counter(min(19, int(value * 20)) / 20 for value in pairs["jaccard"].to_pylist())
    print(f"{len(rows)} rows, {sum(map(len, found))} words, {pairs.num_rows} pairs: " + ", ".join(f"{low:.2f}: {n}" for low, n in sorted(bins.items())))


if __name__ == "__main__":
    main()
