//! Text to tokens and back: tokenizer, chat template, incremental decoding. Any thread may use it.

mod stream;
mod template;
#[cfg(test)]
mod tests;
mod tokenizer;

use nyx_domain::ChatMessage;

use crate::weights::ModelFiles;
use crate::{EngineError, Result};
use template::ChatTemplate;
use tokenizer::Tokenizer;

pub use stream::{StopMatcher, Utf8Stream};

/// Characters without a meaning in text (Unicode noncharacters): one that does not occur in the
/// messages is inserted into control tokens to break them up.
const BREAKERS: std::ops::RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';

/// A model's tokenizer and chat template.
#[derive(Debug)]
pub struct Text {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
}

impl Text {
    /// Loads from the GGUF's metadata, or from `tokenizer.json`, `tokenizer_config.json` (and
    /// `chat_template.jinja`) beside the weights.
    ///
    /// # Errors
    /// [`EngineError::Tokenizer`] or [`EngineError::Template`] names what is missing or damaged.
    pub fn load(files: &ModelFiles) -> Result<Self> {
        let (tokenizer, template) = match (files.gguf(), files.folder()) {
            (Some(content), _) => (Tokenizer::from_gguf(content)?, template::from_gguf(content)),
            (None, Some(folder)) => {
                (Tokenizer::from_folder(folder)?, template::from_folder(folder)?)
            }
            (None, None) => {
                return Err(EngineError::Tokenizer(
                    "the model has neither GGUF metadata nor a folder".into(),
                ));
            }
        };
        if tokenizer.len() > files.config().vocabulary {
            let reason = format!(
                "it has {} tokens, the model's embedding {}",
                tokenizer.len(),
                files.config().vocabulary
            );
            return Err(EngineError::Tokenizer(reason));
        }
        let template = template.map(|source| ChatTemplate::new(source, &tokenizer)).transpose()?;
        Ok(Self { tokenizer, template })
    }

    /// Encodes plain text; control tokens in it are *not* recognised, so a user cannot forge a
    /// turn.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text)
    }

    /// Decodes tokens; control tokens are dropped, invalid UTF-8 becomes U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> =
            tokens.iter().flat_map(|&token| self.tokenizer.bytes(token).iter().copied()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes of one token; empty for a control token.
    pub fn token_bytes(&self, token: u32) -> &[u8] {
        self.tokenizer.bytes(token)
    }

    /// Renders messages with the model's own template and encodes the result. Only the template can
    /// produce control tokens: those in a message's content are encoded as plain text.
    ///
    /// # Errors
    /// [`EngineError::Template`] when there is no template or it rejects the messages.
    pub fn encode_chat(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>> {
        let template = self
            .template
            .as_ref()
            .ok_or_else(|| EngineError::Template("the model brings no chat template".into()))?;
        let breaker = BREAKERS
            .into_iter()
            .find(|&breaker| messages.iter().all(|message| !message.content.contains(breaker)))
            .ok_or_else(|| {
                EngineError::Template(
                    "the messages hold every Unicode noncharacter from U+FDD0 to U+FDEF".into(),
                )
            })?;
        let guarded: Vec<ChatMessage> = messages
            .iter()
            .map(|message| {
                ChatMessage::new(
                    message.role,
                    self.tokenizer.break_controls(&message.content, breaker),
                )
            })
            .collect();
        let rendered = template.render(&guarded, add_generation_prompt)?;
        self.tokenizer.encode_with_controls(&rendered, breaker)
    }

    /// Bytes of the longest token: `n` tokens never decode to more than `n` times this.
    pub fn longest_token(&self) -> usize {
        self.tokenizer.longest_token()
    }

    /// Tokens that end an answer.
    pub fn end_tokens(&self) -> &[u32] {
        self.tokenizer.end_tokens()
    }

    /// Token ids are below this.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.len()
    }
}
