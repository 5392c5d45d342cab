//! `nyx train`: trains the specialists' adapters, and fits small artifacts.

mod adapter;
mod arguments;

use nyx_actors::NyxError;
use nyx_evals::{Dataset, EvalEnvironment, PARTS, fit_part};

use super::error::{CommandError, make_data_dir};
use super::output;
use crate::settings::Settings;

pub(super) use arguments::Train;

impl Train {
    pub(super) async fn run(self, settings: Settings) -> Result<(), CommandError> {
        make_data_dir(&settings)?;
        let out = self.out.clone().unwrap_or_else(|| settings.data_dir.join("learned"));
        let dataset = Dataset {
            dir: self.evals.clone().unwrap_or_else(Dataset::default_dir),
            split: self.split.clone(),
        };
        let policies = settings.nyx_options()?.specialists;
        let is_specialist = |name: &String| policies.iter().any(|policy| policy.name == *name);
        if let Some(other) =
            self.parts.iter().find(|name| !PARTS.contains(&name.as_str()) && !is_specialist(name))
        {
            return Err(nyx_evals::EvalError::UnknownPart { name: other.clone() }.into());
        }
        let recorded = self.from_log || self.adapter.from_memory || self.adapter.dataset.is_some();
        if let Some(part) = self.parts.iter().find(|part| recorded && !is_specialist(part)) {
            let reason = format!("{part:?} is fitted on evaluation data, expected specialists");
            return Err(NyxError::invalid("--from-log", reason).into());
        }
        for part in &self.parts {
            if is_specialist(part) {
                Box::pin(self.train_adapter(&settings, part, &dataset)).await?;
                continue;
            }
            // a new environment for each: a part that was just fitted is used when fitting the next
            let environment = EvalEnvironment::start(
                settings.nyx_options()?,
                self.seed,
                self.limit.map(|limit| limit as usize),
                Some(part),
            )
            .await?;
            let fitted = fit_part(&environment, &dataset, part).await;
            environment.shutdown().await;
            let fitted = fitted?;
            let path = out.join(format!("{part}.json"));
            std::fs::create_dir_all(&out)
                .and_then(|()| std::fs::write(&path, &fitted.file))
                .map_err(|source| CommandError::Write { path: path.clone(), source })?;
            for line in &fitted.lines {
                output::line(line)?;
            }
            output::note(&format!("written to {}", path.display()));
        }
        Ok(())
    }
}
