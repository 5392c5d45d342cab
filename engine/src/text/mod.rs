//! Text to tokens and back: tokenizer, chat template, incremental decoding. Any thread may use it. OWNER: E2 (interface fixed).

use crate::Result;
use crate::chat::ChatMessage;
use crate::weights::ModelFiles;

/// A model's tokenizer and chat template.
pub struct Text {}

impl Text {
    /// From the GGUF's metadata, or from `tokenizer.json`, `tokenizer_config.json` (and `chat_template.jinja`) beside the weights.
    pub fn load(_files: &ModelFiles) -> Result<Self> {
        todo!()
    }
    /// Encodes plain text; special tokens in it are *not* recognised, so a user cannot forge a turn.
    pub fn encode(&self, _text: &str) -> Result<Vec<u32>> {
        todo!()
    }
    /// Decodes without special tokens.
    pub fn decode(&self, _tokens: &[u32]) -> Result<String> {
        todo!()
    }
    /// The bytes of one token.
    pub fn token_bytes(&self, _token: u32) -> Vec<u8> {
        todo!()
    }
    /// Renders messages with the model's own template and encodes the result, so that control tokens come from the template
    /// alone: those that stand in a message's content are encoded as plain text.
    pub fn encode_chat(&self, _messages: &[ChatMessage], _add_generation_prompt: bool) -> Result<Vec<u32>> {
        todo!()
    }
    /// Tokens that end an answer.
    pub fn end_tokens(&self) -> &[u32] {
        todo!()
    }
    pub fn vocabulary(&self) -> usize {
        todo!()
    }
}
