"""Greedy continuations of the default model by a forward pass in numpy, on the dequantised weights, of texts whose continuation is clear for
long: the reference of engine/src/model/tests.rs for decoding token by token.

usage: python greedy_clear.py MODEL.gguf OUT.json   (needs numpy, gguf, tokenizers; run by hand, never by `make test`)
"""
import json
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import Tokenizer, models, pre_tokenizers

path, out = sys.argv[1:]
reader = GGUFReader(path)
weights = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32).reshape([int(n) for n in reversed(t.shape)]) for t in reader.tensors}


def number(key):
    return reader.fields["llama." + key].contents()


layers, heads, kv_heads = number("block_count"), number("attention.head_count"), number("attention.head_count_kv")
eps, base, hidden = number("attention.layer_norm_rms_epsilon"), number("rope.freq_base"), number("embedding_length")
dim = hidden // heads
frequencies = base ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)


def norm(x, w):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * w


def rope(x, positions):  # [tokens, heads, dim], neighbouring pairs, as GGUF has them
    angle = positions[:, None] * frequencies
    cos, sin = np.cos(angle)[:, None, :].astype(np.float32), np.sin(angle)[:, None, :].astype(np.float32)
    a, b = x[..., 0::2], x[..., 1::2]
    return np.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)


def forward(tokens, cache):
    start = cache[0][0].shape[0] if cache[0] else 0
    positions = np.arange(start, start + len(tokens))
    x = weights["token_embd.weight"][tokens]
    for i in range(layers):
        w = lambda name: weights[f"blk.{i}.{name}.weight"]
        h = norm(x, w("attn_norm"))
        q = rope((h @ w("attn_q").T).reshape(-1, heads, dim), positions)
        k = rope((h @ w("attn_k").T).reshape(-1, kv_heads, dim), positions)
        v = (h @ w("attn_v").T).reshape(-1, kv_heads, dim)
        if cache[i]:
            k, v = np.concatenate([cache[i][0], k]), np.concatenate([cache[i][1], v])
        cache[i] = (k, v)
        k, v = np.repeat(k, heads // kv_heads, axis=1), np.repeat(v, heads // kv_heads, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(dim)
        scores = np.where(np.arange(k.shape[0])[None, None, :] > positions[None, :, None], -np.inf, scores)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", scores, v).reshape(-1, heads * dim) @ w("attn_output").T
        h = norm(x, w("ffn_norm"))
        gate = h @ w("ffn_gate").T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w("ffn_up").T)) @ w("ffn_down").T
    x = norm(x[-1], weights["output_norm.weight"])
    return weights.get("output.weight", weights["token_embd.weight"]) @ x


names = reader.fields["tokenizer.ggml.tokens"].contents()
merges = [tuple(merge.split(" ")) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
tokenizer = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, merges))
split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
texts = [
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
    "".join(f"Item {n}: done.\n" for n in range(1, 15)),
    "101 102 103 104 105 106 107 108 109 110 111 112 113 114",
    "".join(f"Chapter {n}\n" for n in range(1, 21)),
    "The cat sat on the mat.\n" * 9,
]
runs = []
for text in texts:
    prompt = tokenizer.encode(text).ids
    cache, tokens, margins = [None] * layers, [], []
    logits = forward(np.array(prompt), cache)
    for _ in range(64):
        best = np.sort(logits)[-2:]
        margins.append(round(float(best[1] - best[0]), 4))
        tokens.append(int(logits.argmax()))
        logits = forward(np.array(tokens[-1:]), cache)
    runs.append({"question": text, "prompt": prompt, "tokens": tokens, "margins": margins})
    clear = next((at for at, margin in enumerate(margins) if margin < 0.3), len(margins))
    print(clear, "clear:", repr(tokenizer.decode(tokens)[:100]), file=sys.stderr)
json.dump(runs, open(out, "w"), separators=(",", ":"))
