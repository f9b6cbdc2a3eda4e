"""What the rows that each selecting stage keeps are worth, beside a random sample: on real labelled texts, and to a classifier trained on them.

usage: selectors_quality.py MODEL_FOLDER [--file model.onnx] [--trommel PATH] [--onnxruntime PATH] [--data FOLDER] [--cache FOLDER]
                            [--write FOLDER] [--json FILE] [--threads 2]
       (pip install pyarrow numpy scikit-learn matplotlib; MODEL_FOLDER from tests/models/minilm_to_onnx.py)

labelled.py has the sets: pages and verses, embedded once by MiniLM and by the built-in model, then read by every run as a column. Each stage
keeps 10, 20 and 40 % of the rows with its defaults, but where SETTINGS says otherwise; `sample` with five seeds is the random baseline.

Quality, on all rows of a set:
* mean, max: 1 - cosine of a dropped row to the nearest kept row (lower is better);
* effective rank, Vendi, log det: of the kept rows, by the stage `diversity_metrics` after the selector (higher is more varied);
* labels: the share of labels with a kept row; lowest: the kept share of the label that has the least;
* rare: the kept share of the rows of the rarer half of the labels (pages alone: verses are all about as frequent).

Usefulness, on the planted set: logistic regression on the vectors of the kept rows, tested with other pages; each figure is the mean over
three plantings, each with its own split. By label: the mean over labels of the share that is right. Different: how many different pages the kept
rows are made of, as a share of the kept rows. Random samples of what `semantic_dedup` leaves, and deduplication alone, stand beside.

--write FOLDER writes selectors_quality.md and .svg there (selectors_report.py). A check fails where a stage misses its budget, where the
program's metrics are not those of numpy, or where a greedy stage is further from the best set found for its own aim than its guarantee allows.
"""

import argparse
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

import inputs
import labelled
import near
import selectors_report
from process import usage

SHARES = [0.1, 0.2, 0.4]
MODELS = ["minilm", "builtin"]
SEEDS, PLANTINGS = range(5), range(3)
RIDGE = 0.01  # the default of log_det_select
SETTINGS = {
    "facility_location": {},
    "k_center": {},
    "log_det_select": {},
    "prototypes": {},
    "density_pruning": {},
    "cluster_permanent_pruning": {},
    "codebook_select": {},
    "redundancy_select": {},
    "variance_select": {},
    "maxvol_select": {"rank": 128, "tolerance": 0.001},  # with its defaults it stops at some 25 rows
    "type_balanced_select": {"labels": "label"},  # with the largest quota that stays within the budget
}
SEMANTIC = ("semantic_dedup", {"epsilon": 0.05})
METRICS = ["effective_rank", "vendi", "log_det"]
BLOCK = 4096


class Selecting:
    """Runs of trommel on one table with one model's vectors."""

    def __init__(self, options, table, model):
        self.options, self.folder = options, (options.cache / "selectors-quality" / "run").absolute()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.vectors = labelled.matrix(table, model)
        self.labels = np.array(table["label"].to_pylist())
        self.most_of_label = max(Counter(table["label"].to_pylist()).values())
        column = pa.FixedSizeListArray.from_arrays(pa.array(self.vectors.reshape(-1)), self.vectors.shape[1])
        names = pa.array([str(row) for row in range(table.num_rows)])
        made = pa.table({"id": names, "label": table["label"], "text": table["text"], "vector": column})
        inputs.publish(made, self.folder / "rows.parquet", 1000)

    def run(self, *stages):
        """The rows that stages after the vectors keep, and what `diversity_metrics` says of them."""
        out, work, pipeline = self.folder / "out", self.folder / "work", self.folder / "pipeline.yaml"
        for folder in [out, work]:
            shutil.rmtree(folder, ignore_errors=True)
        named = [{"id": f"stage{n}", stage: settings} for n, (stage, settings) in enumerate(stages)]
        document = {
            "version": 1,
            "name": "bench_quality",
            "sources": {"bench": {"parquet": {"uri": str(self.folder / "rows.parquet"), "text": "text", "id": "id"}}},
            "stages": [{"id": "vectors", "embed": {"from": "vector"}}, *named, {"id": "metrics", "diversity_metrics": {}}],
            "sink": {"parquet": {"uri": str(out), "compression": "zstd(1)"}},
            "work": {"uri": str(work)},
        }
        pipeline.write_text(json.dumps(document, indent=1))  # JSON is YAML
        usage([self.options.trommel, "run", str(pipeline), "--threads", str(self.options.threads)], self.folder / "trommel.log")
        kept = [int(row) for path in sorted((out / "data").rglob("*.parquet")) for row in pq.read_table(path, columns=["id"])["id"].to_pylist()]
        manifest = json.loads((out / "manifest.json").read_text())
        report = next(stage["report"]["diversity"] for stage in manifest["stages"] if stage["stage"] == "metrics")
        return np.array(sorted(kept)), report

    def within_quota(self, keep):
        """`type_balanced_select` with the largest quota that keeps no more than `keep` rows."""
        low, high = 1, self.most_of_label
        while low < high:
            quota = (low + high + 1) // 2
            kept, _ = self.run(("type_balanced_select", SETTINGS["type_balanced_select"] | {"quota": quota}))
            low, high = (quota, high) if len(kept) <= keep else (low, quota - 1)
        return self.run(("type_balanced_select", SETTINGS["type_balanced_select"] | {"quota": low}))

    def selections(self, share):
        """(name, kept rows, metrics) of every selector and every random seed."""
        keep = round(share * len(self.labels))
        for seed in SEEDS:
            yield "sample", *self.run(("sample", {"keep_rows": keep, "seed": seed}))
        for name, settings in SETTINGS.items():
            if name == "type_balanced_select":
                yield name, *self.within_quota(keep)
            else:
                yield name, *self.run((name, settings | {"keep_rows": keep}))


def metrics_of(own):
    """What `diversity_metrics` computes, by numpy in double precision."""
    own = own.astype(np.float64)

    def spread(rows):
        shares = np.linalg.eigvalsh(rows.T @ rows)
        shares = shares[shares > 0] / shares[shares > 0].sum()
        return float(np.exp(-(shares * np.log(shares)).sum()))

    centred = own - own.mean(axis=0)
    log_det = np.linalg.slogdet(np.eye(own.shape[1]) + own.T @ own)[1]
    return {"effective_rank": spread(centred / np.linalg.norm(centred, axis=1, keepdims=True)), "vendi": spread(own), "log_det": float(log_det)}


def quality(selecting, kept, report):
    """What a set of rows is worth."""
    x = selecting.vectors
    own = x[kept]
    nearest = np.concatenate([(x[begin : begin + BLOCK] @ own.T).max(axis=1) for begin in range(0, len(x), BLOCK)]).astype(np.float64)
    distances = np.maximum(np.delete(1 - nearest, kept), 0)
    sizes, taken = Counter(selecting.labels.tolist()), Counter(selecting.labels[kept].tolist())
    shares = [taken[label] / size for label, size in sizes.items()]
    rare = sorted(sizes, key=lambda label: (sizes[label], label))[: len(sizes) // 2]
    return {
        "kept": len(kept),
        "mean": float(distances.mean()),
        "max": float(distances.max()),
        **{name: report[name] for name in METRICS},
        "labels": len(taken) / len(sizes),
        "lowest": min(shares),
        "rare": sum(taken[label] for label in rare) / sum(sizes[label] for label in rare),
        "covered": float(np.maximum(nearest, 0).sum()),
        "aim": float(np.linalg.slogdet(np.eye(own.shape[1]) + own.T.astype(np.float64) @ own / RIDGE)[1]),
    }


def check_metrics(what, own, report):
    """Failures of the program's metrics beside numpy's."""
    return [
        f"{what}: {name} is {report[name]}, by numpy {value}"
        for name, value in metrics_of(own).items()
        if abs(report[name] - value) > 1e-4 * abs(value)
    ]


def check_aims(what, found):
    """Failures of the greedy stages beside the best set that was found: k-center is within twice the least radius, the others within 1 - 1/e
    of the highest value. `found` is by name a list of qualities."""
    every = [row for rows in found.values() for row in rows]
    least = 1 - 1 / np.e
    failures = []
    if found["k_center"][0]["max"] > 2 * min(row["max"] for row in every):
        failures.append(f"{what}: k_center's radius is more than twice the least")
    for name, value in [("facility_location", "covered"), ("log_det_select", "aim")]:
        if found[name][0][value] < least * max(row[value] for row in every):
            failures.append(f"{what}: {name} is under its guarantee")
    return failures


def measure_quality(options, name, table, model, failures):
    """{selector: [per share a list of qualities, one a seed]}."""
    selecting, result = Selecting(options, table, model), {}
    for place, share in enumerate(SHARES):
        found, keep = {}, round(share * table.num_rows)
        for selector, kept, report in selecting.selections(share):
            what = f"{name}, {model}, {share:.0%}, {selector}"
            if len(kept) != keep and selector != "type_balanced_select":
                failures.append(f"{what}: {len(kept)} rows kept, not {keep}")
            failures += check_metrics(what, selecting.vectors[kept], report)
            found.setdefault(selector, []).append(quality(selecting, kept, report))
        failures += check_aims(f"{name}, {model}, {share:.0%}", found)
        print(f"\n{name}, {model}: {keep} of {table.num_rows} rows")
        print(f"{'':26}" + "".join(f"{head:>15}" for head in found["sample"][0]))
        for selector, rows in found.items():
            print(f"{selector:26}" + "".join(f"{np.mean([row[head] for row in rows]):15.4f}" for head in rows[0]), flush=True)
            result.setdefault(selector, [[] for _ in SHARES])[place] = rows
    return result


def deduplicated(selecting, share):
    """Random samples of what `semantic_dedup` leaves."""
    keep = round(share * len(selecting.labels))
    for seed in SEEDS:
        yield selectors_report.DEDUPLICATED, *selecting.run(SEMANTIC, ("sample", {"keep_rows": keep, "seed": seed}))


def trained(train, kept, tests):
    """Accuracy on the tested pages, and its mean by label, of a classifier of the kept rows."""
    x, y, test_x, test_y = *train, *tests
    told = LogisticRegression(C=10, max_iter=500).fit(x[kept], y[kept]).predict(test_x) == test_y
    return {"accuracy": float(told.mean()), "by_label": float(np.mean([told[test_y == label].mean() for label in np.unique(test_y)]))}


def measure_usefulness(options, table, model, failures):
    """{selector: [per share a list of figures, one a planting and seed]}; the lines without a budget under `all`."""
    result, whole = {}, {}
    for planting in PLANTINGS:
        train, tested = labelled.planted(options, table, planting)
        selecting = Selecting(options, train, model)
        originals, budget = train["original"].to_numpy(), train.num_rows
        rows = (selecting.vectors, selecting.labels)
        tests = (labelled.matrix(table, model)[tested], np.array(table["label"].to_pylist())[tested])
        figures = lambda kept: {"kept": len(kept), "different": len(set(originals[kept])) / len(kept), **trained(rows, kept, tests)}
        unbudgeted = {"all rows": np.arange(budget), "exact_dedup": selecting.run(("exact_dedup", {"columns": ["text"]}))[0]}
        unbudgeted["semantic_dedup"] = selecting.run(SEMANTIC)[0]
        for name, kept in unbudgeted.items():
            whole.setdefault(name, []).append(figures(kept) | {"tested": len(tested)})
            print(f"planting {planting}: {name:26} {whole[name][-1]}", flush=True)
        for place, share in enumerate(SHARES):
            for selector, kept, _ in [*selecting.selections(share), *deduplicated(selecting, share)]:
                found = figures(kept) | {"planting": planting}
                result.setdefault(selector, [[] for _ in SHARES])[place].append(found)
                print(f"planting {planting}, {share:.0%}: {selector:26} {found}", flush=True)
    return {"budgets": result, "all": whole}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    near.common_options(parser)
    parser.add_argument("model", type=Path, help="folder with the ONNX file and tokenizer.json")
    parser.add_argument("--file", default="model.onnx", help="name of the ONNX file in it")
    parser.add_argument("--onnxruntime", type=Path, help="ONNX Runtime for trommel; default the one that it finds")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write selectors_quality.md and selectors_quality.svg there")
    options = parser.parse_args()
    threadpool_limits(1)  # many threads of small products wait for each other, by a factor of ten where other work runs beside
    near.need_trommel(options)
    options.model, options.models, options.trommel = options.model.absolute(), MODELS, str(Path(options.trommel).absolute())
    made, failures = labelled.sets(options), []
    quality_of = {
        name: {model: measure_quality(options, name, table, model, failures) for model in MODELS} for name, table in made.items()
    }
    sizes = {name: {"rows": table.num_rows, "labels": len(set(table["label"].to_pylist()))} for name, table in made.items()}
    figures = {"shares": SHARES, "sizes": sizes, "quality": quality_of}
    figures["usefulness"] = measure_usefulness(options, made["pages"], MODELS[0], failures)
    if options.write:
        selectors_report.write(options.write, figures)
    near.finish(options, figures, failures)


if __name__ == "__main__":
    main()
