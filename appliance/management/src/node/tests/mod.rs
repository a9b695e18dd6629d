//! Behaviour of the node, one report at a time.

mod deliveries;
mod migrating;
mod model;
mod relaying;
mod services;

use super::bench::*;
use super::*;
use waystation_astral::object;
use waystation_engine::control::Network;
