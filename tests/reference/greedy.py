"""Greedy continuations of the default model by transformers, on the dequantised weights: the reference of engine/src/model/tests.rs.

usage: python greedy.py MODEL.gguf OUT.json   (needs torch, transformers, gguf; run by hand, never by `make test`)
"""
import json
import os
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

gguf, out = sys.argv[1:]
folder, file = os.path.split(os.path.abspath(gguf))
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
questions = [
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "My sister Ana lives in Lisbon. Where does my sister live?",
    "List three prime numbers and explain why they are prime.",
    "If it rains tomorrow, should I take an umbrella to work?",
]
runs = []
for question in questions:
    text = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids, tokens, margins = list(prompt), [], []
    with torch.no_grad():
        for _ in range(64):
            best = model(torch.tensor([ids])).logits[0, -1].topk(2)
            margins.append(round((best.values[0] - best.values[1]).item(), 4))
            tokens.append(best.indices[0].item())
            ids.append(tokens[-1])
            if tokens[-1] == tokenizer.eos_token_id:
                break
    runs.append({"question": question, "text": text, "prompt": prompt, "tokens": tokens, "margins": margins})
    print(question, "->", tokenizer.decode(tokens)[:100], file=sys.stderr)
json.dump(runs, open(out, "w"), separators=(",", ":"))
