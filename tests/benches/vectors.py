"""What the benchmarks of vector search share: planted vectors, their exact pairs, the star rule over them, and runs of trommel.

Planted vectors are noisy points around centres in a space of 24 dimensions, mapped into all by a random matrix, with a little noise there too
and length 1; some rows are then replaced by perturbed copies of other rows. Everything follows from the seed.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import inputs
from process import environment, usage

LATENT = 24  # dimensions of the centres
SPREAD = 0.7  # of rows around their centre there
NOISE = 0.1  # of each number
ROWS_A_CENTRE = 50
TIGHT_NOISE = 0.01  # of each number of a tight copy: at 384 dimensions a cosine of .98
BLOCK = 2000  # rows of a block of the matrix product


def unit(vectors):
    """Rows scaled to length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def perturbed(rows, cosines, draw):
    """Rows of length 1 turned by a random direction to a given cosine each."""
    other = draw.standard_normal(rows.shape).astype(np.float32)
    other -= (other * rows).sum(axis=1, keepdims=True) * rows
    cosines = np.asarray(cosines, np.float32)[:, None]
    return cosines * rows + np.sqrt(1 - cosines**2) * unit(other)


def planted(rows, dimensions, copies, seed=1):
    """float32, unit length. `copies: tight` perturbs a tenth of the rows to a cosine of about .98 with their original; at 100,000 x 384 and
    seed 1 that gives 9,507 pairs over .95 and few near it. `spread` makes a fifth of the rows copies with cosines from .90 to 1."""
    draw = np.random.default_rng(seed)
    centres = max(1, rows // ROWS_A_CENTRE)
    points = draw.standard_normal((centres, LATENT))[draw.integers(0, centres, rows)] + SPREAD * draw.standard_normal((rows, LATENT))
    matrix = draw.standard_normal((LATENT, dimensions))
    vectors = (points @ matrix / np.sqrt(LATENT) + NOISE * draw.standard_normal((rows, dimensions))).astype(np.float32)
    vectors = unit(vectors)
    count = rows // 10 if copies == "tight" else rows // 5
    replaced = draw.choice(rows, count, replace=False)
    originals = vectors[draw.integers(0, rows, count)]
    if copies == "tight":
        vectors[replaced] = originals + TIGHT_NOISE * draw.standard_normal((count, dimensions)).astype(np.float32)
    else:
        vectors[replaced] = perturbed(originals, draw.uniform(0.9, 1, count), draw)
    return unit(vectors)


def vector_table(vectors, first=0, **more):
    """Columns `id` and `vector`, a list of fixed size."""
    ids = [f"v{row:08}" for row in range(first, first + len(vectors))]
    values = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    return pa.table({"id": ids, "vector": pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])} | more)


def publish(table, path, row_group_rows=5000):
    """Write aside, then rename. Uncompressed: the bits of noise do not shrink."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    pq.write_table(table, aside, compression="none", use_dictionary=False, row_group_size=row_group_rows)
    aside.rename(path)


def planted_shards(cache, rows, dimensions, copies, shards=4):
    """Planted vectors as Parquet, made once; a glob."""
    folder = cache / "vectors" / f"{copies}-{rows}x{dimensions}"
    if not (folder / "done").exists():
        vectors = planted(rows, dimensions, copies)
        cuts = np.linspace(0, rows, shards + 1).astype(int)
        for n, (begin, end) in enumerate(zip(cuts, cuts[1:])):
            publish(vector_table(vectors[begin:end], begin), folder / f"part-{n}.parquet")
        (folder / "done").touch()
    return f"{folder}/*.parquet"


def read_vectors(pattern):
    """All vectors of a glob."""
    parts = []
    for path in inputs.shards(pattern):
        column = pq.read_table(path, columns=["vector"])["vector"].combine_chunks()
        parts.append(column.flatten().to_numpy().reshape(len(column), -1))
    return np.concatenate(parts)


class Pairs(NamedTuple):
    """Pairs of rows with their exact cosine."""

    earlier: np.ndarray
    later: np.ndarray
    cosine: np.ndarray

    def above(self, least):
        """Those over a cosine."""
        return Pairs(*(column[self.cosine > least] for column in self))

    def neighbours(self):
        """{later: [(earlier, cosine)]}, as near.star wants them."""
        found = {}
        for earlier, later, cosine in zip(*(column.tolist() for column in self)):
            found.setdefault(later, []).append((earlier, cosine))
        return found


def cosine(vectors, one, other):
    """Exact cosines of pairs of rows: float64 from the stored numbers."""
    found = np.empty(len(one))
    for begin in range(0, len(one), 10_000):
        a, b = (unit(vectors[rows[begin : begin + 10_000]].astype(np.float64)) for rows in (one, other))
        found[begin : begin + 10_000] = (a * b).sum(axis=1)
    return found


def all_pairs(vectors, least, slack=1e-4):
    """Every pair over a cosine: all by matrix products in float32, those that may be over it again in float64."""
    rows = unit(vectors.astype(np.float32))
    earlier, later = [], []
    for begin in range(0, len(rows), BLOCK):
        products = rows[begin : begin + BLOCK] @ rows[begin:].T
        a, b = np.nonzero(products > least - slack)
        forward = b > a
        earlier.append(a[forward] + begin)
        later.append(b[forward] + begin)
    earlier, later = np.concatenate(earlier), np.concatenate(later)
    return Pairs(earlier, later, cosine(vectors, earlier, later)).above(least)


def true_pairs(pattern, least):
    """Every pair over a cosine, computed once and kept beside the files."""
    kept = Path(pattern).parent / f"pairs-{least:g}.npz"
    if not kept.exists():
        pairs = all_pairs(read_vectors(pattern), least)
        np.savez(kept, **pairs._asdict())
    with np.load(kept) as held:
        return Pairs(held["earlier"], held["later"], held["cosine"])


class Outcome(NamedTuple):
    """What a run of one `semantic_dedup` stage left, by row number over all shards in order of their paths."""

    gone: np.ndarray  # whether a row was dropped
    kept: np.ndarray  # representative of a dropped row, or -1
    score: np.ndarray  # cosine with it; NaN where not told
    section: dict  # the stage's section of the manifest
    phases: dict  # seconds of each phase
    usage: tuple  # seconds, cpu, peak
    work_bytes: int  # left in the work folder

    @property
    def report(self):
        """What the stage itself counted."""
        return self.section.get("report", {})

    @property
    def search_seconds(self):
        """Seconds of the stage alone."""
        return self.phases.get("semantic_dedup semantic", float("nan"))


def stage_of(method, **more):
    """Configuration of `semantic_dedup` from words such as `ivf,probe=8`; `default` names no method."""
    name, *settings = method.split(",")
    stage = dict(more) if name == "default" else {"method": name} | more
    for setting in settings:
        key, _, value = setting.partition("=")
        try:
            stage[key] = json.loads(value)
        except json.JSONDecodeError:
            stage[key] = value
    return stage


def run_trommel(options, pattern, stage, scratch, arguments=(), read=True):
    """One cold run of a pipeline that takes the column `vector` and removes semantic duplicates: no work folder, no output. A run that
    fails raises SystemExit."""
    scratch = scratch.absolute()
    scratch.mkdir(parents=True, exist_ok=True)
    out, work, pipeline = scratch / "out", scratch / "work", scratch / "pipeline.yaml"
    for folder in [out, work]:
        shutil.rmtree(folder, ignore_errors=True)
    document = {
        "version": 1,
        "name": "bench_vectors",
        "sources": {"bench": {"parquet": {"uri": str(Path(pattern).absolute()), "id": "id"}}},
        "stages": [{"id": "vectors", "embed": {"from": "vector"}}, {"id": "semantic", "semantic_dedup": stage}],
        "sink": {"parquet": {"uri": str(out)}},
        "work": {"uri": str(work)},
    }
    pipeline.write_text(json.dumps(document, indent=1))  # JSON is YAML
    command = [options.trommel, "run", str(pipeline), "--threads", str(options.threads), *arguments]
    used = usage(command, scratch / "trommel.log")
    return read_outcome(out, work, pattern, used) if read else used


def read_outcome(out, work, pattern, used):
    """The lineage and the manifest of a run."""
    base, place = {}, 0
    for path in inputs.shards(pattern):
        base[Path(path).name] = place
        place += pq.read_metadata(path).num_rows
    gone, kept, score = np.zeros(place, bool), np.full(place, -1, np.int64), np.full(place, np.nan)
    seen = 0
    for path in sorted((out / "lineage").rglob("*.parquet")):
        table = pq.read_table(path, columns=["shard", "row", "decision", "reason", "kept_shard", "kept_row", "score"])
        seen += table.num_rows
        for row in table.filter(pc.not_equal(table["decision"], "keep")).to_pylist():
            if row["reason"] != "semantic_duplicate":
                sys.exit(f"{row['shard']}:{row['row']}: {row['decision']} as {row['reason']}")
            number = base[Path(row["shard"]).name] + row["row"]
            gone[number] = True
            if row["kept_row"] is not None:
                kept[number] = base[Path(row["kept_shard"]).name] + row["kept_row"]
            score[number] = np.nan if row["score"] is None else row["score"]
    if seen != place:
        sys.exit(f"{seen} lineage rows for {place} input rows")
    manifest = json.loads((out / "manifest.json").read_text())
    section = next(stage for stage in manifest["stages"] if stage["stage"] == "semantic")
    phases = {phase["name"]: phase["seconds"] for phase in json.loads((out / "run.json").read_text())["phases"]}
    return Outcome(gone, kept, score, section, phases, used, sum(f.stat().st_size for f in work.rglob("*") if f.is_file()))


def first_words(failure, lines=3):
    """What a failed run said first of its error, in one line."""
    said = [line.strip() for line in str(failure).splitlines() if line.strip()]
    begin = next((place for place, line in enumerate(said) if line.startswith("error")), 0)
    return " ".join(said[begin : begin + lines]) or "failed"


def sampled_recall(report):
    """The share of pairs found that the stage itself measured on a sample, or None: `recall` with `percent`, or with `found` of `pairs`."""
    found = report.get("recall")
    if isinstance(found, dict):
        if found.get("percent") is not None:
            return found["percent"] / 100
        return found["found"] / found["pairs"] if found.get("pairs") and "found" in found else None
    return float(found) if isinstance(found, (int, float)) else None


def shown(value, digits=4):
    """A figure, or a dash where there is none."""
    return "-" if value is None or value != value else f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def print_table(head, widths, rows):
    """A table of right-aligned cells."""
    for cells in [head, *rows]:
        print(" ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths)))


def print_report(report, indent="  "):
    """What the stage itself counted, from the manifest."""
    for name, value in report.items():
        print(f"{indent}{name}: {json.dumps(value)}")


def peers_python(cache):
    """Python with the peers installed, in a virtual environment of its own below the cache folder."""
    requirements = ["faiss-cpu==1.15.1", "hnswlib==0.8.0", "usearch==2.26.6", "semhash==0.5.0", "vicinity==0.4.6", "model2vec==0.10.0"]
    requirements += ["pyarrow==26.0.1", "numpy==2.4.6"]
    return environment(cache.absolute() / "vectors-peers", requirements)
