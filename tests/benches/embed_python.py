"""Embedding throughput of Python's onnxruntime, packed by length as trommel packs: the yardstick of `embed.rs`.
pip install onnxruntime tokenizers numpy pyarrow
usage: embed_python.py MODEL.onnx TOKENIZER.json GLOB [COLUMN] [ROWS] [MAX_TOKENS] [THREADS] [BATCH_TOKENS]"""

import glob
import sys
import time

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
from tokenizers import Tokenizer

model, tokenizer_file, pattern = sys.argv[1:4]
column, rows, max_tokens, threads, batch_tokens = (sys.argv[4:] + ["text", "20000", "256", "2", "4096"][len(sys.argv[4:]):])
rows, max_tokens, threads, batch_tokens = int(rows), int(max_tokens), int(threads), int(batch_tokens)

texts = []
for path in sorted(glob.glob(pattern)):
    texts += pq.read_table(path, columns=[column])[column].to_pylist()
    if len(texts) >= rows:
        break
texts = [text or "" for text in texts[:rows]]

tokenizer = Tokenizer.from_file(tokenizer_file)
tokenizer.enable_truncation(max_tokens)
tokenizer.no_padding()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
names = [port.name for port in session.get_inputs()]

begin = time.time()
encoded = tokenizer.encode_batch(texts)
tokenised = time.time() - begin

tokens = sum(len(entry.ids) for entry in encoded)
begin = time.time()
for window in range(0, len(encoded), 4096):
    part = sorted(range(window, min(window + 4096, len(encoded))), key=lambda row: (len(encoded[row].ids), row))
    start = 0
    while start < len(part):
        end = start + 1
        while end < len(part) and len(encoded[part[end]].ids) * (end - start + 1) <= batch_tokens:
            end += 1
        batch = part[start:end]
        longest = len(encoded[batch[-1]].ids)
        ids = np.zeros((len(batch), longest), np.int64)
        mask = np.zeros_like(ids)
        for place, row in enumerate(batch):
            ids[place, : len(encoded[row].ids)] = encoded[row].ids
            mask[place, : len(encoded[row].ids)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        session.run(None, {name: feed[name] for name in names})
        start = end
seconds = time.time() - begin
print(
    f"{model} on Python onnxruntime {onnxruntime.__version__}, {threads} threads: {len(texts)} rows, {tokens} tokens, "
    f"tokenise {tokenised:.2f} s, infer {seconds:.2f} s: {len(texts) / seconds:.0f} rows/s, {tokens / seconds:.0f} tokens/s"
)
