//! What is logged at which level: the filter of the configuration, and what operators have set over
//! it since the start.
//!
//! Owned by the management core's runtime and used on its thread only. The log itself is the
//! program's, which lends [`LogHooks`]; nothing here writes a line. What operators set ends with the
//! program, so that a forgotten `trace` does not outlive it.

use crate::documents::SCHEMA;
use crate::limits::{LOG_DIRECTIVES_MAX, LOG_TARGET_BYTES_MAX};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The word that takes back what was set.
const DEFAULT: &str = "default";

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// Every level, from silence to everything.
    pub const ALL: [Self; 6] =
        [Self::Off, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The name, as the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// One thing to set: `debug`, `waystation_management::dht=trace`, or `default` instead of a level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDirective {
    /// A module and all below it; absent: everything that no directive is about.
    pub target: Option<String>,
    /// Absent: as the configuration has it.
    pub level: Option<LogLevel>,
}

/// What is wrong with the text of a directive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectiveError {
    /// Operator: there is no such level.
    #[error("there is no level {0:?}; there are off, error, warn, info, debug, trace and default")]
    Level(String),
    /// Operator: no module is called so.
    #[error(
        "{0:?} is no target; a target is a module as log lines name it, such as \
         waystation_management::dht"
    )]
    Target(String),
}

impl FromStr for LogDirective {
    type Err = DirectiveError;

    fn from_str(text: &str) -> Result<Self, DirectiveError> {
        let (target, level) = match text.split_once('=') {
            Some((target, level)) => (Some(target), level),
            None => (None, text),
        };
        let is_target = |target: &str| {
            let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_:".contains(&byte);
            (1..=LOG_TARGET_BYTES_MAX).contains(&target.len()) && target.bytes().all(is_letter)
        };
        if let Some(target) = target.filter(|target| !is_target(target)) {
            return Err(DirectiveError::Target(target.to_owned()));
        }
        let known = LogLevel::ALL.into_iter().find(|known| known.name() == level);
        if known.is_none() && level != DEFAULT {
            return Err(DirectiveError::Level(level.to_owned()));
        }
        Ok(Self { target: target.map(str::to_owned), level: known })
    }
}

impl fmt::Display for LogDirective {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(target) = &self.target {
            write!(out, "{target}=")?;
        }
        out.write_str(self.level.map_or(DEFAULT, LogLevel::name))
    }
}

/// Takes up another log filter, or says why it cannot.
pub type SetFilter = Box<dyn FnMut(&str) -> Result<(), String> + Send>;

/// Lines that a target had too many of, and that were counted instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldBackLines {
    pub target: &'static str,
    pub lines: u64,
}

/// What the program lends of its log.
pub struct LogHooks {
    /// Takes up another filter.
    pub set_filter: SetFilter,
    /// What was held back since it was last asked.
    pub take_held_back: Box<dyn FnMut() -> Vec<HeldBackLines> + Send>,
}

impl fmt::Debug for LogHooks {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("LogHooks").finish_non_exhaustive()
    }
}

/// Why a directive is not in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogRefusal {
    /// The program that this is a part of writes no log of its own.
    #[error("this program has no log whose levels could be set")]
    NoLog,
    /// Operator: there are too many already.
    #[error(
        "levels of {LOG_DIRECTIVES_MAX} targets are set; take some back with TARGET=default, or all \
         with default"
    )]
    TooMany,
    /// Bug: the log does not understand it.
    #[error("the log refuses the filter: {0}")]
    Filter(String),
}

/// See the module.
#[derive(Debug)]
pub struct LogLevels {
    /// `management.log`.
    configured: String,
    /// Of everything else.
    all: Option<LogLevel>,
    targets: BTreeMap<String, LogLevel>,
    hooks: Option<LogHooks>,
    held_back: u64,
}

impl LogLevels {
    /// Those of a configuration, with nothing set over them.
    pub fn new(configured: &str, hooks: Option<LogHooks>) -> Self {
        let configured = configured.to_owned();
        Self { configured, all: None, targets: BTreeMap::new(), hooks, held_back: 0 }
    }

    /// The filter in force. Of two directives about the same, the later counts.
    pub fn filter(&self) -> String {
        let mut filter = self.configured.clone();
        let all = self.all.map(|level| LogDirective { target: None, level: Some(level) });
        let targets = self.targets.iter().map(|(target, level)| LogDirective {
            target: Some(target.clone()),
            level: Some(*level),
        });
        for directive in all.into_iter().chain(targets) {
            filter.push_str(&format!(",{directive}"));
        }
        filter
    }

    /// Takes up another configuration; what was set over the old one stays over the new.
    ///
    /// # Errors
    /// See [`LogRefusal`]; the log then goes on as it was.
    pub fn set_configured(&mut self, configured: &str) -> Result<(), LogRefusal> {
        let before = std::mem::replace(&mut self.configured, configured.to_owned());
        self.apply().inspect_err(|_refusal| self.configured = before)
    }

    /// Sets a level, or takes one back. `default` without a target takes all of them back.
    ///
    /// # Errors
    /// See [`LogRefusal`]; the log then goes on as it was.
    pub fn set(&mut self, directive: &LogDirective) -> Result<(), LogRefusal> {
        let before = (self.all, self.targets.clone());
        match (directive.target.clone(), directive.level) {
            (None, None) => {
                self.all = None;
                self.targets.clear();
            }
            (None, level) => self.all = level,
            (Some(target), None) => {
                self.targets.remove(&target);
            }
            (Some(target), Some(level)) => {
                let is_new = !self.targets.contains_key(&target);
                if is_new && self.targets.len() >= LOG_DIRECTIVES_MAX {
                    return Err(LogRefusal::TooMany);
                }
                self.targets.insert(target, level);
            }
        }
        self.apply().inspect_err(|_refusal| (self.all, self.targets) = before)
    }

    fn apply(&mut self) -> Result<(), LogRefusal> {
        let filter = self.filter();
        let hooks = self.hooks.as_mut().ok_or(LogRefusal::NoLog)?;
        (hooks.set_filter)(&filter).map_err(LogRefusal::Filter)
    }

    /// What was held back since the last call, a sum for each target.
    pub fn take_held_back(&mut self) -> Vec<HeldBackLines> {
        let taken = self.hooks.as_mut().map(|hooks| (hooks.take_held_back)()).unwrap_or_default();
        self.held_back += taken.iter().map(|held_back| held_back.lines).sum::<u64>();
        taken
    }

    /// Lines held back since the start, as of the last [`Self::take_held_back`].
    pub fn held_back(&self) -> u64 {
        self.held_back
    }

    /// `/v1/log`
    pub fn document(&self) -> Value {
        let targets: serde_json::Map<String, Value> =
            self.targets.iter().map(|(name, level)| (name.clone(), json!(level.name()))).collect();
        json!({
            "schema": SCHEMA,
            "filter": self.filter(),
            "configured": self.configured,
            "set": { "level": self.all.map(LogLevel::name), "targets": targets },
            "lines_held_back_total": self.held_back,
        })
    }
}

/// `/v1/log` for a terminal.
pub fn text(document: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut out = format!("in force        {}\n", word(&document["filter"]));
    out.push_str(&format!("configured      {}\n", word(&document["configured"])));
    let held_back = document["lines_held_back_total"].as_u64().unwrap_or(0);
    out.push_str(&format!("lines held back {held_back}\n"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    fn levels() -> (LogLevels, Receiver<String>) {
        let (seen, filters) = channel();
        let mut held_back = vec![3, 4];
        let hooks = LogHooks {
            set_filter: Box::new(move |filter| {
                if filter.contains("refused") {
                    return Err("no".to_owned());
                }
                seen.send(filter.to_owned()).map_err(|error| error.to_string())
            }),
            take_held_back: Box::new(move || {
                let lines = held_back.pop().into_iter();
                lines.map(|lines| HeldBackLines { target: "a", lines }).collect()
            }),
        };
        (LogLevels::new("info", Some(hooks)), filters)
    }

    fn directive(text: &str) -> LogDirective {
        text.parse().unwrap()
    }

    #[test]
    fn directives_are_read_as_they_are_written() {
        for text in ["debug", "default", "a::b_2=trace", "waystation=off", "x=default"] {
            assert_eq!(directive(text).to_string(), text);
        }
        let long = format!("{}=info", "a".repeat(LOG_TARGET_BYTES_MAX + 1));
        for wrong in ["", "loud", "=info", "a=", "a=b=info", "a b=info", "[span]=info", &long] {
            assert!(wrong.parse::<LogDirective>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_set_is_over_the_configuration_until_it_is_taken_back() {
        let (mut levels, filters) = levels();
        levels.set(&directive("a::b=trace")).unwrap();
        levels.set(&directive("warn")).unwrap();
        levels.set_configured("debug,c=off").unwrap();
        levels.set(&directive("a::b=default")).unwrap();
        levels.set(&directive("default")).unwrap();
        let expected = [
            "info,a::b=trace",
            "info,warn,a::b=trace",
            "debug,c=off,warn,a::b=trace",
            "debug,c=off,warn",
            "debug,c=off",
        ];
        assert_eq!(filters.try_iter().collect::<Vec<_>>(), expected);
        assert_eq!(levels.document()["filter"], "debug,c=off");
    }

    #[test]
    fn a_refused_filter_changes_nothing() {
        let (mut levels, filters) = levels();
        let refused = levels.set(&directive("refused=info")).unwrap_err();
        assert_eq!(refused, LogRefusal::Filter("no".to_owned()));
        assert!(levels.set_configured("refused").is_err());
        assert_eq!((levels.filter(), filters.try_iter().count()), ("info".to_owned(), 0));
        let mut none = LogLevels::new("info", None);
        assert_eq!(none.set(&directive("debug")), Err(LogRefusal::NoLog));
        assert_eq!(none.filter(), "info");
    }

    #[test]
    fn targets_are_bounded() {
        let (mut levels, _filters) = levels();
        for number in 0..LOG_DIRECTIVES_MAX {
            levels.set(&directive(&format!("t{number}=debug"))).unwrap();
        }
        assert_eq!(levels.set(&directive("more=debug")), Err(LogRefusal::TooMany));
        levels.set(&directive("t0=trace")).unwrap();
        levels.set(&directive("t1=default")).unwrap();
        levels.set(&directive("more=debug")).unwrap();
    }

    #[test]
    fn lines_held_back_are_summed_up() {
        let (mut levels, _filters) = levels();
        assert_eq!(levels.take_held_back(), [HeldBackLines { target: "a", lines: 4 }]);
        levels.take_held_back();
        assert!(levels.take_held_back().is_empty());
        assert_eq!(levels.held_back(), 7);
        assert!(text(&levels.document()).contains("lines held back 7"));
    }
}
