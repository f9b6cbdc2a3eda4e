"""Coresets of planted vectors: trommel's selecting stages beside plain numpy and apricot-select, with time, memory and the value reached.

usage: selectors_vs_peers.py [--trommel PATH] [--cache FOLDER] [--rows 100000] [--dimensions 384] [--keep 1000] [--dense-rows 10000]
                             [--stages k_center ...] [--peers numpy_k_center ...] [--threads 2] [--memory 1GiB] [--json FILE]
       (pip install pyarrow numpy; the peers go into an environment of their own below --cache; Linux)

All keep --keep rows of the same vectors (vectors.py, `tight`), which they read from the same Parquet. Each program is a process of its
own; `seconds` are those of the choice alone (trommel: its stage as run.json states it), `process` those of the whole process, `peak` its
largest resident memory. trommel also embeds, decides, writes the kept rows and the lineage.

The values are computed here for every set that was kept, in double precision sums of float32 cosines:
* radius: the largest 1 - cosine of a row to the nearest kept one (k-center; lower is better);
* covered: the mean over the rows of the highest cosine to a kept one, none below 0 (facility location; higher is better);
* log det: of 1 + K / 0.01, K the cosines of the kept rows (a determinantal point process; higher is better);
* mean cosine: of pairs of kept rows (lower is more varied).
`same` is the share of the rows of the stage beside it that a peer keeps too.

numpy_k_center is farthest first, one product of all rows with the new center each time; numpy_log_det the incremental Cholesky factor of
Chen et al. 2018; numpy_redundancy and numpy_variance are the formulas of PRISM and of LIFT, in single precision. apricot's facility location
needs all similarities in memory (74 GiB at 100,000 rows): it is run on --dense-rows rows, and trommel beside it on the same.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import inputs
import vectors
from process import environment, usage

RIDGE = 0.01
STAGES = {
    "k_center": {},
    "facility_location": {},
    "log_det_select": {"ridge": RIDGE},
    "density_pruning": {},
    "redundancy_select": {},
    "variance_select": {},
    "cluster_permanent_pruning": {},
    "prototypes": {},
    "maxvol_select": {},
    "sample": {},
}
# Each peer with the stage that it is beside.
PEERS = {
    "numpy_k_center": "k_center",
    "numpy_log_det": "log_det_select",
    "numpy_redundancy": "redundancy_select",
    "numpy_variance": "variance_select",
    "apricot_facility_location": "facility_location",
}
DENSE = {"facility_location", "apricot_facility_location"}  # also, or only, on fewer rows
BLOCK = 4096


def peers_python(cache):
    """Python with the peers, in a virtual environment of its own below the cache folder."""
    requirements = ["apricot-select==0.6.1", "scikit-learn==1.9.1", "numpy==2.4.6", "pyarrow==26.0.1"]
    return environment(cache.absolute() / "selectors-peers", requirements)


def run_trommel(options, stage, pattern, rows):
    """One cold run."""
    scratch = (options.cache / "selectors-runs" / f"{stage}-{rows}").absolute()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    pipeline = scratch / "pipeline.yaml"
    document = {
        "version": 1,
        "name": "bench_selectors",
        "sources": {"bench": {"parquet": {"uri": str(Path(pattern).absolute()), "id": "id"}}},
        "stages": [{"id": "vectors", "embed": {"from": "vector"}}, {"id": "chosen", stage: STAGES[stage] | {"keep_rows": options.keep}}],
        "sink": {"parquet": {"uri": str(scratch / "out")}},
        "work": {"uri": str(scratch / "work")},
    }
    if stage == "sample":
        del document["stages"][0]
    pipeline.write_text(json.dumps(document, indent=1))  # JSON is YAML
    memory = ["--memory", options.memory] if options.memory else []
    used = usage([options.trommel, "run", str(pipeline), "--threads", str(options.threads), *memory], scratch / "trommel.log")
    phases = json.loads((scratch / "out/run.json").read_text())["phases"]
    seconds = sum(phase["seconds"] for phase in phases if phase["name"].endswith(" chosen"))
    ids = [id for path in sorted((scratch / "out/data").rglob("*.parquet")) for id in pq.read_table(path, columns=["id"])["id"].to_pylist()]
    return {"seconds": seconds, "process": used.seconds, "peak": used.peak, "kept": sorted(int(id[1:]) for id in ids)}


def run_peer(options, peer, pattern):
    """One run of a peer."""
    log = options.cache / "selectors-runs" / f"{peer}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = [f"{name}={options.threads}" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")]
    command = ["env", *threads, peers_python(options.cache), str(Path(__file__).absolute()), "--peer", peer, "--pattern", pattern]
    used = usage([*command, "--keep", str(options.keep)], log)
    said = json.loads(log.read_text().splitlines()[-1])
    return said | {"process": used.seconds, "peak": used.peak}


def numpy_k_center(x, keep):
    """Farthest first, from the row nearest to the mean."""
    chosen = [int((x @ x.mean(axis=0)).argmax())]
    nearest = x @ x[chosen[0]]
    while len(chosen) < keep:
        chosen.append(int(nearest.argmin()))
        np.maximum(nearest, x @ x[chosen[-1]], out=nearest)
    return chosen


def numpy_log_det(x, keep):
    """Greedy MAP of a determinantal point process with kernel `x x^T + RIDGE`."""
    factor = np.zeros((keep, len(x)), np.float32)
    rest = np.einsum("ij,ij->i", x, x).astype(np.float64) + RIDGE
    chosen = []
    for step in range(keep):
        best = int(rest.argmax())
        chosen.append(best)
        factor[step] = (x @ x[best] - factor[:step, best] @ factor[:step]) / np.sqrt(rest[best])
        rest -= factor[step].astype(np.float64) ** 2
        rest[chosen] = -np.inf
    return chosen


def numpy_redundancy(x, keep):
    """The lowest mean cosine to all others of what is left of a row without the mean, from one sum."""
    own = x - x.mean(axis=0)
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    return np.argsort(own @ own.sum(axis=0), kind="stable")[:keep].tolist()


def numpy_variance(x, keep, explained=0.95):
    """The greatest squared distance to the mean along the principal directions that explain that share of the variance."""
    own = x - x.mean(axis=0)
    values, axes = np.linalg.eigh(own.T @ own)
    count = int(np.searchsorted(np.cumsum(values[::-1]), explained * values.sum())) + 1
    return np.argsort(-np.square(own @ axes[:, ::-1][:, :count]).sum(axis=1), kind="stable")[:keep].tolist()


def apricot_facility_location(x, keep):
    """apricot's lazy greedy on a matrix of cosines."""
    from apricot import FacilityLocationSelection

    similarities = np.maximum(x @ x.T, 0).astype(np.float64)
    return FacilityLocationSelection(keep, metric="precomputed", optimizer="lazy").fit(similarities).ranking[:keep].tolist()


def peer(options):
    """Runs a peer in this process, and prints what it chose."""
    x = vectors.unit(vectors.read_vectors(options.pattern)).astype(np.float32)
    begin = time.perf_counter()
    kept = globals()[options.peer](x, options.keep)
    print(json.dumps({"seconds": time.perf_counter() - begin, "kept": sorted(int(row) for row in kept)}))


def values(x, kept):
    """What a set of rows is worth."""
    own = x[kept]
    nearest = np.concatenate([(x[begin : begin + BLOCK] @ own.T).max(axis=1) for begin in range(0, len(x), BLOCK)]).astype(np.float64)
    kernel = own.astype(np.float64) @ own.astype(np.float64).T
    log_det = np.linalg.slogdet(np.eye(len(own)) + kernel / RIDGE)[1]
    pairs = max(len(own) * (len(own) - 1), 1)
    return {
        "radius": 1 - float(nearest.min()),
        "covered": float(np.maximum(nearest, 0).mean()),
        "log_det": float(log_det),
        "mean_cosine": float((kernel.sum() - np.trace(kernel)) / pairs),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trommel", default=str(Path(__file__).parents[2] / "target/release/trommel"))
    parser.add_argument("--cache", type=Path, default=inputs.default_cache())
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--keep", type=int, default=1000)
    parser.add_argument("--dense-rows", type=int, default=10_000)
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=STAGES)
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", help="of trommel, as its --memory takes it")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--pattern", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        peer(options)
        return
    options.trommel = str(Path(options.trommel).absolute())
    made = {rows: vectors.planted_shards(options.cache, rows, options.dimensions, "tight") for rows in {options.rows, options.dense_rows}}
    truth = {rows: vectors.unit(vectors.read_vectors(pattern)).astype(np.float32) for rows, pattern in made.items()}
    jobs = [(stage, options.rows) for stage in options.stages] + [(stage, options.dense_rows) for stage in options.stages if stage in DENSE]
    jobs += [(name, options.dense_rows if name in DENSE else options.rows) for name in options.peers]
    found, kept = [], {}
    header = ("rows", "kept", "same", "seconds", "process", "MiB", "radius", "covered", "log det", "mean cosine")
    print(f"{'':28}" + "".join(f"{name:>12}" for name in header))
    for name, rows in jobs:
        run = run_trommel(options, name, made[rows], rows) if name in STAGES else run_peer(options, name, made[rows])
        worth = values(truth[rows], run["kept"])
        kept[name, rows] = set(run["kept"])
        both = kept.get((PEERS.get(name), rows))
        same = f"{len(both & kept[name, rows]) / len(both):.3f}" if both else ""
        cells = [rows, len(run["kept"]), same, f"{run['seconds']:.1f}", f"{run['process']:.1f}", run["peak"] >> 20]
        cells += [f"{worth['radius']:.4f}", f"{worth['covered']:.4f}", f"{worth['log_det']:.1f}", f"{worth['mean_cosine']:.4f}"]
        print(f"{name:28}" + "".join(f"{cell:>12}" for cell in cells), flush=True)
        found.append({"name": name, "rows": rows, "kept": len(run.pop("kept"))} | run | worth)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
