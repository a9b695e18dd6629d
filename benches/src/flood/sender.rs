//! The flood itself, and the hold that the measurement has on its process.

use crate::flood::options::Sending;
use crate::load::clock::{Clock, sleep_precisely};
use crate::load::processor;
use anyhow::{Context, Result, anyhow, ensure};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use waystation_a2al::keys::SigningKey;
use waystation_a2al::limits::SIGNATURE_BYTES;
use waystation_a2al::message::{self, Body, TransactionId};

/// Datagrams that differ: signing each as it is sent would cost more than sending it.
const PACKETS: u64 = 4_096;
/// How often a part of a second's datagrams is sent.
const STEP_NS: u64 = 1_000_000;
const SECOND_NS: u64 = 1_000_000_000;
const READY: &str = "ready";

/// Floods until standard input ends, then says how many datagrams that were.
///
/// # Errors
///
/// When a socket cannot be had. What the kernel does not take is not sent, and not counted.
pub fn send(sending: &Sending) -> Result<()> {
    processor::pin(sending.cpu)?;
    sleep_precisely()?;
    let sockets = sockets(sending)?;
    let mut packets = packets()?;
    println(READY)?;
    let is_over = over_with_standard_input();
    let clock = Clock::start();
    let (mut tried, mut sent) = (0_u64, 0_u64);
    while !is_over.load(Ordering::Relaxed) {
        let due = clock.now_ns() * u64::from(sending.per_second) / SECOND_NS;
        for number in tried..due {
            let socket = &sockets[(number % sockets.len() as u64) as usize];
            let packet = &mut packets[(number / sockets.len() as u64 % PACKETS) as usize];
            if sockets.len() > 1 {
                make_unheard_of(packet, number);
            }
            sent += u64::from(socket.send(packet).is_ok());
        }
        tried = due.max(tried);
        clock.sleep_until(clock.now_ns() + STEP_NS);
    }
    println(&sent.to_string())
}

/// Changes the signature, so that the message is not one that came before, and has to be verified to be
/// found a forgery: the most that a datagram costs the node if nothing stops it before.
fn make_unheard_of(packet: &mut [u8], number: u64) {
    if let Some(signature) = packet.last_chunk_mut::<SIGNATURE_BYTES>() {
        signature[..8].copy_from_slice(&number.to_be_bytes());
    }
}

fn sockets(sending: &Sending) -> Result<Vec<UdpSocket>> {
    let bound = |from: &std::net::IpAddr| -> Result<UdpSocket> {
        let socket = UdpSocket::bind((*from, 0)).with_context(|| format!("binding {from}"))?;
        socket.connect(sending.to)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    sending.from.iter().map(bound).collect()
}

fn packets() -> Result<Vec<Vec<u8>>> {
    let key = SigningKey::from_seed(&[7; 32]).context("making a key")?;
    let ping = Body::Ping { address: key.address() };
    // Those of another round are other ones, or they would count as repeated.
    let round = std::process::id().to_be_bytes();
    let packet = |number: u64| {
        let mut transaction = [0; 20];
        transaction[..8].copy_from_slice(&number.to_be_bytes());
        transaction[8..12].copy_from_slice(&round);
        message::encode(&key, TransactionId(transaction), &ping)
    };
    Ok((0..PACKETS).map(packet).collect())
}

fn over_with_standard_input() -> Arc<AtomicBool> {
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    thread::spawn(move || {
        // Nothing is said on it; that it ends is what counts.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        over.store(true, Ordering::Relaxed);
    });
    is_over
}

fn println(line: &str) -> Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// A flood under way. Dropped, it is killed.
#[derive(Debug)]
pub struct Flood {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Flood {
    /// Starts it, and waits until it floods.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or ends at once.
    pub fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // A child inherits the processors of the thread that starts it.
        let starting = thread::spawn(move || -> Result<Child> {
            processor::unpin()?;
            Ok(command.spawn()?)
        });
        let child = starting.join().map_err(|_panic| anyhow!("a starting thread panicked"))?;
        let mut child = child.context("starting the flood")?;
        let said = BufReader::new(child.stdout.take().context("the flood has no output")?);
        let mut flood = Self { child, said };
        let line = flood.line()?;
        ensure!(line == READY, "the flood said {line:?}");
        Ok(flood)
    }

    /// Ends it; how many datagrams it has sent.
    ///
    /// # Errors
    ///
    /// When it does not say so.
    pub fn stop(mut self) -> Result<u64> {
        drop(self.child.stdin.take());
        let line = self.line()?;
        line.parse().with_context(|| format!("the flood said {line:?}"))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
