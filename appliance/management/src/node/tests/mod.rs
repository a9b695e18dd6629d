//! Behaviour of the node, one report at a time.

mod migrating;
mod relaying;

use super::bench::*;
use super::*;
