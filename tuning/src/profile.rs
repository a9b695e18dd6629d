//! A hardware profile: which NICs it is for, what to set on them, and what to know about them.
//!
//! Read once by a command at a terminal, or as the program starts. Everything a profile says
//! carries its source and how sure that is. Nothing here looks at the machine or changes it.

use crate::limits::TABLE_CELL_CHARS_MAX;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Features that a profile may turn on or off, by the names the kernel has for them
/// (`net/ethtool/common.c`, `netdev_features_strings`). Others are refused as a slip of the pen.
pub const FEATURES: &[&str] = &[
    "rx-checksum",
    "rx-gro",
    "rx-gro-hw",
    "rx-gro-list",
    "rx-hashing",
    "rx-lro",
    "rx-ntuple-filter",
    "rx-udp-gro-forwarding",
    "tx-checksum-ip-generic",
    "tx-generic-segmentation",
    "tx-scatter-gather",
    "tx-tcp-segmentation",
    "tx-udp-segmentation",
];

/// What a profile can say about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub enum Key {
    /// Combined channels: a number, `data-cores` or `keep`.
    QueuesCombined,
    /// XDP takes as many queues again, so at most half of the most may be in use.
    QueuesHalfForXdp,
    /// Descriptors of each receive ring: a number or `max`.
    RingsRx,
    /// Descriptors of each transmit ring: a number or `max`.
    RingsTx,
    /// One of the parameters of interrupt moderation.
    Coalesce(CoalesceField),
    /// An offload of [`FEATURES`].
    Feature(&'static str),
    /// Whether NAPI polls in threads of its own.
    NapiThreaded,
    /// Polls that find nothing before interrupts are turned on again.
    NapiDeferHardIrqs,
    /// Nanoseconds after which GRO hands on what it holds, and interrupts may stay off.
    NapiGroFlushTimeoutNs,
    /// Where the interrupts of queues go: `data-cores` or `keep`.
    IrqAffinity,
    /// Which transmit queue a core uses: `data-cores` or `keep`.
    XpsQueues,
    /// Whether the hash that chooses a queue takes UDP ports in when the driver starts.
    RssUdpPorts,
    /// How XDP runs: `native`, `generic` or `none`.
    XdpMode,
    /// Bytes of the greatest MTU with a program that takes no fragments.
    XdpMtuMax,
    /// Bytes in front of a packet that a program may use.
    XdpHeadroomBytes,
    /// Whether AF_XDP works without a copy.
    AfXdpZeroCopy,
}

/// A parameter of interrupt moderation, as `ethtool -C` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CoalesceField {
    AdaptiveRx,
    AdaptiveTx,
    RxFrames,
    RxUsecs,
    TxFrames,
    TxUsecs,
}

impl CoalesceField {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::AdaptiveRx,
        Self::AdaptiveTx,
        Self::RxFrames,
        Self::RxUsecs,
        Self::TxFrames,
        Self::TxUsecs,
    ];

    /// As profiles and documents name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AdaptiveRx => "adaptive_rx",
            Self::AdaptiveTx => "adaptive_tx",
            Self::RxFrames => "rx_frames",
            Self::RxUsecs => "rx_usecs",
            Self::TxFrames => "tx_frames",
            Self::TxUsecs => "tx_usecs",
        }
    }

    /// Whether it is on or off rather than a number.
    pub fn is_switch(self) -> bool {
        matches!(self, Self::AdaptiveRx | Self::AdaptiveTx)
    }
}

/// Which values a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Switch,
    Number,
    Words(&'static [&'static str]),
    NumberOr(&'static [&'static str]),
}

const PLACES: &[&str] = &["data-cores", "keep"];

impl Key {
    /// All keys, in the order in which they are documented.
    pub fn all() -> Vec<Self> {
        let mut all =
            vec![Self::QueuesCombined, Self::QueuesHalfForXdp, Self::RingsRx, Self::RingsTx];
        all.extend(CoalesceField::ALL.map(Self::Coalesce));
        all.extend(FEATURES.iter().copied().map(Self::Feature));
        all.extend([
            Self::NapiThreaded,
            Self::NapiDeferHardIrqs,
            Self::NapiGroFlushTimeoutNs,
            Self::IrqAffinity,
            Self::XpsQueues,
            Self::RssUdpPorts,
            Self::XdpMode,
            Self::XdpMtuMax,
            Self::XdpHeadroomBytes,
            Self::AfXdpZeroCopy,
        ]);
        all
    }

    /// Whether it is only told, and nothing is set from it.
    pub fn is_fact(&self) -> bool {
        matches!(
            self,
            Self::RssUdpPorts
                | Self::XdpMode
                | Self::XdpMtuMax
                | Self::XdpHeadroomBytes
                | Self::AfXdpZeroCopy
        )
    }

    fn takes(&self) -> Takes {
        match self {
            Self::QueuesCombined => Takes::NumberOr(PLACES),
            Self::RingsRx | Self::RingsTx => Takes::NumberOr(&["max"]),
            Self::Coalesce(field) if field.is_switch() => Takes::Switch,
            Self::Coalesce(_)
            | Self::NapiDeferHardIrqs
            | Self::NapiGroFlushTimeoutNs
            | Self::XdpMtuMax
            | Self::XdpHeadroomBytes => Takes::Number,
            Self::QueuesHalfForXdp
            | Self::Feature(_)
            | Self::NapiThreaded
            | Self::RssUdpPorts
            | Self::AfXdpZeroCopy => Takes::Switch,
            Self::IrqAffinity | Self::XpsQueues => Takes::Words(PLACES),
            Self::XdpMode => Takes::Words(&["native", "generic", "none"]),
        }
    }

    /// What values it takes, in words.
    pub fn wants(&self) -> String {
        let listed = |words: &[&str]| {
            words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ")
        };
        match self.takes() {
            Takes::Switch => "true or false".to_owned(),
            Takes::Number => "a number".to_owned(),
            Takes::Words(words) => listed(words),
            Takes::NumberOr(words) => format!("a number, {}", listed(words)),
        }
    }

    fn accepts(&self, value: &Value) -> bool {
        match (self.takes(), value) {
            (Takes::Switch, Value::Switch(_))
            | (Takes::Number | Takes::NumberOr(_), Value::Number(_)) => true,
            (Takes::Words(words) | Takes::NumberOr(words), Value::Word(word)) => {
                words.contains(&word.as_str())
            }
            _ => false,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueuesCombined => out.write_str("queues.combined"),
            Self::QueuesHalfForXdp => out.write_str("queues.half_for_xdp"),
            Self::RingsRx => out.write_str("rings.rx"),
            Self::RingsTx => out.write_str("rings.tx"),
            Self::Coalesce(field) => write!(out, "coalesce.{}", field.name()),
            Self::Feature(name) => write!(out, "features.{name}"),
            Self::NapiThreaded => out.write_str("napi.threaded"),
            Self::NapiDeferHardIrqs => out.write_str("napi.defer_hard_irqs"),
            Self::NapiGroFlushTimeoutNs => out.write_str("napi.gro_flush_timeout_ns"),
            Self::IrqAffinity => out.write_str("irq.affinity"),
            Self::XpsQueues => out.write_str("xps.queues"),
            Self::RssUdpPorts => out.write_str("rss.udp_ports"),
            Self::XdpMode => out.write_str("xdp.mode"),
            Self::XdpMtuMax => out.write_str("xdp.mtu_max"),
            Self::XdpHeadroomBytes => out.write_str("xdp.headroom_bytes"),
            Self::AfXdpZeroCopy => out.write_str("af_xdp.zero_copy"),
        }
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_string()
    }
}

/// A key that no profile has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no key of a profile; docs/hardware.md lists them")]
pub struct UnknownKey(String);

impl TryFrom<String> for Key {
    type Error = UnknownKey;

    fn try_from(text: String) -> Result<Self, UnknownKey> {
        Self::all().into_iter().find(|key| key.to_string() == text).ok_or(UnknownKey(text))
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::try_from(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// What a key is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    Switch(bool),
    Number(u64),
    Word(String),
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch(on) => out.write_str(if *on { "on" } else { "off" }),
            Self::Number(number) => write!(out, "{number}"),
            Self::Word(word) => out.write_str(word),
        }
    }
}

/// How sure a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Seen by this project, or by the operator whose file it is, on such a device.
    Measured,
    /// The driver's source or its maker's documentation says so.
    Vendor,
    /// Others who run such machines say so.
    Community,
    /// Reasoned or remembered; not applied unless asked for.
    Unverified,
}

impl Status {
    /// As profiles name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Vendor => "vendor",
            Self::Community => "community",
            Self::Unverified => "unverified",
        }
    }
}

/// One value with where it is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    pub value: Value,
    pub status: Status,
    /// Who says so: a document, a place in a driver, an operator.
    pub source: String,
    /// What a relay gains by it.
    pub why: String,
}

/// Which NICs a profile is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    pub drivers: Vec<String>,
    /// `vendor:device`, four lower-case hexadecimal digits each. Empty: all of the driver's.
    #[serde(default)]
    pub pci_ids: Vec<String>,
    pub firmware_min: Option<String>,
    pub firmware_max: Option<String>,
}

/// A profile as its file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub name: String,
    pub title: String,
    /// The profile whose settings this one takes over.
    pub extends: Option<String>,
    #[serde(default)]
    pub notes: Vec<String>,
    /// Absent: for any NIC, after all others.
    pub selector: Option<Selector>,
    #[serde(default)]
    pub settings: BTreeMap<Key, Setting>,
}

/// Why a profile is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It is no TOML, or not of this form.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    /// A value of the wrong kind.
    #[error("settings.\"{key}\" is {value}, and takes {}", key.wants())]
    Value { key: Key, value: Value },
    /// A text that has to say something and does not, or does not end.
    #[error("{what} must have 1 to {TABLE_CELL_CHARS_MAX} characters in one line")]
    Text { what: String },
    /// A PCI id that none can have.
    #[error("selector.pci_ids: {id:?} is not of the form \"8086:1592\", in lower case")]
    PciId { id: String },
    /// A selector that chooses nothing.
    #[error("selector.drivers is empty; without a selector a profile is for any NIC")]
    NoDriver,
}

impl Profile {
    /// Reads and checks one.
    ///
    /// # Errors
    /// What is wrong with it, naming key and line.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text)?;
        profile.check()?;
        Ok(profile)
    }

    /// What it says about a key.
    pub fn setting(&self, key: &Key) -> Option<&Setting> {
        self.settings.get(key)
    }

    /// A switch; absent: off.
    pub fn switch(&self, key: &Key) -> bool {
        self.setting(key).is_some_and(|setting| setting.value == Value::Switch(true))
    }

    fn check(&self) -> Result<(), ProfileError> {
        text("name", &self.name)?;
        text("title", &self.title)?;
        for note in &self.notes {
            text("a note", note)?;
        }
        if let Some(selector) = &self.selector {
            if selector.drivers.is_empty() {
                return Err(ProfileError::NoDriver);
            }
            if let Some(id) = selector.pci_ids.iter().find(|id| !is_pci_id(id)) {
                return Err(ProfileError::PciId { id: id.clone() });
            }
        }
        for (key, setting) in &self.settings {
            if !key.accepts(&setting.value) {
                let (key, value) = (key.clone(), setting.value.clone());
                return Err(ProfileError::Value { key, value });
            }
            text(&format!("settings.\"{key}\".source"), &setting.source)?;
            text(&format!("settings.\"{key}\".why"), &setting.why)?;
        }
        Ok(())
    }
}

/// Compares two versions number by number, as far as both have numbers.
pub fn is_version_at_least(version: &str, least: &str) -> bool {
    let numbers = |text: &str| -> Vec<u64> {
        text.split(|letter: char| !letter.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect()
    };
    let (version, least) = (numbers(version), numbers(least));
    let common = version.len().min(least.len());
    version[..common] >= least[..common]
}

fn text(what: &str, text: &str) -> Result<(), ProfileError> {
    let chars = text.chars().count();
    let fits = (1..=TABLE_CELL_CHARS_MAX).contains(&chars) && !text.contains(['\n', '|']);
    if fits { Ok(()) } else { Err(ProfileError::Text { what: what.to_owned() }) }
}

fn is_pci_id(id: &str) -> bool {
    let is_hex = |part: &str| {
        let is_digit = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
        part.len() == 4 && part.bytes().all(is_digit)
    };
    id.split_once(':').is_some_and(|(vendor, device)| is_hex(vendor) && is_hex(device))
}
