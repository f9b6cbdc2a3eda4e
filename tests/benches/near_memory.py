"""Peak resident memory of near deduplication of the corpus ten times over, with edits, under a budget.

usage: near_memory.py [--trommel PATH] [--data FOLDER | --input GLOB] [--cache FOLDER] [--memory 512MiB] [--limit-mib 640] [--editions 10]
                      [--threads 2] [--verify exact] [--compare 8GiB] [--json FILE]                            (pip install pyarrow numpy)

The input has ten editions of the corpus (1.75 GB of text): in all but the first a share of the words of each text, its own, is replaced,
doubled by another or taken out, so that the Jaccard with the first edition spreads over .4 to 1 (a sample is measured and printed). The
peak is `ru_maxrss` of the process, as the kernel counted it. `--compare` runs once more with that budget, in which nothing spills, and
batches of another size, and compares all bytes but run.json's. Ends with 1 where the peak is over the limit or a byte differs.
"""

import argparse
import random

import numpy as np
import pyarrow.parquet as pq

import inputs
import near


def spread(folder, editions, sample=300):
    """Jaccard of sampled texts with their first edition."""
    draw, found = random.Random(1), []
    firsts = inputs.shards(folder / "edition0-*.parquet")
    for n in range(min(3, len(firsts))):
        originals = pq.read_table(folder / f"edition0-{n:03}.parquet", columns=["text"])["text"]
        edition = draw.randrange(1, editions)
        others = pq.read_table(folder / f"edition{edition}-{n:03}.parquet", columns=["text"])["text"]
        for row in draw.sample(range(len(originals)), min(sample // 3, len(originals))):
            shingler = near.Shingler()
            found.append(near.jaccard(*(shingler(near.words(column[row].as_py())) for column in (originals, others))))
    return np.array(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    near.common_options(parser)
    parser.add_argument("--input", help="a glob of your own files (column text) instead of the ones made from --data")
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--limit-mib", type=float, default=640)
    parser.add_argument("--editions", type=int, default=inputs.EDITIONS)
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--verify", default="exact")
    parser.add_argument("--compare", metavar="MEMORY", help="a budget in which nothing spills: must give the same bytes")
    parser.add_argument("--make-only", action="store_true", help="make the input and leave trommel out")
    options = parser.parse_args()
    figures = {"memory": options.memory}
    pattern = options.input
    if not pattern:
        folder = inputs.edited_corpus(options.data, options.cache, options.editions)
        pattern = f"{folder}/*.parquet"
        similarity = spread(folder, options.editions)
        counts, _ = np.histogram(similarity, bins=np.arange(0, 1.01, 0.1))
        print("Jaccard with the first edition, sampled: " + ", ".join(f"{b / 10:.1f}: {c}" for b, c in enumerate(counts)))
        figures["spread"] = counts.tolist()
    rows = sum(pq.read_metadata(path).num_rows for path in inputs.shards(pattern))
    if options.make_only:
        return near.finish(options, figures)
    near.need_trommel(options)
    stage = {"shingle": {"words": near.SHINGLE_WORDS}, "bands": near.BANDS, "rows": near.ROWS}
    stage |= {"threshold": options.threshold, "verify": options.verify}
    outcome = near.run_trommel(options, pattern, stage, options.cache / "near-memory", memory=options.memory)
    peak = outcome.usage.peak / 2**20
    print(f"{rows} rows, {len(outcome.dropped)} dropped, --memory {options.memory}: peak resident {peak:.0f} MiB", end="")
    print(f" in {outcome.usage.seconds:.1f} s ({outcome.usage.cpu:.1f} CPU); work folder {outcome.work_bytes / 1e6:.0f} MB")
    near.print_section(outcome.section)
    figures |= {"rows": rows, "dropped": len(outcome.dropped), "peak": outcome.usage.peak, "seconds": outcome.usage.seconds}
    figures |= {"cpu": outcome.usage.cpu, "work_bytes": outcome.work_bytes, "section": outcome.section}
    failures = []
    if options.compare:
        before = near.tree_hash(options.cache / "near-memory/out")
        other = near.run_trommel(options, pattern, stage, options.cache / "near-memory", memory=options.compare, batch_rows=777)
        same = near.tree_hash(options.cache / "near-memory/out") == before
        print(f"--memory {options.compare}: {'the same bytes' if same else 'OTHER BYTES'}, peak resident {other.usage.peak / 2**20:.0f} MiB", end="")
        print(f" in {other.usage.seconds:.1f} s")
        figures |= {"same_bytes": same, "compared_peak": other.usage.peak}
        failures += [] if same else [f"--memory {options.compare} gives other bytes"]
    failures += [f"over the limit of {options.limit_mib:.0f} MiB"] if peak > options.limit_mib else []
    near.finish(options, figures, failures)


if __name__ == "__main__":
    main()
