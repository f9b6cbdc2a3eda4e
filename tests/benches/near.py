"""What the benchmarks of near duplicates share: words and shingles as the referee sees them, the rules in plain Python, and runs of trommel.

The referee's words are those of the truth of the document sets: `\\w+` of the lower-cased text. A document's shingles are its distinct word
5-grams, each as a 64-bit hash of word numbers (two of 10^8 shingles collide once in 4,000 runs).
"""

import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import inputs
from process import environment, usage

WORD = re.compile(r"\w+")
SHINGLE_WORDS = 5
BANDS, ROWS = 14, 8
ODD = 0x9E3779B97F4A7C15  # 2^64 / golden ratio


def words(text):
    """The referee's words."""
    return WORD.findall(text.lower())


class Shingler:
    """Turns words into shingles; equal words have equal numbers only within one shingler."""

    def __init__(self, length=SHINGLE_WORDS):
        self.length = length
        self.numbers = {}

    def __call__(self, tokens):
        """Sorted distinct shingles, uint64; texts shorter than a shingle are one shingle, and empty ones none."""
        numbers = self.numbers
        ids = np.fromiter((numbers.setdefault(t, len(numbers) + 1) for t in tokens), np.uint64, len(tokens))
        windows = max(1, len(ids) - self.length + 1) if len(ids) else 0
        hashes = np.zeros(windows, np.uint64)
        for place in range(min(self.length, len(ids))):
            hashes = mixed(hashes ^ ids[place : place + windows])
        return np.unique(hashes)


def mixed(values):
    """A bijection of 64 bits that spreads them (splitmix64)."""
    values = values + np.uint64(ODD)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def jaccard(one, other):
    """Jaccard similarity of two sorted sets, as the quotient of two whole numbers; empty sets match nothing."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    union = len(one) + len(other) - shared
    return shared / union if union else 0.0


def s_curve(similarity, bands=BANDS, rows=ROWS):
    """Probability that a pair shares a band."""
    return 1 - (1 - np.asarray(similarity) ** rows) ** bands


def star(count, neighbours):
    """Representative of each of the rows 0.., or -1: dropped if and only if a row already kept is a neighbour; the most similar, ties to
    the first. `neighbours[row]` holds (earlier row, similarity)."""
    kept = np.full(count, -1, np.int64)
    for row in range(count):
        best = -1.0
        for earlier, similarity in neighbours.get(row, ()):
            if kept[earlier] < 0 and (similarity > best or (similarity == best and earlier < kept[row])):
                best, kept[row] = similarity, earlier
    return kept


def components(count, pairs):
    """First row of each row's connected component."""
    parent = list(range(count))

    def root(row):
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for one, other in pairs:
        one, other = sorted((root(int(one)), root(int(other))))
        parent[other] = one
    return np.array([root(row) for row in range(count)], np.int64)


class Outcome(NamedTuple):
    """What a run of one `minhash_dedup` stage left, by row number over all shards in order of their paths."""

    gone: np.ndarray  # whether a row was dropped
    kept: np.ndarray  # representative of a dropped row; -1 for a kept one, and for one that `components` dropped at the end of a chain
    score: np.ndarray  # similarity of a dropped row and its representative, or the survivor of its component; NaN where not told
    bands: np.ndarray  # shared bands of a dropped row and its representative, 0 where not told
    section: dict  # the stage's section of the manifest
    usage: tuple  # seconds, cpu, peak
    files: list  # Parquet written
    work_bytes: int  # left in the work folder

    @property
    def dropped(self):
        """Numbers of the dropped rows."""
        return np.flatnonzero(self.gone)


def common_options(parser):
    """The options of every script."""
    parser.add_argument("--trommel", default=str(Path(__file__).resolve().parents[2] / "target/release/trommel"))
    parser.add_argument("--data", type=Path, default=inputs.default_data())
    parser.add_argument("--cache", type=Path, default=inputs.default_cache())
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")


def need_trommel(options):
    """Ends the program where there is no trommel."""
    if not os.access(options.trommel, os.X_OK):
        sys.exit(f"no program at {options.trommel}: cargo build --release, or --trommel PATH")


def finish(options, figures, failures=()):
    """Writes the figures and ends with 1 where a check failed."""
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1, default=float) + "\n")
    for failure in failures:
        print(f"FAILED {failure}")
    if failures:
        sys.exit(1)


def tree_hash(folder):
    """One hash of all files below a run's output but run.json."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "run.json":
            digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def run_trommel(options, pattern, stage, scratch, memory=None, text="text", batch_rows=None):
    """One cold run of a pipeline with one stage `near`: no work folder, no output."""
    pattern = str(Path(pattern).absolute())
    scratch = scratch.absolute()
    scratch.mkdir(parents=True, exist_ok=True)
    out, work, pipeline = scratch / "out", scratch / "work", scratch / "pipeline.yaml"
    for folder in [out, work]:
        shutil.rmtree(folder, ignore_errors=True)
    document = {
        "version": 1,
        "name": "bench_near",
        "sources": {"bench": {"parquet": {"uri": pattern, "text": text}}},
        "stages": [{"id": "near", "minhash_dedup": stage}],
        "sink": {"parquet": {"uri": str(out)}},
        "work": {"uri": str(work)},
    }
    pipeline.write_text(json.dumps(document, indent=1))  # JSON is YAML
    command = [options.trommel, "run", str(pipeline), "--threads", str(options.threads)]
    command += ["--memory", memory] if memory else []
    command += ["--batch-rows", str(batch_rows)] if batch_rows else []
    used = usage(command, scratch / "trommel.log")
    return read_outcome(out, work, pattern, used)


def read_outcome(out, work, pattern, used):
    """The lineage and the manifest of a run."""
    paths = inputs.shards(pattern)
    base, place = {}, 0
    for path in paths:
        base[Path(path).name] = place
        place += pq.read_metadata(path).num_rows
    gone, kept, score, bands = np.zeros(place, bool), np.full(place, -1, np.int64), np.full(place, np.nan), np.zeros(place, np.int64)
    columns = ["shard", "row", "decision", "reason", "kept_shard", "kept_row", "score", "detail"]
    seen = 0
    for path in sorted((out / "lineage").rglob("*.parquet")):
        for row in pq.read_table(path, columns=columns).to_pylist():
            seen += 1
            if row["decision"] != "drop":
                continue
            if row["reason"] != "near_duplicate":
                sys.exit(f"{row['shard']}:{row['row']}: dropped as {row['reason']}")
            number = base[Path(row["shard"]).name] + row["row"]
            gone[number] = True
            if row["kept_row"] is not None:
                kept[number] = base[Path(row["kept_shard"]).name] + row["kept_row"]
            score[number] = np.nan if row["score"] is None else row["score"]
            bands[number] = json.loads(row["detail"] or "{}").get("bands", 0)
    if seen != place:
        sys.exit(f"{seen} lineage rows for {place} input rows")
    manifest = json.loads((out / "manifest.json").read_text())
    section = next(stage for stage in manifest["stages"] if stage["stage"] == "near")
    files = sorted(str(path) for path in (out / "data").rglob("*.parquet"))
    return Outcome(gone, kept, score, bands, section, used, files, sum(f.stat().st_size for f in work.rglob("*") if f.is_file()))


def print_section(section, indent="  "):
    """What the stage itself counted, from the manifest."""
    report = section.get("report", section)
    for name, value in report.items():
        print(f"{indent}{name}: {json.dumps(value)}")
    pairs = report.get("pairs", {})
    apart, looked_at = pairs.get("rejected", 0) + pairs.get("ruled_out", 0), pairs.get("candidates", 0)
    if looked_at:
        print(f"{indent}under the threshold, which plain LSH would join: {apart} of {looked_at} candidate pairs with a kept row, {apart / looked_at:.1%}")


def peers_python(cache):
    """Python with the peers installed, in a virtual environment of its own below the cache folder."""
    requirements = ["datatrove==0.10.1", "xxhash==3.8.2", "spacy==3.8.18", "regex==2026.7.19", "tokenizers==0.23.3"]
    requirements += ["rensa==0.5.0", "datasketch==2.0.0", "pyarrow==26.0.1", "numpy==2.4.6"]
    return environment(cache.absolute() / "near-peers", requirements)


def write_texts(path, columns, row_group_rows=1000):
    """One Parquet file of a few columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    inputs.publish(pa.table(columns), path, row_group_rows)
