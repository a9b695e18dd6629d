//! Processor time of threads, read from `/proc` (schedstat, see the kernel's
//! Documentation/scheduler/sched-stats: nanoseconds on a processor, nanoseconds waiting for one,
//! times it was given one), and pinning.

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, Pid, sched_setaffinity};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Prefix of the names of the appliance's data cores, before their number.
const DATA_CORE_PREFIX: &str = "data-";
/// Prefix of the names of the kernel's threads that receive, before interface and number.
const RECEIVING_PREFIX: &str = "napi/";

/// Whose time is read.
#[derive(Clone, Debug)]
pub enum Watched {
    /// Every thread of a process.
    Process(u32),
    /// One thread of this process.
    Thread(u32),
    /// Somebody's, and that of threads of the kernel that receive for them.
    Beside { relay: Box<Self>, kernel_threads: Vec<u32> },
    /// Nobody's: the relay's process is not known.
    Nobody,
}

/// What threads have used of processors, by thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    threads: BTreeMap<u32, Thread>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Thread {
    name: String,
    ns: u64,
    /// Times it was given a processor: it had slept, or others had been before it.
    turns: u64,
}

/// Nanoseconds spent between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// By data cores and what receives for them; by all threads when none is named like a data core.
    pub forwarding_ns: u64,
    pub total_ns: u64,
    /// Times those who forward were woken, or given back a processor that others had.
    pub forwarding_turns: u64,
    /// Whether threads named like data cores were found.
    pub has_data_cores: bool,
}

impl Watched {
    /// Reads the time of every watched thread.
    ///
    /// # Errors
    ///
    /// When the process is gone or may not be looked at.
    pub fn read(&self) -> Result<Reading> {
        let (process, only) = match self {
            Self::Process(process) => (process.to_string(), None),
            Self::Thread(thread) => ("self".to_owned(), Some(*thread)),
            Self::Beside { relay, kernel_threads } => return beside(relay, kernel_threads),
            Self::Nobody => return Ok(Reading::default()),
        };
        let tasks = PathBuf::from("/proc").join(process).join("task");
        let mut reading = Reading::default();
        let listed =
            fs::read_dir(&tasks).with_context(|| format!("reading {}", tasks.display()))?;
        for task in listed {
            let task = task?.path();
            let thread = task.file_name().and_then(|name| name.to_str()?.parse().ok());
            let Some(thread) = thread.filter(|thread| only.is_none_or(|only| only == *thread))
            else {
                continue;
            };
            // A thread may end between the listing and the reading.
            if let Some(read) = read_thread(&task)? {
                reading.threads.insert(thread, read);
            }
        }
        Ok(reading)
    }
}

fn beside(relay: &Watched, kernel_threads: &[u32]) -> Result<Reading> {
    let mut reading = relay.read()?;
    for number in kernel_threads {
        let thread = read_thread(&PathBuf::from("/proc").join(number.to_string()))?;
        let thread = thread.with_context(|| format!("the kernel's thread {number} is gone"))?;
        reading.threads.insert(*number, thread);
    }
    Ok(reading)
}

/// The time of the thread that a directory is about; none if it has ended.
fn read_thread(directory: &Path) -> Result<Option<Thread>> {
    let Ok(schedstat) = fs::read_to_string(directory.join("schedstat")) else { return Ok(None) };
    let name = fs::read_to_string(directory.join("comm")).unwrap_or_default();
    let read = parse_schedstat(&schedstat);
    let (ns, turns) = read.with_context(|| format!("{}: no time in it", directory.display()))?;
    Ok(Some(Thread { name: name.trim_end().to_owned(), ns, turns }))
}

impl Reading {
    /// The threads that are named like data cores.
    pub fn data_cores(&self) -> impl Iterator<Item = u32> {
        let is_data_core = |(_, it): &(&u32, &Thread)| it.name.starts_with(DATA_CORE_PREFIX);
        self.threads.iter().filter(is_data_core).map(|(thread, _)| *thread)
    }

    /// Time spent since `earlier`.
    pub fn since(&self, earlier: &Self) -> Spent {
        let mut spent = Spent::default();
        let (mut data_ns, mut data_turns, mut total_turns) = (0, 0, 0);
        for (number, thread) in &self.threads {
            let before = earlier.threads.get(number);
            let spent_ns = thread.ns.saturating_sub(before.map_or(0, |before| before.ns));
            let turns = thread.turns.saturating_sub(before.map_or(0, |before| before.turns));
            spent.total_ns += spent_ns;
            total_turns += turns;
            if is_data_core(&thread.name) {
                data_ns += spent_ns;
                data_turns += turns;
                spent.has_data_cores = true;
            } else if thread.name.starts_with(RECEIVING_PREFIX) {
                data_ns += spent_ns;
            }
        }
        (spent.forwarding_ns, spent.forwarding_turns) = match spent.has_data_cores {
            true => (data_ns, data_turns),
            false => (spent.total_ns, total_turns),
        };
        spent
    }
}

/// Nanoseconds on a processor, and how often it was given one.
fn parse_schedstat(text: &str) -> Option<(u64, u64)> {
    let mut fields = text.split_ascii_whitespace().map(str::parse);
    let ns = fields.next()?.ok()?;
    Some((ns, fields.nth(1)?.ok()?))
}

fn is_data_core(name: &str) -> bool {
    name.strip_prefix(DATA_CORE_PREFIX)
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// Pins the calling thread, and every thread it starts from then on, to one processor.
///
/// # Errors
///
/// When there is no such processor for this process.
pub fn pin(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).with_context(|| format!("pinning to processor {processor}"))
}

/// Pins another thread, which may be one of the kernel's.
///
/// # Errors
///
/// When it is gone, may not be pinned, or has no such processor.
pub fn pin_other(thread: u32, processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    let number =
        i32::try_from(thread).ok().and_then(Pid::from_raw).context("no thread's number")?;
    sched_setaffinity(Some(number), &set)
        .with_context(|| format!("pinning thread {thread} to processor {processor}"))
}

/// Lets the calling thread, and every thread and process it starts from then on, run anywhere.
///
/// # Errors
///
/// When the kernel refuses.
pub fn unpin() -> Result<()> {
    let mut set = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|processor| set.set(processor));
    sched_setaffinity(None, &set).context("letting a thread run anywhere")
}

/// The calling thread's number, as `/proc/self/task` lists it.
pub fn thread_number() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(threads: &[(u32, &str, u64)]) -> Reading {
        let thread = |name: &str, ns| Thread { name: name.to_owned(), ns, turns: ns / 100 };
        Reading { threads: threads.iter().map(|(t, name, ns)| (*t, thread(name, *ns))).collect() }
    }

    #[test]
    fn data_cores_are_told_apart_by_name() {
        let before = reading(&[(1, "waystation", 100), (2, "data-0", 1_000)]);
        let after = reading(&[(1, "waystation", 150), (2, "data-0", 3_000), (3, "data-1", 10)]);
        let spent = after.since(&before);
        assert_eq!((spent.forwarding_ns, spent.forwarding_turns), (2_010, 20));
        assert_eq!(spent.total_ns, 2_060);
        assert!(spent.has_data_cores);
    }

    #[test]
    fn without_data_cores_everything_counts() {
        let before = reading(&[(1, "astrald", 100)]);
        let after = reading(&[(1, "astrald", 150), (2, "data-x", 5)]);
        let spent = after.since(&before);
        assert_eq!((spent.forwarding_ns, spent.total_ns), (55, 55));
        assert!(!spent.has_data_cores);
    }

    #[test]
    fn what_receives_for_a_relay_is_part_of_it() {
        let before = reading(&[(1, "data-0", 100), (2, "napi/wan-8193", 10), (3, "main", 0)]);
        let after = reading(&[(1, "data-0", 300), (2, "napi/wan-8193", 50), (3, "main", 7)]);
        let spent = after.since(&before);
        assert_eq!((spent.forwarding_ns, spent.forwarding_turns), (240, 2));
        let alone = reading(&[(2, "napi/wan-8193", 50), (4, "turnserver", 5)]);
        let spent = alone.since(&Reading::default());
        assert_eq!((spent.forwarding_ns, spent.has_data_cores), (55, false));
    }

    #[test]
    fn schedstat_is_read() {
        assert_eq!(parse_schedstat("1234 99 7\n"), Some((1_234, 7)));
        assert_eq!(parse_schedstat("1234"), None);
    }

    #[test]
    fn own_thread_is_found_and_its_time_grows() {
        let watched = Watched::Thread(thread_number());
        let before = watched.read().unwrap();
        let mut sum = 0_u64;
        for number in 0..20_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(number));
        }
        assert!(watched.read().unwrap().since(&before).total_ns > 0, "{sum}");
    }
}
