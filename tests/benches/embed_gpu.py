"""Embedding on a GPU: trommel with `provider: cuda` beside PyTorch in fp16 on the same texts and the same GPU, one after the other.

usage: embed_gpu.py MODEL_FOLDER [--trommel PATH] [--onnxruntime PATH] [--bench PATH] [--cache FOLDER] [--short 1000000] [--long 100000]
       (pip install pyarrow numpy tokenizers torch transformers [sentence-transformers] onnxruntime-gpu)

MODEL_FOLDER: `python tests/models/minilm_to_onnx.py MODEL_FOLDER --half`. CUDA's and cuDNN's libraries must be found by the loader (LD_LIBRARY_PATH).

Texts are made of the tokenizer's own words from a seed: short ones of 16 tokens, long ones of 320 in the mean. trommel's seconds are those of the embed
stage as run.json states them: reading the column, tokenising, inference, vectors written as f16. PyTorch gets all texts in memory, tokenises them with all cores,
sorts them by length and packs them to the same token budget, one step after the other, so that the model's own time is known; its vectors stay in
memory. Its attention is not cuDNN's, which PyTorch prefers on an H100 but which plans anew for each shape (measured on an H200: 42 s of model time for
100,000 long texts instead of 9 s). The busy share is nvidia-smi's, over the seconds measured.
Vectors are compared with those of trommel's CPU provider and the fp32 model.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PIPELINE = """version: 1
name: bench_embed_gpu
sources:
  bench: {{ parquet: {{ uri: {uri}, text: text, id: id }} }}
stages:
  - id: vectors
    embed: {{ model: {{ path: {model}, tokenizer: {tokenizer} }}, provider: {provider}, max_tokens: {limit}, precision: {precision} }}
  - id: all_rows
    prototypes: {{ keep_fraction: 1.0, k: 1 }}
sink: {{ parquet: {{ uri: {out} }} }}
work: {{ uri: {work} }}
"""

TORCH = r"""
import itertools, json, sys, time
import numpy as np, pyarrow.parquet as pq, torch
from tokenizers import Tokenizer
folder, source, limit, budget, kept, save, encode_rows, cudnn = *sys.argv[1:3], *map(int, sys.argv[3:6]), sys.argv[6], *map(int, sys.argv[7:9])
torch.backends.cuda.enable_cudnn_sdp(bool(cudnn))
from transformers import AutoModel
model = AutoModel.from_pretrained(folder, dtype=torch.float16, attn_implementation="sdpa").cuda().eval()
texts = pq.read_table(source, columns=["text"])["text"].to_pylist()
tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
tokenizer.enable_truncation(limit)
tokenizer.no_padding()

def pooled(ids, mask):
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    mask = mask[:, :, None]
    mean = (states * mask).sum(1, dtype=torch.float32) / mask.sum(1)
    return torch.nn.functional.normalize(mean, dim=1)

def batches(lists):
    # Batches of like length within the budget: padded ids and masks in pinned memory, and the order of the rows.
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    flat = np.fromiter(itertools.chain.from_iterable(lists), np.int64, int(lengths.sum()))
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    order = np.argsort(lengths, kind="stable")
    place, made = 0, []
    while place < len(order):
        end = place + 1
        while end < len(order) and lengths[order[end]] * (end - place + 1) <= budget:
            end += 1
        rows, steps = order[place:end], np.arange(lengths[order[end - 1]])
        mask = steps < lengths[rows][:, None]
        ids = np.where(mask, flat[np.minimum(starts[rows][:, None] + steps, len(flat) - 1)], 0)
        made.append((torch.from_numpy(ids).pin_memory(), torch.from_numpy(mask.astype(np.int64)).pin_memory()))
        place = end
    return made, order, int(lengths.sum())

def encode(lists):
    # Vectors as halves on the host in row order, tokens, and the seconds of building batches, of copying them over, of the model, and of copying back.
    marks = [time.monotonic()]
    made, order, tokens = batches(lists)
    marks.append(time.monotonic())
    made = [(ids.cuda(non_blocking=True), mask.cuda(non_blocking=True)) for ids, mask in made]
    torch.cuda.synchronize()
    marks.append(time.monotonic())
    print("model", flush=True)
    parts = [pooled(ids, mask).half() for ids, mask in made]
    torch.cuda.synchronize()
    marks.append(time.monotonic())
    print("model ends", flush=True)
    sorted_vectors = torch.cat(parts).cpu()
    vectors = torch.empty_like(sorted_vectors)
    vectors[torch.from_numpy(order)] = sorted_vectors
    marks.append(time.monotonic())
    return vectors, tokens, [later - earlier for earlier, later in zip(marks, marks[1:])]

with torch.inference_mode():
    encode([e.ids for e in tokenizer.encode_batch(texts[:4000])])
    begin = time.monotonic()
    lists = []
    for start in range(0, len(texts), 50_000):
        lists.extend(e.ids for e in tokenizer.encode_batch(texts[start : start + 50_000]))
    tokenised = time.monotonic() - begin
    vectors, tokens, (build, over, infer, back) = encode(lists)
np.save(save, vectors[:kept].numpy())
said = {"tokenise": tokenised, "build": build, "copy": over + back, "infer": infer, "tokens": tokens, "torch": torch.__version__, "device": torch.cuda.get_device_name()}
if encode_rows:
    try:
        from sentence_transformers import SentenceTransformer, __version__ as version
        from sentence_transformers.models import Normalize, Pooling, Transformer
        part = Transformer(folder, max_seq_length=limit)
        whole = SentenceTransformer(modules=[part, Pooling(384), Normalize()], device="cuda").half()
        some = texts[:encode_rows]
        whole.encode(some[:2000], batch_size=256)
        begin = time.monotonic()
        whole.encode(some, batch_size=256)
        said["encode"] = {"rows": len(some), "tokens": sum(map(len, lists[:encode_rows])), "seconds": time.monotonic() - begin, "version": version}
    except Exception as error:
        said["encode_failed"] = repr(error)[:300]
print(json.dumps(said))
"""


def texts(folder, name, rows, low, high, seed, tokenizer):
    """Writes `rows` texts of `low` to `high` words: common ones often, rare ones seldom (Zipf), every twentieth made of two, so of several tokens."""
    path = folder / f"{name}-{rows}-{low}-{high}-{seed}.parquet"
    if path.exists():
        return path
    vocabulary = json.loads(Path(tokenizer).read_text())["model"]["vocab"]
    words = [word for word, _ in sorted(vocabulary.items(), key=lambda entry: entry[1]) if word.isascii() and word.isalpha() and len(word) > 1]
    random = np.random.default_rng(seed)
    words = np.array(words, dtype=object)
    shares = 1.0 / (np.arange(len(words)) + 30.0)
    sums = np.cumsum(shares / shares.sum())
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    part = path.with_suffix(".part")
    with pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for start in range(0, rows, 50_000):
            lengths = random.integers(low, high + 1, min(50_000, rows - start))
            drawn = words[np.minimum(np.searchsorted(sums, random.random(int(lengths.sum()))), len(words) - 1)]
            drawn[::20] += drawn[::20][::-1]
            chosen = drawn.tolist()
            lines, place = [], 0
            for length in lengths.tolist():
                lines.append(" ".join(chosen[place : place + length]) + ".")
                place += length
            ids = [f"{name}-{row}" for row in range(start, start + len(lines))]
            writer.write_table(pa.table([ids, lines], schema=schema))
    part.replace(path)
    return path


class Busy:
    """nvidia-smi's utilisation, read about ten times a second."""

    def __enter__(self):
        self.samples = []
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=100"]
        try:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            self.process = None
            return self
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()
        return self

    def read(self):
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.samples.append((time.monotonic(), int(line)))

    def __exit__(self, *_):
        if self.process:
            self.process.terminate()
            self.process.wait()

    def busiest(self, seconds):
        """The highest mean over a stretch of so many seconds: where in a longer run the GPU worked."""
        best = float("nan")
        for start, _ in self.samples:
            inside = [value for at, value in self.samples if start <= at < start + max(seconds, 0.3)]
            if inside and self.samples[-1][0] >= start + seconds * 0.9:
                best = max(best, sum(inside) / len(inside)) if best == best else sum(inside) / len(inside)
        return best


def run_trommel(options, source, provider, file, limit, rows=None, precision=None):
    """(seconds of the embed stage, of the process, busy share, tokens, vectors of the first rows as float32)"""
    scratch = options.cache / "gpu-runs"
    scratch.mkdir(parents=True, exist_ok=True)
    out, work, pipeline = scratch / "out", scratch / "work", scratch / "pipeline.yaml"
    for folder in (out, work):
        shutil.rmtree(folder, ignore_errors=True)
    fields = {"uri": source, "out": out, "work": work, "model": options.model / file, "tokenizer": options.model / "tokenizer.json"}
    quoted = {name: json.dumps(str(Path(value).absolute())) for name, value in fields.items()}
    precision = precision or ("f16" if provider == "cuda" else "f32")
    pipeline.write_text(PIPELINE.format(provider=provider, limit=limit, precision=precision, **quoted))
    command = [options.trommel, "run", str(pipeline), "--threads", str(options.threads)]
    command += ["--onnxruntime", options.onnxruntime] if options.onnxruntime else []
    command += ["--limit-rows", str(rows)] if rows else []
    begin = time.monotonic()
    with Busy() as busy:
        done = subprocess.run(command, capture_output=True, text=True)
    whole = time.monotonic() - begin
    if done.returncode != 0:
        sys.exit(f"trommel failed with {done.returncode}:\n{done.stderr[-4000:]}")
    run = json.loads((out / "run.json").read_text())
    phase = next(phase for phase in run["phases"] if phase.get("name", "") == "embed vectors")
    receipt = next(json.loads(path.read_text()) for path in work.rglob("*.json") if "truncated" in path.read_text())
    table = next(work.rglob("vectors.parquet"))
    vectors = []
    for batch in pq.ParquetFile(table).iter_batches(batch_size=options.check, columns=["trommel_vector"]):
        column = batch.column(0)
        if pa.types.is_fixed_size_binary(column.type):
            vectors = np.stack([np.frombuffer(row, "<f2") for row in column.to_pylist()]).astype(np.float32)
        else:
            vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
        break
    return phase["seconds"], whole, busy.busiest(phase["seconds"]), receipt["facts"]["tokens"], vectors


def run_torch(options, source, limit, save):
    """What the child says, and the busy share of its inference."""
    arguments = [str(options.model), str(source), str(limit), str(options.batch_tokens), str(options.check), str(save), str(options.encode), str(int(options.cudnn))]
    with Busy() as busy:
        child = subprocess.Popen([sys.executable, "-W", "ignore", "-c", TORCH, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        errors = []
        threading.Thread(target=lambda: errors.append(child.stderr.read()), daemon=True).start()
        said, marks = None, {}
        for line in child.stdout:
            line = line.strip()
            if line.startswith("{"):
                said = json.loads(line)
            else:
                marks[line] = time.monotonic()
        if child.wait() != 0 or said is None:
            sys.exit(f"PyTorch's part failed\n{''.join(errors)[-3000:]}")
    inside = [value for at, value in busy.samples if marks["model"] + 0.2 <= at <= marks["model ends"]]
    return said, sum(inside) / len(inside) if inside else float("nan")


def line(name, rows, tokens, seconds, busy):
    share = "" if busy != busy else f"  GPU busy {busy:3.0f} %"
    print(f"  {name:44} {seconds:7.2f} s {rows / seconds:10.0f} texts/s {tokens / seconds:11.0f} tokens/s{share}", flush=True)


def far(a, b):
    """(largest difference of a component, smallest cosine)"""
    rows = min(len(a), len(b))
    a, b = (np.asarray(x[:rows], np.float64) for x in (a, b))
    cosines = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30)
    return np.abs(a - b).max(), cosines.min()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("model", type=Path, help="folder with model.onnx, model_half.onnx, tokenizer.json, config.json, model.safetensors")
    parser.add_argument("--trommel", default=str(root / "target/release/trommel"))
    parser.add_argument("--onnxruntime", help="library or folder; by default where trommel looks")
    parser.add_argument("--bench", help="the program that `cargo bench --bench embed --no-run` names: measures tokenising and the embedder alone")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/trommel-bench")
    parser.add_argument("--short", type=int, default=1_000_000, help="short texts (0: none)")
    parser.add_argument("--long", type=int, default=100_000, help="long texts (0: none)")
    parser.add_argument("--long-tokens", type=int, default=512)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch-tokens", type=int, default=16_384, help="PyTorch's token budget; trommel takes its own default")
    parser.add_argument("--check", type=int, default=1000, help="rows compared with the CPU")
    parser.add_argument("--encode", type=int, default=100_000, help="rows for SentenceTransformer.encode as it comes (0: none)")
    parser.add_argument("--cudnn", action="store_true", help="let PyTorch take cuDNN's attention, its default, which plans anew for each shape of a batch")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--texts-only", action="store_true", help="make the texts and stop")
    options = parser.parse_args()
    options.model = options.model.absolute()
    folder = options.cache / "gpu-texts"
    folder.mkdir(parents=True, exist_ok=True)
    sets = []
    if options.short:
        sets.append(("short", texts(folder, "short", options.short, 8, 16, options.seed, options.model / "tokenizer.json"), options.short, 256))
    if options.long:
        source = texts(folder, "long", options.long, 100, 480, options.seed + 1, options.model / "tokenizer.json")
        sets.append(("long", source, options.long, options.long_tokens))
    if options.texts_only:
        return
    smi = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True)
    print(f"{smi.stdout.strip()}, {options.threads} threads", flush=True)
    for name, source, rows, limit in sets:
        print(f"\n{rows} {name} texts, at most {limit} tokens", flush=True)
        seconds, whole, busy, tokens, ours = run_trommel(options, source, "cuda", "model_half.onnx", limit)
        line("trommel, embed stage, fp16 model, f16 vectors", rows, tokens, seconds, busy)
        line("trommel, whole process", rows, tokens, whole, float("nan"))
        if options.bench:
            command = [options.bench, "--bench", "--texts", str(source), "--rows", str(rows), "--max-tokens", str(limit), "--threads", str(options.threads)]
            command += ["--model", str(options.model / "model_half.onnx"), "--tokenizer", str(options.model / "tokenizer.json"), "--provider", "cuda"]
            command += ["--repeat", "2"] + (["--onnxruntime", options.onnxruntime] if options.onnxruntime else [])
            with Busy() as busy:
                said = subprocess.run(command, capture_output=True, text=True)
            print("    " + (said.stdout + said.stderr[-2000:]).strip().replace("\n", "\n    "), flush=True)
            print(f"    GPU busy in its best second {busy.busiest(1.0):3.0f} %", flush=True)
        if not options.no_torch:
            save = options.cache / f"torch-{name}.npy"
            said, busy = run_torch(options, source, limit, save)
            line(f"PyTorch {said['torch']} fp16, batches already on the GPU", rows, said["tokens"], said["infer"], busy)
            total = said["tokenise"] + said["build"] + said["copy"] + said["infer"]
            line("PyTorch, from texts to vectors", rows, said["tokens"], total, float("nan"))
            print("    of it tokenising {tokenise:.2f} s, building batches {build:.2f} s, copies {copy:.2f} s".format(**said))
            if "encode" in said:
                part = said["encode"]
                line(f"sentence-transformers {part['version']}, encode, {part['rows']} rows", part["rows"], part["tokens"], part["seconds"], float("nan"))
            elif "encode_failed" in said:
                print(f"  sentence-transformers did not run: {said['encode_failed']}")
            print(f"  trommel's stage is {total / seconds:.2f} x as fast as PyTorch from texts to vectors, {said['infer'] / seconds:.2f} x its model alone")
        _, _, _, _, exact = run_trommel(options, source, "cpu", "model.onnx", limit, rows=options.check)
        print("  beside the CPU provider on the fp32 model, {} rows: trommel cuda fp16: largest difference {:.2e}, smallest cosine {:.6f}".format(len(exact), *far(ours, exact)))
        _, _, _, _, single = run_trommel(options, source, "cuda", "model.onnx", limit, rows=options.check, precision="f32")
        print("  {:>54} trommel cuda fp32: largest difference {:.2e}, smallest cosine {:.6f}".format("", *far(single, exact)))
        if not options.no_torch:
            print("  {:>54} PyTorch fp16: largest difference {:.2e}, smallest cosine {:.6f}".format("", *far(np.load(save), exact)), flush=True)


if __name__ == "__main__":
    main()
