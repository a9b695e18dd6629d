//! Says of each type of the maps that it may be copied to and from the kernel as bytes.

use crate::{
    Address, Counter, FramePlace, FrameSocket, OwnAddresses, SessionBucket, SessionRecord,
    SessionSeeds, Settings, SocketPlace,
};

// SAFETY: four integers; every pattern of bits is valid, and there is no padding
// (`types_of_maps_have_no_hidden_bytes`).
unsafe impl aya::Pod for Address {}

// SAFETY: integers only, without padding (`types_of_maps_have_no_hidden_bytes` of both parts, and
// `layouts_are_those_the_object_was_built_with`); `action` and `target_family` are plain bytes, so no
// pattern of bits is invalid.
unsafe impl aya::Pod for SessionRecord {}

// SAFETY: integers of the same size.
unsafe impl aya::Pod for SessionBucket {}

// SAFETY: integers of the same size.
unsafe impl aya::Pod for SessionSeeds {}

// SAFETY: integers only, without padding (`layouts_are_those_the_object_was_built_with`).
unsafe impl aya::Pod for OwnAddresses {}

// SAFETY: integers only, without padding (`layouts_are_those_the_object_was_built_with`).
unsafe impl aya::Pod for Settings {}

// SAFETY: two integers of the same size.
unsafe impl aya::Pod for Counter {}

// SAFETY: two integers of the same size.
unsafe impl aya::Pod for FramePlace {}

// SAFETY: two integers of the same size.
unsafe impl aya::Pod for FrameSocket {}

// SAFETY: integers only, without padding (`a_place_has_no_hidden_bytes`).
unsafe impl aya::Pod for SocketPlace {}
