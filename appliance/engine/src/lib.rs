//! One data core: ring, buffers, timers, sockets, core-to-core mesh, recorders.
//!
//! [`cores::Engine`] starts the threads; [`core::DataCore`] is what each of them runs. The
//! management core sees values only, through [`management_end::ManagementEnd`]. `unsafe` is
//! confined to [`port`].

#![deny(unsafe_code)]

pub mod block;
pub mod clock;
pub mod control;
pub mod core;
pub mod cores;
pub mod entropy;
pub mod fabric;
pub mod floor;
pub mod limits;
pub mod management_end;
pub mod marks;
pub mod mesh;
pub mod offload;
pub mod output;
#[allow(unsafe_code, reason = "the ring and its buffers are shared with the kernel")]
pub mod port;
pub mod record_reader;
pub mod snapshot;
pub mod statistics;
pub mod timer;
