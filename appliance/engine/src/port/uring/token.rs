//! What a submission carries and its completions bring back: which operation, on what.

/// The operations of the port, by what their completions mean to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Accept,
    Receive,
    Send,
    /// Readiness of a lingering stream.
    Linger,
    /// Cancellation of operations on a stream.
    CancelStream,
    /// Cancellation that nobody waits for.
    Cancel,
    /// Readiness of the waker.
    Wake,
    /// Readiness of UDP sockets.
    Datagrams,
}

const OPERATIONS: [Operation; 8] = [
    Operation::Accept,
    Operation::Receive,
    Operation::Send,
    Operation::Linger,
    Operation::CancelStream,
    Operation::Cancel,
    Operation::Wake,
    Operation::Datagrams,
];

const INDEX_BITS: u32 = 32;
const GENERATION_BITS: u32 = 24;
/// Generations are counted modulo this.
pub(super) const GENERATIONS: u32 = 1 << GENERATION_BITS;

/// An operation, the stream or listener it is on, and which user of that slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) operation: Operation,
    /// Below [`GENERATIONS`].
    pub(super) generation: u32,
    pub(super) index: u32,
}

impl Token {
    /// A token of something that has no generations.
    pub(super) fn new(operation: Operation, index: u32) -> Self {
        Self { operation, generation: 0, index }
    }

    /// The 64 bits the kernel carries: operation, generation, index, from the top.
    pub(super) fn pack(self) -> u64 {
        (self.operation as u64) << (GENERATION_BITS + INDEX_BITS)
            | u64::from(self.generation) << INDEX_BITS
            | u64::from(self.index)
    }

    /// The token of 64 bits from a completion; `None` of bits that were never submitted.
    pub(super) fn unpack(bits: u64) -> Option<Self> {
        let operation = (bits >> (GENERATION_BITS + INDEX_BITS)) as usize;
        Some(Self {
            operation: *OPERATIONS.get(operation)?,
            generation: (bits >> INDEX_BITS) as u32 % GENERATIONS,
            // The lower 32 bits are the index.
            index: bits as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packed_tokens_come_back(which in 0..8_usize, generation in 0..GENERATIONS, index: u32) {
            let token = Token { operation: OPERATIONS[which], generation, index };
            prop_assert_eq!(Token::unpack(token.pack()), Some(token));
        }
    }

    #[test]
    fn bits_of_no_operation_are_refused() {
        assert_eq!(Token::unpack(u64::MAX), None);
    }
}
