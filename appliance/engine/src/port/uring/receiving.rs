//! Receiving: which streams have a receive operation in flight, and what it brings.
//!
//! Part of the io_uring port, on its thread. A stream that finds no provided buffer is starved; it
//! asks again when there is one, because asking without one fails at once.

use super::buffers::BUFFER_GROUP;
use super::ring::Completion;
use super::stream::{Phase, Receiving};
use super::token::Operation;
use super::{Burst, UringPort};
use crate::port::{Event, ReceiveMode, StreamKey, sockets};
use io_uring::types::{CancelBuilder, Fd};
use io_uring::{opcode, squeue};
use rustix::io::Errno;
use std::os::fd::AsRawFd;

/// `IORING_RECVSEND_POLL_FIRST`: wait for the socket instead of trying it first (io_uring_enter(2)).
const POLL_FIRST: u16 = 1;

impl UringPort {
    /// Puts a receive operation in flight if the stream should have one.
    pub(super) fn arm_receive(&mut self, key: StreamKey) {
        let buffer_bytes = self.arena.buffer_bytes();
        let (_, available) = self.arena.counts();
        let Some(stream) = self.streams.get_mut(key.0 as usize) else { return };
        let Some(socket) = &stream.socket else { return };
        if !stream.wants_to_receive() {
            return;
        }
        if available == 0 {
            // The kernel would refuse at once, even with nothing to receive.
            self.starve(key);
            return;
        }
        let socket = Fd(socket.as_raw_fd());
        let token = stream.token(Operation::Receive, key).pack();
        let entry = match stream.mode {
            ReceiveMode::Continuous => {
                stream.receiving = Receiving::Multishot;
                opcode::RecvMulti::new(socket, BUFFER_GROUP).build()
            }
            ReceiveMode::OnRequest => {
                stream.receiving = Receiving::Once;
                // An attempt that finds nothing costs as much as a short receive.
                let priority = if stream.drained { POLL_FIRST } else { 0 };
                opcode::Recv::new(socket, std::ptr::null_mut(), buffer_bytes)
                    .buf_group(BUFFER_GROUP)
                    .ioprio(priority)
                    .build()
                    .flags(squeue::Flags::BUFFER_SELECT)
            }
        };
        self.submit(entry.user_data(token));
    }

    fn starve(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key.0 as usize)
            && !stream.starved
        {
            stream.starved = true;
            self.starved.push_back((key, stream.generation));
        }
    }

    /// Lets as many starved streams receive again as there are buffers for.
    pub(super) fn feed_starved(&mut self) {
        // Where nothing is left to receive, a buffer serves another stream.
        for _ in 0..self.buffers.offered().min(self.starved.len()) {
            let Some((key, generation)) = self.starved.pop_front() else { return };
            if let Some(stream) = self.stream(key)
                && stream.generation == generation
            {
                stream.starved = false;
                self.arm_receive(key);
            }
        }
    }

    /// Whether streams wait that the next wait could let receive.
    pub(super) fn can_feed_more(&self) -> bool {
        !self.starved.is_empty() && self.buffers.offered() > 0
    }

    pub(super) fn on_received(&mut self, completion: Completion, burst: &mut Burst<'_>) {
        let Completion { token, result, buffer, more, left_some } = completion;
        let key = StreamKey(token.index);
        if buffer.is_some() {
            self.buffers.note_taken(result.unwrap_or_default() as usize);
        }
        let Some(stream) = self.stream_of(token) else {
            // A stale completion cannot be, but its buffer would be lost.
            self.give_back(buffer);
            return;
        };
        if !more {
            stream.receiving = Receiving::Idle;
        }
        let delivers = matches!(stream.phase, Phase::Open | Phase::Detaching);
        match (result, buffer) {
            (Ok(bytes), Some(index)) if bytes > 0 && delivers => {
                stream.requested = false;
                stream.drained = !left_some;
                let buffer = self.arena.grant(index, bytes);
                self.emit(burst, Event::Received { stream: key, buffer });
            }
            (Ok(bytes), buffer) => {
                stream.receive_ended |= bytes == 0;
                // Whoever gets a detached stream next sees its end again.
                let event = match &stream.socket {
                    Some(socket) if bytes == 0 && stream.phase == Phase::Open => {
                        Some(sockets::end_of_stream(key, socket))
                    }
                    _ => None,
                };
                self.give_back(buffer);
                if let Some(event) = event {
                    self.syscalls += 1;
                    self.emit(burst, event);
                }
            }
            (Err(error), buffer) => {
                self.give_back(buffer);
                self.on_receive_failed(key, error, burst);
            }
        }
        if !more {
            self.arm_receive(key);
            self.settle(key);
        }
    }

    fn on_receive_failed(&mut self, key: StreamKey, error: Errno, burst: &mut Burst<'_>) {
        let Some(stream) = self.stream(key) else { return };
        match error {
            Errno::NOBUFS => self.starve(key),
            // Cancelled for a change of mode or an end, or worth another try.
            Errno::CANCELED | Errno::INTR | Errno::AGAIN => {}
            _ => {
                stream.receive_ended = true;
                if matches!(stream.phase, Phase::Open | Phase::Detaching) {
                    let error = error.into();
                    self.emit(burst, Event::ReceiveFailed { stream: key, error });
                }
            }
        }
    }

    pub(super) fn give_back(&mut self, buffer: Option<u16>) {
        if let Some(index) = buffer {
            self.buffers.put_back(index);
        }
    }

    pub(super) fn cancel_receive(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key.0 as usize) else { return };
        if stream.receiving != Receiving::Idle {
            let receive = stream.token(Operation::Receive, key).pack();
            let token = stream.token(Operation::CancelStream, key).pack();
            stream.cancels += 1;
            let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(receive)).build();
            self.submit(entry.user_data(token));
        }
    }
}
