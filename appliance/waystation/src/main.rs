//! The program: start-up order, sub-commands, privileges, signals. No logic worth a unit test.

mod appliance;
mod arguments;
mod bundle;
mod capture;
mod capture_file;
mod demo;
mod descriptors;
mod dht;
mod doctor;
mod exit;
mod explain;
mod floor;
mod generate;
mod log;
mod memory;
mod orders;
mod own_addresses;
mod privileges;
mod questions;
mod run;
mod service_manager;
mod state;
mod top;
mod tune;
mod turn_files;
mod upgrade;

use arguments::{
    Arguments, ConfigCommand, LinkCommand, LinksArguments, LinksCommand, LogCommand,
    SessionsArguments, SessionsCommand, UdpCommand, Verb, XdpCommand,
};
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
        Verb::Upgrade(upgrade) => upgrade::upgrade(&upgrade),
        Verb::Identity(identity) => run::identity(&identity),
        Verb::Status(status) => questions::status(&status),
        Verb::Links(LinksArguments { command: None, listing }) => questions::links(&listing),
        Verb::Links(LinksArguments {
            command: Some(LinksCommand::Close { id, socket }), ..
        }) => orders::close_link(id, &socket),
        Verb::Links(LinksArguments {
            command: Some(LinksCommand::Move { id, core, socket }),
            ..
        }) => orders::move_link(id, core, &socket),
        Verb::Sessions(SessionsArguments { command: None, listing }) => {
            questions::sessions(&listing)
        }
        Verb::Sessions(SessionsArguments {
            command: Some(SessionsCommand::Close { id, socket }),
            ..
        }) => orders::close_session(id, &socket),
        Verb::Link(LinkCommand::Dial { endpoint, identity, socket }) => {
            orders::dial(&endpoint, &identity, &socket)
        }
        Verb::Udp(UdpCommand::List(listing)) => questions::udp(&listing),
        Verb::Udp(UdpCommand::Open(open)) => orders::open_udp(&open),
        Verb::Udp(UdpCommand::Close { id, json, socket }) => orders::close_udp(id, json, &socket),
        Verb::Dht(command) => dht::dht(&command),
        Verb::Xdp(XdpCommand::Status(listing)) => questions::xdp(&listing),
        Verb::Hub(hub) => questions::hub(&hub),
        Verb::Drain(arguments) => orders::drain(&arguments),
        Verb::Peers(listing) => questions::peers(&listing),
        Verb::Events(events) => questions::events(&events),
        Verb::Top(top) => top::top(&top),
        Verb::Drops(drops) => questions::drops(&drops),
        Verb::Hist(hist) => questions::histograms(&hist),
        Verb::Doctor(arguments) => doctor::doctor(&arguments),
        Verb::Tune(command) => tune::tune(&command),
        Verb::Log(LogCommand::Show(listing)) => questions::log(&listing),
        Verb::Log(LogCommand::Level { directive, socket }) => {
            orders::set_log_level(&directive, &socket)
        }
        Verb::Capture(arguments) => capture::capture(&arguments),
        Verb::ExplainPacket(arguments) => explain::explain(&arguments),
        Verb::Bundle(arguments) => bundle::bundle(&arguments),
        Verb::Floor(arguments) => floor::floor(&arguments),
        Verb::Generate(arguments) => generate::generate(&arguments.directory),
        Verb::Config(ConfigCommand::Default) => run::config_default(),
        Verb::Config(ConfigCommand::Check { file }) => run::config_check(&file),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::failure(&error),
    }
}
