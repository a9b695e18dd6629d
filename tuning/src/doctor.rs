//! What keeps this machine from being a good relay: a list of checks, each with what was seen, what
//! is wanted, why it matters, and the command that helps.
//!
//! Called by `doctor` and as the program starts, on the thread that asks; changes nothing. What
//! only the program knows (its limits, its rings, its ports) is handed in as [`Needs`]. A check
//! whose question this machine does not answer is left out.

mod clock;
mod kernel;
mod process;
mod processors;
mod tuned;

use crate::inventory::Inventory;
use crate::machine::Machine;
use crate::plan::Plan;
use serde::Serialize;
use std::fmt::Write;
use std::net::SocketAddr;

/// What the program knows and needs.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Why there can be no io_uring, if so.
    pub uring: Option<String>,
    /// Whether the configuration takes nothing else.
    pub is_uring_demanded: bool,
    /// What the memory may come to, part by part.
    pub memory: Vec<MemoryTerm>,
    /// Descriptors that all caps together may come to.
    pub descriptors: u64,
    /// What is listened on over TCP.
    pub listen: Vec<SocketAddr>,
    /// What is listened on over UDP.
    pub listen_udp: Vec<SocketAddr>,
    /// Of both, what cannot be had, and why.
    pub unavailable: Vec<(SocketAddr, String)>,
    /// The first and the last port that datagrams are relayed from, where they are.
    pub relayed_ports: Option<(u16, u16)>,
    /// The clock of the wall, in seconds of the Unix epoch.
    pub unix_s: Option<u64>,
    /// When the newest file of the state was written, by the same clock.
    pub last_written_s: Option<u64>,
    /// Privileges that the configuration keeps although nothing needs them, by key.
    pub kept_privileges: Vec<&'static str>,
    /// Why files cannot be restricted, if so.
    pub landlock: Option<String>,
    /// What is not set as it should be. Absent: it could not be found out.
    pub plan: Option<Plan>,
}

/// A part of the memory in the worst case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryTerm {
    pub what: &'static str,
    pub bytes: u64,
    /// How it comes about.
    pub derivation: String,
    /// Whether load alone brings it about; otherwise peers have to mean harm.
    pub is_pool: bool,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and could work better or be safer.
    Warn,
    /// The program does not work, or not for long.
    Fail,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// A check that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: String,
    pub verdict: Verdict,
    pub seen: String,
    pub wanted: String,
    pub why: String,
    /// What helps. Absent: nothing has to.
    pub fix: Option<String>,
}

impl Check {
    /// One whose verdict is `otherwise` unless it is fulfilled.
    fn new(name: impl Into<String>, is_met: bool, otherwise: Verdict) -> Self {
        Self {
            name: name.into(),
            verdict: if is_met { Verdict::Ok } else { otherwise },
            seen: String::new(),
            wanted: String::new(),
            why: String::new(),
            fix: None,
        }
    }

    fn seen(mut self, seen: impl Into<String>) -> Self {
        self.seen = seen.into();
        self
    }

    fn wanted(mut self, wanted: impl Into<String>) -> Self {
        self.wanted = wanted.into();
        self
    }

    fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// Told only where it is needed.
    fn fix(mut self, fix: impl Into<String>) -> Self {
        if self.verdict != Verdict::Ok {
            self.fix = Some(fix.into());
        }
        self
    }
}

/// All checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Examination {
    pub schema: u32,
    pub checks: Vec<Check>,
    pub memory: Vec<MemoryTerm>,
    /// The sum of what load alone brings about.
    pub memory_pools_bytes: u64,
    /// The sum of everything.
    pub memory_worst_case_bytes: u64,
}

impl Examination {
    /// How many came out so.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }
}

/// Makes all checks.
pub fn examine(machine: &Machine, inventory: &Inventory, needs: &Needs) -> Examination {
    let mut checks = Vec::new();
    kernel::check(machine, needs, &mut checks);
    clock::check(machine, needs, &mut checks);
    process::check(machine, needs, &mut checks);
    processors::check(machine, inventory, needs, &mut checks);
    tuned::check(inventory, needs, &mut checks);
    let sum = |wanted: &dyn Fn(&MemoryTerm) -> bool| {
        let terms = needs.memory.iter().filter(|term| wanted(term));
        terms.fold(0_u64, |sum, term| sum.saturating_add(term.bytes))
    };
    Examination {
        schema: 1,
        checks,
        memory: needs.memory.clone(),
        memory_pools_bytes: sum(&|term| term.is_pool),
        memory_worst_case_bytes: sum(&|_| true),
    }
}

/// For a terminal: what is not in order first with its remedy, then the rest in a line each.
pub fn render(examination: &Examination) -> String {
    let mut out = String::new();
    let mut checks: Vec<&Check> = examination.checks.iter().collect();
    checks.sort_by_key(|check| std::cmp::Reverse(check.verdict));
    for Check { name, verdict, seen, wanted, why, fix } in checks {
        // Writing to a text cannot fail.
        let _ = write!(out, "{:<5}{name}: {seen}", verdict.name());
        if *verdict == Verdict::Ok {
            out.push('\n');
            continue;
        }
        let _ = write!(out, "; wanted: {wanted}\n     {why}\n");
        if let Some(fix) = fix {
            let _ = writeln!(out, "     {fix}");
        }
    }
    out.push_str("\nmemory in the worst case\n");
    for term in &examination.memory {
        let _ = writeln!(out, "{:>10}  {}: {}", mebibytes(term.bytes), term.what, term.derivation);
    }
    let pools = mebibytes(examination.memory_pools_bytes);
    let all = mebibytes(examination.memory_worst_case_bytes);
    let _ = writeln!(out, "{pools:>10}  by load alone\n{all:>10}  with peers that mean harm");
    let [ok, warn, fail] =
        [Verdict::Ok, Verdict::Warn, Verdict::Fail].map(|verdict| examination.count(verdict));
    let _ = writeln!(out, "\n{ok} ok, {warn} to think about, {fail} failed");
    out
}

fn mebibytes(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
