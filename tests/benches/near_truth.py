"""`minhash_dedup` against the brute-force pairs of a document set: precision, orphans, the star law, and recall by similarity.

usage: near_truth.py DOCUMENTS [--trommel PATH] [--threshold 0.8] [--bands 14] [--rows 8] [--seeds 10] [--pairs 1000] [--cache FOLDER]
                     [--json FILE]                                                       (pip install pyarrow numpy regex)

DOCUMENTS holds *.parquet (`id`, `text`), truth/pairs.parquet (`a, b, jaccard`: every pair with Jaccard >= .5) and truth/identical.parquet
(`rep, member`). As in the truth, texts are cut into words by `\\w+` of the lower-cased text, those under 10 words and repeated word
sequences are left out. What trommel reads is these words joined by spaces, so that its own words are the same, but for the rows that
the first line counts (checked with the word boundaries of the package `regex`, which knows Unicode's rules too).

1. Rows. Each dropped row's Jaccard with its representative is computed again: it must be `score`, and at least the threshold (where one of
   the two is cut otherwise, only `score` must be; how many of these have another score is printed, and tests/check_output.py judges them). The
   representative must be kept and stand earlier. The dropped set is compared with that of the star rule over all true pairs. For each row
   that has true neighbours among the kept rows before it, the nearest must be its representative unless LSH missed that pair; so many
   misses are expected as the S-curve 1-(1-s^r)^b says.
2. Pairs. Up to --pairs true pairs of each similarity bin become groups of two rows (`within`), which the stage joins if and only if it
   meets the pair as a candidate: the share joined is the pair recall.

Each runs with --seeds seeds. Pairs of one family change the same words, so they are found or missed together: the standard error is the
larger of the binomial one and of that between seeds. A check fails where recall is more standard errors under the S-curve than one run
in 740 would be by chance: 3 with many seeds, by Student's distribution 4.1 with 10.
"""

import argparse
import collections
import random
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import regex

import inputs
import near

LEAST_WORDS = 10
BINS = np.arange(0.5, 1.0001, 0.05)
BOUNDARY = regex.compile(r"(?wV1)\b")
SCRIPTS = ["Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar"]
WITHOUT_SPACES = regex.compile("[" + "".join(rf"\p{{Script={script}}}" for script in SCRIPTS) + "]")


class Truth:
    """Words of all representatives, in file order, and their true pairs."""

    def __init__(self, folder):
        shards = inputs.shards(folder / "*.parquet")
        members = set(pq.read_table(folder / "truth/identical.parquet")["member"].to_pylist())
        self.ids, self.words = [], []
        for path in shards:
            table = pq.read_table(path, columns=["id", "text"])
            for name, text in zip(table["id"].to_pylist(), table["text"].to_pylist()):
                found = near.words(text)
                if len(found) >= LEAST_WORDS and name not in members:
                    self.ids.append(name)
                    self.words.append(found)
        number = {name: row for row, name in enumerate(self.ids)}
        pairs = pq.read_table(folder / "truth/pairs.parquet", columns=["a", "b", "jaccard"])
        a = np.array([number[name] for name in pairs["a"].to_pylist()], np.int64)
        b = np.array([number[name] for name in pairs["b"].to_pylist()], np.int64)
        self.pairs = np.stack([np.minimum(a, b), np.maximum(a, b)], axis=1)
        self.rounded = pairs["jaccard"].to_numpy()
        shingler = near.Shingler()
        self.sets = [shingler(found) for found in self.words]
        self.known = {}

    def jaccard(self, one, other):
        """Exact, remembered."""
        key = (min(one, other), max(one, other))
        if key not in self.known:
            self.known[key] = near.jaccard(self.sets[one], self.sets[other])
        return self.known[key]

    def close(self, threshold):
        """Neighbours of each row before it: {row: [(earlier, Jaccard)]}."""
        found = collections.defaultdict(list)
        for (one, other), rounded in zip(self.pairs.tolist(), self.rounded):
            if rounded >= threshold - 1e-3:
                exact = self.jaccard(one, other)
                if abs(exact - rounded) > 1e-4:
                    raise SystemExit(f"{self.ids[one]} and {self.ids[other]}: the truth says {rounded}, the words say {exact}")
                if exact >= threshold:
                    found[other].append((one, exact))
        return found

    def segmented_otherwise(self):
        """Rows whose words are not the words of Unicode's rules, or are in a script without spaces."""
        good = {}

        def same(word):
            if word not in good:
                text = unicodedata.normalize("NFC", f" {word} ").lower()
                parts = [part for part in BOUNDARY.split(text) if any(c.isalnum() for c in part)]
                good[word] = parts == [word] and not WITHOUT_SPACES.search(word)
            return good[word]

        return {row for row, found in enumerate(self.words) if not all(same(word) for word in found)}


def stage_of(options, seed, **more):
    """The stage's configuration."""
    stage = {"shingle": {"words": near.SHINGLE_WORDS}, "bands": options.bands, "rows": options.rows, "threshold": options.threshold}
    return stage | {"verify": "exact", "rule": "star", "seed": seed} | more


def check_rows(truth, outcome, threshold, otherwise, failures, title):
    """Scores and orphans of one run; the number of scores that differ from the words' and of orphans."""
    differ = orphans = 0
    for row in outcome.dropped.tolist():
        kept = int(outcome.kept[row])
        if kept < 0:
            orphans += 1
            continue
        exact = truth.jaccard(row, kept)
        alike = row not in otherwise and kept not in otherwise
        orphans += exact < threshold and (alike or not outcome.score[row] >= threshold)
        if exact != outcome.score[row]:
            differ += 1
            if alike:
                failures.append(f"{title}: {truth.ids[row]} and {truth.ids[kept]}: score {outcome.score[row]}, recomputed {exact}")
    return differ, orphans


def check_star_law(truth, outcome, failures):
    """Representatives are kept rows that stand earlier."""
    for row in outcome.dropped.tolist():
        kept = int(outcome.kept[row])
        if kept < 0 or outcome.gone[kept] or kept >= row:
            failures.append(f"{truth.ids[row]}: its representative (row {kept}) was not kept, or stands later")


def nearest_kept(close, gone):
    """For each row with true neighbours among the kept rows before it, the nearest (ties: the first) and its Jaccard."""
    found = {}
    for row, neighbours in close.items():
        among = [(-similarity, earlier) for earlier, similarity in neighbours if not gone[earlier]]
        if among:
            similarity, earlier = min(among)
            found[row] = (earlier, -similarity)
    return found


def standard_error(expected, trials):
    """The larger of the binomial standard error of the mean over seeds, and of that seen between seeds. `expected` holds a
    probability for each pair; `trials` the share found for each seed."""
    binomial = np.sqrt((expected * (1 - expected)).sum()) / len(expected) / np.sqrt(len(trials))
    seen = np.std(trials, ddof=1) / np.sqrt(len(trials)) if len(trials) > 1 else 0.0
    return max(binomial, seen, 1e-12)


def least_deviation(seeds):
    """The lower 1/740 quantile of Student's distribution: -3 for many seeds (Abramowitz and Stegun 26.7.5)."""
    z, freedom = 3.0, max(1, seeds - 1)
    first, second, third = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return -(z + first / freedom + second / freedom**2 + third / freedom**3)


def rows_part(options, truth, otherwise, scratch, failures):
    """The first part."""
    count = len(truth.words)
    close = truth.close(options.threshold)
    ideal = near.star(count, close)
    edges = [(earlier, row) for row, neighbours in close.items() for earlier, _ in neighbours]
    ideal_components = near.components(count, edges)
    figures = {"rows": count, "pairs": len(edges), "star_of_truth": int((ideal >= 0).sum()), "runs": []}
    joined = int((ideal_components != np.arange(count)).sum())
    print(f"\nrows: {len(edges)} true pairs at {options.threshold:g}; star of the truth drops {(ideal >= 0).sum()}, components {joined}")
    head = f"{'seed':>6} {'dropped':>8} {'not in truth':>12} {'only in truth':>13} {'orphans':>8} {'other score':>11}"
    print(f"{head} {'nearest kept row missed':>24} {'expected':>9}")
    shares, expectations, section = [], [], None
    for seed in range(options.seeds):
        outcome = near.run_trommel(options, scratch / "documents/*.parquet", stage_of(options, seed), scratch / "run")
        section = section or outcome.section
        check_star_law(truth, outcome, failures)
        differ, orphans = check_rows(truth, outcome, options.threshold, otherwise, failures, f"star, seed {seed}")
        if orphans:
            failures.append(f"star, seed {seed}: {orphans} orphans")
        nearest = nearest_kept(close, outcome.gone)
        missed = sum(outcome.kept[row] != earlier for row, (earlier, _) in nearest.items())
        chance = near.s_curve([similarity for _, similarity in nearest.values()], options.bands, options.rows)
        shares.append(1 - missed / len(nearest))
        expectations.append(chance)
        only_ours, only_truth = int((outcome.gone & (ideal < 0)).sum()), int((~outcome.gone & (ideal >= 0)).sum())
        run = {"seed": seed, "dropped": len(outcome.dropped), "not_in_truth": only_ours, "only_in_truth": only_truth, "orphans": orphans}
        run |= {"scores_differ": differ, "missed": int(missed), "missed_expected": float((1 - chance).sum()), "seconds": outcome.usage.seconds}
        figures["runs"].append(run)
        cells = f"{seed:6} {run['dropped']:8} {only_ours:12} {only_truth:13} {orphans:8} {differ:11}"
        print(f"{cells} {missed:24} {run['missed_expected']:9.1f}", flush=True)
    chance = np.concatenate(expectations)
    error = max(np.sqrt((chance * (1 - chance)).sum()) / len(chance), standard_error(expectations[0], shares))
    deviation = (np.mean(shares) - chance.mean()) / error
    figures |= {"nearest_found": float(np.mean(shares)), "nearest_expected": float(chance.mean()), "nearest_sigmas": float(deviation)}
    print(f"nearest kept row found: {np.mean(shares):.5f}, expected {chance.mean():.5f}, {deviation:+.1f} standard errors")
    if deviation < least_deviation(options.seeds):
        failures.append(f"nearest kept rows found {deviation:.1f} standard errors under the S-curve")

    outcome = near.run_trommel(options, scratch / "documents/*.parquet", stage_of(options, 0, rule="components"), scratch / "run")
    _, orphans = check_rows(truth, outcome, options.threshold, otherwise, failures, "components")
    alone = sum(ideal_components[row] == row and row not in otherwise for row in outcome.dropped.tolist())
    lowest = np.nanmin(outcome.score, initial=1.0)
    figures["components"] = {"dropped": len(outcome.dropped), "orphans": orphans, "lowest": lowest}
    share = orphans / max(1, len(outcome.dropped))
    print(f"components: {len(outcome.dropped)} dropped, {orphans} orphans ({share:.1%}), lowest Jaccard with the survivor {lowest:.3f}")
    if alone:
        failures.append(f"components: {alone} rows dropped that are the first of their true component")
    print("the stage's section of the manifest (star, first seed):")
    near.print_section(section)
    figures["section"] = section
    return figures


def pairs_part(options, truth, scratch, failures):
    """The second part."""
    draw = random.Random(1)
    chosen = []
    for low, high in zip(BINS, BINS[1:]):
        inside = np.flatnonzero((truth.rounded >= max(low, 0.5002)) & (truth.rounded < high)).tolist()
        chosen += draw.sample(inside, min(options.pairs, len(inside)))
    rows = truth.pairs[chosen]
    texts = [" ".join(truth.words[row]) for row in rows.ravel().tolist()]
    group = np.repeat(np.arange(len(chosen)), 2)
    near.write_texts(scratch / "pairs" / "pairs.parquet", {"group": [f"pair {g}" for g in group], "text": pa.array(texts)})
    similarity = np.array([truth.jaccard(*pair) for pair in rows.tolist()])
    chance = near.s_curve(similarity, options.bands, options.rows)
    found = np.zeros((options.seeds, len(chosen)), bool)
    for seed in range(options.seeds):
        stage = stage_of(options, seed, threshold=0.5, within="group")
        outcome = near.run_trommel(options, scratch / "pairs/*.parquet", stage, scratch / "run")
        astray = [row for row in outcome.dropped.tolist() if outcome.kept[row] != row - 1]
        if astray:
            failures.append(f"within: {len(astray)} rows dropped for another row than the first of their group")
        found[seed] = outcome.gone[1::2]
    figures = []
    print(f"\npairs: {options.bands} x {options.rows}, {options.seeds} seeds")
    print(f"{'Jaccard':>12} {'pairs':>7} {'recall':>8} {'S-curve':>8} {'standard error':>15} {'errors away':>12}")
    for low, high in zip(BINS, BINS[1:]):
        inside = (similarity >= low) & (similarity < high)
        if not inside.any():
            continue
        shares = found[:, inside].mean(axis=1)
        error = standard_error(chance[inside], shares)
        deviation = (shares.mean() - chance[inside].mean()) / error
        figures.append({"low": low, "high": high, "pairs": int(inside.sum()), "recall": shares.mean()})
        figures[-1] |= {"s_curve": chance[inside].mean(), "error": error}
        print(f"{low:6.2f}-{high:5.2f} {inside.sum():7} {shares.mean():8.4f} {chance[inside].mean():8.4f} {error:15.4f} {deviation:+12.1f}")
        if deviation < least_deviation(options.seeds):
            failures.append(f"recall of pairs in {low:.2f}-{high:.2f} is {deviation:.1f} standard errors under the S-curve")
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    near.common_options(parser)
    parser.add_argument("documents", type=Path, help="for example ../shared/data/documents/manpages")
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--bands", type=int, default=near.BANDS)
    parser.add_argument("--rows", type=int, default=near.ROWS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=1000, help="pairs of each similarity bin in the second part")
    options = parser.parse_args()
    near.need_trommel(options)
    truth = Truth(options.documents)
    otherwise = truth.segmented_otherwise()
    print(f"{options.documents.name}: {len(truth.words)} distinct texts of {LEAST_WORDS} words and more", end="")
    print(f"; {len(otherwise)} of them Unicode's rules cut otherwise")
    scratch = options.cache / "near-truth" / options.documents.name
    texts = [" ".join(found) for found in truth.words]
    middle = len(texts) // 2  # two shards
    for n, part in enumerate([slice(0, middle), slice(middle, None)]):
        near.write_texts(scratch / "documents" / f"part-{n}.parquet", {"id": truth.ids[part], "text": texts[part]})
    failures = []
    figures = {"documents": options.documents.name, "segmented_otherwise": len(otherwise)}
    figures["rows"] = rows_part(options, truth, otherwise, scratch, failures)
    figures["pairs"] = pairs_part(options, truth, scratch, failures)
    print("\nall checks passed" if not failures else f"\n{len(failures)} checks failed")
    near.finish(options, figures, failures[:20])


if __name__ == "__main__":
    main()
