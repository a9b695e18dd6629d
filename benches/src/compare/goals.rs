//! The table of the comparisons: what each row measures, and the ratios it is held to. Everything
//! that says what is good enough stands here and nowhere else.

use crate::compare::figures::Measure;
use anyhow::{Result, bail};
use serde::Serialize;

/// What a ratio may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    /// Whether a ratio keeps it.
    pub fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::AtLeast(least) => write!(f, "at least {least}"),
        }
    }
}

/// What a figure is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// The same figure of another contender in the same case.
    Contender(&'static str),
    /// A figure that was taken elsewhere, or 1 for a figure that is a share itself.
    Figure { name: &'static str, value: f64 },
}

impl Against {
    /// What to call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Contender(name) | Self::Figure { name, .. } => name,
        }
    }
}

/// One ratio that a row is held to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Goal {
    pub case: &'static str,
    pub measure: Measure,
    pub contender: &'static str,
    pub against: Against,
    pub bound: Bound,
}

/// One comparison.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Row {
    pub number: u8,
    pub name: &'static str,
    pub workload: &'static str,
    pub goals: &'static [Goal],
}

pub const WAYSTATION: &str = "waystation";
pub const FLOOR: &str = "floor";
pub const HAPROXY: &str = "haproxy";
pub const NGINX: &str = "nginx";
pub const LIBP2P: &str = crate::compare::libp2p::LIBP2P;
pub const IROH_SINGLE: &str = "iroh-relay, single datagrams";
pub const IROH_BATCHED: &str = "iroh-relay, batched datagrams";
pub const CONTROL: &str = crate::compare::control::CONTROL;
pub const EPOLL: &str = "waystation over epoll";

pub const TO_FEW: &str = "waystation, 4 destinations";
pub const TO_MANY: &str = "waystation, 64 destinations";
pub const ONE_CORE: &str = "waystation, one core";
pub const TWO_CORES: &str = "waystation, two cores";
pub const COME_TOGETHER: &str = "waystation, placement";
pub const SCRAPED: &str = "waystation, scraped";
pub const ALONE: &str = "waystation, mice alone";
pub const BESIDE_ELEPHANT: &str = "waystation, beside an elephant";
pub const SATURATED: &str = "waystation, saturated";
pub const QUARTER: &str = "waystation, at a quarter of that";
pub const TOLD: &str = "as told at a quarter";
pub const COTURN: &str = "coturn";
pub const TURN_RS: &str = "turn-rs";
pub const PLAIN_TIER: &str = "waystation, tier plain";
pub const GSO_TIER: &str = "waystation, tier gso";
pub const XDP_TIER: &str = "waystation, tier xdp";
pub const AF_XDP_TIER: &str = "waystation, tier af_xdp";
pub const XDP_QUIET: &str = "waystation, tier xdp, quiet";
pub const XDP_FLOODED: &str = "waystation, tier xdp, flooded";
pub const GSO_QUIET: &str = "waystation, tier gso, quiet";
pub const GSO_FLOODED: &str = "waystation, tier gso, flooded";
/// Cases of row 18.
pub const TRAINS: &str = "4 x 1000 B, trains of 16";
pub const SINGLE_DATAGRAMS: &str = "4 x 1000 B, one by one";
/// The case of row 19, and that of row 20.
pub const FRAMES: &str = "4 x 1000 B, a frame each";
pub const FLOOD: &str = "4 x 1000 B, steady";
pub const BARE: &str = "secp256k1 and AEAD";

const COST: Measure = Measure::ProcessorMicrosecondsPerMessage;
const CARRIED: Measure = Measure::MessagesPerProcessorSecond;
const DELIVERED: Measure = Measure::DeliveredShare;

const fn goal(
    case: &'static str,
    measure: Measure,
    contender: &'static str,
    against: &'static str,
    bound: Bound,
) -> Goal {
    Goal { case, measure, contender, against: Against::Contender(against), bound }
}

/// Against a figure that was taken elsewhere, or 1.
const fn fixed(
    case: &'static str,
    measure: Measure,
    contender: &'static str,
    (name, value): (&'static str, f64),
    bound: Bound,
) -> Goal {
    Goal { case, measure, contender, against: Against::Figure { name, value }, bound }
}

use Bound::{AtLeast, AtMost};

/// Every row, by number.
pub const ROWS: &[Row] = &[
    Row {
        number: 1,
        name: "floor",
        workload: "4 flows, coalesced records, ChaCha20-Poly1305, against a thread that forwards, \
                   opens and seals the same and does nothing else",
        goals: &[
            goal("4 x 1 KiB", COST, WAYSTATION, FLOOR, AtMost(1.08)),
            goal("4 x 8 KiB", COST, WAYSTATION, FLOOR, AtMost(1.08)),
        ],
    },
    Row {
        number: 2,
        name: "libp2p",
        workload: "4 flows, coalesced records, against libp2p's circuit relay, Noise and yamux on \
                   each hop",
        goals: &[
            goal("4 x 1 KiB", COST, WAYSTATION, LIBP2P, AtMost(0.50)),
            goal("4 x 8 KiB", COST, WAYSTATION, LIBP2P, AtMost(0.35)),
        ],
    },
    Row {
        number: 3,
        name: "control",
        workload: "4 flows of 1 KiB, coalesced records, against a relay with a task per link, a \
                   write per frame and a record per field",
        goals: &[goal("4 x 1 KiB", COST, WAYSTATION, CONTROL, AtMost(0.20))],
    },
    Row {
        number: 4,
        name: "stock-sender",
        workload: "4 flows of 8 KiB between ends that lay out frames as stock nodes do, against \
                   the same control",
        goals: &[goal("4 x 8 KiB, a record per field", COST, WAYSTATION, CONTROL, AtMost(0.35))],
    },
    Row {
        number: 5,
        name: "iroh",
        workload: "4 flows of 1 KiB, a message per frame, against iroh-relay without TLS, which \
                   does no crypto: a datagram per frame, and batches of datagrams",
        goals: &[
            goal("4 x 1 KiB", COST, WAYSTATION, IROH_SINGLE, AtMost(0.12)),
            goal("4 x 1 KiB", COST, WAYSTATION, IROH_BATCHED, AtMost(1.2)),
        ],
    },
    Row {
        number: 6,
        name: "small-messages",
        workload: "64 flows of 200 B in a closed loop, 4 in flight, each message in a record and a \
                   write of its own",
        goals: &[
            goal("64 x 200 B", COST, WAYSTATION, HAPROXY, AtMost(1.15)),
            goal("64 x 200 B", COST, WAYSTATION, LIBP2P, AtMost(0.70)),
        ],
    },
    Row {
        number: 7,
        name: "coalescing",
        workload: "64 flows of 200 B as in row 6, ending on 4 links, against the same on 64",
        goals: &[goal("64 x 200 B", COST, TO_FEW, TO_MANY, AtMost(0.40))],
    },
    Row {
        number: 8,
        name: "raw-pipe",
        workload: "raw gateway pipes (node_connect), 4 flows of 8 KiB in bulk; no crypto anywhere",
        goals: &[
            goal("4 x 8 KiB", COST, WAYSTATION, HAPROXY, AtMost(1.0)),
            goal("4 x 8 KiB", COST, WAYSTATION, NGINX, AtMost(1.0)),
        ],
    },
    Row {
        number: 9,
        name: "ports",
        workload: "coalesced records, the io_uring port against the epoll port",
        goals: &[
            goal("4 x 1 KiB", COST, WAYSTATION, EPOLL, AtMost(1.05)),
            goal("4 x 8 KiB", COST, WAYSTATION, EPOLL, AtMost(1.05)),
            goal("64 x 200 B", COST, WAYSTATION, EPOLL, AtMost(0.95)),
        ],
    },
    Row {
        number: 10,
        name: "paced",
        workload: "16 flows of 1 KiB, together at half of what libp2p's relay carries of them",
        goals: &[
            goal("16 x 1 KiB", Measure::LatencyP50Microseconds, WAYSTATION, LIBP2P, AtMost(0.35)),
            goal("16 x 1 KiB", Measure::LatencyP99Microseconds, WAYSTATION, LIBP2P, AtMost(0.5)),
            goal("16 x 1 KiB", Measure::LatencyP999Microseconds, WAYSTATION, HAPROXY, AtMost(1.5)),
        ],
    },
    Row {
        number: 11,
        name: "idle-memory",
        workload: "resident memory of the relay's process that each of 1000 further idle links \
                   costs, after a first hundred",
        goals: &[
            goal("idle links", Measure::KibibytesPerLink, WAYSTATION, LIBP2P, AtMost(0.13)),
            fixed("idle links", Measure::KibibytesPerLink, WAYSTATION, ("8 KiB", 8.0), AtMost(1.0)),
        ],
    },
    Row {
        number: 12,
        name: "two-cores",
        workload: "4 flows of 1 KiB whose links are kept on two data cores, against the same on \
                   one; and left to placement, once it has acted. The second core shares its \
                   processor with the generator",
        goals: &[
            goal("4 x 1 KiB", COST, TWO_CORES, ONE_CORE, AtMost(1.25)),
            fixed(
                "4 x 1 KiB",
                Measure::SameCoreShare,
                COME_TOGETHER,
                ("all of it", 1.0),
                AtLeast(0.95),
            ),
        ],
    },
    Row {
        number: 13,
        name: "scraping",
        workload: "4 flows of 1 KiB while the histograms are asked for 10 times a second, against \
                   nobody asking",
        goals: &[goal("4 x 1 KiB", COST, SCRAPED, WAYSTATION, AtMost(1.02))],
    },
    Row {
        number: 14,
        name: "fairness",
        workload: "15 flows of 1 KiB, 100 messages a second each, alone and beside one flow of \
                   8 KiB in a closed loop with 64 in flight; 16 flows of 8 KiB in closed loops",
        goals: &[
            goal("15 mice", Measure::LatencyP99Microseconds, BESIDE_ELEPHANT, ALONE, AtMost(3.0)),
            fixed(
                "16 greedy",
                Measure::JainIndex,
                WAYSTATION,
                ("equal shares", 1.0),
                AtLeast(0.95),
            ),
        ],
    },
    Row {
        number: 15,
        name: "handshakes",
        workload: "connections that shake hands and end, per second of the data core, against the \
                   curve and cipher operations of a responder alone",
        goals: &[goal(
            "handshakes",
            Measure::HandshakesPerProcessorSecond,
            WAYSTATION,
            BARE,
            AtLeast(0.85),
        )],
    },
    Row {
        number: 16,
        name: "stock-gateway",
        workload: "node_route between ends that lay out frames as stock nodes do, against figures \
                   of the stock gateway",
        goals: &[
            fixed(
                "8 KiB frames, bulk",
                Measure::ProcessorSecondsPerGigabyte,
                WAYSTATION,
                ("stock gateway, 12.8 s/GB", 12.8),
                AtMost(0.10),
            ),
            fixed(
                "1 KiB ping-pong",
                COST,
                WAYSTATION,
                ("stock gateway, 202 us", 202.0),
                AtMost(0.10),
            ),
        ],
    },
    Row {
        number: 17,
        name: "headroom",
        workload: "16 flows of 1 KiB that are carried as fast as one core can, and at a quarter of \
                   that, where the core says how much more would fit",
        goals: &[fixed(
            "16 x 1 KiB",
            Measure::ToldOfFitting,
            TOLD,
            ("what did fit", 1.0),
            AtMost(1.10),
        )],
    },
    Row {
        number: 18,
        name: "udp",
        workload: "TURN over UDP: 4 flows of 1000 B between clients' channels and peers, sent in \
                   trains of 16 (64 in flight where trains are received as such, else 16) and one \
                   by one (16 in flight); relays with one thread",
        goals: &[
            goal(TRAINS, COST, WAYSTATION, COTURN, AtMost(0.10)),
            goal(TRAINS, COST, WAYSTATION, TURN_RS, AtMost(0.10)),
            goal(SINGLE_DATAGRAMS, COST, WAYSTATION, COTURN, AtMost(0.85)),
            goal(SINGLE_DATAGRAMS, COST, WAYSTATION, TURN_RS, AtMost(0.90)),
        ],
    },
    Row {
        number: 19,
        name: "udp-between-hosts",
        workload: "TURN over UDP between network namespaces: 4 flows of 1000 B, a frame each that \
                   comes as from a card, 96 in flight through rings alone and 12 through sockets; \
                   what the kernel does to receive for a relay, an XDP program included, is part \
                   of the relay's time; as root",
        goals: &[
            goal(FRAMES, COST, XDP_TIER, COTURN, AtMost(0.08)),
            goal(FRAMES, CARRIED, XDP_TIER, COTURN, AtLeast(8.0)),
        ],
    },
    Row {
        number: 20,
        name: "udp-flood",
        workload: "TURN over UDP between network namespaces: 4 flows of 1000 B, 10 000 datagrams \
                   a second together, while up to 1 000 000 a second from as many addresses come \
                   to the same port, and in quiet; as root",
        goals: &[
            goal(FLOOD, DELIVERED, XDP_FLOODED, XDP_QUIET, AtLeast(0.9)),
            goal(FLOOD, DELIVERED, GSO_FLOODED, GSO_QUIET, AtLeast(0.5)),
        ],
    },
];

/// The rows that a word on the command line means: a number, a name, or `all`.
///
/// # Errors
///
/// For a word that means none, with those that there are.
pub fn select(word: &str) -> Result<Vec<&'static Row>> {
    if word == "all" {
        return Ok(ROWS.iter().collect());
    }
    let number: Option<u8> = word.parse().ok();
    match ROWS.iter().find(|row| row.name == word || Some(row.number) == number) {
        Some(row) => Ok(vec![row]),
        None => {
            let known: Vec<_> =
                ROWS.iter().map(|row| format!("{} {}", row.number, row.name)).collect();
            bail!("no row {word}; there are: all, {}", known.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn rows_are_found_by_number_and_name() {
        assert_eq!(select("9").unwrap(), select("ports").unwrap());
        assert_eq!(select("all").unwrap().len(), ROWS.len());
        for wrong in ["0", "21", "port", ""] {
            let error = select(wrong).unwrap_err().to_string();
            assert!(error.contains("9 ports"), "{error}");
        }
    }

    #[test]
    fn rows_are_in_order_and_named_once() {
        assert!(ROWS.iter().map(|row| row.number).eq(1..=20));
        let names: BTreeSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
        assert!(ROWS.iter().all(|row| !row.goals.is_empty()));
    }

    #[test]
    fn bounds_include_their_limit() {
        assert!(AtMost(1.08).holds(1.08) && !AtMost(1.08).holds(1.081));
        assert!(AtLeast(0.95).holds(0.95) && !AtLeast(0.95).holds(0.949));
    }
}
