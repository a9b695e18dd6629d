//! From a path and its parameters to a question, or to what is wrong with them.

use super::dht_routes;
use super::request::{Document, Order, Question};
use super::support_routes;
use crate::config::{Rate, UdpEnd, UdpProtocol, parse_public_key, rate_limit};
use crate::dht::DhtQuestion;
use crate::documents::{self, HistogramSelection};
use crate::hlog::LogSelection;
use crate::limits::{
    DRAIN_DEADLINE_DEFAULT, DRAIN_DEADLINE_MAX, LISTING_ROWS_DEFAULT, LISTING_ROWS_MAX,
};
use crate::observations::{Scope, Window};
use crate::opaque::Wish;
use crate::recent::RowOrder;
use crate::units::{ByteSize, format_duration, parse_duration};
use hyper::{Method, StatusCode};
use serde_json::json;
use std::str::FromStr;
use std::time::Duration;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;
use waystation_engine::statistics::{Stage, TrafficClass};
use waystation_relay::ids::CoreId;
use waystation_relay::limits::{
    UDP_BYTES_PER_S_MAX, UDP_BYTES_PER_S_MIN, UDP_IDLE_MAX_NS, UDP_IDLE_MIN_NS,
};
use waystation_relay::udp::wireguard::PublicKey;

/// How much of the paths a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surface {
    /// All of them: the Unix socket.
    Everything,
    /// `/metrics` alone: the TCP address.
    Metrics,
}

/// How a path is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// To know something.
    Get,
    /// To have something done.
    Post,
}

impl Verb {
    /// The method's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

struct Route {
    path: &'static str,
    verb: Verb,
    on: &'static [Surface],
    parameters: &'static [&'static str],
    question: fn(&Parameters<'_>) -> Result<Question, Refusal>,
}

const BOTH: &[Surface] = &[Surface::Everything, Surface::Metrics];
const UNIX: &[Surface] = &[Surface::Everything];

const ROUTES: &[Route] = &[
    Route {
        path: "/ready",
        verb: Verb::Get,
        on: UNIX,
        parameters: &[],
        question: |_| Ok(Question::Ready),
    },
    Route {
        path: "/v1/status",
        verb: Verb::Get,
        on: UNIX,
        parameters: &[],
        question: |_| Ok(Question::Status),
    },
    Route {
        path: "/v1/links",
        verb: Verb::Get,
        on: UNIX,
        parameters: &["limit", "order"],
        question: |given| {
            let order = order(given, &LINK_ORDERS)?;
            Ok(Question::Links { limit: limit(given)?, order })
        },
    },
    Route {
        path: "/v1/sessions",
        verb: Verb::Get,
        on: UNIX,
        parameters: &["limit", "order"],
        question: |given| {
            let order = order(given, &SESSION_ORDERS)?;
            Ok(Question::Sessions { limit: limit(given)?, order })
        },
    },
    Route {
        path: "/v1/udp",
        verb: Verb::Get,
        on: UNIX,
        parameters: &["limit"],
        question: |given| Ok(Question::Udp { limit: limit(given)? }),
    },
    Route {
        path: "/v1/xdp",
        verb: Verb::Get,
        on: UNIX,
        parameters: &[],
        question: |_| Ok(Question::Xdp),
    },
    Route {
        path: "/v1/explain",
        verb: Verb::Get,
        on: UNIX,
        parameters: &["frame", "interface"],
        question: support_routes::explain,
    },
    Route {
        path: "/v1/hub",
        verb: Verb::Get,
        on: UNIX,
        parameters: &[],
        question: |_| Ok(Question::Hub),
    },
    Route {
        path: "/v1/log",
        verb: Verb::Get,
        on: UNIX,
        parameters: &[],
        question: |_| Ok(Question::Log),
    },
    Route {
        path: "/v1/log/level",
        verb: Verb::Post,
        on: UNIX,
        parameters: &["filter"],
        question: |given| {
            let directive = parsed(given, "filter", "LEVEL or TARGET=LEVEL")?;
            Ok(Question::Order(Order::SetLog(directive)))
        },
    },
    Route {
        path: "/v1/peers",
        verb: Verb::Get,
        on: UNIX,
        parameters: &["limit"],
        question: |given| Ok(Question::Peers { limit: limit(given)? }),
    },
    Route {
        path: "/v1/events",
        verb: Verb::Get,
        on: UNIX,
        parameters: &["after", "follow"],
        question: |given| {
            let after =
                given.value("after").map(|_| parsed(given, "after", "a number")).transpose();
            Ok(Question::Events { after: after?, follow: flag(given, "follow")?.unwrap_or(false) })
        },
    },
    Route {
        path: "/v1/drain",
        verb: Verb::Post,
        on: UNIX,
        parameters: &["deadline", "until_links"],
        question: drain,
    },
    Route {
        path: "/v1/links/close",
        verb: Verb::Post,
        on: UNIX,
        parameters: &["id"],
        question: |given| {
            Ok(Question::Order(Order::CloseLink(parsed(given, "id", "a link's id")?)))
        },
    },
    Route {
        path: "/v1/links/move",
        verb: Verb::Post,
        on: UNIX,
        parameters: &["id", "core"],
        question: |given| {
            let link = parsed(given, "id", "a link's id")?;
            let to = CoreId(parsed(given, "core", "a core's number")?);
            Ok(Question::Order(Order::MoveLink { link, to }))
        },
    },
    Route {
        path: "/v1/sessions/close",
        verb: Verb::Post,
        on: UNIX,
        parameters: &["id"],
        question: |given| {
            Ok(Question::Order(Order::CloseSession(parsed(given, "id", "a session's id")?)))
        },
    },
    Route {
        path: "/v1/links/dial",
        verb: Verb::Post,
        on: UNIX,
        parameters: &["endpoint", "identity"],
        question: dial,
    },
    Route {
        path: "/v1/udp/open",
        verb: Verb::Post,
        on: UNIX,
        parameters: &[
            "a", "b", "port_a", "port_b", "protocol", "key_a", "key_b", "rate", "packets", "idle",
        ],
        question: open_udp,
    },
    Route {
        path: "/v1/udp/close",
        verb: Verb::Post,
        on: UNIX,
        parameters: &["id"],
        question: |given| {
            Ok(Question::Order(Order::CloseUdp(parsed(given, "id", "a UDP session's id")?)))
        },
    },
    Route {
        path: "/v1/capture",
        verb: Verb::Post,
        on: UNIX,
        parameters: &["capture", "verdicts", "every", "last"],
        question: support_routes::capture,
    },
    Route {
        path: "/v1/drops",
        verb: Verb::Get,
        on: UNIX,
        parameters: &["all"],
        question: |given| Ok(Question::Drops { all: flag(given, "all")?.unwrap_or(false) }),
    },
    Route {
        path: "/v1/histograms",
        verb: Verb::Get,
        on: UNIX,
        parameters: &["stage", "class", "core", "window", "format", "header"],
        question: histograms,
    },
    Route {
        path: "/v1/dht",
        verb: Verb::Get,
        on: UNIX,
        parameters: &[],
        question: |_| Ok(Question::Dht(DhtQuestion::Status)),
    },
    Route {
        path: "/v1/dht/peers",
        verb: Verb::Get,
        on: UNIX,
        parameters: &["limit"],
        question: |given| Ok(Question::Dht(DhtQuestion::Peers { limit: limit(given)? })),
    },
    Route {
        path: "/v1/dht/records",
        verb: Verb::Get,
        on: UNIX,
        parameters: &["limit"],
        question: |given| Ok(Question::Dht(DhtQuestion::Records { limit: limit(given)? })),
    },
    Route {
        path: "/v1/dht/lookup",
        verb: Verb::Post,
        on: UNIX,
        parameters: &["address"],
        question: dht_routes::look_up,
    },
    Route {
        path: "/v1/dht/get",
        verb: Verb::Post,
        on: UNIX,
        parameters: &["key", "type"],
        question: dht_routes::get,
    },
    Route {
        path: "/v1/dht/publish",
        verb: Verb::Post,
        on: UNIX,
        parameters: &["key", "type", "payload"],
        question: dht_routes::publish,
    },
    Route {
        path: "/v1/dht/withdraw",
        verb: Verb::Post,
        on: UNIX,
        parameters: &["key", "type"],
        question: dht_routes::withdraw,
    },
    Route {
        path: "/metrics",
        verb: Verb::Get,
        on: BOTH,
        parameters: &[],
        question: |_| Ok(Question::Metrics),
    },
];

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("only {} is understood here", .allowed.name())]
    Method { allowed: Verb },
    #[error("commands are taken from the user that waystation runs as, and from root")]
    NotPermitted,
    #[error("parameter {name} is missing")]
    Missing { name: &'static str },
    #[error("there is nothing at this path")]
    Path { on: Surface },
    #[error("unknown parameter {name}")]
    UnknownParameter { name: String, known: &'static [&'static str] },
    #[error("parameter {name} is there twice")]
    RepeatedParameter { name: String },
    #[error("parameter {name} is \"{value}\", not {wanted}")]
    Value { name: &'static str, value: String, wanted: String },
    #[error("parameter {name} is understood with {with} only")]
    Together { name: &'static str, with: &'static str },
}

impl Refusal {
    /// The answer that says so, with what would be right.
    pub(super) fn document(&self) -> Document {
        let (status, code) = match self {
            Self::Method { .. } => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::NotPermitted => (StatusCode::FORBIDDEN, "not_permitted"),
            Self::Missing { .. } => (StatusCode::BAD_REQUEST, "missing_parameter"),
            Self::Path { .. } => (StatusCode::NOT_FOUND, "unknown_path"),
            Self::UnknownParameter { .. } => (StatusCode::BAD_REQUEST, "unknown_parameter"),
            Self::RepeatedParameter { .. } => (StatusCode::BAD_REQUEST, "repeated_parameter"),
            Self::Value { .. } => (StatusCode::BAD_REQUEST, "bad_value"),
            Self::Together { .. } => (StatusCode::BAD_REQUEST, "parameter_without_effect"),
        };
        let mut error = json!({ "code": code, "message": self.to_string() });
        match self {
            Self::Path { on } => error["paths"] = json!(paths(*on)),
            Self::UnknownParameter { known, .. } => error["parameters"] = json!(known),
            Self::Method { .. }
            | Self::NotPermitted
            | Self::Missing { .. }
            | Self::RepeatedParameter { .. }
            | Self::Value { .. }
            | Self::Together { .. } => {}
        }
        Document::json_with(status, &json!({ "schema": documents::SCHEMA, "error": error }))
    }
}

/// The paths of a listener.
pub(super) fn paths(on: Surface) -> Vec<&'static str> {
    ROUTES.iter().filter(|route| route.on.contains(&on)).map(|route| route.path).collect()
}

/// Finds out what is asked, or told by somebody who may command.
pub(super) fn question(
    method: &Method,
    path: &str,
    query: &str,
    on: Surface,
    may_command: bool,
) -> Result<Question, Refusal> {
    let found = ROUTES.iter().find(|route| route.path == path && route.on.contains(&on));
    let Some(route) = found else { return Err(Refusal::Path { on }) };
    let asked = match *method {
        Method::GET => Some(Verb::Get),
        Method::POST => Some(Verb::Post),
        _ => None,
    };
    if asked != Some(route.verb) {
        return Err(Refusal::Method { allowed: route.verb });
    }
    if route.verb == Verb::Post && !may_command {
        return Err(Refusal::NotPermitted);
    }
    (route.question)(&Parameters::parse(query, route.parameters)?)
}

/// Parameters by name, in the order given. No value that is understood needs escaping, so there is
/// none.
pub(super) struct Parameters<'q>(Vec<(&'q str, &'q str)>);

impl<'q> Parameters<'q> {
    fn parse(query: &'q str, known: &'static [&'static str]) -> Result<Self, Refusal> {
        let mut given: Vec<(&str, &str)> = Vec::new();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if !known.contains(&name) {
                return Err(Refusal::UnknownParameter { name: name.to_owned(), known });
            }
            if given.iter().any(|(earlier, _)| *earlier == name) {
                return Err(Refusal::RepeatedParameter { name: name.to_owned() });
            }
            given.push((name, value));
        }
        Ok(Self(given))
    }

    pub(super) fn value(&self, name: &str) -> Option<&'q str> {
        self.0.iter().find(|(given, _)| *given == name).map(|(_, value)| *value)
    }
}

fn limit(given: &Parameters<'_>) -> Result<usize, Refusal> {
    let Some(value) = given.value("limit") else { return Ok(LISTING_ROWS_DEFAULT) };
    let number = value.parse().ok().filter(|limit| (1..=LISTING_ROWS_MAX).contains(limit));
    number.ok_or_else(|| refuse("limit", value, format!("between 1 and {LISTING_ROWS_MAX}")))
}

/// What links can be in order of.
const LINK_ORDERS: [(&str, RowOrder); 5] = [
    ("place", RowOrder::Place),
    ("bytes", RowOrder::Bytes),
    ("frames", RowOrder::Frames),
    ("queue", RowOrder::Queue),
    ("ping", RowOrder::Ping),
];
/// What sessions can be in order of: frames and pings are those of links.
const SESSION_ORDERS: [(&str, RowOrder); 3] =
    [("place", RowOrder::Place), ("bytes", RowOrder::Bytes), ("queue", RowOrder::Queue)];

fn order<const N: usize>(
    given: &Parameters<'_>,
    orders: &[(&'static str, RowOrder); N],
) -> Result<RowOrder, Refusal> {
    Ok(one_of(given, "order", *orders)?.unwrap_or_default())
}

fn drain(given: &Parameters<'_>) -> Result<Question, Refusal> {
    let wanted = || format!("a duration up to {}", format_duration(DRAIN_DEADLINE_MAX));
    let deadline = match given.value("deadline") {
        None => DRAIN_DEADLINE_DEFAULT,
        Some(text) => parse_duration(text)
            .ok()
            .filter(|deadline| *deadline <= DRAIN_DEADLINE_MAX)
            .ok_or_else(|| refuse("deadline", text, wanted()))?,
    };
    let until_links = optional(given, "until_links", "a number")?.unwrap_or(0);
    Ok(Question::Order(Order::Drain { deadline, until_links }))
}

fn dial(given: &Parameters<'_>) -> Result<Question, Refusal> {
    let endpoint: Endpoint = parsed(given, "endpoint", "NETWORK:ADDRESS")?;
    let identity: Identity = parsed(given, "identity", "66 hex digits")?;
    Ok(Question::Order(Order::Dial { endpoint, identity }))
}

fn open_udp(given: &Parameters<'_>) -> Result<Question, Refusal> {
    let ends: [UdpEnd; 2] = [parsed(given, "a", "an end")?, parsed(given, "b", "an end")?];
    let protocols =
        [UdpProtocol::Opaque, UdpProtocol::Wireguard].map(|protocol| (protocol.name(), protocol));
    let wish = Wish {
        name: None,
        ends,
        ports: [optional(given, "port_a", "a port")?, optional(given, "port_b", "a port")?],
        protocol: one_of(given, "protocol", protocols)?.unwrap_or_default(),
        public_keys: [public_key(given, "key_a")?, public_key(given, "key_b")?],
        rate: rate_limit(udp_rate(given)?, optional(given, "packets", "a number")?),
        idle_limit_ns: 0,
    };
    Ok(Question::Order(Order::OpenUdp { wish: Box::new(wish), idle: idle(given)? }))
}

pub(super) fn optional<T: FromStr>(
    given: &Parameters<'_>,
    name: &'static str,
    wanted: &str,
) -> Result<Option<T>, Refusal>
where
    T::Err: std::fmt::Display,
{
    given.value(name).map(|_| parsed(given, name, wanted)).transpose()
}

fn public_key(given: &Parameters<'_>, name: &'static str) -> Result<Option<PublicKey>, Refusal> {
    let Some(value) = given.value(name) else { return Ok(None) };
    let wanted = || "the 44 characters that `wg pubkey` prints".to_owned();
    parse_public_key(value).map(Some).ok_or_else(|| refuse(name, value, wanted()))
}

fn udp_rate(given: &Parameters<'_>) -> Result<Rate, Refusal> {
    let size: Option<ByteSize> = optional(given, "rate", "a size")?;
    let Some(size) = size else { return Ok(Rate::Unbounded) };
    match (UDP_BYTES_PER_S_MIN..=UDP_BYTES_PER_S_MAX).contains(&size.as_u64()) {
        true => Ok(Rate::PerSecond(size)),
        false => Err(refuse("rate", &size.to_string(), "from 1KiB to 900GiB".to_owned())),
    }
}

/// How long nothing may pass in a session, within what the data cores take.
fn idle(given: &Parameters<'_>) -> Result<Option<Duration>, Refusal> {
    let Some(value) = given.value("idle") else { return Ok(None) };
    let range = Duration::from_nanos(UDP_IDLE_MIN_NS)..=Duration::from_nanos(UDP_IDLE_MAX_NS);
    match parse_duration(value) {
        Ok(idle) if range.contains(&idle) => Ok(Some(idle)),
        Ok(_) | Err(_) => Err(refuse("idle", value, "a time from 1m to 7d".to_owned())),
    }
}

pub(super) fn parsed<T: FromStr>(
    given: &Parameters<'_>,
    name: &'static str,
    wanted: &str,
) -> Result<T, Refusal>
where
    T::Err: std::fmt::Display,
{
    let value = given.value(name).ok_or(Refusal::Missing { name })?;
    value.parse().map_err(|error| refuse(name, value, format!("{wanted}: {error}")))
}

pub(super) fn flag(given: &Parameters<'_>, name: &'static str) -> Result<Option<bool>, Refusal> {
    match given.value(name) {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(other) => Err(refuse(name, other, "true or false".to_owned())),
    }
}

fn histograms(given: &Parameters<'_>) -> Result<Question, Refusal> {
    let stage = one_of(given, "stage", Stage::ALL.map(|stage| (stage.name(), stage)))?;
    let class = one_of(given, "class", TrafficClass::ALL.map(|class| (class.name(), class)))?;
    let window = one_of(given, "window", Window::ALL.map(|window| (window.name(), window)))?;
    let scope = scope(given)?;
    let header = flag(given, "header")?;
    match one_of(given, "format", [("json", false), ("hlog", true)])? {
        Some(true) => Ok(Question::HistogramLog(LogSelection {
            window: window.unwrap_or(Window::Total),
            stage,
            class,
            scope,
            header: header.unwrap_or(true),
        })),
        Some(false) | None if header.is_some() => {
            Err(Refusal::Together { name: "header", with: "format=hlog" })
        }
        Some(false) | None => {
            Ok(Question::Histograms(HistogramSelection { stage, class, scope, window }))
        }
    }
}

fn scope(given: &Parameters<'_>) -> Result<Option<Scope>, Refusal> {
    let Some(value) = given.value("core") else { return Ok(None) };
    if value == "merged" {
        return Ok(Some(Scope::Merged));
    }
    let core = value.parse().map(|core| Some(Scope::Core(CoreId(core))));
    core.map_err(|_no_number| refuse("core", value, "merged or the number of a core".to_owned()))
}

fn one_of<T: Copy, const N: usize>(
    given: &Parameters<'_>,
    name: &'static str,
    choices: [(&'static str, T); N],
) -> Result<Option<T>, Refusal> {
    let Some(value) = given.value(name) else { return Ok(None) };
    let found = choices.iter().find(|(choice, _)| *choice == value).map(|(_, choice)| *choice);
    found.map(Some).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(choice, _)| *choice).collect();
        refuse(name, value, format!("one of {}", names.join(", ")))
    })
}

pub(super) fn refuse(name: &'static str, value: &str, wanted: String) -> Refusal {
    Refusal::Value { name, value: value.to_owned(), wanted }
}
