"""Shows that check_output.py can fail: spoils copies of a good output folder, one fault each, and expects the right check to say so.

usage: check_output_test.py OUT_FOLDER [INPUT_GLOB]          (an output with exact duplicates, of the mirror layout)
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from check_output import digest

CHECK = Path(__file__).with_name("check_output.py")


def rehash(out):
    """Makes the manifest agree with the files again, so that a fault is found by its own check and not by the hash."""
    path = out / "manifest.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["files"]:
        file = out / entry["path"]
        entry.update(bytes=file.stat().st_size, blake3=digest(file), rows=pq.read_metadata(file).num_rows)
    path.write_text(json.dumps(manifest))


def edit_lineage(out, wanted, change):
    """Applies `change(rows, place)` to the first lineage file that has a row as wanted."""
    for path in sorted((out / "lineage").rglob("*.parquet")):
        table = pq.ParquetFile(path).read()
        rows = table.to_pylist()
        place = next((i for i, row in enumerate(rows) if wanted(row)), None)
        if place is not None:
            change(rows, place)
            pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
            return rehash(out)
    raise LookupError("no such lineage row")


def edit_data(out, change):
    """Applies `change(table) -> table` to the first data file with two rows."""
    for path in sorted((out / "data").rglob("*.parquet")):
        table = pq.ParquetFile(path).read()
        if table.num_rows > 1:
            pq.write_table(change(table), path)
            return rehash(out)
    raise LookupError("no data file with two rows")


def assign(**values):
    """A change of one row; a value may be a function of the row."""

    def change(rows, place):
        row = rows[place]
        row.update({name: value(row) if callable(value) else value for name, value in values.items()})

    return change


def reverse_lists(table):
    """The table with the values of its first nested column in another order of rows."""
    place = next((i for i, field in enumerate(table.schema) if pa.types.is_nested(field.type)), None)
    if place is None:
        raise LookupError("no nested column")
    return table.set_column(place, table.schema.field(place), table.column(place).take(pa.array(range(table.num_rows))[::-1]))


def spoil_byte(out):
    """Changes one byte of a data file and leaves the manifest."""
    path = sorted((out / "data").rglob("*.parquet"))[0]
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def stray_file(out):
    """Puts a file into data/ that the manifest has not."""
    shutil.copy(sorted((out / "data").rglob("*.parquet"))[0], out / "data" / "stray.parquet")


def wrong_count(out):
    """One kept row too many in the manifest."""
    path = out / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["rows"]["kept"] += 1
    path.write_text(json.dumps(manifest))


def kept(row):
    return row["decision"] == "keep" and row["copies"] == 0


def exact(row):
    return row["reason"] == "exact_duplicate"


def semantic(row):
    return row["reason"] == "semantic_duplicate"


def near(row):
    return row["reason"] == "near_duplicate"


FAULTS = {
    "a changed byte": ("output files as in the manifest", spoil_byte),
    "a stray file": ("output files as in the manifest", stray_file),
    "a wrong count": ("kept ", wrong_count),
    "a lineage row less": ("once in the lineage", lambda o: edit_lineage(o, kept, lambda rows, i: rows.pop(i))),
    "a lineage row twice": ("once in the lineage", lambda o: edit_lineage(o, kept, lambda rows, i: rows.append(rows[i]))),
    "a decision of its own": ("kept ", lambda o: edit_lineage(o, kept, assign(decision="maybe"))),
    "a kept row with a reason": ("decision, stage and reason", lambda o: edit_lineage(o, kept, assign(reason="filtered"))),
    "another run's row": ("decision, stage and reason", lambda o: edit_lineage(o, kept, assign(run_id="other"))),
    "a row that names itself": (
        "representatives",
        lambda o: edit_lineage(o, exact, assign(kept_shard=lambda r: r["shard"], kept_row=lambda r: r["row"], kept_doc_id=lambda r: r["doc_id"])),
    ),
    "a representative past the end": ("representatives", lambda o: edit_lineage(o, exact, assign(kept_row=2**39))),
    "a representative that is another row": ("equal their representatives", lambda o: edit_lineage(o, exact, assign(kept_row=lambda r: r["kept_row"] + 1))),
    "one copy too many": ("copies", lambda o: edit_lineage(o, kept, assign(copies=1))),
    "a wrong id": ("doc_id", lambda o: edit_lineage(o, kept, assign(doc_id="nobody"))),
    "two rows exchanged": ("data/", lambda o: edit_data(o, lambda t: t.take([1, 0, *range(2, t.num_rows)]))),
    "a nested column shuffled": ("data/", lambda o: edit_data(o, reverse_lists)),
    "a row less in data": ("data/", lambda o: edit_data(o, lambda t: t.slice(1))),
    "a row twice in data": ("data/", lambda o: edit_data(o, lambda t: pa.concat_tables([t, t.slice(0, 1)]))),
    "metadata lost": ("data/", lambda o: edit_data(o, lambda t: t.replace_schema_metadata(None))),
    "a score under the threshold": ("score at least", lambda o: edit_lineage(o, semantic, assign(score=0.0))),
    "a near duplicate under the threshold": ("score at least", lambda o: edit_lineage(o, near, assign(score=0.0))),
    "a score of another pair": ("the Jaccard similarity", lambda o: edit_lineage(o, near, assign(score=lambda r: (r["score"] + 1) / 2 - 1e-9))),
}


def main():
    good = Path(sys.argv[1])
    arguments = ["--inputs", sys.argv[2]] if len(sys.argv) > 2 else []
    check = lambda out: subprocess.run([sys.executable, CHECK, out, *arguments], capture_output=True, text=True, check=False)
    first = check(good)
    if first.returncode != 0:
        sys.exit(f"the good folder fails already:\n{first.stdout}{first.stderr}")
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, (title, spoil) in FAULTS.items():
            out = Path(folder) / "out"
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(good, out)
            try:
                spoil(out)
            except LookupError as reason:
                print(f"not run  {name}: {reason}")
                continue
            result = check(out)
            found = result.returncode != 0 and any(line.startswith("FAILED") and title in line for line in result.stdout.splitlines())
            missed += not found
            print(f"{'found ' if found else 'MISSED'}  {name}")
            if not found:
                print(result.stdout + result.stderr)
    if missed:
        sys.exit(f"{missed} faults were not found")


if __name__ == "__main__":
    main()
