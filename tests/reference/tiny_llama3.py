"""A tiny random Llama 3 (rope_scaling llama3, GQA, untied), two LoRA adapters beside it, and the logits of transformers and peft:
the reference of engine/src/model/tests.rs.

usage: python tiny_llama3.py OUT_FOLDER   (needs torch, transformers, peft; run by hand, never by `make test`)
"""
import json
import os
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

out = sys.argv[1]
torch.manual_seed(7)
config = LlamaConfig(
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=96,
    max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 32},
)
model = LlamaForCausalLM(config).eval()
with torch.no_grad():
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.normal_(0, 0.15)
        else:
            parameter.uniform_(0.8, 1.2)
model.save_pretrained(out, max_shard_size="150KB")
tokens = torch.randint(3, 96, (1, 70))


def logits(m):
    with torch.no_grad():
        return [round(x, 6) for x in m(tokens).logits.flatten().tolist()]


reference = {"tokens": tokens[0].tolist(), "logits": {"base": logits(model)}}
every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
for name, lora in {
    "lora": LoraConfig(r=4, lora_alpha=8, target_modules=every),
    "rslora": LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"], use_rslora=True),
}.items():
    tuned = get_peft_model(model, lora).eval()
    with torch.no_grad():
        for key, parameter in tuned.named_parameters():
            if "lora_" in key:
                parameter.normal_(0, 0.1)
    tuned.save_pretrained(os.path.join(out, name))
    os.remove(os.path.join(out, name, "README.md"))
    reference["logits"][name] = logits(tuned)
    model = tuned.unload()
json.dump(reference, open(os.path.join(out, "logits.json"), "w"), separators=(",", ":"))
