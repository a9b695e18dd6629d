//! The program: start-up order, sub-commands, privileges, signals. No logic worth a unit test.

mod appliance;
mod arguments;
mod demo;
mod exit;
mod questions;
mod run;
mod state;

use arguments::{Arguments, ConfigCommand, Verb};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return exit::usage(&error),
    };
    let outcome = match arguments.verb {
        Verb::Demo(demo) => demo::demo(&demo),
        Verb::Run(run) => run::run(&run),
        Verb::Identity(identity) => run::identity(&identity),
        Verb::Status(status) => questions::status(&status),
        Verb::Links(listing) => questions::links(&listing),
        Verb::Sessions(listing) => questions::sessions(&listing),
        Verb::Drops(drops) => questions::drops(&drops),
        Verb::Hist(hist) => questions::histograms(&hist),
        Verb::Config(ConfigCommand::Default) => run::config_default(),
        Verb::Config(ConfigCommand::Check { file }) => run::config_check(&file),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::failure(&error),
    }
}
