//! One connection of the generator to a relay: what is to be written, and the layer above it.

use crate::swarm::limits::{BACKLOG_BYTES_MAX, READS_PER_TURN_MAX};
use crate::swarm::link::{Heard, LinkLayer};
use crate::swarm::sealed::Records;
use anyhow::{Context, Result, bail};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use waystation_astral::frame::Frame;

/// The layer above the connection.
#[derive(Debug)]
pub enum Layer {
    /// Nothing: one flow's bytes as they are, each put in a write of its own if so wanted.
    Plain {
        single: bool,
    },
    Link(Box<LinkLayer>),
}

/// A connection that does not block.
#[derive(Debug)]
pub struct Connection {
    pub stream: TcpStream,
    layer: Layer,
    unsent: Vec<u8>,
    written: usize,
    /// Places in `unsent` where a write has to end.
    cuts: VecDeque<usize>,
}

/// The nonce that stands for the only flow of a plain connection.
pub const PLAIN: u64 = 0;

impl Connection {
    /// Takes a connection over; from now on it does not block.
    ///
    /// # Errors
    ///
    /// When its options cannot be set.
    pub fn new(stream: TcpStream, layer: Layer) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, layer, unsent: Vec::new(), written: 0, cuts: VecDeque::new() })
    }

    /// What its link has sealed; nothing without one.
    pub fn sealed(&self) -> Option<&Records> {
        match &self.layer {
            Layer::Plain { .. } => None,
            Layer::Link(link) => Some(link.sealed()),
        }
    }

    /// Whether so little waits to be written that more may be laid down.
    pub fn takes_more(&self) -> bool {
        self.unsent.len() - self.written < BACKLOG_BYTES_MAX
    }

    /// Lays bytes of a flow down.
    ///
    /// # Errors
    ///
    /// When sealing fails.
    pub fn put(&mut self, nonce: u64, bytes: &[u8]) -> Result<()> {
        match &mut self.layer {
            Layer::Plain { single } => {
                self.unsent.extend_from_slice(bytes);
                if *single {
                    self.cuts.push_back(self.unsent.len());
                }
            }
            Layer::Link(link) => {
                link.put_data(nonce, bytes, &mut self.unsent, &mut self.cuts)?;
            }
        }
        Ok(())
    }

    /// Lays a frame down; on a plain connection there are none.
    ///
    /// # Errors
    ///
    /// When sealing fails.
    pub fn put_control(&mut self, frame: &Frame<'_>) -> Result<()> {
        match &mut self.layer {
            Layer::Plain { .. } => Ok(()),
            Layer::Link(link) => link.put_control(frame, &mut self.unsent, &mut self.cuts),
        }
    }

    /// Writes what was laid down, as far as the kernel takes it. `false`: something is left.
    ///
    /// # Errors
    ///
    /// When the connection has failed.
    pub fn write(&mut self) -> Result<bool> {
        if let Layer::Link(link) = &mut self.layer {
            link.finish(&mut self.unsent)?;
        }
        while self.written < self.unsent.len() {
            while self.cuts.front().is_some_and(|cut| *cut <= self.written) {
                self.cuts.pop_front();
            }
            let end = self.cuts.front().copied().unwrap_or(self.unsent.len());
            let piece = self.unsent.get(self.written..end).unwrap_or_default();
            match self.stream.write(piece) {
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("writing to the relay"),
            }
        }
        self.unsent.clear();
        self.cuts.clear();
        self.written = 0;
        Ok(true)
    }

    /// Reads what there is, within bounds, and gives it to `hear`; pings are answered here.
    ///
    /// # Errors
    ///
    /// When the connection ended or failed, its records are broken, or `hear` fails.
    pub fn read(
        &mut self,
        scratch: &mut [u8],
        hear: &mut dyn FnMut(Heard<'_>) -> Result<()>,
    ) -> Result<()> {
        for _ in 0..READS_PER_TURN_MAX {
            let bytes = match self.stream.read(scratch) {
                Ok(0) => bail!("the relay ended a connection"),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("reading from the relay"),
            };
            let received = scratch.get(..bytes).unwrap_or_default();
            match &mut self.layer {
                Layer::Plain { .. } => {
                    hear(Heard::Bytes { nonce: PLAIN, bytes: received, ends_frame: true })?;
                }
                Layer::Link(link) => {
                    let mut pings = Vec::new();
                    link.push_received(received);
                    link.hear(&mut |heard| match heard {
                        Heard::Frame(Frame::Ping { nonce, pong: false }) => {
                            pings.push(nonce);
                            Ok(())
                        }
                        Heard::Frame(Frame::Ping { .. }) => Ok(()),
                        other => hear(other),
                    })?;
                    for nonce in pings {
                        self.put_control(&Frame::Ping { nonce, pong: true })?;
                    }
                }
            }
            // A read that did not fill its buffer took everything.
            if bytes < scratch.len() {
                return Ok(());
            }
        }
        Ok(())
    }
}
