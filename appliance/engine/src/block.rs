//! Blocks: fixed-size pieces of memory for outgoing records and waiting payload, with one owner.
//!
//! A data core owns one [`BlockPool`]. Blocks are taken, filled, sent and given back on its thread.
//! The pool starts with what a few busy links need, grows on demand up to its limit and never
//! shrinks, so a warm core allocates nothing.

use crate::limits::BLOCKS_AT_START;
use std::ops::{Deref, DerefMut};
use waystation_astral::brontide::{RECORD_OVERHEAD_BYTES, RECORD_PLAINTEXT_MAX_BYTES};

/// Bytes of a block: the largest record with its overhead, rounded up to whole cache lines.
pub const BLOCK_BYTES: usize =
    (RECORD_PLAINTEXT_MAX_BYTES + RECORD_OVERHEAD_BYTES).next_multiple_of(64);

/// A piece of memory of [`BLOCK_BYTES`]. It has one owner and goes back to the pool it came from.
#[derive(Debug)]
pub struct Block(Box<[u8]>);

impl Block {
    fn new() -> Self {
        Self(vec![0; BLOCK_BYTES].into_boxed_slice())
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// The blocks of one core.
#[derive(Debug)]
pub struct BlockPool {
    free: Vec<Block>,
    made: usize,
    limit: usize,
}

impl BlockPool {
    /// A pool of at most `limit` blocks, [`BLOCKS_AT_START`] of them made at once.
    pub fn new(limit: usize) -> Self {
        let made = limit.min(BLOCKS_AT_START);
        let mut free = Vec::with_capacity(limit);
        free.resize_with(made, Block::new);
        Self { free, made, limit }
    }

    /// Takes a block, or `None` when all are in use. Its content is what its last user left.
    pub fn take(&mut self) -> Option<Block> {
        if let Some(block) = self.free.pop() {
            return Some(block);
        }
        if self.made == self.limit {
            return None;
        }
        self.made += 1;
        Some(Block::new())
    }

    /// Takes a block back.
    pub fn give_back(&mut self, block: Block) {
        debug_assert!(self.free.len() < self.made, "a block of another pool");
        self.free.push(block);
    }

    /// Blocks made so far.
    pub fn made(&self) -> usize {
        self.made
    }

    /// Blocks in use.
    pub fn in_use(&self) -> usize {
        self.made - self.free.len()
    }

    /// Blocks that can still be taken.
    pub fn available(&self) -> usize {
        self.limit - self.in_use()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_hands_out_no_more_than_its_limit_and_reuses_what_comes_back() {
        let mut pool = BlockPool::new(2);
        let one = pool.take().unwrap();
        let two = pool.take().unwrap();
        assert!(pool.take().is_none());
        pool.give_back(one);
        assert_eq!(pool.available(), 1);
        assert!(pool.take().is_some());
        assert_eq!(pool.made(), 2);
        pool.give_back(two);
        assert_eq!(pool.in_use(), 1);
    }
}
