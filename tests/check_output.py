"""An independent check of what `trommel run` leaves: nothing here is shared with the program.

usage: check_output.py OUT_FOLDER [--inputs [SOURCE=]GLOB ...] [--vectors GLOB]        (pip install pyarrow blake3 numpy regex)

Without --inputs the shards are looked for where run.json says that they were. Checked:

* every file of the folder stands in manifest.json with its BLAKE3, length and rows, and nothing else lies there; inputs too;
* every input row stands once in the lineage; kept + dropped + rejected = input, shard by shard, and the counts in the manifest agree;
* data/ holds exactly the kept rows, in order, all columns equal to the input's, with the input's schema and metadata (and so for the
  other ways of `sink.write`: dropped/ holds the dropped rows, an annotated data/ holds all);
* every drop, main or on another branch (`also` in the detail), that names a row names one that is kept or that a stage below dropped;
  each chain follows the drop below the stage that named the row, and ends in a row that is kept or was dropped for what it is itself
  (filtered, not selected, a bad vector), or where a rule other than `star` named none;
* `copies`, `doc_id` and `kept_doc_id` are right;
* rows called exact duplicates are equal after the stage's normalisation, done again here; where the pipeline is one line of stages, each
  group of equal rows that reached the stage lost all rows but one, and under `keep: first` the first stayed;
* scores of near duplicates are at least the threshold; under `verify: exact` they are the Jaccard similarity of the two texts' shingles, cut
  again here (by the package `regex`; texts in scripts without spaces and in Hebrew are left out), for 500 rows of each
  stage at most;
* scores of semantic duplicates are within epsilon; with --vectors (Parquet with columns `id` and `vector`, as
  tests/models/reference_vectors.py writes them), `rule: star` and `keep: first`, all of it again by all pairs: each dropped row's score and
  most similar kept row, and that no two rows that stayed are within epsilon;
* budgets of rows, coresets' among them, are met.

Prints one line a check and ends with 1 if any failed.
"""

import argparse
import collections
import glob
import json
import re
import sys
import unicodedata
from pathlib import Path

import blake3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import regex

WILDCARD = re.compile(r"[*?\[{]")
WHITE_SPACE = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
WORD_BOUNDARY = regex.compile(r"(?wV1)\b")
APOSTROPHES = str.maketrans("'\u2019", "\u2024\u2024")  # `regex` cuts an apostrophe from a vowel after it; another mark of their class is not cut
SCRIPTS = ["Hebrew", "Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar"]
CUT_OTHERWISE = regex.compile("[" + "".join(rf"\p{{Script={script}}}" for script in SCRIPTS) + "]")
CUT_AGAIN_ROWS = 500  # near duplicates of a stage whose shingles are made again
REASONS = {
    "filter": {"filtered"},
    "sample": {"not_selected"},
    "exact_dedup": {"exact_duplicate"},
    "embed": {"bad_vector"},
    "embedding_whitening": {"bad_vector"},
    "neighbor_dim_reduction": {"bad_vector"},
    "dimension_select": {"bad_vector"},
    "minhash_dedup": {"near_duplicate"},
    "semantic_dedup": {"semantic_duplicate", "bad_vector"},
    "prototypes": {"not_selected", "bad_vector"},
    "score_filter": {"filtered", "not_selected"},
    "gradient_value_select": {"not_selected", "bad_vector"},
    "diversity_metrics": {"bad_vector"},
    "snippet_pairing": {"bad_vector"},
    "label_consistency_screen": set(),
    "online_loss_filter": {"not_selected"},
    "selector_pool": {"not_selected", "bad_vector"},
    "weighted_score_filter": {"filtered", "not_selected"},
    "k_center": {"not_selected", "bad_vector"},
    "facility_location": {"not_selected", "bad_vector"},
    "log_det_select": {"not_selected", "bad_vector"},
    "density_pruning": {"not_selected", "bad_vector"},
    "redundancy_select": {"not_selected", "bad_vector"},
    "maxvol_select": {"not_selected", "bad_vector"},
    "variance_select": {"not_selected", "bad_vector"},
    "codebook_select": {"not_selected", "bad_vector"},
    "cluster_permanent_pruning": {"not_selected", "bad_vector"},
    "type_balanced_select": {"not_selected", "bad_vector"},
}
# Selections that keep exactly what was asked for: `maxvol_select` may stop earlier, `selector_pool` never keeps the tails, the others are told no
# number or not the last word.
UP_TO = {"maxvol_select", "selector_pool", "codebook_select", "type_balanced_select", "online_loss_filter", "sample"}
BUDGETED = {kind for kind, reasons in REASONS.items() if "not_selected" in reasons} - UP_TO
CLOSE = 1e-5  # what two runtimes may differ by in a cosine
ALL_PAIRS_ROWS = 20_000  # `k: auto` compares all pairs below so many rows
LINEAGE = pa.schema(
    [
        ("source", pa.utf8()),
        ("shard", pa.utf8()),
        ("row", pa.uint64()),
        ("doc_id", pa.utf8()),
        ("decision", pa.utf8()),
        ("stage", pa.utf8()),
        ("reason", pa.utf8()),
        ("kept_source", pa.utf8()),
        ("kept_shard", pa.utf8()),
        ("kept_row", pa.uint64()),
        ("kept_doc_id", pa.utf8()),
        ("kept_run_id", pa.utf8()),
        ("score", pa.float64()),
        ("copies", pa.uint64()),
        ("detail", pa.utf8()),
        ("run_id", pa.utf8()),
    ]
)


class Check:
    """Collects failures; each named check prints one line."""

    def __init__(self):
        self.failed = 0
        self.found = []

    def expect(self, truth, message):
        """Notes a failure of the check that is under way."""
        if not truth:
            self.found.append(message)
        return truth

    def close(self, title):
        """Prints the check's line and, where it failed, its first failures."""
        print(f"{'FAILED' if self.found else 'ok':6} {title}")
        for message in self.found[:10]:
            print(f"         {message}")
        if len(self.found) > 10:
            print(f"         and {len(self.found) - 10} more")
        self.failed += bool(self.found)
        self.found = []


def digest(path):
    """BLAKE3 of a file, in hex."""
    return blake3.blake3(path.read_bytes()).hexdigest()


def plain(column):
    """A column's values; a dictionary is decoded."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return column.to_pylist()


def normalise(text, steps):
    """The steps of `exact_dedup.normalize`, each as the pipeline file describes it."""
    if not isinstance(text, str):
        return text
    for step in steps:
        if step in ("nfc", "nfkc"):
            text = unicodedata.normalize(step.upper(), text)
        elif step == "lowercase":
            text = text.lower()
        elif step == "collapse_whitespace":
            text = WHITE_SPACE.sub(" ", text).strip(" ")
        elif step == "strip_punctuation":
            text = "".join(c for c in text if not unicodedata.category(c).startswith("P"))
        else:
            raise SystemExit(f"no such step of normalisation: {step}")
    return text


class Plan:
    """The stages of the manifest's plan, in file order, with what stands below what."""

    def __init__(self, manifest):
        plan = manifest["plan"]
        self.sources = {source["id"]: source for source in plan["sources"]}
        self.stages = {stage["id"]: stage for stage in plan["stages"]}
        self.below = {name: {n for n, stage in self.stages.items() if name in stage["inputs"]} for name in self.stages}
        for _ in self.stages:  # no path is longer
            for name, below in self.below.items():
                self.below[name] = below.union(*(self.below[n] for n in below))
        self.reports = {stage["stage"]: stage["report"] for stage in manifest["stages"]}
        self.line = len(self.sources) == 1 and all(len(s["inputs"]) == 1 for s in self.stages.values())
        self.line = self.line and all(len(self.below[n]) == len(self.stages) - i - 1 for i, n in enumerate(self.stages))

    def column(self, source, name):
        """The column that a name or a role means in a source."""
        role = {"text": "text", "id": "id_column"}.get(name)
        return self.sources[source].get(role) or name if role else name

    def doc_id(self, source):
        """The column of a source's ids, if it has one."""
        return self.sources[source].get("id_column")

    def names_none(self, stage):
        """Whether the stage's rule may call a row a duplicate and name no kept row."""
        return self.stages[stage]["config"].get("rule", "star") != "star"

    def epsilon(self, stage):
        """The epsilon of a semantic stage, where it has none the one that the run chose."""
        epsilon = self.stages[stage]["config"]["epsilon"]
        return self.reports[stage]["epsilon"] if epsilon is None else epsilon

    def reached(self, row, stage):
        """Whether the row of this lineage came to the stage; for one line of stages only."""
        order = list(self.stages)
        return row["stage"] is None or order.index(row["stage"]) >= order.index(stage)


def input_files(options, manifest, run):
    """Path of each input shard by (source, shard)."""
    files = {}
    if options.inputs:
        names = sorted({shard["source"] for shard in manifest["inputs"]})
        for given in options.inputs:
            name, pattern = given.split("=", 1) if "=" in given else (names[0], given)
            parts = Path(pattern).parts
            fixed = next((i for i, part in enumerate(parts) if WILDCARD.search(part)), len(parts) - 1)
            base = Path(*parts[:fixed])
            for path in sorted(glob.glob(pattern, recursive=True)):
                files[name, Path(path).relative_to(base).as_posix()] = Path(path)
    else:
        for shard in manifest["inputs"]:
            files[shard["source"], shard["shard"]] = Path(run["sources"][shard["source"]]) / shard["shard"]
    return files


def check_files(check, out, manifest):
    """Hashes, lengths and rows of outputs."""
    listed = {entry["path"]: entry for entry in manifest["files"]}
    present = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} - {"manifest.json", "run.json"}
    check.expect(set(listed) == present, f"listed and present files differ: {sorted(set(listed) ^ present)[:5]}")
    for name in sorted(set(listed) & present):
        entry, path = listed[name], out / name
        check.expect(entry["bytes"] == path.stat().st_size, f"{name}: length")
        check.expect(entry["blake3"] == digest(path), f"{name}: BLAKE3")
        check.expect(entry["rows"] == pq.read_metadata(path).num_rows, f"{name}: rows")
        folder = name.split("/")[0]
        check.expect({"tables": "table"}.get(folder, folder) == entry["kind"], f"{name}: kind {entry['kind']}")
    check.close(f"{len(listed)} output files as in the manifest")


def check_inputs(check, manifest, files):
    """Hashes, lengths and rows of inputs."""
    limit = manifest["plan"].get("limit_rows")
    for shard in manifest["inputs"]:
        path = files.get((shard["source"], shard["shard"]))
        if check.expect(path is not None and path.is_file(), f"{shard['source']} {shard['shard']}: not found"):
            check.expect(shard["blake3"] == digest(path), f"{shard['shard']}: BLAKE3")
            check.expect(shard["bytes"] == path.stat().st_size, f"{shard['shard']}: length")
            has = pq.read_metadata(path).num_rows
            check.expect(shard["rows"] <= has, f"{shard['shard']}: {shard['rows']} rows were read, it has {has}")
            check.expect(shard["rows"] == has or limit is not None, f"{shard['shard']}: {shard['rows']} of {has} rows without a limit")
            if shard["rows"] < has:
                print(f"       {shard['shard']}: only the first {shard['rows']} of {has} rows were read (--limit-rows)")
    check.expect(limit is None or manifest["rows"]["input"] <= limit, f"{manifest['rows']['input']} rows, limited to {limit}")
    unread = set(files) - {(s["source"], s["shard"]) for s in manifest["inputs"]}
    check.expect(not unread, f"shards that the run did not read: {sorted(unread)[:5]}")
    check.close(f"{len(manifest['inputs'])} input shards as in the manifest")


def read_lineage(check, out):
    """All lineage rows as dictionaries, in file order."""
    paths = sorted((out / "lineage").rglob("*.parquet"))
    tables = []
    for path in paths:
        table = pq.ParquetFile(path).read()
        got = [(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in table.schema]
        check.expect(got == [(f.name, f.type) for f in LINEAGE], f"{path.name}: columns {got}")
        tables.append(table)
    check.close(f"schema of {len(paths)} lineage files")
    return [row for table in tables for row in table.to_pylist()]


def check_conservation(check, manifest, lineage):
    """Each input row once, and the counts."""
    by_shard = collections.defaultdict(list)
    for row in lineage:
        by_shard[row["source"], row["shard"]].append(row)
    shards = {(s["source"], s["shard"]): s for s in manifest["inputs"]}
    check.expect(set(by_shard) <= set(shards), f"lineage of unknown shards: {sorted(set(by_shard) - set(shards))[:5]}")
    for key, shard in shards.items():
        numbers = sorted(row["row"] for row in by_shard[key])
        check.expect(numbers == list(range(shard["rows"])), f"{key}: {len(numbers)} lineage rows for {shard['rows']} rows")
    check.close(f"each of {sum(s['rows'] for s in shards.values())} input rows once in the lineage")

    count = collections.Counter(row["decision"] for row in lineage)
    check.expect(set(count) <= {"keep", "drop", "reject"}, f"decisions {sorted(count)}")
    said = manifest["rows"]
    got = {"input": len(lineage), "kept": count["keep"], "dropped": count["drop"], "rejected": count["reject"]}
    for name, value in got.items():
        check.expect(said[name] == value, f"{name}: manifest {said[name]}, lineage {value}")
    check.expect(got["kept"] + got["dropped"] + got["rejected"] == got["input"], f"the sum: {got}")
    for key, shard in shards.items():
        kept = sum(row["decision"] == "keep" for row in by_shard[key])
        check.expect(shard["kept"] == kept, f"{key}: kept {shard['kept']} by the manifest, {kept} by the lineage")
    dropped = collections.Counter((row["stage"], row["reason"]) for row in lineage if row["decision"] == "drop")
    stages = {(stage["stage"], reason): n for stage in manifest["stages"] for reason, n in stage["dropped"].items() if n}
    check.expect(stages == dropped, f"dropped by stage and reason: manifest {stages}, lineage {dict(dropped)}")
    check.close("kept {kept} + dropped {dropped} + rejected {rejected} = {input}, by shard and by stage".format(**got))
    return by_shard, dropped


def drops(row):
    """Why a row is not kept: the drop that its columns hold, then those of other branches."""
    if row["decision"] != "drop":
        return []
    names = ("stage", "reason", "kept_source", "kept_shard", "kept_row", "score")
    others = json.loads(row["detail"] or "{}").get("also", [])
    return [{name: drop.get(name) for name in names} for drop in [row, *others]]


def place(names):
    """The key of the row that a drop names."""
    return names["kept_source"], names["kept_shard"], names["kept_row"]


def check_drop(check, plan, where, drop):
    """What a drop may say by itself."""
    stage = plan.stages.get(drop["stage"])
    if not check.expect(stage is not None, f"{where}: dropped by {drop['stage']}, which the plan has not"):
        return
    check.expect(drop["reason"] in REASONS[stage["kind"]], f"{where}: {drop['reason']} by a {stage['kind']} stage")
    has = [part is not None for part in place(drop)]
    check.expect(all(has) or not any(has), f"{where}: half a representative")
    duplicate = (drop["reason"] or "").endswith("_duplicate")
    fits = all(has) == duplicate or (duplicate and plan.names_none(drop["stage"]))
    check.expect(fits, f"{where}: {drop['reason']} and a representative do not go together")


def check_rows(check, manifest, plan, lineage):
    """What each lineage row may say by itself."""
    for row in lineage:
        where = f"{row['shard']}:{row['row']}"
        if row["decision"] == "keep":
            check.expect(row["stage"] is None and row["reason"] is None and row["kept_row"] is None, f"{where}: kept, yet with a reason")
        for drop in drops(row):
            check_drop(check, plan, where, drop)
        stages = [drop["stage"] for drop in drops(row)]
        check.expect(len(set(stages)) == len(stages), f"{where}: dropped by one stage twice: {stages}")
        check.expect(row["run_id"] == manifest["run_id"], f"{where}: run_id")
        if row["detail"] is not None:
            detail = json.loads(row["detail"])
            check.expect(list(detail) == sorted(detail), f"{where}: detail is not in the order of its keys")
    check.close("decision, stage and reason fit together")


def follow(plan, rows, drop):
    """From a drop that names a row down to the chain's end: how many rows it has, and what is wrong with it."""
    length = 1
    while place(drop)[2] is not None:
        row = rows.get(place(drop))
        length += 1
        if row is None:
            return length, "names no row of the run"
        if row["decision"] == "keep":
            return length, None
        below = [other for other in drops(row) if other["stage"] in plan.below[drop["stage"]]]
        if not below:
            return length, f"{row['shard']}:{row['row']} is named by {drop['stage']}, which did not keep it ({row['decision']})"
        drop = min(below, key=lambda other: place(other)[2] is None)  # the first that names a row, else the first
    ends = not drop["reason"].endswith("_duplicate") or plan.names_none(drop["stage"])
    return length, None if ends else f"ends as {drop['reason']} of {drop['stage']}, and names no row"


def check_representatives(check, plan, lineage):
    """Each chain, from the drops on all branches, moves downstream and ends well; copies are counted."""
    key = lambda row: (row["source"], row["shard"], row["row"])
    rows = {key(row): row for row in lineage}
    named = collections.Counter()
    longest = 0
    for row in lineage:
        where = f"{row['shard']}:{row['row']}"
        if row["kept_run_id"] is not None:
            continue
        for number, drop in enumerate(drops(row)):
            if place(drop)[2] is None:
                continue
            kept = rows.get(place(drop))
            length, wrong = follow(plan, rows, drop)
            check.expect(wrong is None, f"{where}: its chain by {drop['stage']}: {wrong}")
            check.expect(kept is not row, f"{where}: names itself")
            longest = max(longest, length)
            if number == 0 and kept is not None:
                named[key(kept)] += 1
                check.expect(kept["doc_id"] == row["kept_doc_id"], f"{where}: kept_doc_id {row['kept_doc_id']}")
    check.close(f"{sum(named.values())} representatives; longest chain {longest}")
    for row in lineage:
        check.expect((row["copies"] or 0) == named[key(row)], f"{row['shard']}:{row['row']}: copies {row['copies']}, named {named[key(row)]} times")
    check.close(f"copies of {len(named)} named rows")


def check_exact(check, plan, lineage, columns):
    """Exact duplicates once more, by normalised text."""
    for name, stage in plan.stages.items():
        if stage["kind"] != "exact_dedup":
            continue
        config = stage["config"]
        steps = config["normalize"]
        rows = [row for row in lineage if not plan.line or (plan.reached(row, name) and row["decision"] != "reject")]

        def content(source, shard, number):
            values = [columns[source, shard][plan.column(source, c)][number] for c in config["columns"]]
            return json.dumps([normalise(value, steps) for value in values], default=repr)

        dropped = [row for row in rows if row["stage"] == name]
        for row in dropped:
            one = content(row["source"], row["shard"], row["row"])
            other = content(row["kept_source"], row["kept_shard"], row["kept_row"])
            check.expect(one == other, f"{row['shard']}:{row['row']} and its representative {row['kept_shard']}:{row['kept_row']} differ")
        check.close(f"{len(dropped)} exact duplicates of {name} equal their representatives")
        if not plan.line:
            continue
        groups = collections.defaultdict(list)
        for row in rows:
            groups[content(row["source"], row["shard"], row["row"])].append(row)
        for group in groups.values():
            stayed = [row for row in group if row["stage"] != name]
            if check.expect(len(stayed) == 1, f"{len(stayed)} of {len(group)} equal rows stayed: {group[0]['shard']}:{group[0]['row']}"):
                if config["keep"] == "first":
                    check.expect(stayed[0] is group[0], f"not the first stayed: {stayed[0]['shard']}:{stayed[0]['row']}")
        check.close(f"{len(groups)} groups of equal rows at {name}: one row of each stayed")


def shingles(text, config):
    """The set of a text's shingles by a stage's configuration."""
    text = normalise(text, config["normalize"])
    (unit, size), = config["shingle"].items()
    if unit == "words":
        places = [match.start() for match in WORD_BOUNDARY.finditer(text.translate(APOSTROPHES))]
        units = [text[a:b] for a, b in zip(places, places[1:]) if any(c.isalnum() for c in text[a:b])]
    else:
        units = text if unit == "chars" else text.encode()
    return {tuple(units[i : i + size]) for i in range(max(1, len(units) - size + 1))} if units else set()


def check_near(check, plan, lineage, columns):
    """Near duplicates once more, by their shingles."""
    for name, stage in plan.stages.items():
        config = stage["config"]
        if stage["kind"] != "minhash_dedup":
            continue
        dropped = [row for row in lineage if row["stage"] == name and row["kept_row"] is not None]
        if config["verify"] != "none":
            for row in dropped:
                check.expect(config["threshold"] <= row["score"] <= 1, f"{row['shard']}:{row['row']}: score {row['score']}")
            check.close(f"{len(dropped)} near duplicates of {name} score at least {config['threshold']:g}")
        if config["verify"] != "exact" or config["preset"] is not None:
            continue
        again = 0
        for row in dropped[:: max(1, -(-len(dropped) // CUT_AGAIN_ROWS))]:
            places = (row["source"], row["shard"], row["row"]), (row["kept_source"], row["kept_shard"], row["kept_row"])
            if row["kept_run_id"] is not None:
                continue
            texts = [columns[source, shard][plan.column(source, config["column"])][number] for source, shard, number in places]
            if "words" in config["shingle"] and any(CUT_OTHERWISE.search(text) for text in texts):
                continue
            one, other = (shingles(text, config) for text in texts)
            similarity = len(one & other) / max(1, len(one | other))
            check.expect(similarity == row["score"], f"{row['shard']}:{row['row']}: score {row['score']}, by its shingles {similarity}")
            again += 1
        check.close(f"{again} of {len(dropped)} near duplicates of {name} have the Jaccard similarity that they say")


def check_semantic(check, plan, lineage):
    """Scores against epsilon."""
    for name, stage in plan.stages.items():
        if stage["kind"] != "semantic_dedup":
            continue
        config = stage["config"]
        dropped = [row for row in lineage if row["stage"] == name and row["reason"] == "semantic_duplicate"]
        least = 1.0 - plan.epsilon(name) - 1e-6
        for row in dropped if config["rule"] != "components" else []:
            score = row["score"]
            check.expect(score is not None and least <= score <= 1 + 1e-6, f"{row['shard']}:{row['row']}: score {score}")
        check.close(f"{len(dropped)} semantic duplicates of {name} score at least {1.0 - plan.epsilon(name):.6g}")


def check_star(check, plan, lineage, vectors):
    """A semantic stage once more by all pairs, from vectors that another program made."""
    for name, stage in plan.stages.items():
        config = stage["config"]
        if stage["kind"] != "semantic_dedup":
            continue
        rows = [row for row in lineage if row["decision"] != "reject" and plan.reached(row, name)] if plan.line else []
        few = config["method"] != "ivf" and config["k"] == "auto" and len(rows) < ALL_PAIRS_ROWS
        all_pairs = config["method"] == "flat" or config["k"] == 1 or few
        if not (plan.line and all_pairs and config["rule"] == "star" and config["keep"] == "first"):
            print(f"       not checked by all pairs: {name}")
            continue
        place = {(row["source"], row["shard"], row["row"]): i for i, row in enumerate(rows)}
        matrix = np.stack([vectors[row["doc_id"]] for row in rows]).astype(np.float64)
        matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
        stayed = np.array([row["stage"] != name for row in rows])
        threshold = 1.0 - plan.epsilon(name)
        worst = 0.0
        for i, row in enumerate(rows):
            where = f"{row['shard']}:{row['row']}"
            earlier = np.flatnonzero(stayed[:i])
            cosines = matrix[earlier] @ matrix[i]
            best = cosines.max(initial=-1.0)
            if stayed[i]:
                check.expect(best <= threshold + CLOSE, f"{where} stayed, {best:.6f} from a row that had stayed")
                continue
            kept = place.get((row["kept_source"], row["kept_shard"], row["kept_row"]))
            if check.expect(kept is not None and kept < i and stayed[kept], f"{where}: its representative had not stayed at {name}"):
                cosine = float(matrix[kept] @ matrix[i])
                worst = max(worst, abs(cosine - row["score"]))
                check.expect(abs(cosine - row["score"]) <= CLOSE, f"{where}: score {row['score']}, cosine {cosine}")
                check.expect(cosine >= threshold - CLOSE, f"{where}: dropped at {cosine:.6f}")
                check.expect(cosine >= best - CLOSE, f"{where}: its representative is {cosine:.6f} from it, another row {best:.6f}")
        check.close(f"{name}: star over {len(rows)} rows by all pairs, {int((~stayed).sum())} dropped; scores differ by {worst:.1e} at most")


def check_budgets(check, plan, lineage):
    """How many rows a selection holds: a budget of groups is met as a whole."""
    for name, stage in plan.stages.items():
        config = stage["config"]
        keep = next((config[key] for key in ("budget", "keep") if isinstance(config.get(key), dict)), {})
        if stage["kind"] not in BUDGETED or not plan.line or not keep.keys() & {"fraction", "rows"}:
            continue
        reached = [row for row in lineage if row["decision"] != "reject" and plan.reached(row, name)]
        reached = [row for row in reached if (row["stage"], row["reason"]) != (name, "filtered")]
        if any(row["reason"] == "bad_vector" for row in reached):
            continue
        wanted = int(keep["fraction"] * len(reached) + 0.5) if "fraction" in keep else min(keep["rows"], len(reached))
        left = sum(row["stage"] != name for row in reached)
        check.expect(left == wanted, f"{left} rows left, {wanted} wanted")
        check.close(f"{name}: {left} of {len(reached)} rows are selected")


def equal_schemas(one, other):
    """Equal in names, types, order, nullability and metadata."""
    strip = lambda schema: schema.with_metadata({k: v for k, v in (schema.metadata or {}).items() if k != b"ARROW:schema"})
    return strip(one).equals(strip(other), check_metadata=True)


def selected(rows, folder, write):
    """The numbers of the rows of a shard that a folder of the output holds, in order."""
    if folder == "dropped":
        return sorted(row["row"] for row in rows if row["decision"] == "drop")
    return sorted(row["row"] for row in rows if row["decision"] == "keep" or write == "annotate")


def check_folder(check, out, folder, manifest, by_shard, files):
    """data/ or dropped/ against the input."""
    sink = manifest["plan"]["sink"]
    write, mirror = sink["write"], sink["layout"] == "mirror"
    several = len(manifest["plan"]["sources"]) > 1
    pure = folder == "data" and write != "annotate" and not sink["add"]  # no columns of the program's own
    rows, wanted = 0, []
    for shard in manifest["inputs"]:
        key = shard["source"], shard["shard"]
        table = pq.ParquetFile(files[key]).read()
        numbers = selected(by_shard[key], folder, write)
        expected = table.take(pa.array(numbers, pa.int64()))
        rows += len(numbers)
        if not mirror:
            wanted.append(expected)
            continue
        path = out / folder / (shard["source"] if several else "") / shard["shard"]
        if not check.expect(path.is_file(), f"{shard['shard']}: no such file in {folder}/"):
            continue
        written = pq.ParquetFile(path)
        if pure:
            check.expect(equal_schemas(written.schema_arrow, table.schema), f"{shard['shard']}: schema or metadata differ")
        else:
            fields = [written.schema_arrow.field(name) for name in table.column_names]
            check.expect(all(f.equals(g) for f, g in zip(fields, table.schema)), f"{shard['shard']}: types of the input's columns differ")
        got = written.read()
        same = got.num_rows == expected.num_rows and all(plain(got[c]) == plain(expected[c]) for c in table.column_names)
        check.expect(same, f"{shard['shard']}: rows differ ({got.num_rows} written, {expected.num_rows} wanted)")
        if write == "annotate" and "trommel_decision" in got.column_names:
            decisions = [row["decision"] for row in sorted(by_shard[key], key=lambda row: row["row"])]
            check.expect(plain(got["trommel_decision"]) == decisions, f"{shard['shard']}: trommel_decision differs from the lineage")
    present = sorted((out / folder).rglob("*.parquet"))
    if mirror:
        check.expect(len(present) == len(manifest["inputs"]), f"{len(present)} files in {folder}/ for {len(manifest['inputs'])} shards")
    else:
        got = [pq.ParquetFile(path).read() for path in present]
        for column in sorted({name for table in wanted for name in table.column_names}):
            values = lambda tables: [v for t in tables for v in (plain(t[column]) if column in t.column_names else [None] * t.num_rows)]
            check.expect(values(got) == values(wanted), f"packed column {column} differs")
    what = "dropped" if folder == "dropped" else "input" if write == "annotate" else "kept"
    check.close(f"{folder}/ holds the {rows} {what} rows, all columns as in the input{', schema and metadata too' if pure else ''}")


def check_data(check, out, manifest, by_shard, files):
    """All folders of data that the sink writes."""
    write = manifest["plan"]["sink"]["write"]
    for folder in {"dropped": ["dropped"], "both": ["data", "dropped"]}.get(write, ["data"]):
        check_folder(check, out, folder, manifest, by_shard, files)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--inputs", nargs="*", default=[], metavar="[SOURCE=]GLOB")
    parser.add_argument("--vectors", metavar="GLOB", help="Parquet with columns id and vector")
    options = parser.parse_args()
    out = options.out
    manifest = json.loads((out / "manifest.json").read_text())
    run = json.loads((out / "run.json").read_text())
    check = Check()
    plan = Plan(manifest)
    files = input_files(options, manifest, run)
    check_files(check, out, manifest)
    check_inputs(check, manifest, files)
    if check.failed:
        sys.exit("inputs or outputs are not those of the manifest: nothing further is checked")
    lineage = read_lineage(check, out)
    by_shard, dropped = check_conservation(check, manifest, lineage)
    check_rows(check, manifest, plan, lineage)
    check_representatives(check, plan, lineage)
    named = {plan.column(source, name) for source in plan.sources for s in plan.stages.values() for name in s["config"].get("columns", [])}
    near = [s["config"]["column"] for s in plan.stages.values() if s["kind"] == "minhash_dedup"]
    named |= {plan.column(source, name) for source in plan.sources for name in near}
    named |= {plan.doc_id(source) for source in plan.sources if plan.doc_id(source)}
    columns = {}
    for key, path in files.items():
        columns[key] = {name: plain(column) for name, column in zip(*read_columns(path, named))}
    for row in lineage:
        column = plan.doc_id(row["source"])
        value = columns[row["source"], row["shard"]][column][row["row"]] if column else None
        check.expect(row["doc_id"] == (None if value is None else str(value)), f"{row['shard']}:{row['row']}: doc_id {row['doc_id']}")
    check.close("doc_id is the input's id")
    check_exact(check, plan, lineage, columns)
    check_near(check, plan, lineage, columns)
    check_semantic(check, plan, lineage)
    if options.vectors:
        tables = [pq.read_table(path, columns=["id", "vector"]) for path in sorted(glob.glob(options.vectors))]
        vectors = {i: v for table in tables for i, v in zip(table["id"].to_pylist(), table["vector"].to_pylist())}
        check_star(check, plan, lineage, vectors)
    check_budgets(check, plan, lineage)
    check_data(check, out, manifest, by_shard, files)
    for (stage, reason), count in sorted(dropped.items()):
        print(f"       {stage}: {count} {reason}")
    if check.failed:
        sys.exit(f"{check.failed} checks failed")
    print("all checks passed")


def read_columns(path, named):
    """Names and columns of those of the named columns that the shard has."""
    file = pq.ParquetFile(path)
    present = [name for name in file.schema_arrow.names if name in named]
    table = file.read(columns=present)
    return table.column_names, table.columns


if __name__ == "__main__":
    main()
