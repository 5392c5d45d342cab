//! Chat templates: the model's own Jinja template, rendered by minijinja as transformers renders
//! it.

use std::path::Path;

use candle_core::quantized::gguf_file::Content;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};
use nyx_domain::ChatMessage;

use super::tokenizer::Tokenizer;
use crate::weights::read_json;
use crate::{EngineError, Result};

const NAME: &str = "chat";

#[derive(Debug)]
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

pub(super) fn from_gguf(content: &Content) -> Option<String> {
    content.metadata.get("tokenizer.chat_template")?.to_string().ok().cloned()
}

/// `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`: a string, or a list of
/// named templates of which `default` is used.
pub(super) fn from_folder(folder: &Path) -> Result<Option<String>> {
    let jinja = folder.join("chat_template.jinja");
    if jinja.is_file() {
        return std::fs::read_to_string(&jinja)
            .map(Some)
            .map_err(|source| EngineError::Io { path: jinja, source });
    }
    let config = folder.join("tokenizer_config.json");
    if !config.is_file() {
        return Ok(None);
    }
    let config: serde_json::Value = read_json(&config)?;
    Ok(match &config["chat_template"] {
        serde_json::Value::String(template) => Some(template.clone()),
        serde_json::Value::Array(named) => {
            let default = named.iter().find(|entry| entry["name"] == "default").or(named.first());
            default.and_then(|entry| entry["template"].as_str()).map(str::to_owned)
        }
        _ => None,
    })
}

impl ChatTemplate {
    pub(super) fn new(source: String, tokenizer: &Tokenizer) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| EngineError::Template(error.to_string()))?);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<String, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        environment.add_function("strftime_now", |format: String| today(&format));
        environment
            .add_template_owned(NAME, source)
            .map_err(|error| EngineError::Template(error.to_string()))?;
        Ok(Self {
            environment,
            bos: tokenizer.bos.clone().unwrap_or_default(),
            eos: tokenizer.eos.clone().unwrap_or_default(),
        })
    }

    pub(super) fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<String> {
        let turn = |message: &ChatMessage| context! { role => message.role.as_str(), content => message.content.as_str() };
        let messages: Vec<Value> = messages.iter().map(turn).collect();
        let context = context! { messages, add_generation_prompt, bos_token => self.bos.as_str(), eos_token => self.eos.as_str() };
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|error| EngineError::Template(error.to_string()))?;
        template.render(context).map_err(|error| EngineError::Template(error.to_string()))
    }
}

/// Today in UTC, in the formats that templates use: `%d %b %Y`, `%Y-%m-%d`, `%B %d, %Y`.
fn today(format: &str) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (year, month, day) = civil_date((seconds / 86_400) as i64);
    let name = MONTHS[(month as usize + 11) % 12];
    format
        .replace("%d", &format!("{day:02}"))
        .replace("%m", &format!("{month:02}"))
        .replace("%Y", &year.to_string())
        .replace("%b", &name[..3])
        .replace("%B", name)
}

/// Days since 1970-01-01 to (year, month, day) in the Gregorian calendar (H. Hinnant,
/// "chrono-Compatible LoraActivations-Level Date Algorithms").
fn civil_date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (day, month) = (
        of_year - (153 * shifted + 2) / 5 + 1,
        if shifted < 10 { shifted + 3 } else { shifted - 9 },
    );
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}
