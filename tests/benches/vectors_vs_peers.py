"""Semantic duplicates among planted vectors: trommel's methods beside FAISS k-means, hnswlib, usearch and semhash, and what each got right.

usage: vectors_vs_peers.py [--trommel PATH] [--cache FOLDER] [--rows 100000] [--dimensions 384] [--copies tight spread] [--epsilon 0.05]
                           [--methods auto ivf flat hnsw kmeans] [--peers faiss hnswlib usearch semhash numpy] [--rounds 3] [--threads 2]
                           [--json FILE]
       (pip install pyarrow numpy; the peers go into an environment of their own below --cache; Linux)

A method is a word of `method`, with other keys of the stage after commas where wanted (`ivf,probe=8`, `kmeans,k=316`); `default` names none.

The vectors are made from a seed (vectors.py): in the set `tight` a tenth of the rows are copies at a cosine of about .98 with their original
(9,507 pairs over .95 at 100,000 x 384), in `spread` a fifth are copies with cosines from .90 to 1, half of them under the threshold. All
read them from the same Parquet and write the kept rows as zstd Parquet. Each program is a process of its own. `seconds` are those of the
whole process for trommel, and without the start of Python for the peers; `search` is finding pairs and deciding alone: trommel's stage as
run.json states it, and the peers' index, pairs and decisions. Times are medians of --rounds for trommel and --peer-rounds for the peers.

The truth is every pair over the cosine, exact: all by matrix products in float32, those near the threshold again in float64.
* pairs, precision, recall: of the pairs that a peer found. trommel writes no pairs; its `recall` is what the stage measured on a sample
  (`-` where it measured none), and its `precision` the share of dropped rows whose representative is truly over the cosine.
* settled: of the true pairs, the share of which not both rows were kept. A program that drops by star and finds all pairs has 1.
* missed, extra: rows that the exact star rule drops and the program does not, and the other way round.
* orphans: dropped rows without any kept row over the cosine.
semhash has a drop rule of its own; for the other peers, which have none, star is applied to the pairs that they found.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import near
import vectors
from process import usage

CLOSE = 1e-6  # cosines nearer than this to the threshold are a matter of rounding


def run_trommel(options, pattern, method):
    """One cold run."""
    stage = vectors.stage_of(method, epsilon=options.epsilon)
    arguments = ["--memory", options.memory] if options.memory else []
    outcome = vectors.run_trommel(options, pattern, stage, options.cache / "vectors-runs/trommel", arguments)
    run = {"seconds": outcome.usage.seconds, "search": outcome.search_seconds, "cpu": outcome.usage.cpu, "peak": outcome.usage.peak}
    return run | {"gone": outcome.gone, "kept": outcome.kept, "pairs": None, "report": outcome.report, "phases": outcome.phases}


def peer_command(options, peer, pattern, out):
    """The command of the peers' half."""
    threads = [f"{name}={options.threads}" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")]
    script = Path(__file__).with_name("vectors_peers.py")
    command = ["env", *threads, vectors.peers_python(options.cache), str(script), peer, str(Path(pattern).absolute()), str(out)]
    return [*command, "--cosine", repr(1 - options.epsilon), "--threads", str(options.threads)]


def last_line(options, peer, pattern, out):
    """What a peer said and used."""
    log = options.cache / "vectors-runs" / f"{peer}.log"
    used = usage(peer_command(options, peer, pattern, out), log)
    return json.loads(log.read_text(errors="replace").splitlines()[-1]), used


def run_peer(options, peer, pattern):
    """One run of a peer."""
    out = options.cache.absolute() / "vectors-runs" / peer
    said, used = last_line(options, peer, pattern, out)
    rows = sum(pq.read_metadata(path).num_rows for path in vectors.inputs.shards(pattern))
    kept = np.full(rows, -1, np.int64)
    table = pq.read_table(out / "dropped.parquet")
    kept[table["row"].to_numpy()] = table["survivor"].to_numpy()
    written = sum(pq.read_metadata(path).num_rows for path in (out / "kept").rglob("*.parquet"))
    if written != (kept < 0).sum():
        raise SystemExit(f"{peer} wrote {written} rows and decided to keep {(kept < 0).sum()}")
    search = sum(seconds for part, seconds in said["parts"].items() if part not in ("read", "write"))
    run = {"seconds": said["seconds"], "search": search, "cpu": used.cpu, "peak": used.peak, "gflops": said.get("gflops")}
    run |= {"gone": kept >= 0, "kept": kept, "pairs": np.load(out / "pairs.npy")}
    return run | {"report": None, "phases": said["parts"], "version": said["version"]}


class Referee:
    """All true pairs of a set, and what the exact star rule does with them."""

    def __init__(self, pattern, least):
        self.least, self.vectors = least, vectors.read_vectors(pattern)
        nearby = vectors.true_pairs(pattern, least - 0.01)
        self.pairs = nearby.above(least)
        self.close = int((np.abs(nearby.cosine - least) < CLOSE).sum())
        self.below = len(nearby.cosine) - len(self.pairs.cosine)
        self.star = near.star(len(self.vectors), self.pairs.neighbours()) >= 0
        self.keys = self.key(self.pairs.earlier, self.pairs.later)

    def key(self, earlier, later):
        """A number for each pair."""
        return np.asarray(earlier, np.int64) * len(self.vectors) + later

    def judge(self, run):
        """What a program got right."""
        gone, kept, pairs = run["gone"], run["kept"], self.pairs
        dropped = np.flatnonzero(gone)
        named = dropped[kept[dropped] >= 0]
        cosines = vectors.cosine(self.vectors, named, kept[named])
        sound = np.zeros(len(gone), bool)  # rows with a kept row over the cosine
        sound[pairs.later[~gone[pairs.earlier]]] = True
        sound[pairs.earlier[~gone[pairs.later]]] = True
        verdict = {"dropped": len(dropped), "missed": int((self.star & ~gone).sum()), "extra": int((gone & ~self.star).sum())}
        verdict |= {"orphans": int((gone & ~sound).sum()), "settled": float((gone[pairs.earlier] | gone[pairs.later]).mean())}
        verdict |= {"lowest": float(cosines.min()) if len(cosines) else float("nan")}
        if run["pairs"] is None:
            right = float((cosines > self.least - CLOSE).sum() / max(1, len(dropped)))
            return verdict | {"pairs": None, "precision": right, "recall": vectors.sampled_recall(run["report"])}
        found = self.key(*run["pairs"].T)
        right = np.isin(found, self.keys).sum()
        return verdict | {"pairs": len(found), "precision": float(right / max(1, len(found))), "recall": float(right / len(self.keys))}


def compare(options, copies, failures):
    """Runs, judges and prints one table."""
    pattern = vectors.planted_shards(options.cache, options.rows, options.dimensions, copies)
    least = 1 - options.epsilon
    referee = Referee(pattern, least)
    print(f"\n{copies}: {options.rows} x {options.dimensions}, {len(referee.pairs.cosine)} true pairs over {least:g}, {referee.below}", end=" ")
    print(f"within .01 below, {referee.close} within {CLOSE:g} of it; exact star drops {referee.star.sum()}", flush=True)
    contestants = [f"trommel {method}" for method in options.methods] + options.peers
    runs = {name: [] for name in contestants}
    for number in range(max(options.rounds, options.peer_rounds)):
        for name in contestants:
            kind, _, method = name.partition(" ")
            if number >= (options.rounds if kind == "trommel" else options.peer_rounds):
                continue
            try:
                run = run_trommel(options, pattern, method) if kind == "trommel" else run_peer(options, name, pattern)
            except SystemExit as failure:
                if number == 0:
                    failures.append(f"{name}: {vectors.first_words(failure)}")
                continue
            runs[name].append(run)
            parts = json.dumps({part: round(seconds, 3) for part, seconds in run["phases"].items()})
            print(f"round {number + 1}: {name:15} {run['seconds']:8.2f} s {parts}", flush=True)
    head = ["", "seconds", "search", "CPU s", "MiB", "pairs", "precision", "recall", "settled", "dropped", "missed", "extra", "orphans"]
    rows, figures = [], {"true_pairs": len(referee.pairs.cosine), "star": int(referee.star.sum()), "programs": {}}
    for name, of in runs.items():
        if not of:
            continue
        seconds, search, cpu = (statistics.median(run[part] for run in of) for part in ("seconds", "search", "cpu"))
        peak, verdict = max(run["peak"] for run in of), referee.judge(of[-1])
        figure = {"version": of[-1].get("version"), "seconds": seconds, "all_seconds": [run["seconds"] for run in of], "search": search}
        figure |= {"cpu": cpu, "peak": peak, "gflops": of[-1].get("gflops"), "phases": of[-1]["phases"], "report": of[-1]["report"]}
        if name.startswith("trommel flat"):
            figure["gflops"] = options.rows**2 * options.dimensions / search / 1e9
        figures["programs"][name] = figure | verdict
        cells = [name, f"{seconds:.2f}", f"{search:.2f}", f"{cpu:.1f}", f"{peak / 2**20:.0f}"]
        cells += [vectors.shown(verdict[part]) for part in ("pairs", "precision", "recall", "settled", "dropped", "missed", "extra", "orphans")]
        rows.append(cells)
    print()
    vectors.print_table(head, [22, 8, 8, 7, 6, 7, 9, 8, 8, 8, 7, 6, 8], rows)
    for name, figure in figures["programs"].items():
        if figure["gflops"]:
            print(f"{name}: {figure['gflops']:.0f} GFLOP/s with the search for pairs, if each pair of rows is multiplied once")
    for name, figure in figures["programs"].items():
        if figure["report"]:
            print(f"\n{name}, the stage's report in the manifest:")
            vectors.print_report(figure["report"])
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    near.common_options(parser)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--copies", nargs="+", default=["tight", "spread"], choices=["tight", "spread"])
    parser.add_argument("--epsilon", type=float, default=0.05)
    parser.add_argument("--methods", nargs="*", default=["auto", "ivf", "flat", "hnsw", "kmeans"])
    parser.add_argument("--peers", nargs="*", default=["faiss", "hnswlib", "usearch", "semhash", "numpy"])
    parser.add_argument("--memory", help="trommel's budget; default its own")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-rounds", type=int, default=1)
    options = parser.parse_args()
    if options.methods:
        near.need_trommel(options)
    (options.cache / "vectors-runs").mkdir(parents=True, exist_ok=True)
    figures, failures = {}, []
    pattern = vectors.planted_shards(options.cache, options.rows, options.dimensions, options.copies[0])
    figures["peak_gflops"], _ = last_line(options, "peak", pattern, options.cache / "vectors-runs")
    spoken = ", ".join(f"{shape}: {gflops:.0f}" for shape, gflops in figures["peak_gflops"].items())
    print(f"numpy's matrix product in float32, {options.threads} threads, GFLOP/s: {spoken}")
    for copies in options.copies:
        figures[copies] = compare(options, copies, failures)
    near.finish(options, figures, failures)


if __name__ == "__main__":
    main()
