"""Judges what programs dropped as near duplicates by exact Jaccard, all from their outputs alone, and the same way for each.

A sample of each program's dropped rows, and a sample of all rows, are compared with every row of the input (words and shingles of near.py):

* `named`: share of the dropped rows whose Jaccard with the row that the program names as its survivor is at least the threshold;
* `orphans`: share of the dropped rows for which the program kept no row at all at the threshold;
* `recall`: of the true pairs at the threshold that the sampled rows are in, the share of which at least one row was dropped.
"""

import math
import random

import numpy as np
import pyarrow.parquet as pq

import inputs
import near


def texts(pattern, text):
    """All texts in row order."""
    for path in inputs.shards(pattern):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1024, columns=[text]):
            yield from batch.column(0).to_pylist()


class Targets:
    """Shingles of the sampled rows, from shingle to rows."""

    def __init__(self, rows, sets):
        self.rows = rows
        self.lengths = np.array([len(s) for s in sets])
        owners = np.repeat(np.arange(len(rows)), self.lengths)
        shingles = np.concatenate(sets) if sets else np.zeros(0, np.uint64)
        order = np.argsort(shingles, kind="stable")
        self.owners = owners[order]
        self.keys, self.starts, self.counts = np.unique(shingles[order], return_index=True, return_counts=True)

    def similarities(self, shingles):
        """Jaccard of a document with each target that shares a shingle: (target, similarity) arrays."""
        place = np.searchsorted(self.keys, shingles)
        place[place == len(self.keys)] = 0
        place = place[self.keys[place] == shingles]
        counts, starts = self.counts[place], self.starts[place]
        ends = np.cumsum(counts)
        if not len(ends):
            return np.zeros(0, np.int64), np.zeros(0)
        spots = np.arange(ends[-1]) + np.repeat(starts - (ends - counts), counts)
        shared = np.bincount(self.owners[spots], minlength=len(self.rows))
        targets = np.flatnonzero(shared)
        return targets, shared[targets] / (self.lengths[targets] + len(shingles) - shared[targets])


def judge(pattern, text, decisions, threshold, sample):
    """Figures of each program; `decisions` has for each the array of survivors by row, -1 for a kept row."""
    count = len(next(iter(decisions.values())))
    draw = random.Random(1)
    of_all = set(draw.sample(range(count), min(sample, count)))
    of_dropped = {}
    for name, kept in decisions.items():
        rows = np.flatnonzero(kept >= 0).tolist()
        of_dropped[name] = draw.sample(rows, min(sample, len(rows)))
    wanted = of_all.union(*of_dropped.values())
    shingler = near.Shingler()
    sets = {row: shingler(near.words(value or "")) for row, value in enumerate(texts(pattern, text)) if row in wanted}
    rows = sorted(sets)
    targets = Targets(rows, [sets[row] for row in rows])
    named = {}  # (target row, its survivor) -> similarity
    for kept in decisions.values():
        for row in rows:
            if kept[row] >= 0:
                named[row, int(kept[row])] = 0.0
    of_survivor = {}
    for row, survivor in named:
        of_survivor.setdefault(survivor, []).append(row)
    place = {row: i for i, row in enumerate(rows)}
    close = {row: [] for row in rows}
    for number, value in enumerate(texts(pattern, text)):
        found, similarity = targets.similarities(shingler(near.words(value or "")))
        for i in np.flatnonzero(similarity >= threshold).tolist():
            if rows[found[i]] != number:
                close[rows[found[i]]].append(number)
        if number in of_survivor:
            by_target = dict(zip(found.tolist(), similarity.tolist()))
            for row in of_survivor[number]:
                named[row, number] = by_target.get(place[row], 0.0)
    figures = {}
    for name, kept in decisions.items():
        dropped = of_dropped[name]
        similarity = np.array([named[row, int(kept[row])] for row in dropped])
        orphans = sum(all(kept[other] >= 0 for other in close[row]) for row in dropped)
        pairs = [(row, other) for row in of_all for other in close[row]]
        resolved = sum(kept[row] >= 0 or kept[other] >= 0 for row, other in pairs)
        figures[name] = {
            "dropped": int((kept >= 0).sum()),
            "sampled": len(dropped),
            "named": float((similarity >= threshold).mean()) if dropped else math.nan,
            "lowest": float(similarity.min()) if dropped else math.nan,
            "orphans": orphans / len(dropped) if dropped else math.nan,
            "pairs": len(pairs),
            "recall": resolved / len(pairs) if pairs else math.nan,
        }
    return figures
