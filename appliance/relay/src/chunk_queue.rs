//! Queues of payload bytes in fixed-size chunks out of one pool.
//!
//! Owned by one data core's switch. A queue is three numbers; its chunks are linked by index in the
//! pool, so queues cost nothing while empty and nothing is allocated once the pool has grown to
//! what the traffic needs. The pool never exceeds its limit.

use crate::limits::CHUNK_BYTES;

const NONE: u32 = u32::MAX;

/// The chunks of one core.
#[derive(Debug)]
pub struct ChunkPool {
    chunks: Vec<Chunk>,
    free_head: u32,
    in_use: usize,
    limit: usize,
}

#[derive(Debug)]
struct Chunk {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    next: u32,
    /// When the first byte in here was opened, in nanoseconds of the caller's clock.
    stamp_ns: u64,
}

/// Bytes waiting, in order.
#[derive(Debug)]
pub struct ChunkQueue {
    head: u32,
    tail: u32,
    bytes: usize,
}

impl Default for ChunkQueue {
    fn default() -> Self {
        Self { head: NONE, tail: NONE, bytes: 0 }
    }
}

impl ChunkQueue {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

impl ChunkPool {
    /// A pool of at most `limit_bytes`, which grows on demand.
    pub fn new(limit_bytes: usize) -> Self {
        Self { chunks: Vec::new(), free_head: NONE, in_use: 0, limit: limit_bytes / CHUNK_BYTES }
    }

    /// Bytes of the chunks in use.
    pub fn bytes_in_use(&self) -> usize {
        self.in_use * CHUNK_BYTES
    }

    /// Chunks in use.
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// Appends bytes. All or nothing.
    ///
    /// # Errors
    /// [`PoolExhausted`] when the pool's limit would be passed; the queue is as before.
    pub fn push(
        &mut self,
        queue: &mut ChunkQueue,
        mut bytes: &[u8],
        stamp_ns: u64,
    ) -> Result<(), PoolExhausted> {
        let room = self.chunk(queue.tail).map_or(0, |chunk| chunk.bytes.len() - chunk.end);
        let needed = bytes.len().saturating_sub(room).div_ceil(CHUNK_BYTES);
        if self.in_use + needed > self.limit {
            return Err(PoolExhausted);
        }
        queue.bytes += bytes.len();
        while !bytes.is_empty() {
            bytes = match self.fill(queue.tail, bytes) {
                rest if rest.len() < bytes.len() => rest,
                rest => {
                    self.extend(queue, stamp_ns);
                    rest
                }
            };
        }
        Ok(())
    }

    /// The first contiguous run of waiting bytes and when its first byte was opened.
    pub fn front(&self, queue: &ChunkQueue) -> Option<(&[u8], u64)> {
        let chunk = self.chunk(queue.head)?;
        Some((chunk.bytes.get(chunk.start..chunk.end)?, chunk.stamp_ns))
    }

    /// Every run of waiting bytes, in order, and when its first byte was opened.
    pub fn runs(&self, queue: &ChunkQueue) -> impl Iterator<Item = (&[u8], u64)> {
        let mut index = queue.head;
        std::iter::from_fn(move || {
            let chunk = self.chunk(index)?;
            index = chunk.next;
            Some((chunk.bytes.get(chunk.start..chunk.end)?, chunk.stamp_ns))
        })
    }

    /// Removes `count` bytes from the front of the first run; at most that run's length.
    pub fn consume(&mut self, queue: &mut ChunkQueue, count: usize) {
        let head = queue.head;
        let Some(chunk) = self.chunks.get_mut(head as usize) else { return };
        let count = count.min(chunk.end - chunk.start);
        chunk.start += count;
        queue.bytes -= count;
        if chunk.start == chunk.end {
            queue.head = chunk.next;
            if queue.head == NONE {
                queue.tail = NONE;
            }
            self.release(head);
        }
    }

    /// Puts everything of another queue behind what waits in this one.
    pub fn append(&mut self, queue: &mut ChunkQueue, behind: ChunkQueue) {
        match self.chunks.get_mut(queue.tail as usize) {
            Some(tail) => tail.next = behind.head,
            None => queue.head = behind.head,
        }
        if behind.tail != NONE {
            queue.tail = behind.tail;
        }
        queue.bytes += behind.bytes;
    }

    /// How many bytes more can be taken whatever they are put behind.
    pub fn room_bytes(&self) -> usize {
        self.limit.saturating_sub(self.in_use) * CHUNK_BYTES
    }

    /// Forgets everything in a queue.
    pub fn clear(&mut self, queue: &mut ChunkQueue) {
        while let Some(chunk) = self.chunk(queue.head) {
            let (released, next) = (queue.head, chunk.next);
            self.release(released);
            queue.head = next;
        }
        *queue = ChunkQueue::default();
    }

    fn chunk(&self, index: u32) -> Option<&Chunk> {
        self.chunks.get(index as usize)
    }

    /// Copies what fits into one chunk and returns the rest.
    fn fill<'a>(&mut self, index: u32, bytes: &'a [u8]) -> &'a [u8] {
        let Some(chunk) = self.chunks.get_mut(index as usize) else { return bytes };
        let Some(room) = chunk.bytes.get_mut(chunk.end..) else { return bytes };
        let (now, rest) = bytes.split_at(bytes.len().min(room.len()));
        if let Some(place) = room.get_mut(..now.len()) {
            place.copy_from_slice(now);
        }
        chunk.end += now.len();
        rest
    }

    fn extend(&mut self, queue: &mut ChunkQueue, stamp_ns: u64) {
        let index = self.take(stamp_ns);
        match self.chunks.get_mut(queue.tail as usize) {
            Some(tail) => tail.next = index,
            None => queue.head = index,
        }
        queue.tail = index;
    }

    fn take(&mut self, stamp_ns: u64) -> u32 {
        self.in_use += 1;
        if let Some(chunk) = self.chunks.get_mut(self.free_head as usize) {
            let index = self.free_head;
            self.free_head = chunk.next;
            (chunk.start, chunk.end, chunk.next, chunk.stamp_ns) = (0, 0, NONE, stamp_ns);
            return index;
        }
        self.chunks.push(Chunk {
            bytes: vec![0; CHUNK_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            next: NONE,
            stamp_ns,
        });
        u32::try_from(self.chunks.len() - 1).unwrap_or(NONE)
    }

    fn release(&mut self, index: u32) {
        if let Some(chunk) = self.chunks.get_mut(index as usize) {
            chunk.next = self.free_head;
            self.free_head = index;
            self.in_use -= 1;
        }
    }
}

/// The pool's limit would be passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue memory of this core is used up")]
pub struct PoolExhausted;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn push_beyond_the_limit_changes_nothing() {
        let mut pool = ChunkPool::new(2 * CHUNK_BYTES);
        let mut queue = ChunkQueue::default();
        pool.push(&mut queue, &[1; CHUNK_BYTES], 0).unwrap();
        assert_eq!(pool.push(&mut queue, &[2; CHUNK_BYTES + 1], 0), Err(PoolExhausted));
        assert_eq!(queue.len(), CHUNK_BYTES);
        pool.push(&mut queue, &[2; CHUNK_BYTES], 0).unwrap();
        pool.clear(&mut queue);
        assert_eq!(pool.in_use(), 0);
    }

    proptest! {
        #[test]
        fn queues_of_one_pool_behave_like_byte_deques(
            steps in prop::collection::vec((0_usize..3, 0_usize..9000, any::<bool>()), 1..200)
        ) {
            let mut pool = ChunkPool::new(64 * CHUNK_BYTES);
            let mut queues = [const { ChunkQueue { head: NONE, tail: NONE, bytes: 0 } }; 3];
            let mut models: [VecDeque<u8>; 3] = Default::default();
            let mut next = 0_u8;
            for (which, count, push) in steps {
                if count % 16 == 0 {
                    let (to, from) = (which, (which + 1) % 3);
                    let behind = std::mem::take(&mut queues[from]);
                    pool.append(&mut queues[to], behind);
                    let behind = std::mem::take(&mut models[from]);
                    models[to].extend(behind);
                } else if push {
                    let bytes: Vec<u8> = (0..count).map(|_| { next = next.wrapping_add(7); next }).collect();
                    if pool.push(&mut queues[which], &bytes, 0).is_ok() {
                        models[which].extend(&bytes);
                    }
                } else {
                    let mut left = count;
                    while left > 0 {
                        let Some((run, _)) = pool.front(&queues[which]) else { break };
                        let take = left.min(run.len());
                        let expected: Vec<u8> = models[which].drain(..take).collect();
                        prop_assert_eq!(&run[..take], &expected[..]);
                        pool.consume(&mut queues[which], take);
                        left -= take;
                    }
                }
                prop_assert_eq!(queues[which].len(), models[which].len());
            }
            for queue in &mut queues {
                pool.clear(queue);
            }
            prop_assert_eq!(pool.in_use(), 0);
        }
    }
}
