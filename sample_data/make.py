"""Write the sample shards of this folder from the larger sets that they are extracts of.

usage: make.py DATA_FOLDER [OUT_FOLDER]        (pip install pyarrow==26.0.0)

DATA_FOLDER holds `documents/longhorn/*.parquet` (columns id, text) and `verses/*.parquet` (columns id, verse, version, text).
The result depends on nothing else: two runs give the same bytes. Prints the counts that README.md states.
"""

import glob
import re
import sys
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

RELEASES = ["1.3.4", "1.4.4", "1.5.6", "1.6.4", "1.6.5", "1.8.3", "1.10.2", "1.10.3", "1.12.2", "1.13.0"]
LONGHORN_SHARDS = [RELEASES[:4], RELEASES[4:7], RELEASES[7:]]

# Translation -> year of the edition. All are in the public domain everywhere; the King James text, which the Crown controls in
# the United Kingdom, is left out: Webster's revision stands in for it.
TRANSLATIONS = {
    "Haweis": 1795,
    "Webster": 1833,
    "Anderson": 1865,
    "Noyes": 1869,
    "Darby": 1890,
    "YLT": 1898,
    "ASV": 1901,
    "Rotherham": 1902,
    "Twenty": 1904,
}
VERSE_SHARDS = [["ASV", "Darby", "YLT"], ["Webster", "Rotherham", "Noyes"], ["Twenty", "Anderson", "Haweis"]]
EVERY_OLD, EVERY_NEW = 36, 10  # one verse in so many of the Old and of the New Testament

ROW_GROUP_ROWS = 80
SCHEMA = pa.schema(
    [
        pa.field("id", pa.utf8(), nullable=False),
        pa.field("text", pa.utf8(), nullable=False),
        pa.field("source", pa.dictionary(pa.int32(), pa.utf8())),
        pa.field("version", pa.utf8(), metadata={"meaning": "release of the documentation, or name of the translation"}),
        pa.field("weight", pa.int32()),
        pa.field("tags", pa.list_(pa.field("element", pa.utf8()))),
        pa.field("origin", pa.struct([pa.field("path", pa.utf8()), pa.field("year", pa.int16())])),
    ],
    metadata={"licence": "Apache-2.0 (longhorn) and public domain (verses); see README.md"},
)


def read(pattern):
    """Rows of all shards that the pattern names, as dictionaries."""
    files = sorted(glob.glob(str(pattern)))
    if not files:
        sys.exit(f"no shards at {pattern}")
    return pa.concat_tables([pq.read_table(f) for f in files]).to_pylist()


def longhorn(folder):
    """Pages by release, in the order of their paths."""
    pages = {}
    for row in read(folder / "documents/longhorn/*.parquet"):
        found = re.match(r"head:(content/docs/(?:archives/)?([^/]+)/(.+))$", row["id"])
        if not found or found.group(2) not in RELEASES:
            continue
        path, release, page = found.groups()
        weight = re.search(r"^weight: *(\d+) *$", row["text"][:400], re.MULTILINE)
        pages.setdefault(release, []).append(
            {
                "id": f"longhorn/{release}/{page}",
                "text": row["text"],
                "source": "longhorn",
                "version": release,
                "weight": int(weight.group(1)) if weight else None,
                "tags": ["documentation", *page.split("/")[:-1]],
                "origin": {"path": path, "year": None},
            }
        )
    return {release: sorted(rows, key=lambda r: r["id"]) for release, rows in pages.items()}


def verses(folder):
    """A spread of verses by translation, in the order of the book."""
    texts = {}
    for row in read(folder / "verses/*.parquet"):
        if row["version"] in TRANSLATIONS:
            texts.setdefault(row["verse"], {})[row["version"]] = row["text"]
    number = lambda verse: int(verse[2:])
    old = sorted((v for v in texts if v.startswith("ot")), key=number)
    new = sorted((v for v in texts if v.startswith("nt")), key=number)
    rows = {}
    for verse in old[::EVERY_OLD] + new[::EVERY_NEW]:
        for version, text in texts[verse].items():
            rows.setdefault(version, []).append(
                {
                    "id": f"verse/{version}/{verse}",
                    "text": text,
                    "source": "verses",
                    "version": version,
                    "weight": None,
                    "tags": [] if verse.startswith("ot") else ["new testament"],
                    "origin": {"path": verse, "year": TRANSLATIONS[version]},
                }
            )
    return rows


def write(path, rows):
    """One shard: zstd, small row groups, so that some of them lose no row."""
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=15,
        row_group_size=ROW_GROUP_ROWS,
        use_dictionary=["source", "version", "tags.list.element"],
        data_page_size=8 << 20,
    )
    return len(rows), path.stat().st_size


def normalised(text):
    """nfkc, lowercase, collapse_whitespace, as `exact_dedup` does them."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def main():
    folder = Path(sys.argv[1])
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent
    pages, book = longhorn(folder), verses(folder)
    shards = [(f"longhorn-{n}.parquet", [r for v in part for r in pages[v]]) for n, part in enumerate(LONGHORN_SHARDS)]
    shards += [(f"verses-{n}.parquet", [r for v in part for r in book[v]]) for n, part in enumerate(VERSE_SHARDS)]
    everything, total = [], 0
    for name, rows in shards:
        count, size = write(out / name, rows)
        groups = pq.ParquetFile(out / name).metadata.num_row_groups
        print(f"{name:22} {count:5} rows  {groups:3} row groups  {size:9,} bytes")
        everything += rows
        total += size
    texts = [r["text"] for r in everything]
    assert len({r["id"] for r in everything}) == len(everything), "ids are unique"
    print(f"rows                                  {len(texts)}")
    print(f"bytes of text                         {sum(len(t.encode()) for t in texts):,}")
    print(f"bytes of Parquet                      {total:,}")
    print(f"repeats by bytes                      {len(texts) - len(set(texts))}")
    print(f"repeats by nfkc, lowercase, collapse  {len(texts) - len(set(map(normalised, texts)))}")


if __name__ == "__main__":
    main()
