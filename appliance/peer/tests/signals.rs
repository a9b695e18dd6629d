//! Programs that use this room handle signals; a signal ends no wait for a peer.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, gettid};
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use std::{fs, thread};
use waystation_peer::TurnClient;

/// Signals that a waiting client gets before what it waits for is sent.
const SIGNALS: usize = 5;
/// Bound of a wait of the client.
const STEP: Duration = Duration::from_secs(10);
const USER: (&str, &str) = ("user", "password");
/// ChannelData of channel 0x4000 (RFC 8656 §12.4).
const MESSAGE: &[u8] = b"\x40\x00\x00\x04here";

#[test]
fn a_wait_for_a_datagram_outlives_signals() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = TurnClient::over_udp(server.local_addr().unwrap(), USER).unwrap();
    let to = client.local().unwrap();
    assert_outlives_signals(client, || {
        server.send_to(MESSAGE, to).unwrap();
    });
}

#[test]
fn a_wait_for_a_message_on_a_stream_outlives_signals() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TurnClient::over_tcp(listener.local_addr().unwrap(), USER).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    assert_outlives_signals(client, || server.write_all(MESSAGE).unwrap());
}

/// Interrupts a wait of the client some times, and sends what it waits for after that.
fn assert_outlives_signals(mut client: TurnClient, send: impl FnOnce()) {
    let handled = Arc::new(AtomicBool::new(false));
    let kept = signal_hook::flag::register(Signal::SIGUSR1 as i32, Arc::clone(&handled)).unwrap();
    let (told, named) = mpsc::channel();
    let waiter = thread::spawn(move || {
        told.send((pthread_self(), gettid())).unwrap();
        client.receive(STEP).map(|relayed| relayed.payload)
    });
    let (thread, id) = named.recv().unwrap();
    for signal in 0..SIGNALS {
        while !is_asleep(id) {
            assert!(!waiter.is_finished(), "signal {signal} found no wait");
            thread::yield_now();
        }
        interrupt(thread, &handled);
    }
    send();
    assert_eq!(waiter.join().unwrap().unwrap(), b"here");
    signal_hook::low_level::unregister(kept);
}

/// Signals a thread, and returns when the handler has run.
fn interrupt(thread: Pthread, handled: &AtomicBool) {
    handled.store(false, Ordering::SeqCst);
    pthread_kill(thread, Signal::SIGUSR1).unwrap();
    while !handled.load(Ordering::SeqCst) {
        thread::yield_now();
    }
}

/// The state of a thread follows its name (proc_pid_stat(5)); none is told of one that has ended.
fn is_asleep(id: Pid) -> bool {
    fs::read_to_string(format!("/proc/self/task/{id}/stat"))
        .is_ok_and(|stat| stat.rsplit(") ").next().unwrap().starts_with('S'))
}
