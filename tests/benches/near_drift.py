"""The drift chain through trommel's star, trommel's components and datatrove: who drops documents that resemble no survivor.

usage: near_drift.py [--trommel PATH] [--documents 60] [--words 200] [--step 2] [--threshold 0.8] [--cache FOLDER] [--json FILE]
       (pip install pyarrow numpy; datatrove goes into an environment of its own below --cache)

A chain: the first document has 200 random words; each further one is the document before it with two words, at random places, replaced
by new ones. Neighbours in the chain have Jaccard about .9, its ends nothing in common. An orphan is a dropped
document whose Jaccard with the survivor of its cluster is under the threshold.
"""

import argparse
import json
import random
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import near


def chain(documents, length, step, seed):
    """The texts of the chain."""
    draw = random.Random(seed)
    fresh = iter({"".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=7)): None for _ in range(2 * (length + documents * step))})
    document = [next(fresh) for _ in range(length)]
    texts = []
    for _ in range(documents):
        texts.append(" ".join(document))
        for place in draw.sample(range(length), step):
            document[place] = next(fresh)
    return texts


def survivors(kept, sets):
    """Jaccard of each dropped document with its survivor."""
    return np.array([near.jaccard(sets[row], sets[kept[row]]) for row in np.flatnonzero(kept >= 0)])


def figures(name, similarity, threshold):
    """The figures of one program."""
    return {
        "name": name,
        "dropped": len(similarity),
        "orphans": int((similarity < threshold).sum()),
        "under_half": int((similarity < 0.5).sum()),
        "lowest": float(similarity.min(initial=1.0)),
    }


def datatrove(options, folder, count):
    """Survivors by datatrove."""
    script = Path(__file__).with_name("near_peers.py")
    out = options.cache / "near-drift" / "datatrove"
    command = [near.peers_python(options.cache), str(script), "datatrove", f"{folder}/*.parquet", str(out), "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr[-4000:])
    kept = np.full(count, -1, np.int64)
    table = pq.read_table(out / "dropped.parquet")
    kept[table["row"].to_numpy()] = table["survivor"].to_numpy()
    return kept, json.loads(done.stdout.splitlines()[-1])["version"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    near.common_options(parser)
    parser.add_argument("--documents", type=int, default=60)
    parser.add_argument("--words", type=int, default=200)
    parser.add_argument("--step", type=int, default=2)
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peers-only", action="store_true", help="leave trommel out")
    options = parser.parse_args()
    texts = chain(options.documents, options.words, options.step, options.seed)
    folder = options.cache / "near-drift" / "chain"
    near.write_texts(folder / "chain.parquet", {"id": [f"chain/{i:03}" for i in range(len(texts))], "text": texts})
    shingler = near.Shingler()
    sets = [shingler(near.words(text)) for text in texts]
    steps = [near.jaccard(sets[i], sets[i + 1]) for i in range(len(sets) - 1)]
    ends = near.jaccard(sets[0], sets[-1])
    print(f"{len(texts)} documents of {options.words} words; neighbours {min(steps):.3f} to {max(steps):.3f}, ends {ends:.3f}")
    pairs = [(i, j, near.jaccard(sets[i], sets[j])) for j in range(len(sets)) for i in range(j)]
    close = {j: [(i, s) for i, k, s in pairs if k == j and s >= options.threshold] for j in range(len(sets))}
    rows = [figures("star rule, all pairs", survivors(near.star(len(sets), close), sets), options.threshold)]
    failures = []
    if not options.peers_only:
        near.need_trommel(options)
        for rule in ["star", "components"]:
            stage = {"shingle": {"words": 5}, "bands": near.BANDS, "rows": near.ROWS, "threshold": options.threshold, "verify": "exact", "rule": rule}
            outcome = near.run_trommel(options, folder / "*.parquet", stage, options.cache / "near-drift" / "trommel")
            named = outcome.dropped[outcome.kept[outcome.dropped] >= 0]
            wrong = [i for i in named if outcome.score[i] != near.jaccard(sets[i], sets[outcome.kept[i]])]
            failures += [f"trommel {rule}: score {outcome.score[i]} of document {i} is not its Jaccard" for i in wrong]
            rows.append(figures(f"trommel {rule}", outcome.score[outcome.dropped], options.threshold))
    kept, version = datatrove(options, folder, len(texts))
    rows.append(figures(f"datatrove {version}", survivors(kept, sets), options.threshold))
    print(f"\n{'':22} {'dropped':>8} {f'orphans < {options.threshold:g}':>14} {'< 0.5':>6} {'lowest Jaccard':>15}")
    for r in rows:
        print(f"{r['name']:22} {r['dropped']:8} {r['orphans']:14} {r['under_half']:6} {r['lowest']:15.3f}")
    failures += [f"{r['name']} has {r['orphans']} orphans" for r in rows if "star" in r["name"] and r["orphans"]]
    near.finish(options, {"threshold": options.threshold, "rows": rows}, failures)


if __name__ == "__main__":
    main()
