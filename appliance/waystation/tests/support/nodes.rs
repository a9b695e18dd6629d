//! Nodes as clients of the appliance, whose connections can be cut as by a crash.

use super::STEP;
use super::appliance::Appliance;
use super::streams::Ends;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use waystation_astral::gateway::Visibility;
use waystation_astral::identity::{Identity, SecretKey};
use waystation_peer::{
    Close, Duplex, Halves, IdlePool, Link, LinkOptions, PeerError, ReadHalf, RouteForm, Session,
    secret_key,
};

/// Window of the sessions that nodes accept.
pub const WINDOW_BYTES: u32 = 1 << 20;

/// A node with a key of its own and one link to the appliance.
#[derive(Debug)]
pub struct Node {
    pub key: SecretKey,
    pub link: Link,
    wire: Wire,
}

impl Node {
    /// Dials the appliance with a fresh key. When this returns, others can reach the node: the
    /// management core has heard of its link, because it has answered a query that came over it.
    pub fn dial(appliance: &Appliance, options: &LinkOptions) -> Self {
        Self::dial_as(appliance, secret_key().unwrap(), options)
    }

    /// As [`Node::dial`], with a key of the test's choice. The appliance may ask the node in the
    /// name of others.
    pub fn dial_as(appliance: &Appliance, key: SecretKey, options: &LinkOptions) -> Self {
        let stream = TcpStream::connect_timeout(&appliance.address, STEP).unwrap();
        Self::over(stream, key, &appliance.identity, options)
            .unwrap_or_else(|error| panic!("{error}\n{}", appliance.process.log()))
    }

    /// The same over a connection that there is already.
    ///
    /// # Errors
    /// The handshake or the negotiation fails.
    pub fn over(
        stream: TcpStream,
        key: SecretKey,
        appliance: &Identity,
        options: &LinkOptions,
    ) -> Result<Self, PeerError> {
        let options = LinkOptions { trusts_relay: true, ..options.clone() };
        let wire = Wire::new(stream);
        let link = Link::dial_over(wire.clone(), &key, appliance, &options)?;
        link.list_registered().unwrap();
        link.ping(STEP).unwrap();
        Ok(Self { key, link, wire })
    }

    pub fn identity(&self) -> Identity {
        self.link.local()
    }

    /// Cuts the node's connection as the kernel does for a process that died: a reset, and whatever
    /// was under way is lost.
    pub fn kill(self) {
        self.wire.cut();
    }

    /// Registers and keeps idle connections at the gateway.
    pub fn idle(&self, connections: usize, raw: bool) -> IdlePool {
        let registration = self.link.register(Visibility::Private).unwrap();
        let pool = IdlePool::start(registration, connections, raw).unwrap();
        pool.wait_idling(connections, STEP).unwrap();
        pool
    }
}

/// A pipe through the links of two nodes: the caller's end and the target's.
pub fn route(caller: &Node, target: &Node, form: RouteForm) -> (Session, Session) {
    let link = target.link.clone();
    let accepting = thread::spawn(move || link.accept_route(WINDOW_BYTES, STEP).unwrap());
    let near = caller.link.route_as(form, &target.identity()).unwrap();
    let far = accepting.join().unwrap();
    near.set_read_timeout(Some(STEP));
    far.set_read_timeout(Some(STEP));
    (near, far)
}

/// A query as its target saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub caller: Identity,
    pub target: Identity,
    pub query: Vec<u8>,
}

/// A session that the appliance relays: the caller's end, the target's, and what the target saw.
pub fn relay(caller: &Node, target: &Node, query: &str) -> (Session, Session, Seen) {
    let link = target.link.clone();
    let accepting = thread::spawn(move || {
        let asked = link.accept(STEP).unwrap();
        let seen =
            Seen { caller: asked.caller(), target: asked.target(), query: asked.query().to_vec() };
        (asked.accept(WINDOW_BYTES).unwrap(), seen)
    });
    let near = caller.link.query_relayed(&target.identity(), query).unwrap();
    let (far, seen) = accepting.join().unwrap();
    near.set_read_timeout(Some(STEP));
    far.set_read_timeout(Some(STEP));
    (near, far, seen)
}

/// A raw pipe: the caller's connection and one of the target's idle ones. A registered node that
/// is just dialing again has none idle for a moment, so the caller asks again.
pub fn connect(caller: &Node, target: &Node, pool: &IdlePool) -> (TcpStream, TcpStream) {
    let near = super::eventually("an idle connection of the target", || {
        caller.link.connect(&target.identity()).ok()
    });
    let far = pool.accept(STEP).unwrap();
    near.set_read_timeout(Some(STEP)).unwrap();
    far.set_read_timeout(Some(STEP)).unwrap();
    (near, far)
}

/// A connection that can be reset at once, whoever reads or writes. No thread ever sleeps inside
/// the socket, only in `poll`: some kernels refuse to disconnect a socket that is waited in.
#[derive(Clone, Debug)]
pub struct Wire {
    stream: Arc<TcpStream>,
    timeout: Arc<Timeout>,
}

/// How long a read may wait, in nanoseconds; 0 stands for as long as the connection lives.
#[derive(Debug, Default)]
struct Timeout(AtomicU64);

impl Timeout {
    fn set(&self, timeout: Option<Duration>) {
        let nanoseconds = timeout.map_or(0, |timeout| timeout.as_nanos().max(1));
        self.0.store(u64::try_from(nanoseconds).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn get(&self) -> Option<Duration> {
        Some(self.0.load(Ordering::Relaxed)).filter(|ns| *ns > 0).map(Duration::from_nanos)
    }
}

impl Wire {
    /// Takes over a connection.
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self { stream: Arc::new(stream), timeout: Arc::default() }
    }

    /// Resets the connection. The other side learns of it at once.
    pub fn cut(&self) {
        rustix::net::connect_unspec(&*self.stream).unwrap();
    }

    /// Sets how long one read may wait.
    pub fn set_timeout(&self, timeout: Option<Duration>) {
        self.timeout.set(timeout);
    }

    fn wait(&self, flags: PollFlags, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(|timeout| Timespec::try_from(timeout).unwrap());
        let mut descriptors = [PollFd::new(&*self.stream, flags)];
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&*self.stream).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::IN, self.timeout.get())?;
                }
                outcome => return outcome,
            }
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match (&*self.stream).write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::OUT, Some(STEP))?;
                }
                outcome => return outcome,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ReadHalf for Wire {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeout.set(timeout);
        Ok(())
    }
}

impl Close for Wire {
    fn close(&self) {
        // The only failure is that the connection is gone already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn reset_on_close(&self, _reset: bool) -> io::Result<()> {
        Ok(())
    }
}

impl Duplex for Wire {
    fn into_halves(self) -> io::Result<Halves> {
        Ok(Halves {
            reader: Box::new(self.clone()),
            writer: Box::new(self.clone()),
            closer: Arc::new(self),
        })
    }
}

impl Ends for Wire {
    fn apart(self) -> (Box<dyn Read + Send>, Box<dyn Write + Send>) {
        (Box::new(self.clone()), Box::new(self))
    }
}
