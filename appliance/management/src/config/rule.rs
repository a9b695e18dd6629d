//! How one key's value is read, checked and printed: the kinds of values there are.
//!
//! A rule holds its range and the place it is about, in [`Config`](super::Config) or in one of its
//! peers, so reading, printing and documenting a key cannot disagree.

use super::nodes::{self, endpoints, identities, identity};
use super::problem::Complaint;
use super::udp::{PublicKeyText, UdpEnd, UdpProtocol, parse_public_key};
use super::{AccessMode, LogFormat, PlacementChoice, PortChoice, Rate, XdpMode};
use crate::limits::{
    ACCESS_IDENTITIES_MAX, FILE_PATH_BYTES_MAX, INTERFACE_NAME_BYTES_MAX, LISTEN_ADDRESSES_MAX,
    LOG_FILTER_BYTES_MAX, PEER_ENDPOINTS_MAX, RELAY_ADDRESSES_MAX, SOCKET_PATH_BYTES_MAX,
    XDP_INTERFACES_MAX,
};
use crate::units::{ByteSize, format_duration, parse_duration};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::{DeArray, DeInteger, DeValue};
use waystation_astral::aead::AeadBackend;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;
use waystation_engine::port::datagrams::UdpTier;
use waystation_relay::address_policy::Block;
use waystation_relay::udp::wireguard::PublicKey;

/// The kind of a value with its range and its place in `C`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule<C> {
    Flag {
        at: fn(&mut C) -> &mut bool,
    },
    Count {
        min: usize,
        max: usize,
        at: fn(&mut C) -> &mut usize,
    },
    PowerOfTwo {
        min: usize,
        max: usize,
        at: fn(&mut C) -> &mut usize,
    },
    OptionalCount {
        max: usize,
        at: fn(&mut C) -> &mut Option<usize>,
    },
    Counts {
        max: usize,
        entries_max: usize,
        at: fn(&mut C) -> &mut Vec<usize>,
    },
    Size {
        min: ByteSize,
        max: ByteSize,
        at: fn(&mut C) -> &mut ByteSize,
    },
    OptionalSize {
        min: ByteSize,
        max: ByteSize,
        at: fn(&mut C) -> &mut Option<ByteSize>,
    },
    Rate {
        min: ByteSize,
        max: ByteSize,
        at: fn(&mut C) -> &mut Rate,
    },
    OptionalRate {
        min: ByteSize,
        max: ByteSize,
        at: fn(&mut C) -> &mut Option<Rate>,
    },
    Span {
        min: Duration,
        max: Duration,
        at: fn(&mut C) -> &mut Duration,
    },
    /// Absent stands for never.
    SpanOrNone {
        min: Duration,
        max: Duration,
        at: fn(&mut C) -> &mut Option<Duration>,
    },
    Text {
        min_bytes: usize,
        max_bytes: usize,
        at: fn(&mut C) -> &mut String,
    },
    /// A list of texts that may be empty.
    Texts {
        max_bytes: usize,
        entries_max: usize,
        at: fn(&mut C) -> &mut Vec<String>,
    },
    /// A list that may be empty.
    AddressesOrNone {
        at: fn(&mut C) -> &mut Vec<SocketAddr>,
    },
    IpAddresses {
        at: fn(&mut C) -> &mut Vec<IpAddr>,
    },
    Blocks {
        entries_max: usize,
        at: fn(&mut C) -> &mut Vec<Block>,
    },
    Interfaces {
        at: fn(&mut C) -> &mut Vec<String>,
    },
    Xdp {
        at: fn(&mut C) -> &mut XdpMode,
    },
    FilePath {
        at: fn(&mut C) -> &mut Option<PathBuf>,
    },
    Tier {
        /// Those there are for what it is about.
        tiers: &'static [(&'static str, UdpTier)],
        at: fn(&mut C) -> &mut UdpTier,
    },
    Addresses {
        at: fn(&mut C) -> &mut Vec<SocketAddr>,
    },
    OptionalAddress {
        dialable: bool,
        at: fn(&mut C) -> &mut Option<SocketAddr>,
    },
    Proxy {
        at: fn(&mut C) -> &mut Option<SocketAddr>,
    },
    SocketPath {
        at: fn(&mut C) -> &mut Option<PathBuf>,
    },
    LogFilter {
        at: fn(&mut C) -> &mut String,
    },
    Port {
        at: fn(&mut C) -> &mut PortChoice,
    },
    Placement {
        at: fn(&mut C) -> &mut PlacementChoice,
    },
    /// Absent stands for the cheapest.
    Aead {
        at: fn(&mut C) -> &mut Option<AeadBackend>,
    },
    LogLines {
        at: fn(&mut C) -> &mut LogFormat,
    },
    Mode {
        at: fn(&mut C) -> &mut AccessMode,
    },
    Identity {
        at: fn(&mut C) -> &mut Identity,
    },
    Identities {
        at: fn(&mut C) -> &mut Vec<Identity>,
    },
    Endpoints {
        at: fn(&mut C) -> &mut Vec<Endpoint>,
    },
    UdpEnd {
        at: fn(&mut C) -> &mut UdpEnd,
    },
    UdpProtocol {
        at: fn(&mut C) -> &mut UdpProtocol,
    },
    PublicKey {
        at: fn(&mut C) -> &mut Option<PublicKey>,
    },
}

const PORTS: [(&str, PortChoice); 3] =
    [("auto", PortChoice::Auto), ("io_uring", PortChoice::IoUring), ("epoll", PortChoice::Epoll)];
const PLACEMENTS: [(&str, PlacementChoice); 2] =
    [("auto", PlacementChoice::Auto), ("off", PlacementChoice::Off)];
const AEADS: [(&str, Option<AeadBackend>); 4] = [
    ("auto", None),
    ("ring", Some(AeadBackend::Ring)),
    ("openssl", Some(AeadBackend::Openssl)),
    ("rustcrypto", Some(AeadBackend::RustCrypto)),
];
const fn named(tier: UdpTier) -> (&'static str, UdpTier) {
    (tier.name(), tier)
}

/// Ways that datagrams may be sent.
pub(super) const UDP_TIERS: [(&str, UdpTier); 3] =
    [named(UdpTier::Gso), named(UdpTier::Plain), named(UdpTier::AfXdp)];
const UDP_PROTOCOLS: [(&str, UdpProtocol); 2] =
    [("opaque", UdpProtocol::Opaque), ("wireguard", UdpProtocol::Wireguard)];
const XDP_MODES: [(&str, XdpMode); 4] = [
    ("off", XdpMode::Off),
    ("auto", XdpMode::Auto),
    ("native", XdpMode::Native),
    ("generic", XdpMode::Generic),
];
const LOG_FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
const MODES: [(&str, AccessMode); 3] = [
    ("everyone", AccessMode::Everyone),
    ("allowlist", AccessMode::Allowlist),
    ("denylist", AccessMode::Denylist),
];
/// The word for no bound and for never.
pub(super) const NONE: &str = "none";
const LOG_LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl<C: Clone> Rule<C> {
    /// Reads a value into its place.
    pub(super) fn read(&self, value: &DeValue<'_>, config: &mut C) -> Result<(), Complaint> {
        match *self {
            Self::Flag { at } => *at(config) = flag(value)?,
            Self::Count { min, max, at } => *at(config) = count(value, min, max)?,
            Self::PowerOfTwo { min, max, at } => *at(config) = power_of_two(value, min, max)?,
            Self::OptionalCount { max, at } => *at(config) = Some(count(value, 0, max)?),
            Self::Counts { max, entries_max, at } => {
                *at(config) = counts(value, max, entries_max)?;
            }
            Self::Size { min, max, at } => *at(config) = size(value, min, max)?,
            Self::OptionalSize { min, max, at } => *at(config) = Some(size(value, min, max)?),
            Self::Rate { min, max, at } => *at(config) = rate(value, min, max)?,
            Self::OptionalRate { min, max, at } => *at(config) = Some(rate(value, min, max)?),
            Self::Span { min, max, at } => *at(config) = span(value, min, max)?,
            Self::SpanOrNone { min, max, at } => {
                *at(config) = match is_none(value) {
                    true => None,
                    false => Some(span(value, min, max)?),
                };
            }
            Self::Text { min_bytes, max_bytes, at } => {
                *at(config) = plain_text(value, min_bytes, max_bytes)?;
            }
            Self::Texts { max_bytes, entries_max, at } => {
                *at(config) = texts(value, max_bytes, entries_max)?;
            }
            Self::Addresses { at } => *at(config) = addresses(value, 1)?,
            Self::AddressesOrNone { at } => *at(config) = addresses(value, 0)?,
            Self::IpAddresses { at } => *at(config) = ip_addresses(value)?,
            Self::Blocks { entries_max, at } => *at(config) = blocks(value, entries_max)?,
            Self::Interfaces { at } => *at(config) = interfaces(value)?,
            Self::Xdp { at } => *at(config) = choice(value, &XDP_MODES)?,
            Self::FilePath { at } => *at(config) = path(value, FILE_PATH_BYTES_MAX)?,
            Self::Tier { tiers, at } => *at(config) = choice(value, tiers)?,
            Self::OptionalAddress { dialable, at } => {
                *at(config) = optional_address(value, dialable)?;
            }
            Self::SocketPath { at } => *at(config) = path(value, SOCKET_PATH_BYTES_MAX)?,
            Self::LogFilter { at } => *at(config) = log_filter(value)?,
            Self::Port { at } => *at(config) = choice(value, &PORTS)?,
            Self::Placement { at } => *at(config) = choice(value, &PLACEMENTS)?,
            Self::Aead { at } => *at(config) = aead(value)?,
            Self::LogLines { at } => *at(config) = choice(value, &LOG_FORMATS)?,
            Self::Proxy { at } => *at(config) = proxy(value)?,
            Self::Mode { at } => *at(config) = choice(value, &MODES)?,
            Self::Identity { at } => *at(config) = identity(value)?,
            Self::Identities { at } => *at(config) = identities(value)?,
            Self::Endpoints { at } => *at(config) = endpoints(value)?,
            Self::UdpEnd { at } => *at(config) = udp_end(value)?,
            Self::UdpProtocol { at } => *at(config) = choice(value, &UDP_PROTOCOLS)?,
            Self::PublicKey { at } => *at(config) = public_key(value)?,
        }
        Ok(())
    }

    /// Takes a value over from another configuration.
    pub(super) fn copy(&self, from: &C, to: &mut C) {
        // Places are reached through a mutable reference, so that each is named once per key.
        let mut from = from.clone();
        let from = &mut from;
        match *self {
            Self::Flag { at } => *at(to) = *at(from),
            Self::Count { at, .. } | Self::PowerOfTwo { at, .. } => *at(to) = *at(from),
            Self::OptionalCount { at, .. } => *at(to) = *at(from),
            Self::Counts { at, .. } => at(to).clone_from(at(from)),
            Self::Size { at, .. } => *at(to) = *at(from),
            Self::OptionalSize { at, .. } => *at(to) = *at(from),
            Self::Rate { at, .. } => *at(to) = *at(from),
            Self::OptionalRate { at, .. } => *at(to) = *at(from),
            Self::Span { at, .. } => *at(to) = *at(from),
            Self::SpanOrNone { at, .. } => *at(to) = *at(from),
            Self::Text { at, .. } | Self::LogFilter { at } => at(to).clone_from(at(from)),
            Self::Addresses { at } | Self::AddressesOrNone { at } => {
                at(to).clone_from(at(from));
            }
            Self::Texts { at, .. } => at(to).clone_from(at(from)),
            Self::IpAddresses { at } => at(to).clone_from(at(from)),
            Self::Blocks { at, .. } => at(to).clone_from(at(from)),
            Self::Interfaces { at } => at(to).clone_from(at(from)),
            Self::Xdp { at } => *at(to) = *at(from),
            Self::Tier { at, .. } => *at(to) = *at(from),
            Self::OptionalAddress { at, .. } | Self::Proxy { at } => *at(to) = *at(from),
            Self::SocketPath { at } | Self::FilePath { at } => at(to).clone_from(at(from)),
            Self::Port { at } => *at(to) = *at(from),
            Self::Placement { at } => *at(to) = *at(from),
            Self::Aead { at } => *at(to) = *at(from),
            Self::LogLines { at } => *at(to) = *at(from),
            Self::Mode { at } => *at(to) = *at(from),
            Self::Identity { at } => *at(to) = *at(from),
            Self::Identities { at } => at(to).clone_from(at(from)),
            Self::Endpoints { at } => at(to).clone_from(at(from)),
            Self::UdpEnd { at } => *at(to) = *at(from),
            Self::UdpProtocol { at } => *at(to) = *at(from),
            Self::PublicKey { at } => *at(to) = *at(from),
        }
    }

    /// The value in TOML, or nothing if the key is absent.
    pub(super) fn show(&self, config: &C) -> Option<String> {
        // Places are reached through a mutable reference, so that each is named once per key.
        let mut config = config.clone();
        let config = &mut config;
        Some(match *self {
            Self::Flag { at } => at(config).to_string(),
            Self::Count { at, .. } | Self::PowerOfTwo { at, .. } => at(config).to_string(),
            Self::OptionalCount { at, .. } => return at(config).map(|count| count.to_string()),
            Self::Counts { at, .. } => list(at(config)),
            Self::Size { at, .. } => quoted(at(config)),
            Self::OptionalSize { at, .. } => return at(config).map(quoted),
            Self::Rate { at, .. } => quoted(at(config)),
            Self::OptionalRate { at, .. } => return at(config).map(quoted),
            Self::Span { at, .. } => quoted(format_duration(*at(config))),
            Self::SpanOrNone { at, .. } => {
                quoted(at(config).map_or_else(|| NONE.to_owned(), format_duration))
            }
            Self::Text { at, .. } | Self::LogFilter { at } => quoted(at(config)),
            Self::Addresses { at } | Self::AddressesOrNone { at } => {
                list(at(config).iter().map(quoted))
            }
            Self::Texts { at, .. } => list(at(config).iter().map(quoted)),
            Self::IpAddresses { at } => list(at(config).iter().map(quoted)),
            Self::Blocks { at, .. } => list(at(config).iter().map(quoted)),
            Self::Interfaces { at } => list(at(config).iter().map(quoted)),
            Self::Xdp { at } => quoted(name_of(&XDP_MODES, *at(config))),
            Self::Tier { at, .. } => quoted(at(config).name()),
            Self::OptionalAddress { at, .. } | Self::Proxy { at } => {
                at(config).map_or_else(|| quoted(""), quoted)
            }
            Self::SocketPath { at } | Self::FilePath { at } => {
                quoted(at(config).as_deref().unwrap_or(Path::new("")).display())
            }
            Self::Port { at } => quoted(name_of(&PORTS, *at(config))),
            Self::Placement { at } => quoted(name_of(&PLACEMENTS, *at(config))),
            Self::Aead { at } => quoted(name_of(&AEADS, *at(config))),
            Self::LogLines { at } => quoted(name_of(&LOG_FORMATS, *at(config))),
            Self::Mode { at } => quoted(name_of(&MODES, *at(config))),
            Self::Identity { at } => quoted(at(config)),
            Self::Identities { at } => list(at(config).iter().map(quoted)),
            Self::Endpoints { at } => list(at(config).iter().map(quoted)),
            Self::UdpEnd { at } => quoted(at(config)),
            Self::UdpProtocol { at } => quoted(name_of(&UDP_PROTOCOLS, *at(config))),
            Self::PublicKey { at } => quoted(PublicKeyText(*at(config))),
        })
    }

    /// The values it takes, for people.
    pub(super) fn range(&self) -> String {
        match *self {
            Self::Flag { .. } => "true or false".to_owned(),
            Self::Count { min, max, .. } => format!("{min} to {max}"),
            Self::PowerOfTwo { min, max, .. } => format!("a power of two, {min} to {max}"),
            Self::OptionalCount { max, .. } => format!("0 to {max}, or absent"),
            Self::Counts { max, entries_max, .. } => {
                format!("up to {entries_max} different numbers, 0 to {max}")
            }
            Self::Size { min, max, .. } => format!("\"{min}\" to \"{max}\""),
            Self::OptionalSize { min, max, .. } => format!("\"{min}\" to \"{max}\", or absent"),
            Self::Rate { min, max, .. } => format!("\"{min}\" to \"{max}\", or \"{NONE}\""),
            Self::OptionalRate { min, max, .. } => {
                format!("\"{min}\" to \"{max}\", or \"{NONE}\", or absent")
            }
            Self::Span { min, max, .. } => spans(min, max),
            Self::SpanOrNone { min, max, .. } => format!("{}, or \"{NONE}\"", spans(min, max)),
            Self::Text { min_bytes, max_bytes, .. } => {
                format!("{min_bytes} to {max_bytes} bytes without control characters")
            }
            Self::Texts { max_bytes, entries_max, .. } => {
                format!("up to {entries_max} texts of 1 to {max_bytes} bytes")
            }
            Self::Addresses { .. } => {
                format!("1 to {LISTEN_ADDRESSES_MAX} of \"ADDRESS:PORT\"")
            }
            Self::AddressesOrNone { .. } => {
                format!("up to {LISTEN_ADDRESSES_MAX} of \"ADDRESS:PORT\"")
            }
            Self::IpAddresses { .. } => format!("up to {RELAY_ADDRESSES_MAX} of \"ADDRESS\""),
            Self::Blocks { entries_max, .. } => {
                format!("up to {entries_max} of \"ADDRESS/BITS\"")
            }
            Self::Interfaces { .. } => format!("up to {XDP_INTERFACES_MAX} names of interfaces"),
            Self::Xdp { .. } => choices(&XDP_MODES),
            Self::FilePath { .. } => {
                format!("an absolute path of up to {FILE_PATH_BYTES_MAX} bytes, or \"\"")
            }
            Self::Tier { tiers, .. } => choices(tiers),
            Self::OptionalAddress { .. } | Self::Proxy { .. } => {
                "\"ADDRESS:PORT\" or \"\"".to_owned()
            }
            Self::SocketPath { .. } => {
                format!("an absolute path of up to {SOCKET_PATH_BYTES_MAX} bytes, or \"\"")
            }
            Self::LogFilter { .. } => {
                format!("{}, or target=level, separated by commas", LOG_LEVELS.join(", "))
            }
            Self::Port { .. } => choices(&PORTS),
            Self::Placement { .. } => choices(&PLACEMENTS),
            Self::Aead { .. } => choices(&AEADS),
            Self::LogLines { .. } => choices(&LOG_FORMATS),
            Self::Mode { .. } => choices(&MODES),
            Self::Identity { .. } => nodes::IDENTITY_FORMS.to_owned(),
            Self::Identities { .. } => {
                format!("up to {ACCESS_IDENTITIES_MAX} of {}", nodes::IDENTITY_FORMS)
            }
            Self::Endpoints { .. } => {
                format!("up to {PEER_ENDPOINTS_MAX} of {}", nodes::ENDPOINT_FORMS)
            }
            Self::UdpEnd { .. } => {
                "\"ADDRESS:PORT\", \"learn\", or \"learn:ADDRESS:PORT\"".to_owned()
            }
            Self::UdpProtocol { .. } => choices(&UDP_PROTOCOLS),
            Self::PublicKey { .. } => {
                "44 characters as `wg pubkey` prints them, or \"\"".to_owned()
            }
        }
    }
}

fn udp_end(value: &DeValue<'_>) -> Result<UdpEnd, Complaint> {
    let text = text(value)?;
    text.parse().map_err(|_no_end| Complaint::NotAUdpEnd { value: text.to_owned() })
}

fn public_key(value: &DeValue<'_>) -> Result<Option<PublicKey>, Complaint> {
    match text(value)? {
        "" => Ok(None),
        text => parse_public_key(text).map(Some).ok_or(Complaint::NotAPublicKey),
    }
}

/// A back end that this program has.
fn aead(value: &DeValue<'_>) -> Result<Option<AeadBackend>, Complaint> {
    let named = choice(value, &AEADS)?;
    match named.filter(|backend| !backend.is_built_in()) {
        Some(backend) => Err(Complaint::NotBuiltIn { value: backend.name() }),
        None => Ok(named),
    }
}

/// How [`Rule::Aead`] writes it.
pub(super) fn aead_name(backend: Option<AeadBackend>) -> &'static str {
    name_of(&AEADS, backend)
}

fn spans(min: Duration, max: Duration) -> String {
    format!("\"{}\" to \"{}\"", format_duration(min), format_duration(max))
}

fn flag(value: &DeValue<'_>) -> Result<bool, Complaint> {
    value.as_bool().ok_or_else(|| wrong_type("true or false", value))
}

fn count(value: &DeValue<'_>, min: usize, max: usize) -> Result<usize, Complaint> {
    let integer = value.as_integer().ok_or_else(|| wrong_type("a whole number", value))?;
    let number = number(integer).filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| Complaint::OutOfRange {
        value: integer.to_string(),
        min: min.to_string(),
        max: max.to_string(),
    })
}

fn power_of_two(value: &DeValue<'_>, min: usize, max: usize) -> Result<usize, Complaint> {
    let integer = value.as_integer().ok_or_else(|| wrong_type("a whole number", value))?;
    let fits = |number: &usize| number.is_power_of_two() && (min..=max).contains(number);
    number(integer).filter(fits).ok_or_else(|| Complaint::NotPowerOfTwo {
        value: integer.to_string(),
        min: min.to_string(),
        max: max.to_string(),
    })
}

fn number(integer: &DeInteger<'_>) -> Option<usize> {
    usize::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn counts(value: &DeValue<'_>, max: usize, entries_max: usize) -> Result<Vec<usize>, Complaint> {
    let wanted = "a list of whole numbers, for example [2, 3]";
    let entries = entries(value, wanted, entries_max)?;
    let mut numbers = Vec::with_capacity(entries.len());
    for entry in entries.iter() {
        let number = count(entry.get_ref(), 0, max)?;
        if numbers.contains(&number) {
            return Err(Complaint::DuplicateEntry { value: number.to_string() });
        }
        numbers.push(number);
    }
    Ok(numbers)
}

pub(super) fn entries<'a, 'i>(
    value: &'a DeValue<'i>,
    wanted: &'static str,
    max: usize,
) -> Result<&'a DeArray<'i>, Complaint> {
    let entries = value.as_array().ok_or_else(|| wrong_type(wanted, value))?;
    if entries.len() > max {
        return Err(Complaint::TooManyEntries { entries: entries.len(), max });
    }
    Ok(entries)
}

fn size(value: &DeValue<'_>, min: ByteSize, max: ByteSize) -> Result<ByteSize, Complaint> {
    let text = quantity_text(value, "a size such as \"64KiB\"", "64KiB")?;
    let size: ByteSize =
        text.parse().map_err(|error| Complaint::Quantity { value: text.to_owned(), error })?;
    if !(min..=max).contains(&size) {
        return Err(out_of_range(text, min, max));
    }
    Ok(size)
}

fn rate(value: &DeValue<'_>, min: ByteSize, max: ByteSize) -> Result<Rate, Complaint> {
    match is_none(value) {
        true => Ok(Rate::Unbounded),
        false => Ok(Rate::PerSecond(size(value, min, max)?)),
    }
}

fn is_none(value: &DeValue<'_>) -> bool {
    value.as_str() == Some(NONE)
}

fn span(value: &DeValue<'_>, min: Duration, max: Duration) -> Result<Duration, Complaint> {
    let text = quantity_text(value, "a duration such as \"30s\"", "30s")?;
    let span = parse_duration(text)
        .map_err(|error| Complaint::Quantity { value: text.to_owned(), error })?;
    if !(min..=max).contains(&span) {
        return Err(out_of_range(text, format_duration(min), format_duration(max)));
    }
    Ok(span)
}

fn quantity_text<'a>(
    value: &'a DeValue<'_>,
    wanted: &'static str,
    example: &'static str,
) -> Result<&'a str, Complaint> {
    if let DeValue::Integer(integer) = value {
        return Err(Complaint::NoUnit { value: integer.to_string(), example });
    }
    if let DeValue::Float(float) = value {
        return Err(Complaint::NoUnit { value: float.as_str().to_owned(), example });
    }
    value.as_str().ok_or_else(|| wrong_type(wanted, value))
}

fn out_of_range(value: &str, min: impl Display, max: impl Display) -> Complaint {
    Complaint::OutOfRange { value: quoted(value), min: quoted(min), max: quoted(max) }
}

fn plain_text(value: &DeValue<'_>, min: usize, max: usize) -> Result<String, Complaint> {
    let text = text(value)?;
    if !(min..=max).contains(&text.len()) {
        return Err(Complaint::TextLength { bytes: text.len(), min, max });
    }
    if text.chars().any(char::is_control) {
        return Err(Complaint::ControlCharacter);
    }
    Ok(text.to_owned())
}

fn texts(
    value: &DeValue<'_>,
    max_bytes: usize,
    entries_max: usize,
) -> Result<Vec<String>, Complaint> {
    let entries = entries(value, "a list of texts, for example [\"relay\"]", entries_max)?;
    let mut texts: Vec<String> = Vec::with_capacity(entries.len());
    for entry in entries.iter() {
        let text = plain_text(entry.get_ref(), 1, max_bytes)?;
        if texts.contains(&text) {
            return Err(Complaint::DuplicateEntry { value: quoted(text) });
        }
        texts.push(text);
    }
    Ok(texts)
}

fn addresses(value: &DeValue<'_>, min: usize) -> Result<Vec<SocketAddr>, Complaint> {
    let wanted = "a list of addresses, for example [\"0.0.0.0:1791\"]";
    let entries = value.as_array().ok_or_else(|| wrong_type(wanted, value))?;
    if entries.len() < min {
        return Err(Complaint::NoEntries);
    }
    if entries.len() > LISTEN_ADDRESSES_MAX {
        return Err(Complaint::TooManyAddresses { entries: entries.len() });
    }
    let mut addresses = Vec::with_capacity(entries.len());
    for entry in entries.iter() {
        let address = address(text(entry.get_ref())?)?;
        // Port 0 stands for any free port, a different one each time.
        if addresses.contains(&address) && address.port() != 0 {
            return Err(Complaint::DuplicateEntry { value: quoted(address) });
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn ip_addresses(value: &DeValue<'_>) -> Result<Vec<IpAddr>, Complaint> {
    let wanted = "a list of IP addresses, for example [\"192.0.2.1\"]";
    let entries = entries(value, wanted, RELAY_ADDRESSES_MAX)?;
    let parsed = |text: &str| {
        text.parse().map_err(|_no_address| Complaint::NotAnIpAddress { value: text.to_owned() })
    };
    entries.iter().map(|entry| parsed(text(entry.get_ref())?)).collect()
}

fn interfaces(value: &DeValue<'_>) -> Result<Vec<String>, Complaint> {
    let wanted = "a list of interfaces, for example [\"eth0\"]";
    let mut names: Vec<String> = Vec::new();
    for entry in entries(value, wanted, XDP_INTERFACES_MAX)?.iter() {
        let name = text(entry.get_ref())?;
        // What the kernel takes as a name (`dev_valid_name`).
        let is_name = (1..=INTERFACE_NAME_BYTES_MAX).contains(&name.len())
            && !matches!(name, "." | "..")
            && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
        if !is_name {
            return Err(Complaint::NotAnInterface { value: name.to_owned() });
        }
        if names.iter().any(|known| known == name) {
            return Err(Complaint::DuplicateEntry { value: quoted(name) });
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

fn blocks(value: &DeValue<'_>, entries_max: usize) -> Result<Vec<Block>, Complaint> {
    let wanted = "a list of blocks, for example [\"10.0.0.0/8\"]";
    let entries = entries(value, wanted, entries_max)?;
    let parsed = |text: &str| {
        text.parse().map_err(|_no_block| Complaint::NotABlock { value: text.to_owned() })
    };
    entries.iter().map(|entry| parsed(text(entry.get_ref())?)).collect()
}

fn optional_address(value: &DeValue<'_>, dialable: bool) -> Result<Option<SocketAddr>, Complaint> {
    let text = text(value)?;
    if text.is_empty() {
        return Ok(None);
    }
    let address = address(text)?;
    if dialable && (address.port() == 0 || address.ip().is_unspecified()) {
        return Err(Complaint::NotDialable { address });
    }
    Ok(Some(address))
}

fn proxy(value: &DeValue<'_>) -> Result<Option<SocketAddr>, Complaint> {
    let proxy = optional_address(value, false)?;
    match proxy.filter(|address| address.port() == 0 || address.ip().is_unspecified()) {
        Some(address) => Err(Complaint::NotAProxy { address }),
        None => Ok(proxy),
    }
}

fn address(text: &str) -> Result<SocketAddr, Complaint> {
    text.parse().map_err(|_no_address| Complaint::NotAnAddress { value: text.to_owned() })
}

fn path(value: &DeValue<'_>, bytes_max: usize) -> Result<Option<PathBuf>, Complaint> {
    let text = text(value)?;
    if text.is_empty() {
        return Ok(None);
    }
    if text.chars().any(char::is_control) {
        return Err(Complaint::ControlCharacter);
    }
    if !text.starts_with('/') {
        return Err(Complaint::NotAbsolute { value: text.to_owned() });
    }
    if text.len() > bytes_max {
        let (bytes, max) = (text.len(), bytes_max);
        return Err(Complaint::PathTooLong { bytes, max });
    }
    Ok(Some(PathBuf::from(text)))
}

fn log_filter(value: &DeValue<'_>) -> Result<String, Complaint> {
    let text = text(value)?;
    if text.len() > LOG_FILTER_BYTES_MAX {
        return Err(Complaint::LogFilterTooLong { bytes: text.len() });
    }
    for directive in text.split(',') {
        if !is_log_directive(directive) {
            return Err(Complaint::NotALogFilter { directive: directive.to_owned() });
        }
    }
    Ok(text.to_owned())
}

fn is_log_directive(directive: &str) -> bool {
    match directive.split_once('=') {
        None => LOG_LEVELS.contains(&directive),
        Some((target, level)) => {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
            !target.is_empty() && target.chars().all(is_part) && LOG_LEVELS.contains(&level)
        }
    }
}

pub(super) fn text<'a>(value: &'a DeValue<'_>) -> Result<&'a str, Complaint> {
    value.as_str().ok_or_else(|| wrong_type("a text in quotes", value))
}

fn choice<T: Copy>(value: &DeValue<'_>, table: &[(&'static str, T)]) -> Result<T, Complaint> {
    let text = text(value)?;
    let found = table.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
    found.ok_or_else(|| Complaint::NotOneOf {
        value: text.to_owned(),
        choices: choices(table),
        nearest: nearest(text, table.iter().map(|(name, _)| *name)).map(quoted),
    })
}

fn choices<T>(table: &[(&'static str, T)]) -> String {
    table.iter().map(|(name, _)| quoted(name)).collect::<Vec<_>>().join(", ")
}

fn name_of<T: PartialEq>(table: &[(&'static str, T)], value: T) -> &'static str {
    table.iter().find(|(_, choice)| *choice == value).map_or("", |(name, _)| name)
}

fn wrong_type(wanted: &'static str, value: &DeValue<'_>) -> Complaint {
    let found = match value {
        DeValue::String(text) if text.len() <= 40 => format!("the text {}", quoted(text)),
        DeValue::String(_) => "a text".to_owned(),
        DeValue::Integer(integer) => format!("the number {integer}"),
        DeValue::Float(float) => format!("the number {}", float.as_str()),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    };
    Complaint::WrongType { wanted, found }
}

fn list(values: impl IntoIterator<Item = impl Display>) -> String {
    let values: Vec<_> = values.into_iter().map(|value| value.to_string()).collect();
    format!("[{}]", values.join(", "))
}

/// A TOML basic string; what is printed here has no control characters.
pub(super) fn quoted(text: impl Display) -> String {
    format!("\"{}\"", text.to_string().replace('\\', "\\\\").replace('"', "\\\""))
}

/// The candidate that differs in the fewest letters, if few enough to be a slip.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    // The cost of a comparison grows with the product of the lengths; no key is that long.
    if name.len() > 64 {
        return None;
    }
    let slips_max = (name.chars().count() / 3).clamp(1, 3);
    candidates
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= slips_max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Letters inserted, removed or replaced (Levenshtein).
fn edit_distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut next = vec![line + 1];
        for (column, other_letter) in other.iter().enumerate() {
            let replaced =
                row.get(column).copied().unwrap_or(0) + usize::from(letter != *other_letter);
            let removed = row.get(column + 1).copied().unwrap_or(0) + 1;
            let inserted = next.get(column).copied().unwrap_or(0) + 1;
            next.push(replaced.min(removed).min(inserted));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
