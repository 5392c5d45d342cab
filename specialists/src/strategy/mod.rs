//! Strategies: how a specialist retrieves, prompts, generates, parses and is rewarded.
//!
//! A specialist's file chooses one by `strategy = "NAME"` and configures it in `[settings]`. A new
//! strategy is one module that implements [`Strategy`] and one entry in [`STRATEGIES`].

mod care;
mod forecast;
mod interface;
mod plain;
mod recall;
mod settings;
mod timing;
mod verify;

use std::sync::Arc;

pub use interface::{
    ActivationSource, Generated, Generation, GenerationRequest, ParsedAnswer, Search, Strategy,
};

/// The strategy of a model without a specialist.
pub fn plain() -> Arc<dyn Strategy> {
    Arc::new(plain::Plain)
}

/// Makes a strategy from the settings of a specialist's file.
type Make = fn(Option<toml::Table>) -> Result<Arc<dyn Strategy>, String>;

/// The strategies by name.
pub const STRATEGIES: [(&str, Make); 6] = [
    ("plain", plain::make),
    ("recall", recall::make),
    ("verify", verify::make),
    ("forecast", forecast::make),
    ("timing", timing::make),
    ("care", care::make),
];

/// The strategy of a file.
pub(crate) fn strategy(
    name: &str,
    settings: Option<toml::Table>,
) -> Result<Arc<dyn Strategy>, String> {
    match STRATEGIES.iter().find(|(known, _)| *known == name) {
        Some((_, make)) => make(settings),
        None => {
            let known: Vec<String> =
                STRATEGIES.iter().map(|(known, _)| format!("{known:?}")).collect();
            Err(format!("strategy is {name:?}, expected one of {}", known.join(", ")))
        }
    }
}
