//! Streams that were closed while a send was in flight, and until when that may take.
//!
//! Owned by one data core, on its thread. A close delivers what was handed to the port before, and
//! a peer that does not read would keep that, its buffers and the descriptor for ever.

use crate::port::StreamKey;
use std::collections::VecDeque;

/// See the module. It holds at most one entry for each close of the last timeout.
#[derive(Debug, Default)]
pub(super) struct Closing {
    /// In the order of closing.
    queue: VecDeque<(u64, StreamKey)>,
    /// By stream key: its entry in the queue; 0: its send has ended, or it was never here.
    until_ns: Vec<u64>,
}

impl Closing {
    /// Notes a stream whose send may go on until then.
    pub(super) fn begin(&mut self, stream: StreamKey, until_ns: u64) {
        let place = stream.0 as usize;
        if self.until_ns.len() <= place {
            self.until_ns.resize(place + 1, 0);
        }
        self.until_ns[place] = until_ns;
        self.queue.push_back((until_ns, stream));
    }

    /// Whether no send goes on of a stream that was closed.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.until_ns.iter().all(|until_ns| *until_ns == 0)
    }

    /// Notes that the send of a closed stream has ended.
    pub(super) fn end(&mut self, stream: StreamKey) {
        if let Some(until_ns) = self.until_ns.get_mut(stream.0 as usize) {
            *until_ns = 0;
        }
    }

    /// Takes a stream whose send has gone on for too long.
    pub(super) fn take_overdue(&mut self, now_ns: u64) -> Option<StreamKey> {
        while let Some((until_ns, stream)) = self.queue.pop_front_if(|entry| entry.0 <= now_ns) {
            if self.until_ns.get(stream.0 as usize) == Some(&until_ns) {
                self.end(stream);
                return Some(stream);
            }
        }
        None
    }

    /// Streams that are waited for, and some whose send has ended.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_streams_whose_send_has_not_ended_are_overdue() {
        let mut closing = Closing::default();
        closing.begin(StreamKey(4), 10);
        closing.begin(StreamKey(1), 20);
        closing.end(StreamKey(4));
        // The key's next user.
        closing.begin(StreamKey(4), 30);
        assert_eq!(closing.take_overdue(9), None);
        assert_eq!(closing.take_overdue(20), Some(StreamKey(1)));
        assert_eq!(closing.take_overdue(29), None);
        assert_eq!(closing.take_overdue(30), Some(StreamKey(4)));
        assert_eq!(closing.take_overdue(u64::MAX), None);
        assert_eq!(closing.len(), 0);
    }
}
