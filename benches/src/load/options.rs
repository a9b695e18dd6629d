//! The command line of `waystation-load`.

use crate::aead::AeadOption;
use crate::load::message::{HEADER_BYTES, MESSAGE_BYTES_MAX};
use anyhow::{Result, bail};
use clap::builder::RangedI64ValueParser;
use clap::{Parser, ValueEnum};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use waystation_astral::frame::Profile;
use waystation_astral::identity::Identity;
use waystation_peer::limits::SESSION_WINDOW_BYTES;
use waystation_peer::{CreditReturn, LinkOptions, Style};

const ABOUT: &str = "Drives an Astral gateway with pairs of peers and measures what relaying costs";

const WORKLOAD: &str = "\
WORKLOAD
  N pairs of peers, each peer with an identity and a link of its own; in every pair A sends messages
  of M bytes to B through the gateway. Each message carries its number, the time it was sent and a
  pattern that B compares whole; any lost, doubled or changed message makes the program exit with 1.

  Closed loop (default): at most W messages of a pair are in flight. B acknowledges with a running
  count over the same pipe, 8 bytes for every W/4 messages, and A refills what was freed in one
  batch. Messages go one way (A to relay to B); with --echo B sends every message back whole, A
  measures the round trip, and the relay carries each message twice.
  Open loop (--rate): A sends on a fixed schedule whether or not messages arrive, and the latency of
  a message counts from when it was due, not from when it could be sent.

  Relay and generator belong on different processors: pin the relay yourself, the generator with
  --cpu. Processor time of the relay is read from /proc (schedstat). Threads named data-<n> are its
  data cores and count as forwarding; without such threads all of the process counts. Where the
  relay's forwarding threads use less than 95 % of a processor, messages/s is the generator's
  figure and not the relay's: compare processor time per message.

FLOOR
  --floor measures in the same rounds what the machine charges anyway: (a) a single thread that
  reads 64 KiB from one connection and writes them to the other, under the same pairs and messages,
  and (b) opening and sealing records of the shape the generator sent (ChaCha20-Poly1305, length
  header and body, in place). The ratio is floor / relay: 1 is as cheap as can be.

Every figure is the median over the rounds; rounds of floor and relay alternate.";

/// How the two peers of a pair reach each other through the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// `gateway.node_route`: a session on each link, re-encrypted by the gateway.
    Route,
    /// `gateway.node_connect`: a raw TCP pipe beside the links.
    Connect,
    /// `.gateway.<target>`: as route, in the words of the first generation.
    G1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProfileName {
    P0,
    P2,
    P4,
}

impl ProfileName {
    pub fn profile(self) -> Profile {
        match self {
            Self::P0 => Profile::P0,
            Self::P2 => Profile::P2,
            Self::P4 => Profile::P4,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StyleName {
    /// Many frames in a record, one write per batch.
    Coalesced,
    /// As stock nodes send: a record per field, two writes per record.
    Stock,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Inner {
    None,
    P0,
    P2,
    P4,
}

impl Inner {
    pub fn profile(self) -> Option<Profile> {
        match self {
            Self::None => None,
            Self::P0 => Some(Profile::P0),
            Self::P2 => Some(Profile::P2),
            Self::P4 => Some(Profile::P4),
        }
    }
}

/// What to run.
#[derive(Clone, Debug, Parser, Serialize)]
#[command(name = "waystation-load", version, about = ABOUT, after_long_help = WORKLOAD)]
pub struct Options {
    /// Address of the gateway's link port.
    #[arg(long, value_name = "ADDR:PORT", requires = "identity")]
    pub gateway: Option<SocketAddr>,
    /// The gateway's identity, 66 hexadecimal digits.
    #[arg(long, value_name = "HEX", requires = "gateway", value_parser = parse_identity)]
    #[serde(serialize_with = "serialize_identity")]
    pub identity: Option<Identity>,
    /// How the peers of a pair reach each other.
    #[arg(long, value_enum, default_value_t = PathKind::Route)]
    pub path: PathKind,
    /// Pairs of peers.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = number(1, 1_024))]
    pub pairs: u32,
    /// Bytes of a message, header and pattern.
    #[arg(long, value_name = "M", default_value_t = 1024)]
    pub message_bytes: usize,
    /// Messages in flight per pair (closed loop).
    #[arg(long, value_name = "W", default_value_t = 64, value_parser = number(1, 1_000_000))]
    pub window: u32,
    /// Messages B lets arrive before it acknowledges; a quarter of the window unless given.
    #[arg(long, value_name = "K", value_parser = number(1, 1_000_000))]
    pub acknowledge_every: Option<u32>,
    /// Credit window of the sessions, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = SESSION_WINDOW_BYTES)]
    pub session_window: u32,
    /// Link profile towards the gateway.
    #[arg(long, value_enum, default_value_t = ProfileName::P4)]
    pub profile: ProfileName,
    /// How the peers lay frames into records and writes, inner links included.
    #[arg(long, value_enum, default_value_t = StyleName::Coalesced)]
    pub style: StyleName,
    /// Length of a round's measured part, in seconds.
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    pub seconds: f64,
    /// Rounds; at least 5 for a figure worth keeping.
    #[arg(long, value_name = "R", default_value_t = 5, value_parser = number(1, 1_000))]
    pub rounds: u32,
    /// Messages per second and pair: an open loop instead of a closed one.
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// Run a link of this profile between the peers inside the pipe, and send over that.
    #[arg(long, value_enum, default_value_t = Inner::None)]
    pub inner: Inner,
    /// B sends every message back.
    #[arg(long)]
    pub echo: bool,
    /// Process of the relay, for its processor time.
    #[arg(long, value_name = "PID")]
    pub gateway_pid: Option<u32>,
    /// Pin the generator to this processor.
    #[arg(long, value_name = "CPU")]
    pub cpu: Option<usize>,
    /// Measure the machine's floor beside the relay, or alone when no gateway is given.
    #[arg(long)]
    pub floor: bool,
    /// Processor of the floor's forwarding thread; choose the relay's.
    #[arg(long, value_name = "CPU", default_value_t = 0)]
    pub floor_cpu: usize,
    /// What seals and opens on this side and on the floor: a suite as the relay's status names it,
    /// or auto for the cheapest by a measurement here.
    #[arg(long, value_name = "SUITE", default_value_t = AeadOption::Auto)]
    pub aead: AeadOption,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
    /// Append the result to this file, as Markdown with the JSON in it (see benches/results).
    #[arg(long, value_name = "FILE")]
    pub results: Option<PathBuf>,
}

impl Options {
    /// Refuses combinations that measure nothing.
    ///
    /// # Errors
    ///
    /// Says which option is wrong.
    pub fn check(&self) -> Result<()> {
        if self.gateway.is_none() && !self.floor {
            bail!("give --gateway and --identity, or --floor, or both");
        }
        if !(HEADER_BYTES..=MESSAGE_BYTES_MAX).contains(&self.message_bytes) {
            bail!("--message-bytes must be {HEADER_BYTES} to {MESSAGE_BYTES_MAX}");
        }
        if !(0.05..=3_600.0).contains(&self.seconds) {
            bail!("--seconds must be 0.05 to 3600");
        }
        if self.acknowledge_every.is_some_and(|every| every > self.window) {
            bail!("--acknowledge-every must not exceed --window, or the loop stands still");
        }
        if self.rate.is_some_and(|rate| !(1.0..=10_000_000.0).contains(&rate)) {
            bail!("--rate must be 1 to 10000000 messages per second");
        }
        Ok(())
    }

    /// Messages B lets arrive before it acknowledges: in an open loop at most what comes in a tenth
    /// of a second, so that a slow schedule does not look like a stall.
    pub fn acknowledge_every(&self) -> u64 {
        let every = u64::from(self.acknowledge_every.unwrap_or(self.window / 4));
        let in_time = self.rate.map_or(u64::MAX, |rate| (rate / 10.0) as u64);
        every.min(in_time).max(1)
    }

    /// Length of a round's measured part.
    pub fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// Part of a round before measuring: a tenth, at least 200 ms.
    pub fn warm_up(&self) -> Duration {
        (self.measured() / 10).max(Duration::from_millis(200))
    }

    /// Options of the links to the gateway.
    pub fn link_options(&self) -> LinkOptions {
        self.options_of(self.profile.profile())
    }

    /// Options of the links inside the pipes, if there are any.
    pub fn inner_options(&self) -> Option<LinkOptions> {
        self.inner.profile().map(|profile| self.options_of(profile))
    }

    fn options_of(&self, profile: Profile) -> LinkOptions {
        let (style, credit_return) = match self.style {
            StyleName::Coalesced => (Style::Coalesced, CreditReturn::Coalesced),
            StyleName::Stock => (Style::Stock, CreditReturn::PerChunk),
        };
        LinkOptions {
            aead: self.aead.suite(),
            style,
            credit_return,
            window_bytes: self.session_window,
            ..LinkOptions::with_profile(profile)
        }
    }
}

fn number(least: i64, most: i64) -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(least..=most)
}

fn parse_identity(text: &str) -> Result<Identity, String> {
    text.parse().map_err(|error| format!("{error}"))
}

fn serialize_identity<S: serde::Serializer>(
    identity: &Option<Identity>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match identity {
        Some(identity) => serializer.collect_str(identity),
        None => serializer.serialize_none(),
    }
}
