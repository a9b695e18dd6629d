//! Ending: closing and detaching streams, and the port itself.
//!
//! Part of the io_uring port, on its thread. A descriptor leaves the port only when no operation is
//! in flight on it, and memory only when none is at all.

use super::stream::Phase;
use super::token::{Operation, Token};
use super::{DROP_WAIT_MAX, DROP_WAIT_STEP, UringPort, accepted_stream};
use crate::port::deadlines::{now, shorter};
use crate::port::{Event, StreamKey, sockets};
use io_uring::opcode;
use io_uring::types::{CancelBuilder, Fd};
use rustix::event::PollFlags;
use std::os::fd::AsRawFd;
use std::time::Duration;

impl UringPort {
    /// Goes on with a close or detach once nothing is in flight on the stream.
    pub(super) fn settle(&mut self, key: StreamKey) {
        let Some(stream) = self.stream(key) else { return };
        if !stream.is_quiet() {
            return;
        }
        match stream.phase {
            Phase::Closing => self.finish_closing(key),
            Phase::Ending => self.drop_socket(key),
            Phase::Detaching => {
                if let Some(socket) = stream.socket.take() {
                    stream.phase = Phase::Gone;
                    self.pending.push_back(Event::Detached { stream: key, socket });
                }
            }
            Phase::Open | Phase::Lingering(_) | Phase::Gone => {}
        }
    }

    fn finish_closing(&mut self, key: StreamKey) {
        let lingering_max = 2 * self.limits.streams as usize;
        let Some(stream) = self.streams.get_mut(key.0 as usize) else { return };
        let Some(socket) = &stream.socket else { return };
        self.syscalls += 3;
        if self.lingering.len() < lingering_max
            && sockets::must_linger(socket, stream.receive_ended)
        {
            sockets::end_direction(socket);
            self.lingers += 1;
            stream.phase = Phase::Lingering(self.lingers);
            self.lingering.push((key, self.lingers));
            self.poll_lingering(key);
        } else {
            self.drop_socket(key);
        }
    }

    fn drop_socket(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key.0 as usize)
            && stream.socket.take().is_some()
        {
            stream.phase = Phase::Gone;
            self.syscalls += 1;
            self.pending.push_back(Event::Closed { stream: key });
        }
    }

    fn poll_lingering(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key.0 as usize) else { return };
        let Some(socket) = &stream.socket else { return };
        stream.polling = true;
        let token = stream.token(Operation::Linger, key).pack();
        let flags = u32::from((PollFlags::IN | PollFlags::RDHUP).bits());
        let entry = opcode::PollAdd::new(Fd(socket.as_raw_fd()), flags).build();
        self.submit(entry.user_data(token));
    }

    pub(super) fn on_linger_ready(&mut self, token: Token) {
        let key = StreamKey(token.index);
        let Some(stream) = self.stream_of(token) else { return };
        stream.polling = false;
        if let (Phase::Lingering(_), Some(socket)) = (stream.phase, &stream.socket) {
            let (ended, syscalls) = sockets::discard(socket);
            self.syscalls += syscalls;
            if ended {
                self.drop_socket(key);
            } else {
                self.poll_lingering(key);
            }
        } else {
            self.settle(key);
        }
    }

    /// Closes the stream as soon as everything in flight on it was cancelled.
    pub(super) fn end(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key.0 as usize) else { return };
        let Some(socket) = &stream.socket else { return };
        stream.phase = Phase::Ending;
        if !stream.is_quiet() {
            let everything = CancelBuilder::fd(Fd(socket.as_raw_fd())).all();
            let token = stream.token(Operation::CancelStream, key).pack();
            stream.cancels += 1;
            self.submit(opcode::AsyncCancel2::new(everything).build().user_data(token));
        }
        self.settle(key);
    }

    pub(super) fn on_deadlines(&mut self) {
        if self.paused.is_empty() && self.lingering.is_empty() {
            return;
        }
        let now = now();
        while let Some(listener) = self.paused.pop_due(now) {
            self.arm_accept(listener);
        }
        while let Some((key, linger)) = self.lingering.pop_due(now) {
            if self.stream(key).is_some_and(|stream| stream.phase == Phase::Lingering(linger)) {
                self.end(key);
            }
        }
    }

    pub(super) fn until_deadline(&self) -> Option<Duration> {
        if self.paused.is_empty() && self.lingering.is_empty() {
            return None;
        }
        let now = now();
        shorter(self.paused.until_next(now), self.lingering.until_next(now))
    }
}

impl Drop for UringPort {
    fn drop(&mut self) {
        for (_, stream) in &self.streams {
            if let (Some(socket), false) =
                (&stream.socket, matches!(stream.phase, Phase::Lingering(_)))
            {
                sockets::reset_when_closed(socket);
            }
        }
        for event in self.pending.drain(..) {
            if let Event::Detached { socket, .. } = event {
                sockets::reset(socket);
            }
        }
        if !self.cancel_everything() {
            // The kernel may still write buffers and read segments. Memory lost beats memory
            // overwritten under a new owner.
            self.arena.leak();
            self.buffers.leak();
            for (_, stream) in &mut self.streams {
                stream.socket = None;
            }
            std::mem::forget(std::mem::take(&mut self.streams));
        }
    }
}

impl UringPort {
    /// Cancels until nothing is in flight. Returns whether that came about in time.
    fn cancel_everything(&mut self) -> bool {
        let deadline = now() + DROP_WAIT_MAX;
        while self.ring.in_flight() > 0 {
            let entry = opcode::AsyncCancel2::new(CancelBuilder::any().all()).build();
            self.submit(entry.user_data(Token::new(Operation::Cancel, 0).pack()));
            if self.ring.enter(true, Some(DROP_WAIT_STEP)).is_err() {
                return false;
            }
            while let Some(completion) = self.ring.next() {
                if completion.token.operation == Operation::Accept {
                    drop(accepted_stream(&completion));
                }
            }
            if now() >= deadline {
                return self.ring.in_flight() == 0;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use crate::block::BlockPool;
    use crate::port::uring::{UringPort, probe};
    use crate::port::waker::Waker;
    use crate::port::{Port, PortLimits, ReceiveMode, SEND_SEGMENTS_MAX, Segment};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn everything_in_flight_can_be_cancelled() {
        if let Err(error) = probe() {
            let required = std::env::var("WAYSTATION_TEST_REQUIRE").is_ok_and(|it| it == "all");
            assert!(!required, "{error}");
            println!("skipped: needs io_uring, but {error}");
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut port = UringPort::new(Waker::new().unwrap(), PortLimits::default()).unwrap();
        let mut pool = BlockPool::new(2 * SEND_SEGMENTS_MAX);
        let mut peers = Vec::new();
        for mode in [ReceiveMode::Continuous, ReceiveMode::OnRequest] {
            peers.push(TcpStream::connect(address).unwrap());
            let (ours, _) = listener.accept().unwrap();
            socket2::SockRef::from(&ours).set_send_buffer_size(4096).unwrap();
            let key = port.add_stream(ours, mode).unwrap();
            port.receive_once(key);
            // More than the socket buffers take: with nobody reading, the send stays in flight.
            let segments = (0..SEND_SEGMENTS_MAX).filter_map(|_| pool.take());
            let segments = segments.map(|block| {
                let range = 0..block.len();
                Segment::Block { block, range }
            });
            port.send(key, segments.collect());
        }
        port.add_listener(listener).unwrap();
        port.wait(Some(std::time::Duration::ZERO), &mut Vec::new()).unwrap();
        assert!(port.ring.in_flight() >= 6, "the waker, the listener, receives, sends");
        assert!(port.cancel_everything());
        assert_eq!(port.ring.in_flight(), 0);
    }
}
