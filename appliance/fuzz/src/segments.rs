//! Ways to cut an input that every reader of a stream must treat alike.

/// Longest piece in bytes of the cut whose lengths the input chooses; longer than any head of a
/// frame or object, so that both cut and whole ones come about.
const PIECE_BYTES_MAX: u32 = 131;

/// Gives the input whole, in single bytes, and in pieces whose lengths follow from its bytes.
pub(crate) fn segmentations(input: &[u8]) -> [Vec<&[u8]>; 3] {
    let mut pieces = Vec::new();
    let mut state = 0x9e37_79b9_u32;
    let mut rest = input;
    while let Some(first) = rest.first() {
        state = (state ^ u32::from(*first)).wrapping_mul(0x0100_0193).rotate_left(7);
        let bytes = (1 + state % PIECE_BYTES_MAX) as usize;
        let (piece, behind) = rest.split_at(bytes.min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    [vec![input], input.chunks(1).collect(), pieces]
}
