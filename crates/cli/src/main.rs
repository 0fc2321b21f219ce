//! The `alluvium` binary: serve, demo, query, delete, backup, restore, verify, salvage, inspect, bench.
//!
//! Exit codes: 0 clean, 1 an error said on stderr in one sentence with the way out, 2 usage. An answer that lacks points is printed,
//! warned of on stderr, and 1.

mod args;
mod backup;
mod bench;
mod bench_cardinality;
mod cardinality;
mod client;
mod delete;
mod demo;
mod error;
mod hosts;
mod inspect;
mod memory;
mod plot;
mod query;
mod rng;
mod salvage;
mod selection_cost;
mod serve;
mod settings;
mod shapes;
mod short_query;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    alluvium_io::tune_heap();
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("ALLUVIUM_LOG")
                .unwrap_or_else(|_| "warn".into()),
        )
        .init();
    let result = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Query(args) => query::run(&args),
        Command::Delete(args) => delete::run(&args),
        Command::Backup(args) => backup::run(&args),
        Command::Restore(args) => backup::restore(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Salvage(args) => salvage::run(&args),
        Command::Cardinality(args) => cardinality::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has had enough.
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", error.level());
            ExitCode::FAILURE
        }
    }
}
