//! Byte-level BPE tokenizers, from `tokenizer.json` or from a GGUF's metadata. Both are converted
//! to the JSON that the `tokenizers` crate reads, without the control tokens: those are matched
//! here, and only where a template wrote them.

use std::collections::HashMap;
use std::path::Path;

use aho_corasick::{AhoCorasick, MatchKind};
use candle_core::quantized::gguf_file::{Content, Value};
use serde_json::json;

use crate::weights::read_json;
use crate::{EngineError, Result};

/// Llama 3's pre-tokeniser: contractions, letters, runs of up to three digits, punctuation, line
/// ends, spaces.
const LLAMA_BPE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Control tokens that end a turn, by their names in Llama-family models.
const TURN_ENDS: [&str; 5] =
    ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>"];

/// `tokenizer.ggml.token_type` values.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

#[derive(Debug)]
pub(super) struct Tokenizer {
    plain: tokenizers::Tokenizer,
    controls: Vec<(String, u32)>,
    /// Finds all control tokens, including overlapping ones.
    anywhere: AhoCorasick,
    /// Finds control tokens from left to right, the longest of those that start at one position.
    longest: AhoCorasick,
    /// Each token's bytes; empty for control tokens.
    bytes: Vec<Box<[u8]>>,
    ends: Vec<u32>,
    pub(super) bos: Option<String>,
    pub(super) eos: Option<String>,
}

fn bad(reason: impl Into<String>) -> EngineError {
    EngineError::Tokenizer(reason.into())
}

impl Tokenizer {
    pub(super) fn from_gguf(content: &Content) -> Result<Self> {
        let get = |key: &str| content.metadata.get(&format!("tokenizer.ggml.{key}"));
        let text =
            |key: &str| get(key).and_then(|value| value.to_string().ok()).map(String::as_str);
        let list = |key: &str| {
            get(key)
                .and_then(|value| value.to_vec().ok())
                .ok_or_else(|| bad(format!("the GGUF has no tokenizer.ggml.{key}")))
        };
        match text("model") {
            Some("gpt2") => {}
            found => {
                return Err(bad(format!(
                    "tokenizer.ggml.model is {found:?}, expected \"gpt2\" (byte-level BPE)"
                )));
            }
        }
        let byte_level = |use_regex| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let (first, llama) = match text("pre") {
            Some("smollm") => (json!({"type": "Digits", "individual_digits": true}), false),
            Some("llama-bpe" | "llama3" | "llama-v3") => (
                json!({"type": "Split", "pattern": {"Regex": LLAMA_BPE}, "behavior": "Isolated", "invert": false}),
                true,
            ),
            found => {
                return Err(bad(format!(
                    "tokenizer.ggml.pre is {found:?}, expected \"smollm\" or \"llama-bpe\""
                )));
            }
        };
        let tokens = list("tokens")?
            .iter()
            .map(|token| token.to_string().cloned())
            .collect::<Result<Vec<_>, _>>()?;
        let types: Vec<i64> = match get("token_type") {
            Some(_) => list("token_type")?.iter().map(integer).collect(),
            None => Vec::new(),
        };
        let mut merges = Vec::new();
        for merge in list("merges")? {
            let merge = merge.to_string()?;
            merges.push(
                merge
                    .split_once(' ')
                    .ok_or_else(|| bad(format!("merge {merge:?} is not two tokens")))?,
            );
        }
        let vocabulary: HashMap<&str, usize> =
            tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
        let of_type = |kind: i64| {
            tokens.iter().zip(&types).enumerate().filter(move |(_, (_, found))| **found == kind)
        };
        let controls =
            of_type(CONTROL).map(|(id, (token, _))| (token.clone(), id as u32)).collect();
        let added: Vec<_> =
            of_type(USER_DEFINED).map(|(id, (token, _))| added_token(id, token)).collect();
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": added,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [first, byte_level(!llama)]},
            "decoder": byte_level(true),
            "model": {"type": "BPE", "vocab": vocabulary, "merges": merges, "ignore_merges": llama},
        });
        let id = |key: &str| get(key).map(integer).and_then(|id| u32::try_from(id).ok());
        let name = |key: &str| id(key).and_then(|id| tokens.get(id as usize).cloned());
        let ends = [id("eos_token_id"), id("eot_token_id")].into_iter().flatten().collect();
        Self::new(&json, controls, tokens.len(), ends, name("bos_token_id"), name("eos_token_id"))
    }

    pub(super) fn from_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let named = |error: EngineError| bad(format!("tokenizer.json: {error}"));
        let mut json: serde_json::Value = read_json(&path).map_err(named)?;
        let (mut controls, mut size) = (Vec::new(), 0);
        let added = json["added_tokens"].as_array().cloned().unwrap_or_default();
        let mut kept = Vec::new();
        for token in added {
            let (Some(id), Some(content)) = (token["id"].as_u64(), token["content"].as_str())
            else {
                return Err(bad(format!(
                    "tokenizer.json: added token {token} has no id or content"
                )));
            };
            size = size.max(id as usize + 1);
            if token["special"].as_bool() == Some(true) {
                controls.push((content.to_owned(), id as u32))
            } else {
                kept.push(token)
            }
        }
        let vocabulary = json["model"]["vocab"]
            .as_object()
            .ok_or_else(|| bad("tokenizer.json: model.vocab is missing, expected a BPE model"))?;
        size = size.max(
            vocabulary
                .values()
                .filter_map(serde_json::Value::as_u64)
                .max()
                .map_or(0, |id| id as usize + 1),
        );
        json["added_tokens"] = kept.into();
        json["post_processor"] = serde_json::Value::Null;
        let config: serde_json::Value = read_optional(&folder.join("tokenizer_config.json"))?;
        let name = |key: &str| {
            config[key].as_str().or_else(|| config[key]["content"].as_str()).map(str::to_owned)
        };
        let generation: serde_json::Value = read_optional(&folder.join("generation_config.json"))?;
        let ends = match &generation["eos_token_id"] {
            serde_json::Value::Array(ids) => {
                ids.iter().filter_map(serde_json::Value::as_u64).map(|id| id as u32).collect()
            }
            id => id.as_u64().map(|id| id as u32).into_iter().collect(),
        };
        Self::new(&json, controls, size, ends, name("bos_token"), name("eos_token"))
    }

    fn new(
        json: &serde_json::Value,
        controls: Vec<(String, u32)>,
        size: usize,
        mut ends: Vec<u32>,
        bos: Option<String>,
        eos: Option<String>,
    ) -> Result<Self> {
        let plain = tokenizers::Tokenizer::from_bytes(json.to_string())
            .map_err(|error| bad(error.to_string()))?;
        let alphabet = byte_alphabet();
        let mut bytes = vec![Box::default(); size];
        for (token, id) in plain.get_vocab(true) {
            let place = bytes.get_mut(id as usize).ok_or_else(|| {
                bad(format!("token {token:?} has id {id}, beyond the {size} tokens"))
            })?;
            // a token outside the byte alphabet (an added one) decodes to its own text
            let decoded: Option<Vec<u8>> =
                token.chars().map(|c| alphabet.get(&c).copied()).collect();
            *place = decoded.unwrap_or_else(|| token.into_bytes()).into_boxed_slice();
        }
        for (_, id) in &controls {
            if let Some(place) = bytes.get_mut(*id as usize) {
                *place = Box::default();
            }
        }
        let named = controls.iter().filter(|(token, _)| {
            TURN_ENDS.contains(&token.as_str()) || Some(token) == eos.as_ref()
        });
        ends.extend(named.map(|(_, id)| *id));
        ends.sort_unstable();
        ends.dedup();
        let matcher = |kind: MatchKind| {
            let names = controls.iter().map(|(token, _)| token);
            AhoCorasick::builder()
                .match_kind(kind)
                .build(names)
                .map_err(|error| bad(format!("control tokens: {error}")))
        };
        let (anywhere, longest) =
            (matcher(MatchKind::Standard)?, matcher(MatchKind::LeftmostLongest)?);
        Ok(Self { plain, controls, anywhere, longest, bytes, ends, bos, eos })
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn bytes(&self, token: u32) -> &[u8] {
        self.bytes.get(token as usize).map_or(&[], |bytes| bytes)
    }

    pub(super) fn end_tokens(&self) -> &[u32] {
        &self.ends
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self
            .plain
            .encode_fast(text, false)
            .map_err(|error| bad(error.to_string()))?
            .get_ids()
            .to_vec())
    }

    /// Inserts `breaker` into every control token in `text`, so that none is recognised.
    /// Overlapping tokens are each broken.
    pub(super) fn break_controls(&self, text: &str, breaker: char) -> String {
        let mut starts: Vec<usize> =
            self.anywhere.find_overlapping_iter(text).map(|found| found.start()).collect();
        starts.sort_unstable();
        starts.dedup();
        let (mut broken, mut done) =
            (String::with_capacity(text.len() + starts.len() * breaker.len_utf8()), 0);
        for start in starts {
            let first = start + text[start..].chars().next().map_or(0, char::len_utf8);
            broken.push_str(&text[done..first]);
            broken.push(breaker);
            done = first;
        }
        broken.push_str(&text[done..]);
        broken
    }

    /// Encodes text in which control tokens are recognised (the longest at one position), and
    /// removes `breaker` from the plain text.
    pub(super) fn encode_with_controls(&self, text: &str, breaker: char) -> Result<Vec<u32>> {
        let (mut tokens, mut done) = (Vec::new(), 0);
        let plain = |part: &str| self.encode(&part.replace(breaker, ""));
        for found in self.longest.find_iter(text) {
            tokens.extend(plain(&text[done..found.start()])?);
            tokens.push(self.controls[found.pattern().as_usize()].1);
            done = found.end();
        }
        tokens.extend(plain(&text[done..])?);
        Ok(tokens)
    }

    /// Bytes of the longest token: a text of more than `n` times this many bytes has more than `n`
    /// tokens.
    pub(super) fn longest_token(&self) -> usize {
        let plain = self.bytes.iter().map(|bytes| bytes.len());
        plain.chain(self.controls.iter().map(|(token, _)| token.len())).max().unwrap_or(1).max(1)
    }
}

fn added_token(id: usize, content: &str) -> serde_json::Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false})
}

fn integer(value: &Value) -> i64 {
    let unsigned = || {
        value
            .to_u64()
            .ok()
            .or_else(|| value.to_u32().ok().map(u64::from))
            .and_then(|number| i64::try_from(number).ok())
    };
    value
        .to_i64()
        .ok()
        .or_else(|| value.to_i32().ok().map(i64::from))
        .or_else(unsigned)
        .unwrap_or(-1)
}

fn read_optional(path: &Path) -> Result<serde_json::Value> {
    if path.is_file() { read_json(path) } else { Ok(serde_json::Value::Null) }
}

/// GPT-2's alphabet: the character for each byte.
fn byte_alphabet() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 256;
    (0..=255_u8)
        .filter_map(|byte| {
            let code = if printable(byte) {
                u32::from(byte)
            } else {
                next += 1;
                next - 1
            };
            Some((char::from_u32(code)?, byte))
        })
        .collect()
}
