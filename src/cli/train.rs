//! `nyx train SPECIALIST`: trains the specialists' adapters.

mod adapter;
mod arguments;

use nyx_actors::NyxError;
use nyx_evals::Dataset;

use super::error::{CommandError, make_data_dir};
use crate::settings::Settings;

pub(super) use arguments::Train;

impl Train {
    pub(super) async fn run(self, settings: Settings) -> Result<(), CommandError> {
        make_data_dir(&settings)?;
        let dataset = Dataset {
            dir: self.evals.clone().unwrap_or_else(Dataset::default_dir),
            split: self.split.clone(),
        };
        let policies = settings.nyx_options()?.specialists;
        if let Some(other) =
            self.specialists.iter().find(|name| policies.iter().all(|policy| policy.name != **name))
        {
            let names: Vec<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
            return Err(NyxError::UnknownSpecialist {
                name: other.clone(),
                known: names.join(", "),
            }
            .into());
        }
        for specialist in &self.specialists {
            Box::pin(self.train_adapter(&settings, specialist, &dataset)).await?;
        }
        Ok(())
    }
}
