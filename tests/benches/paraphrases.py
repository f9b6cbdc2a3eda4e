"""Paraphrases with human labels, embedded by a real model through the pipeline and in Python: how well the cosine tells them, and that both agree.

usage: paraphrases.py MODEL_FOLDER [--file model.onnx] [--trommel PATH] [--onnxruntime PATH] [--data FOLDER] [--cache FOLDER] [--pairs N]
                      [--threads 2] [--json FILE]
       (pip install pyarrow numpy onnxruntime tokenizers; MODEL_FOLDER from tests/models/minilm_to_onnx.py)

Reads --data/pairs: STS-B (sentence pairs with a score of 0 to 5; its test split apart) and Quora question pairs (1 = duplicate). Each text is
a row of a Parquet file; trommel embeds all with `embed`, and `sink.parquet.add` writes the vectors. The same is done in Python with
onnxruntime and tokenizers, and once more in trommel with the built-in model.

* average precision: pairs in order of their cosine, precision at each labelled pair, averaged; equal cosines count as one step. STS-B's
  pairs are labelled where the score is 4.5 or more.
* Spearman: rank correlation of cosine and score, for STS-B.

A check fails where trommel and Python differ by more than --tolerance (.001) in any of these. --pairs takes so many pairs of each set at most,
spread evenly.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

import inputs
import near
import vectors
from process import usage

MAX_TOKENS, BATCH_TOKENS = 256, 4096
SETS = {"stsb": "stsb_en", "qqp": "qqp20k"}


def ranks(values):
    """Ranks from 1; ties share their mean."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place]


def spearman(one, other):
    """Rank correlation."""
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def average_precision(labels, scores):
    """Area under the curve of precision over recall, as steps at the distinct scores."""
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(labels[order])
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each run of equal scores
    precision = right[last] / (last + 1)
    return float((np.diff(right[last], prepend=0) * precision).sum() / labels.sum())


class Questions:
    """The pairs of one set."""

    def __init__(self, options, name):
        table = pq.read_table(options.data / "pairs" / f"{SETS[name]}.parquet")
        if options.pairs:
            table = table.take(pa.array(range(0, table.num_rows, -(-table.num_rows // options.pairs))))
        self.name, self.texts = name, table["a"].to_pylist() + table["b"].to_pylist()
        self.labels = table["label"].to_numpy() == 1
        self.scores = table["score"].to_numpy() if "score" in table.column_names else None
        self.parts = {"": np.ones(len(self.labels), bool)}
        if "split" in table.column_names:
            self.parts[" (test)"] = np.array([split == "test" for split in table["split"].to_pylist()])

    def figures(self, cosines):
        """What is measured of the cosines of all pairs."""
        found = {}
        for part, rows in self.parts.items():
            if self.labels[rows].any():
                found[f"average precision{part}"] = average_precision(self.labels[rows], cosines[rows])
                if self.scores is not None:
                    found[f"Spearman{part}"] = spearman(self.scores[rows], cosines[rows])
        return found


def cosines(found):
    """Of the first half's rows with the second's."""
    half = len(found) // 2
    rows = vectors.unit(found.astype(np.float64))
    return (rows[:half] * rows[half:]).sum(axis=1)


def run_trommel(options, questions, model):
    """Vectors of all texts in their order, and seconds of the embed stage and of the process."""
    scratch = (options.cache / "paraphrases").absolute()
    scratch.mkdir(parents=True, exist_ok=True)
    source, out, work, pipeline = scratch / f"{questions.name}.parquet", scratch / "out", scratch / "work", scratch / "pipeline.yaml"
    for folder in [out, work]:
        shutil.rmtree(folder, ignore_errors=True)
    inputs.publish(pa.table({"id": [str(row) for row in range(len(questions.texts))], "text": questions.texts}), source, 5000)
    document = {
        "version": 1,
        "name": "bench_paraphrases",
        "sources": {"bench": {"parquet": {"uri": str(source), "text": "text", "id": "id"}}},
        "stages": [{"id": "vectors", "embed": model}],
        "sink": {"parquet": {"uri": str(out), "add": ["vectors"]}},
        "work": {"uri": str(work)},
    }
    pipeline.write_text(json.dumps(document, indent=1))  # JSON is YAML
    command = [options.trommel, "run", str(pipeline), "--threads", str(options.threads)]
    if options.onnxruntime:
        command += ["--onnxruntime", str(options.onnxruntime)]
    used = usage(command, scratch / "trommel.log")
    table = pa.concat_tables(pq.read_table(path, columns=["id", "vectors"]) for path in sorted((out / "data").rglob("*.parquet")))
    if table["id"].to_pylist() != [str(row) for row in range(len(questions.texts))]:
        raise SystemExit("trommel's rows are not those that it was given")
    column = table["vectors"].combine_chunks()
    if column.null_count:
        raise SystemExit(f"{column.null_count} texts without a vector")
    phases = json.loads((out / "run.json").read_text())["phases"]
    seconds = next(phase["seconds"] for phase in phases if phase["name"] == "embed vectors")
    return column.flatten().to_numpy().astype(np.float32).reshape(len(column), -1), seconds, used.seconds


def run_python(options, questions):
    """The same in Python: sorted by length, packed to the token budget."""
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(str(options.model / options.file), settings, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    begin = time.monotonic()
    encoded = tokenizer.encode_batch(questions.texts)
    lengths = np.array([len(entry.ids) for entry in encoded])
    order, found, place = np.argsort(lengths, kind="stable"), None, 0
    while place < len(order):
        end = place + 1
        while end < len(order) and lengths[order[end]] * (end - place + 1) <= BATCH_TOKENS:
            end += 1
        batch = order[place:end]
        ids = np.zeros((len(batch), lengths[batch[-1]]), np.int64)
        mask = np.zeros_like(ids)
        for row, index in enumerate(batch):
            ids[row, : lengths[index]] = encoded[index].ids
            mask[row, : lengths[index]] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        states = session.run(None, {name: feed[name] for name in names})[0]
        if states.ndim == 3:  # one vector a token: the mean under the mask
            states = (states * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        found = np.empty((len(order), states.shape[1]), np.float32) if found is None else found
        found[batch] = vectors.unit(states)
        place = end
    return found, time.monotonic() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    near.common_options(parser)
    parser.add_argument("model", type=Path, help="folder with the ONNX file and tokenizer.json")
    parser.add_argument("--file", default="model.onnx", help="name of the ONNX file in it")
    library = Path(onnxruntime.__file__).parent / "capi"
    parser.add_argument("--onnxruntime", type=Path, default=library, help="ONNX Runtime for trommel; default the one that Python uses")
    parser.add_argument("--pairs", type=int, help="pairs of each set at most, spread evenly")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--tolerance", type=float, default=0.001)
    options = parser.parse_args()
    near.need_trommel(options)
    options.model = options.model.absolute()
    files = {"path": str(options.model / options.file), "tokenizer": str(options.model / "tokenizer.json")}
    model = {"model": files, "provider": "cpu", "max_tokens": MAX_TOKENS, "batch_tokens": BATCH_TOKENS}
    figures, failures = {}, []
    print(f"trommel and Python run {options.file} of {options.model.name} by onnxruntime {onnxruntime.__version__}")
    head, widths = ["set", "measure", "trommel", "Python", "difference", "built-in model"], [5, 25, 8, 8, 10, 14]
    for name in options.sets:
        questions = Questions(options, name)
        ours, stage, whole = run_trommel(options, questions, model)
        theirs, seconds = run_python(options, questions)
        builtin, stage_builtin, _ = run_trommel(options, questions, {"model": "builtin"})
        apart = 1 - (vectors.unit(ours.astype(np.float64)) * vectors.unit(theirs.astype(np.float64))).sum(axis=1)
        texts = len(questions.texts)
        print(f"\n{name}: {texts // 2} pairs; embed stage {stage:.1f} s ({whole:.1f} s whole process), Python {seconds:.1f} s,", end=" ")
        print(f"built-in model {stage_builtin:.1f} s; largest 1 - cosine of a text's two vectors {apart.max():.1e}", flush=True)
        of = [questions.figures(cosines(found)) for found in (ours, theirs, builtin)]
        figures[name] = {"pairs": texts // 2, "seconds": {"trommel": stage, "python": seconds, "builtin": stage_builtin}}
        figures[name] |= {"apart": float(apart.max()), "trommel": of[0], "python": of[1], "builtin": of[2]}
        lines = []
        for measure, value in of[0].items():
            difference = abs(value - of[1][measure])
            lines.append([name, measure, f"{value:.5f}", f"{of[1][measure]:.5f}", f"{difference:.1e}", f"{of[2][measure]:.5f}"])
            if not difference <= options.tolerance:
                failures.append(f"{name}, {measure}: trommel {value}, Python {of[1][measure]}")
        vectors.print_table(head, widths, lines)
    near.finish(options, figures, failures)


if __name__ == "__main__":
    main()
