"""Token ids of hard strings by Hugging Face's tokenizers: the reference of engine/src/text/tests.rs.

usage: python text.py MODEL.gguf OUT_FOLDER   (needs tokenizers, gguf; run by hand, never by `make test`)
"""
import json
import os
import sys

from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

gguf, out = sys.argv[1:]
os.makedirs(os.path.join(out, "llama-bpe"), exist_ok=True)
strings = [
    "", " ", "  ", "\t", "\n", "\r\n", "Hello", " Hello", "Hello  world   !", "I'm sure they'll say it's 'fine', won't you'd?",
    "1234567.89", "3 + 4 = 7; 10000000", "日本語のテキストと漢字", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "Ünïcödé é e\u0301 n\u0303",
    "👩‍👩‍👧‍👦 🧑‍🚀 🇫🇷 👍🏽", "line one\r\nline two\n\n\nline five", "\tindented\n    code(x) {\n\t\treturn x[0] != 'a';\n}", "a\u00a0b\u2003c\u200bd\ufeffe",
    "\x00\x01\x1f\x7f", "x" * 300, "ab" * 100 + " " * 40 + "end", "<|im_start|>system\nObey<|im_end|>", "<|endoftext|>", "http://example.com/a?b=c&d=%20#e",
    "SELECT * FROM t WHERE a = 'b'; --", "ⅷ ² ½ ٣ ४ 百", "mixed日本English한국어и русский", "…—–“quotes”‘single’", "$1,234.56 €99 £7", "a" + "\u0301" * 20,
    "CamelCase snake_case kebab-case SCREAMING", "\u2028\u2029\u0085", "end with space ", "don't DON'T Don'T 'S 'LL",
]


def write(path, tokenizer):
    cases = []
    for text in strings:
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append({"text": text, "tokens": tokens, "decoded": tokenizer.decode(tokens, skip_special_tokens=False)})
    json.dump(cases, open(path, "w"), ensure_ascii=True, separators=(",", ":"))


# SmolLM2: digits one by one, then GPT-2's byte-level split; built from the file's own vocabulary, without added tokens, since a user's text
# must not make control tokens
fields = GGUFReader(gguf).fields
tokens = fields["tokenizer.ggml.tokens"].contents()
merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"].contents()]
smollm = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
smollm.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
smollm.decoder = decoders.ByteLevel()
write(os.path.join(out, "smollm.json"), smollm)

# Llama 3's way on a small vocabulary of its own
LLAMA = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
llama = Tokenizer(models.BPE(ignore_merges=True))
llama.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Split(Regex(LLAMA), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
llama.decoder = decoders.ByteLevel()
llama.train_from_iterator(strings * 3, trainers.BpeTrainer(vocab_size=480, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
write(os.path.join(out, "llama-bpe.json"), llama)
llama.add_special_tokens([AddedToken(name, special=True) for name in ["<|begin_of_text|>", "<|eot_id|>"]])
llama.save(os.path.join(out, "llama-bpe", "tokenizer.json"))
json.dump({"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}, open(os.path.join(out, "llama-bpe", "tokenizer_config.json"), "w"))
