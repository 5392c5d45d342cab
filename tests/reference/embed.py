"""Sentence embeddings by transformers, mean-pooled and normalised: the reference of engine/src/embed.rs.

usage: python embed.py ALL_MINILM_FOLDER OUT.json   (needs torch, transformers; run by hand, never by `make test`)
"""
import json
import sys

import torch
from transformers import AutoModel, AutoTokenizer

folder, out = sys.argv[1:]
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
texts = ["My sister Ana lives in Lisbon.", "short", "Ünïcödé: 日本語 🧑‍🚀 — mixed", "word " * 400, "What did I tell you about my sister?", "SELECT 1; -- a comment"]
cases = []
for text in texts:
    encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=256, padding=False)
    with torch.no_grad():
        hidden = model(**encoded).last_hidden_state
    mask = encoded["attention_mask"].unsqueeze(-1)
    vector = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)[0]
    cases.append({"text": text, "vector": [round(x, 6) for x in vector.tolist()]})
json.dump(cases, open(out, "w"), separators=(",", ":"))
