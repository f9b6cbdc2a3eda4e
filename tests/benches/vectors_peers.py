"""The peers' half of vectors_vs_peers.py; runs in the environment that it makes.

usage: vectors_peers.py PEER IN_GLOB OUT_FOLDER [--cosine 0.95] [--threads 2]          PEER: faiss | hnswlib | usearch | semhash | numpy
       vectors_peers.py peak IN_GLOB OUT_FOLDER                                        (GFLOP/s of numpy's matrix product)

Reads the column `vector` of the files of a glob, finds pairs over a cosine, drops rows, and writes the kept rows as zstd Parquet to
OUT_FOLDER/kept, the decisions to OUT_FOLDER/dropped.parquet (`row`, `survivor`: numbers over all files in order) and the pairs to
OUT_FOLDER/pairs.npy. The last line printed is JSON: seconds without the start of Python, and the parts of it.

* faiss: spherical k-means (square root of the rows as cells, 20 iterations, all rows), then all pairs inside each cell by numpy.
* hnswlib: M 16, ef_construction 200, ef 64, the 10 nearest of each row. usearch: connectivity 16, expansions 128 and 64, the 10 nearest.
* semhash: `from_embeddings` with its usearch backend (the package vicinity), then `self_deduplicate`; each record is its row number.
* numpy: all pairs by matrix products, each pair once.

semhash drops rows by its own rule. The others are indexes and have none: rows are visited in order, and one is dropped if a row already
kept is its partner in a pair that they found (star).
"""

import argparse
import glob
import json
import math
import os
import shutil
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ITERATIONS, NEAREST, BLOCK = 20, 10, 2000
PACKAGES = {"faiss": "faiss-cpu"}


class Clock:
    """Seconds of the parts of a run."""

    def __init__(self):
        self.parts, self.last = {}, time.monotonic()

    def mark(self, part):
        """What passed since the last mark belongs to this part."""
        now = time.monotonic()
        self.parts[part] = now - self.last
        self.last = now


def read(paths):
    """All vectors, unit length, float32."""
    parts = []
    for path in paths:
        column = pq.read_table(path, columns=["vector"])["vector"].combine_chunks()
        parts.append(column.flatten().to_numpy().reshape(len(column), -1))
    vectors = np.concatenate(parts)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def ordered(one, other):
    """Distinct pairs, the earlier row first, sorted."""
    one, other = np.minimum(one, other).astype(np.int64), np.maximum(one, other).astype(np.int64)
    return np.unique(np.stack([one, other], axis=1)[one < other], axis=0)


def pairs_of_nearest(keys, similarities, least):
    """The pairs over a cosine among the nearest neighbours of all rows."""
    rows, places = np.nonzero(similarities > least)
    return ordered(rows, keys[rows, places])


def star(rows, pairs):
    """Survivor of each dropped row: the first kept row that is its partner."""
    gone, dropped = np.zeros(rows, bool), {}
    for earlier, later in pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))].tolist():
        if later not in dropped and not gone[earlier]:
            dropped[later] = earlier
            gone[later] = True
    return dropped


def run_faiss(vectors, options, clock):
    import faiss

    faiss.omp_set_num_threads(options.threads)
    cells = max(1, math.isqrt(len(vectors)))
    means = faiss.Kmeans(vectors.shape[1], cells, niter=ITERATIONS, spherical=True, seed=0, max_points_per_centroid=10**9)
    means.train(vectors)
    cell_of = means.index.search(vectors, 1)[1][:, 0]
    clock.mark("index")
    found = []
    for cell in range(cells):
        ids = np.nonzero(cell_of == cell)[0]
        inside = vectors[ids]
        a, b = np.nonzero(np.triu(inside @ inside.T, 1) > options.cosine)
        found.append(np.stack([ids[a], ids[b]], axis=1))
    return np.concatenate(found)


def run_hnswlib(vectors, options, clock):
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), ef_construction=200, M=16)
    index.set_num_threads(options.threads)
    index.add_items(vectors)
    clock.mark("index")
    index.set_ef(64)
    keys, distances = index.knn_query(vectors, NEAREST)
    return pairs_of_nearest(keys, 1 - distances, options.cosine)


def run_usearch(vectors, options, clock):
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=16, expansion_add=128, expansion_search=64)
    index.add(np.arange(len(vectors)), vectors, threads=options.threads)
    clock.mark("index")
    found = index.search(vectors, NEAREST, threads=options.threads)
    return pairs_of_nearest(found.keys, 1 - found.distances, options.cosine)


def run_numpy(vectors, options, clock):
    clock.mark("index")
    found = []
    for begin in range(0, len(vectors), BLOCK):
        a, b = np.nonzero(vectors[begin : begin + BLOCK] @ vectors[begin:].T > options.cosine)
        forward = b > a
        found.append(np.stack([a[forward], b[forward]], axis=1) + begin)
    return np.concatenate(found)


def run_semhash(vectors, options, clock):
    """Pairs and its own decisions. The neighbours are caught on their way from its index."""
    from semhash import SemHash

    class NoEncoder:
        """Never asked: the vectors are given."""

        def encode(self, inputs, **_):
            raise NotImplementedError

    judge = SemHash.from_embeddings(vectors, [str(row) for row in range(len(vectors))], NoEncoder())
    clock.mark("index")
    caught, ask = [], judge.index.query_threshold

    def told(*arguments, **settings):
        caught.extend(ask(*arguments, **settings))
        return caught

    judge.index.query_threshold = told
    result = judge.self_deduplicate(threshold=options.cosine)
    dropped = {int(entry.record): int(entry.duplicate_of) for entry in result.filtered}
    clock.mark("pairs")
    rows = np.repeat(np.arange(len(caught)), [len(keys) for keys, _ in caught])
    return ordered(rows, np.concatenate([keys for keys, _ in caught]).astype(np.int64)), dropped


def write_kept(paths, out, dropped):
    """The rows that are not dropped, one file a file."""
    (out / "kept").mkdir()
    place = 0
    for path in paths:
        table = pq.read_table(path)
        stays = np.ones(table.num_rows, bool)
        stays[[row - place for row in dropped if place <= row < place + table.num_rows]] = False
        kept = table.filter(pa.array(stays))
        pq.write_table(kept, out / "kept" / Path(path).name, compression="zstd", compression_level=3, use_dictionary=False)
        place += table.num_rows


def peak():
    """GFLOP/s of square float32 matrix products, and of the shape that all pairs have; the best of five."""
    figures = {}
    for name, (m, k, n) in {"4096 x 4096 x 4096": (4096, 4096, 4096), "2000 x 384 x 20000": (2000, 384, 20_000)}.items():
        a, b = (np.random.default_rng(1).standard_normal(shape, dtype=np.float32) for shape in [(m, k), (n, k)])
        seconds = []
        for _ in range(5):
            begin = time.monotonic()
            a @ b.T
            seconds.append(time.monotonic() - begin)
        figures[name] = 2 * m * k * n / min(seconds) / 1e9
    return figures


def main():
    runs = {"faiss": run_faiss, "hnswlib": run_hnswlib, "usearch": run_usearch, "semhash": run_semhash, "numpy": run_numpy}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=[*runs, "peak"])
    parser.add_argument("input")
    parser.add_argument("output", type=Path)
    parser.add_argument("--cosine", type=float, default=0.95)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    # What counts cores for itself sees so many.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    if options.peer == "peak":
        print(json.dumps(peak()))
        return
    paths = sorted(glob.glob(options.input))
    shutil.rmtree(options.output, ignore_errors=True)
    options.output.mkdir(parents=True)
    clock = Clock()
    begin = clock.last
    vectors = read(paths)
    clock.mark("read")
    found = runs[options.peer](vectors, options, clock)
    if options.peer == "semhash":
        pairs, dropped = found
        clock.mark("catch")
    else:
        pairs = found
        clock.mark("pairs")
        dropped = star(len(vectors), pairs)
        clock.mark("decide")
    write_kept(paths, options.output, dropped)
    clock.mark("write")
    parts = clock.parts
    caught = parts.pop("catch", 0)  # turning semhash's neighbours into pairs is this script's work, not semhash's
    seconds = clock.last - begin - caught
    np.save(options.output / "pairs.npy", pairs)
    table = pa.table({"row": pa.array(list(dropped), pa.int64()), "survivor": pa.array(list(dropped.values()), pa.int64())})
    pq.write_table(table, options.output / "dropped.parquet")
    said = {"seconds": seconds, "parts": parts, "version": version(PACKAGES.get(options.peer, options.peer))}
    if options.peer == "numpy":
        said["gflops"] = len(vectors) ** 2 * vectors.shape[1] / parts["pairs"] / 1e9
    print(json.dumps(said))


if __name__ == "__main__":
    main()
