//! `generate`: what a package holds besides the program, made from what the program knows of
//! itself, so that none of it can say something else than the program does.

use crate::arguments::Arguments;
use anyhow::Context;
use clap::CommandFactory;
use clap_complete::aot::{Bash, Fish, Zsh, generate_to};
use std::fs;
use std::path::Path;
use waystation_management::{config, monitoring};

/// The name of the program, of its manual pages and of its completions.
const PROGRAM: &str = "waystation";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Writes everything below this directory, which is made if it is not there.
pub(crate) fn generate(directory: &Path) -> anyhow::Result<()> {
    let mut command = Arguments::command();
    command.build();

    let manual = made(directory.join("man"))?;
    let to_manual = || format!("cannot write to {}", manual.display());
    clap_mangen::generate_to(Arguments::command(), &manual).with_context(to_manual)?;
    write(&manual.join("waystation.toml.5"), &config::manual_page(VERSION))?;

    let completions = made(directory.join("completions"))?;
    let to_completions = || format!("cannot write to {}", completions.display());
    generate_to(Bash, &mut command, PROGRAM, &completions).with_context(to_completions)?;
    generate_to(Zsh, &mut command, PROGRAM, &completions).with_context(to_completions)?;
    generate_to(Fish, &mut command, PROGRAM, &completions).with_context(to_completions)?;

    let monitored = made(directory.join("monitoring"))?;
    write(&monitored.join("grafana-dashboard.json"), &monitoring::dashboard()?)?;
    write(&monitored.join("alert-rules.yml"), &monitoring::alert_rules())?;
    write(&directory.join("waystation.toml"), &config::documented_default())
}

fn made(directory: std::path::PathBuf) -> anyhow::Result<std::path::PathBuf> {
    let cannot = || format!("cannot make {}", directory.display());
    fs::create_dir_all(&directory).with_context(cannot)?;
    Ok(directory)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
