//! F9: the kernel refuses an operation, with each of the errors it has for it, again and again.
//!
//! strace puts the errors into a running data core, a few of each, and the test shows what became of
//! them: how many were met, what was tried in vain meanwhile, and what was counted. Needs strace,
//! and to be allowed to trace.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test that fails says where, one that passes says what it saw, and it may look at \
              the clock and pause"
)]

mod support;

use rustix::process::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::appliance::{Appliance, PortName, Settings};
use support::held::thread as thread_named;
use support::process::{Process, command, exists, fast_binary};
use support::turn::{ALICE, CHANNEL, peer, users_file};
use support::{STEP, eventually, given};
use tempfile::TempDir;
use waystation_astral::frame::Profile;
use waystation_peer::{Link, RouteForm, TurnClient, secret_key};

/// An operation as the kernel knows it, the port it is of, what uses it, and how it is refused.
struct Refusals {
    port: PortName,
    operation: &'static str,
    use_of: Use,
    errors: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Links, with a session between two of them.
    Links,
    /// A TURN allocation with a channel.
    Turn,
}

const REFUSALS: &[Refusals] = &[
    Refusals {
        port: PortName::Epoll,
        operation: "accept4",
        use_of: Use::Links,
        errors: &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EPERM", "ECONNABORTED"],
    },
    Refusals {
        port: PortName::Epoll,
        operation: "recvfrom",
        use_of: Use::Links,
        errors: &["ENOMEM", "ENOBUFS", "ECONNRESET", "EINTR"],
    },
    Refusals {
        port: PortName::Epoll,
        operation: "sendto",
        use_of: Use::Links,
        errors: &["ENOBUFS", "ENOMEM", "EPERM", "EAGAIN"],
    },
    Refusals {
        port: PortName::Epoll,
        operation: "epoll_ctl",
        use_of: Use::Links,
        errors: &["ENOMEM", "ENOSPC"],
    },
    Refusals {
        port: PortName::Epoll,
        operation: "recvmmsg",
        use_of: Use::Turn,
        errors: &["ENOMEM", "EINTR"],
    },
    Refusals {
        port: PortName::Epoll,
        operation: "sendmmsg",
        use_of: Use::Turn,
        errors: &["ENOBUFS", "ENOMEM", "EPERM"],
    },
    Refusals {
        port: PortName::Epoll,
        operation: "socket",
        use_of: Use::Turn,
        errors: &["EMFILE", "ENOBUFS"],
    },
    Refusals {
        port: PortName::IoUring,
        operation: "io_uring_enter",
        use_of: Use::Links,
        errors: &["EAGAIN", "EBUSY", "EINTR"],
    },
];
/// Which calls of a thread are refused: from the third on, every third of the first sixty.
const WHEN: &str = "3..60+3";
/// What has to go well in a row before a row of the report is over.
const SUCCESSES: usize = 3;
/// Programs at a time.
const WORKERS: usize = 4;
/// Bound of one row.
const ROW: Duration = Duration::from_secs(180);

#[test]
fn every_operation_may_be_refused_with_every_error_and_the_program_serves_on() {
    if !given(exists("strace") && may_trace(), "strace, and to be allowed to trace") {
        return;
    }
    let pairs: Vec<(&Refusals, &str)> =
        REFUSALS.iter().flat_map(|row| row.errors.iter().map(move |error| (row, *error))).collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((row, error)) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if row.port.is_given() {
                        refuse(row, error);
                    }
                }
            });
        }
    });
    println!("F9: {} pairs of an operation and an error", pairs.len());
}

/// Whether strace may look into a process here.
fn may_trace() -> bool {
    let traced = command(Path::new("strace")).args(["-qq", "-o", "/dev/null", "true"]).status();
    traced.is_ok_and(|status| status.success())
}

/// Runs the program with one operation refused so, until all goes well again.
fn refuse(row: &Refusals, error: &str) {
    let mut traced = Traced::start(row, error);
    let what = format!("{} {}", row.operation, error);
    let until = Instant::now() + ROW;
    let (mut failed, mut in_a_row) = (0, 0);
    while in_a_row < SUCCESSES || traced.refused() == 0 {
        assert!(Instant::now() < until, "{what}: no end after {failed} attempts in vain");
        let outcome = match row.use_of {
            Use::Links => exchange(&traced.appliance),
            Use::Turn => relay(&traced),
        };
        match outcome {
            Ok(()) => in_a_row += 1,
            Err(_) => (failed, in_a_row) = (failed + 1, 0),
        }
    }
    traced.release();
    traced.appliance.wait_until_whole();
    let mut drops = traced.appliance.drops();
    drops.retain(|_, events| *events > 0);
    println!("F9: {what:24} {:3} refused, {failed} in vain, {drops:?}", traced.refused());
    assert_eq!(traced.appliance.status()["ready"], true, "{what}");
}

/// A program with strace at its data core.
struct Traced {
    appliance: Appliance,
    strace: Process,
    /// What strace has seen.
    seen: PathBuf,
    _files: TempDir,
}

impl Traced {
    fn start(row: &Refusals, error: &str) -> Self {
        let files = TempDir::new().unwrap();
        let users_file = users_file(files.path(), &[ALICE]);
        let mut settings = Settings::new(row.port, 1)
            .quiet()
            .running(fast_binary())
            // An ordinary user may trace only what may be looked into.
            .with("privileges", "core_dumps = true");
        if row.use_of == Use::Turn {
            settings = settings
                .with("turn", "listen = [\"127.0.0.1:0\"]")
                .with("turn", "allow_peers = [\"127.0.0.0/8\"]")
                .with("turn", &users_file);
        }
        let appliance = Appliance::start(&settings);
        let core = thread_named(appliance.process.id(), "data-0");
        let seen = files.path().join("seen");
        let mut strace = command(Path::new("strace"));
        strace.args(["-qq", "-o"]).arg(&seen).arg(format!("--trace={}", row.operation));
        strace.arg(format!("--inject={}:error={error}:when={WHEN}", row.operation));
        strace.arg("-p").arg(core.to_string());
        let mut strace = Process::spawn(&mut strace, &files.path().join("complaints"));
        let status = format!("/proc/{core}/status");
        eventually("the data core is traced", || {
            assert!(strace.ended().is_none(), "{}", strace.log());
            let status = fs::read_to_string(&status).unwrap();
            (!status.contains("TracerPid:\t0\n")).then_some(())
        });
        Self { appliance, strace, seen, _files: files }
    }

    /// How many calls were refused so far.
    fn refused(&self) -> usize {
        fs::read_to_string(&self.seen).unwrap().matches("(INJECTED)").count()
    }

    /// Lets go of the data core.
    fn release(&mut self) {
        self.strace.signal(Signal::TERM);
        self.strace.wait(STEP);
    }
}

/// Two links, a session between them, and bytes both ways; or what went wrong.
fn exchange(appliance: &Appliance) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let dial = || {
        let key = secret_key().map_err(|error| text(&error))?;
        let dialed = Link::dial(appliance.address, &key, &appliance.identity, Profile::P4);
        let link = dialed.map_err(|error| text(&error))?;
        // Once it has answered, others can reach the node.
        link.list_registered().map_err(|error| text(&error))?;
        Ok::<_, String>(link)
    };
    let (caller, target) = (dial()?, dial()?);
    let link = target.clone();
    let accepting = thread::spawn(move || link.accept_route(1 << 20, STEP));
    let near = caller.route_as(RouteForm::G2, &target.local());
    if near.is_err() {
        target.close();
    }
    let far = accepting.join().unwrap();
    let (mut near, mut far) = (near.map_err(|e| text(&e))?, far.map_err(|e| text(&e))?);
    let (from_near, from_far) = ([7; 20_000], [8; 20_000]);
    near.set_read_timeout(Some(STEP));
    far.set_read_timeout(Some(STEP));
    let mut heard = [0; 20_000];
    let mut pass = || {
        near.write_all(&from_near)?;
        near.flush()?;
        far.read_exact(&mut heard)?;
        let is_whole = heard == from_near;
        far.write_all(&from_far)?;
        far.flush()?;
        near.read_exact(&mut heard)?;
        Ok::<_, std::io::Error>(is_whole && heard == from_far)
    };
    // What arrives is what was sent, whatever fails.
    assert!(pass().map_err(|error| text(&error))?, "other bytes arrived");
    caller.close();
    target.close();
    Ok(())
}

/// An allocation, a channel, and a datagram through it; or what went wrong.
fn relay(traced: &Traced) -> Result<(), String> {
    let status = traced.appliance.ask("/v1/status").map_err(|error| error.to_string())?;
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    let server: SocketAddr = status["turn_listen"][0].as_str().unwrap().parse().unwrap();
    let mut client = TurnClient::over_udp(server, ALICE).map_err(|error| error.to_string())?;
    client.allocate().map_err(|error| error.to_string())?;
    let (socket, address) = peer();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    client.bind(CHANNEL, address).map_err(|error| error.to_string())?;
    let mut heard = [0; 16];
    let passed = (0..10).any(|_| {
        client.send(CHANNEL, b"through").is_ok()
            && socket.recv_from(&mut heard).is_ok_and(|(bytes, _)| &heard[..bytes] == b"through")
    });
    let ended = client.refresh(0).map_err(|error| error.to_string());
    if passed { ended } else { Err("no datagram passed".to_owned()) }
}
