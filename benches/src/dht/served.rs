//! A node on a thread of its own.

use crate::load::processor::{Reading, Watched, thread_number};
use anyhow::{Context, Result, anyhow};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use tempfile::TempDir;
use tokio::sync::oneshot;
use waystation_astral::identity::Identity;
use waystation_management::config::Config;
use waystation_management::dht::{Dht, DhtFiles, DhtSettings};
use zeroize::Zeroizing;

/// A node that runs until this is dropped.
#[derive(Debug)]
pub struct Served {
    address: SocketAddr,
    thread: u32,
    stop: Option<oneshot::Sender<()>>,
    joined: Option<JoinHandle<Result<()>>>,
    _snapshot: TempDir,
}

impl Served {
    /// Starts a node with the defaults of the appliance, but for what addresses on loopback need.
    ///
    /// # Errors
    ///
    /// When there is no socket, thread or runtime for it.
    pub fn start(seed: u8) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("a socket for the node")?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let snapshot = tempfile::tempdir()?;
        let files = DhtFiles {
            seed: Zeroizing::new([seed; 32]),
            snapshot: snapshot.path().join("dht_snapshot"),
        };
        let mut config = Config::default();
        config.dht.allow_private = true;
        config.dht.diverse = false;
        config.dht.publish_services = false;
        let nobody = Identity::from_bytes(&[0; 33])?;
        let settings = DhtSettings::of(&config, files, nobody, &[], &[]);
        let (stop, stopped) = oneshot::channel();
        let (started, starting) = mpsc::sync_channel(1);
        let run = move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let (_questions, hub) = tokio::sync::mpsc::channel(1);
                let mut dht = Dht::start(settings, vec![socket], hub)?;
                // Whoever started it waits for this.
                let _ = started.send(thread_number());
                // It also ends when nobody is left who could end it.
                let _ = stopped.await;
                dht.begin_stop();
                dht.stopped().await;
                Ok(())
            })
        };
        let joined = thread::Builder::new().name("management".to_owned()).spawn(run)?;
        let thread = starting.recv().map_err(|_ended| anyhow!("the node did not start"))?;
        Ok(Self { address, thread, stop: Some(stop), joined: Some(joined), _snapshot: snapshot })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its thread has used of processors.
    ///
    /// # Errors
    ///
    /// When the kernel does not say.
    pub fn reading(&self) -> Result<Reading> {
        Watched::Thread(self.thread).read()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A node that has ended has nothing to stop.
            let _ = stop.send(());
        }
        if let Some(joined) = self.joined.take() {
            // What it failed with was seen by whoever got no answers.
            let _ = joined.join();
        }
    }
}
