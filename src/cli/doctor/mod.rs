//! `nyx doctor`: checks everything that `nyx serve` needs, in the same way as `nyx serve` uses it.

mod check;
mod gpu;
mod machine;
mod stores;

use clap::Args;
use serde::Serialize;

use super::error::CommandError;
use super::output;
use crate::settings::Settings;
use check::{Check, Health};

/// Check models, devices, database, memory search and port, and print what to fix.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Print the checks as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    checks: &'a [Check],
}

impl Doctor {
    pub(super) async fn run(self, settings: Settings) -> Result<(), CommandError> {
        let mut checks = machine::models(&settings);
        checks.push(machine::python(
            &settings,
            checks.iter().all(|check| check.status == Health::Ok),
        ));
        checks.extend(machine::devices(&settings));
        checks.extend(gpu::devices());
        checks.extend(machine::data_dir(&settings));
        checks.push(machine::specialists(&settings));
        checks.push(machine::port(&settings));
        checks.push(stores::database(&settings).await);
        checks.push(stores::vector_store(&settings).await);
        let failed = checks.iter().filter(|check| check.status == Health::Error).count();
        for check in &mut checks {
            check.found = output::one_line(&check.found);
        }
        if self.json {
            let report = Report { ok: failed == 0, checks: &checks };
            output::line(&serde_json::to_string_pretty(&report).map_err(std::io::Error::other)?)?;
        } else {
            for check in &checks {
                output::line(&format!("{:8} {:14} {}", check.status, check.name, check.found))?;
                if let Some(advice) = &check.advice {
                    output::line(&format!("{:24}-> {advice}", ""))?;
                }
            }
        }
        if failed == 0 {
            Ok(())
        } else {
            Err(CommandError::Unwell { failed, checked: checks.len() })
        }
    }
}
