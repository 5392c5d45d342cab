//! `nyx tables import | list | show | remove`: the tables that facts are read from.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use nyx_actors::NyxError;
use nyx_actors::facts::{Facts, FileTable, Import, TableReport};
use nyx_actors::phoebe::PhoebeStore;

use super::error::{CommandError, make_data_dir};
use super::output;
use crate::settings::Settings;

/// Number of rows that `show` prints.
const ROWS: u64 = 10;
/// Maximum characters of a cell that `show` prints.
const CELL: usize = 40;

/// Import, list, show and remove the tables that facts are read from.
#[derive(Debug, Args)]
pub(super) struct Tables {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Import a table: CSV or TSV with a header line, or JSON lines
    Import {
        file: PathBuf,
        /// The table's name [default: the file's name without extension]
        #[arg(long)]
        name: Option<String>,
        /// Description of the table in one line, searched as well [default: its name]
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// List all registered tables
    List,
    /// Show a table's columns and first rows
    Show { name: String },
    /// Delete an imported table and its rows
    Remove { name: String },
}

impl Tables {
    pub(super) async fn run(self, settings: Settings) -> Result<(), CommandError> {
        make_data_dir(&settings)?;
        let store = PhoebeStore::connect(&settings.phoebe, &settings.data_dir).await?;
        let facts = Facts::new(
            store.clone(),
            &settings.phoebe,
            &settings.data_dir,
            settings.tables.clone(),
        );
        let done = self.work(&facts).await;
        facts.close().await;
        store.close().await;
        done
    }

    async fn work(self, facts: &Facts) -> Result<(), CommandError> {
        match self.command {
            Command::Import { file, name, description } => {
                let name = name.map_or_else(|| stem(&file), Ok)?;
                let table = FileTable::read(&file)?;
                let (columns, rows) = (table.columns.len(), table.rows.len());
                facts
                    .import(vec![Import {
                        caption: description.unwrap_or_else(|| name.clone()),
                        name: name.clone(),
                        table,
                    }])
                    .await?;
                output::line(&format!("{name}: {rows} rows of {columns} columns"))?;
            }
            Command::List => {
                for table in facts.tables().await? {
                    output::line(&listed(&table))?;
                }
            }
            Command::Show { name } => {
                let (table, rows) = facts.show(&name, ROWS).await?;
                output::line(&listed(&table))?;
                for column in &table.columns {
                    output::line(&format!("  {} ({})", column.name, column.kind.as_str()))?;
                }
                for row in rows {
                    output::line(
                        &row.iter().map(|cell| cut(cell)).collect::<Vec<_>>().join(" | "),
                    )?;
                }
            }
            Command::Remove { name } => {
                facts.remove(&name).await?;
                output::line(&format!("{name}: removed"))?;
            }
        }
        Ok(())
    }
}

fn stem(file: &Path) -> Result<String, NyxError> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
    stem.ok_or_else(|| {
        NyxError::invalid("name", format!("{} has no name, expected --name NAME", file.display()))
    })
}

fn listed(table: &TableReport) -> String {
    let rows = table.rows.map_or_else(String::new, |rows| format!(", {rows} rows"));
    let place = table.url.as_ref().map_or_else(String::new, |url| format!(", in {url}"));
    let error = table.error.as_ref().map_or_else(String::new, |error| {
        format!(" [cannot be read: {}]", output::one_line(error))
    });
    format!(
        "{}: {} ({} columns{rows}{place}){error}",
        table.name,
        output::one_line(&table.caption),
        table.columns.len()
    )
}

fn cut(cell: &str) -> String {
    let line = output::one_line(cell);
    if line.chars().count() <= CELL {
        line
    } else {
        line.chars().take(CELL - 1).chain(['\u{2026}']).collect()
    }
}
