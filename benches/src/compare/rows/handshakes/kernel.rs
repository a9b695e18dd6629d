//! What the kernel charges for a connection that carries the bytes of a handshake: accept, three
//! reads, two writes and a close, by a thread that waits for each in turn and looks at nothing.

use crate::compare::contender::{Contender, Schedule, Setting};
use crate::compare::figures::Sample;
use crate::compare::rows::handshakes::dialed;
use crate::load::clock::Clock;
use crate::load::processor::{self, Watched};
use crate::swarm::limits::SETUP;
use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use waystation_astral::brontide::{
    ACT_ONE_BYTES, ACT_THREE_BYTES, ACT_TWO_BYTES, RECORD_OVERHEAD_BYTES,
};
use waystation_astral::frame::Profile;
use waystation_astral::negotiation::Acceptor;

/// A thread that serves connections for as long as the program runs.
pub(super) struct Kernel {
    address: SocketAddr,
    thread: u32,
    clock: Clock,
    greeting_bytes: usize,
}

impl Kernel {
    /// Starts it on the relay's processor.
    pub(super) fn start(setting: &Setting) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("listening")?;
        let address = listener.local_addr()?;
        let greeting = Acceptor::fixed(Profile::P4, 1).greeting().len();
        let greeting_bytes = RECORD_OVERHEAD_BYTES + greeting;
        let (started, number) = mpsc::channel();
        let cpu = setting.relay_cpu;
        thread::spawn(move || -> Result<()> {
            processor::pin(cpu)?;
            started.send(processor::thread_number())?;
            loop {
                let (stream, _) = listener.accept()?;
                // A dialer whose round is over hangs up at any moment.
                let _ = serve(stream, greeting_bytes);
            }
        });
        let thread = number.recv().context("no thread to serve connections")?;
        Ok(Self { address, thread, clock: setting.clock, greeting_bytes })
    }
}

impl Contender for Kernel {
    fn round(&mut self, schedule: &Schedule) -> Result<Sample> {
        let Self { address, clock, greeting_bytes, .. } = *self;
        dialed(&Watched::Thread(self.thread), clock, schedule, move |end_ns| {
            dial_until(address, greeting_bytes, clock, end_ns)
        })
    }

    fn messages_checked(&self) -> u64 {
        0
    }
}

fn serve(mut stream: TcpStream, greeting_bytes: usize) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.read_exact(&mut [0; ACT_ONE_BYTES])?;
    stream.write_all(&[0; ACT_TWO_BYTES])?;
    stream.read_exact(&mut [0; ACT_THREE_BYTES])?;
    stream.write_all(&vec![0; greeting_bytes])?;
    stream.read(&mut [0; 1]).context("waiting for the end")?;
    Ok(())
}

fn dial_until(
    address: SocketAddr,
    greeting_bytes: usize,
    clock: Clock,
    end_ns: u64,
) -> Result<u64> {
    let mut connections = 0;
    while clock.now_ns() < end_ns {
        let mut stream = TcpStream::connect_timeout(&address, SETUP).context("connecting")?;
        stream.set_nodelay(true)?;
        stream.write_all(&[0; ACT_ONE_BYTES])?;
        stream.read_exact(&mut [0; ACT_TWO_BYTES])?;
        stream.write_all(&[0; ACT_THREE_BYTES])?;
        stream.read_exact(&mut vec![0; greeting_bytes])?;
        connections += 1;
    }
    Ok(connections)
}
