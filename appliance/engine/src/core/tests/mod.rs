//! Tests of data cores from the inside, on simulated ports and in simulated time.

mod bench;
mod sockets;

use super::{CoreLimits, CoreParts, DataCore};
use crate::block::BLOCK_BYTES;
use crate::management_end::ManagementEnd;
use crate::mesh;
use crate::port::PortLimits;
use crate::port::simulated::{Network, SimulatedPort};
use crate::port::waker::Waker;
use crate::snapshot::CoreSnapshot;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use waystation_astral::aead::AeadSuite;
use waystation_astral::identity::SecretKey;

const SECOND_NS: u64 = 1_000_000_000;
/// When simulated time begins: not at 0, which stands for no time at all.
const START_NS: u64 = 1_000 * SECOND_NS;

/// So many cores on the ports of a network, each with so many blocks.
fn data_cores(
    count: usize,
    network: &Rc<RefCell<Network>>,
    limits: PortLimits,
    blocks: usize,
    snapshot: &Arc<CoreSnapshot>,
) -> (Vec<DataCore<SimulatedPort>>, ManagementEnd) {
    let wakers: Vec<_> = (0..count).map(|_| Waker::new().unwrap()).collect();
    let meshes = mesh::connect(&wakers);
    let (management, ends) = ManagementEnd::new(wakers.clone()).unwrap();
    let parts = meshes.into_iter().zip(ends).zip(wakers).enumerate();
    let cores = parts.map(|(number, ((mesh, management), waker))| {
        let port = SimulatedPort::new(number, Rc::clone(network), waker, limits).unwrap();
        let parts = CoreParts {
            secret: SecretKey::from_bytes(&[7; 32]).unwrap(),
            aead: AeadSuite::default(),
            limits: CoreLimits {
                window_bytes: 1 << 20,
                queue_bytes: 1 << 20,
                block_bytes: blocks * BLOCK_BYTES,
            },
            snapshot: Arc::clone(snapshot),
            mesh,
            management,
            cpu: None,
        };
        DataCore::new(port, Vec::new(), parts).unwrap()
    });
    (cores.collect(), management)
}
