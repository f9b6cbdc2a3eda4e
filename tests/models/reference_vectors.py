"""Embed texts with Python onnxruntime and tokenizers, to compare with what the program gives (within 1e-5).

    pip install onnxruntime numpy pyarrow tokenizers
    python tests/models/reference_vectors.py MODEL.onnx TOKENIZER.json TEXTS.parquet|TEXTS.txt OUT.parquet [--max-tokens N] [--chunk N --overlap M] [--column text] [--rows N]

TEXTS.parquet: the texts are in --column, the ids in `id` where there is such a column, else the row number. TEXTS.txt: a text a line, the id is the line number from 0.
OUT.parquet: `id` (utf8), `text` (utf8), `tokens` (int64, after truncation, with special tokens), `vector` (fixed-size list of float32).

Each text is run alone, so no padding and no other text can touch its vector. Special tokens are added as the tokenizer file says; --max-tokens counts them.
With --chunk a text longer than N tokens is cut into chunks of N, special tokens included, of which each shares M with the one before (the `stride` of
the tokenizers library); its vector is the mean of the chunks' unit vectors, scaled to length 1, and `tokens` is the sum over the chunks.
For a model whose output has the shape [batch, seq, d], --pooling mean takes the mean under the mask and normalises it.
"""

import argparse

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer


def read_texts(path, column, rows):
    """(ids, texts) as strings, in file order, nulls left out."""
    if path.endswith(".txt"):
        with open(path, encoding="utf-8") as file:
            pairs = [(str(number), line.rstrip("\n")) for number, line in enumerate(file)]
    else:
        table = pq.read_table(path)
        texts = table[column].to_pylist()
        ids = table["id"].to_pylist() if "id" in table.column_names else range(len(texts))
        pairs = [(str(i), text) for i, text in zip(ids, texts) if text is not None]
    pairs = pairs[:rows]
    return [i for i, _ in pairs], [text for _, text in pairs]


def embed(session, tokenizer, text, pooling, chunked):
    """(vector float32 [d], number of tokens)"""
    encoded = tokenizer.encode(text)
    chunks = [encoded, *encoded.overflowing] if chunked else [encoded]
    vectors = [run(session, chunk, pooling) for chunk in chunks]
    if len(chunks) == 1:
        return vectors[0], len(encoded.ids)
    mean = np.mean([vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64)) for vector in vectors], axis=0)
    return (mean / np.linalg.norm(mean)).astype(np.float32), sum(len(chunk.ids) for chunk in chunks)


def run(session, encoded, pooling):
    """The vector of one encoded text or chunk."""
    feed = {
        "input_ids": np.array([encoded.ids], np.int64),
        "attention_mask": np.array([encoded.attention_mask], np.int64),
        "token_type_ids": np.array([encoded.type_ids], np.int64),
    }
    wanted = {entry.name for entry in session.get_inputs()}
    output = session.run(None, {name: value for name, value in feed.items() if name in wanted})[0]
    if output.ndim == 3:
        if pooling != "mean":
            raise SystemExit(f"the model gives one vector a token: say --pooling mean: shape={output.shape}")
        output = output.mean(axis=1)
        output /= np.maximum(np.linalg.norm(output, axis=1, keepdims=True), 1e-12)
    return output[0].astype(np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "tokenizer", "texts", "out"):
        parser.add_argument(name)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--chunk", type=int, help="cut longer texts into chunks of so many tokens, instead of --max-tokens")
    parser.add_argument("--overlap", type=int, default=0, help="tokens that a chunk shares with the one before")
    parser.add_argument("--column", default="text")
    parser.add_argument("--rows", type=int, default=None, help="only the first N texts")
    parser.add_argument("--pooling", choices=["none", "mean"], default="none")
    options = parser.parse_args()

    tokenizer = Tokenizer.from_file(options.tokenizer)
    tokenizer.no_padding()
    tokenizer.enable_truncation(options.chunk or options.max_tokens, stride=options.overlap)
    session = onnxruntime.InferenceSession(options.model, providers=["CPUExecutionProvider"])
    ids, texts = read_texts(options.texts, options.column, options.rows)
    results = [embed(session, tokenizer, text, options.pooling, options.chunk is not None) for text in texts]
    if not results:
        raise SystemExit(f"no text to embed: {options.texts}")
    vectors = np.stack([vector for vector, _ in results])
    table = pa.table(
        {
            "id": ids,
            "text": texts,
            "tokens": pa.array([count for _, count in results], pa.int64()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1]),
        }
    )
    pq.write_table(table, options.out, compression="zstd")
    print(f"{len(ids)} texts, {vectors.shape[1]} dimensions, {sum(count for _, count in results)} tokens -> {options.out}")


if __name__ == "__main__":
    main()
