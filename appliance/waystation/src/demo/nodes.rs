//! The client nodes: their links to the appliance, and the ways from one node of a pair to the
//! other. Everything here happens on the thread that conducts a scenario, or on one of churn, and
//! blocks for a bounded time.

use super::clock;
use super::limits::{
    IDLE_CONNECTIONS, STALL_TIMEOUT, STEP_TIMEOUT, TRIES_MAX, TRY_PAUSE, WINDOW_BYTES,
};
use super::tally::Trouble;
use anyhow::Context;
use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, Builder};
use waystation_astral::frame::Profile;
use waystation_astral::gateway::Visibility;
use waystation_astral::identity::{Identity, SecretKey};
use waystation_peer::limits::SESSION_WINDOW_BYTES;
use waystation_peer::{
    Duplex, IdlePool, Link, LinkOptions, PeerError, RouteForm, Session, secret_key,
};

/// What the two nodes of a pair speak: on their links to the appliance, and between themselves,
/// where both have to speak the same (spec §11.3).
#[derive(Clone, Copy, Debug)]
pub(super) struct Profiles {
    pub(super) near: Profile,
    pub(super) far: Profile,
    pub(super) inner: Profile,
}

/// Pairs take these in turn: every profile with itself first, so that three pairs show them all.
const PROFILES: [Profiles; 6] = [
    Profiles { near: Profile::P4, far: Profile::P4, inner: Profile::P4 },
    Profiles { near: Profile::P0, far: Profile::P0, inner: Profile::P0 },
    Profiles { near: Profile::P2, far: Profile::P2, inner: Profile::P2 },
    Profiles { near: Profile::P0, far: Profile::P4, inner: Profile::P0 },
    Profiles { near: Profile::P4, far: Profile::P2, inner: Profile::P2 },
    Profiles { near: Profile::P2, far: Profile::P0, inner: Profile::P0 },
];

impl Profiles {
    /// What the pair of this number speaks.
    pub(super) fn of(pair: usize) -> Self {
        let [first, ..] = PROFILES;
        PROFILES.get(pair % PROFILES.len()).copied().unwrap_or(first)
    }

    /// How a route between the two is asked for: the words of P0 as soon as one end knows no others
    /// (spec §11).
    pub(super) fn route_form(self) -> RouteForm {
        if self.near == Profile::P0 || self.far == Profile::P0 {
            RouteForm::G1
        } else {
            RouteForm::G2
        }
    }
}

impl fmt::Display for Profiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.near.name(), self.far.name())
    }
}

/// The appliance as its clients know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gateway {
    pub(super) address: SocketAddr,
    pub(super) identity: Identity,
}

/// One client node with its link to the appliance.
#[derive(Debug)]
pub(super) struct Node {
    key: SecretKey,
    pub(super) link: Link,
}

impl Node {
    /// A node with a fresh key dials the appliance.
    pub(super) fn dial(gateway: Gateway, profile: Profile) -> anyhow::Result<Self> {
        let key = secret_key()?;
        let options = options(profile);
        let link = Link::dial_with(gateway.address, &key, &gateway.identity, &options)
            .with_context(|| format!("a {} node cannot link to the appliance", profile.name()))?;
        Ok(Self { key, link })
    }

    /// Asks the appliance for a sign of life.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let profile = self.link.profile().name();
        let pong = self.link.ping(STALL_TIMEOUT);
        pong.map(drop).with_context(|| format!("the link of the {profile} node"))
    }
}

fn options(profile: Profile) -> LinkOptions {
    LinkOptions { query_timeout: STALL_TIMEOUT, ..LinkOptions::with_profile(profile) }
}

/// Two nodes that talk to each other.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) number: usize,
    pub(super) profiles: Profiles,
    pub(super) near: Node,
    pub(super) far: Node,
}

impl Pair {
    /// Two nodes dial the appliance.
    pub(super) fn dial(
        gateway: Gateway,
        number: usize,
        profiles: Profiles,
    ) -> anyhow::Result<Self> {
        let near = Node::dial(gateway, profiles.near)?;
        let far = Node::dial(gateway, profiles.far)?;
        Ok(Self { number, profiles, near, far })
    }

    /// Which pair it is, for people.
    pub(super) fn name(&self) -> String {
        format!("pair {} ({})", self.number, self.profiles)
    }

    /// Makes a flow: a pipe from near to far, and a link of the two inside it.
    pub(super) fn open(&self, path: Path) -> anyhow::Result<Flow<'_>> {
        let (links, pool) = match path {
            Path::Route => {
                let (near, far) = self.route(Direction::Out)?;
                (self.inner_link(near, far)?, None)
            }
            Path::Connect => {
                // Both forms in which registered nodes present their nonce (spec §11.2).
                let raw = self.number.is_multiple_of(2);
                let (near, far, pool) = self.connect(raw)?;
                (self.inner_link(near, far)?, Some(pool))
            }
        };
        Ok(Flow { pair: self, near: links.0, far: links.1, pool })
    }

    /// Opens a session from one node to the other through their links; the asker's end comes first.
    pub(super) fn route(&self, direction: Direction) -> anyhow::Result<(Session, Session)> {
        let (asker, target) = match direction {
            Direction::Out => (&self.near.link, &self.far.link),
            Direction::Back => (&self.far.link, &self.near.link),
        };
        let form = self.profiles.route_form();
        thread::scope(|scope| {
            let accepting = Builder::new()
                .spawn_scoped(scope, || target.accept_route(SESSION_WINDOW_BYTES, STEP_TIMEOUT))?;
            // The target's link is up on its side; the appliance may be a moment behind.
            let asked = persist(
                || asker.route_as(form, &target.local()),
                |error| matches!(error, PeerError::Rejected { .. }),
            );
            let accepted = accepting.join().map_err(|_panic| Trouble::Panic)?;
            let asked = asked.context("asking for the route")?;
            Ok((asked, accepted.context("accepting the route")?))
        })
    }

    /// Registers far, keeps idle connections for it, and connects near to it.
    pub(super) fn connect(&self, raw: bool) -> anyhow::Result<(TcpStream, TcpStream, IdlePool)> {
        let far = &self.far.link;
        let registration = far.register(Visibility::Public).context("registering")?;
        let pool = IdlePool::start(registration, IDLE_CONNECTIONS, raw)?;
        pool.wait_idling(1, STEP_TIMEOUT).context("dialing the appliance's socket")?;
        // The appliance may not have read the nonce of the idle connection yet.
        let near = persist(
            || self.near.link.connect(&far.local()),
            |error| matches!(error, PeerError::Refused { .. }),
        )
        .context("connecting")?;
        let far = pool.accept(STEP_TIMEOUT).context("waiting for the hand-off")?;
        Ok((near, far, pool))
    }

    fn inner_link<T: Duplex + Send>(&self, near: T, far: T) -> anyhow::Result<(Link, Link)> {
        let options = LinkOptions { window_bytes: WINDOW_BYTES, ..options(self.profiles.inner) };
        thread::scope(|scope| {
            let accepting = Builder::new()
                .spawn_scoped(scope, || Link::accept_over(far, &self.far.key, &options))?;
            let near = Link::dial_over(near, &self.near.key, &self.far.key.identity(), &options);
            let far = accepting.join().map_err(|_panic| Trouble::Panic)?;
            Ok((near.context("dialing the inner link")?, far.context("accepting the inner link")?))
        })
    }
}

/// Which node of a pair asks the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Near asks far.
    Out,
    /// Far asks near.
    Back,
}

/// How a pair's bytes go through the appliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// In a session of both links.
    Route,
    /// Through the raw socket port.
    Connect,
}

/// Tries again while the gateway says no, for a bounded time.
fn persist<T>(
    mut attempt: impl FnMut() -> Result<T, PeerError>,
    says_no: impl Fn(&PeerError) -> bool,
) -> Result<T, PeerError> {
    for _ in 1..TRIES_MAX {
        match attempt() {
            Err(error) if says_no(&error) => clock::pause(TRY_PAUSE),
            outcome => return outcome,
        }
    }
    attempt()
}

/// A pair with a link of its own inside the pipe that the appliance made.
#[derive(Debug)]
pub(super) struct Flow<'p> {
    pub(super) pair: &'p Pair,
    pub(super) near: Link,
    pub(super) far: Link,
    pool: Option<IdlePool>,
}

impl Flow<'_> {
    /// Opens a session on the inner link; the asker's end comes first.
    pub(super) fn session(
        &self,
        direction: Direction,
        query: &str,
        window_bytes: u32,
    ) -> anyhow::Result<(Session, Session)> {
        let (asker, target) = match direction {
            Direction::Out => (&self.near, &self.far),
            Direction::Back => (&self.far, &self.near),
        };
        thread::scope(|scope| {
            let accepting = Builder::new()
                .spawn_scoped(scope, || target.accept(STEP_TIMEOUT)?.accept(window_bytes))?;
            let asked = asker.query(query).context("asking for a session");
            let accepted = accepting.join().map_err(|_panic| Trouble::Panic)?;
            Ok((with_patience(asked?), with_patience(accepted.context("accepting a session")?)))
        })
    }

    /// Ends the inner link, and far's registration if there is one.
    pub(super) fn close(self) -> anyhow::Result<()> {
        self.near.close();
        self.far.close();
        if self.pool.is_some() {
            drop(self.pool);
            self.pair.far.link.unregister().context("withdrawing the registration")?;
        }
        Ok(())
    }
}

/// Lets reads and writes of a session wait as long as something may still come.
pub(super) fn with_patience(mut session: Session) -> Session {
    session.set_read_timeout(Some(STALL_TIMEOUT));
    session.set_write_timeout(Some(STALL_TIMEOUT));
    session
}

/// All nodes of the demo.
#[derive(Debug)]
pub(super) struct Nodes {
    pub(super) pairs: Vec<Pair>,
    /// With an odd number of nodes the last one only keeps its link.
    single: Option<Node>,
}

impl Nodes {
    /// Starts `count` nodes.
    pub(super) fn dial(gateway: Gateway, count: u16) -> anyhow::Result<Self> {
        let pairs = (0..usize::from(count / 2))
            .map(|number| Pair::dial(gateway, number, Profiles::of(number)))
            .collect::<anyhow::Result<_>>()?;
        let single = (count % 2 == 1).then(|| Node::dial(gateway, Profile::P4)).transpose()?;
        Ok(Self { pairs, single })
    }

    /// Asks over every link for a sign of life.
    pub(super) fn check(&self) -> Result<(), (String, anyhow::Error)> {
        for pair in &self.pairs {
            for node in [&pair.near, &pair.far] {
                node.check().map_err(|error| (pair.name(), error))?;
            }
        }
        match &self.single {
            Some(node) => node.check().map_err(|error| ("the single node".to_owned(), error)),
            None => Ok(()),
        }
    }

    /// Closes every link.
    pub(super) fn close(self) {
        let pairs = self.pairs.into_iter().flat_map(|pair| [pair.near, pair.far]);
        for node in pairs.chain(self.single) {
            node.link.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_pairs_show_every_profile() {
        for (pair, profile) in [Profile::P4, Profile::P0, Profile::P2].into_iter().enumerate() {
            let profiles = Profiles::of(pair);
            assert_eq!([profiles.near, profiles.far, profiles.inner], [profile; 3]);
        }
    }

    #[test]
    fn only_pairs_with_a_p0_end_ask_in_the_old_words() {
        for profiles in PROFILES {
            let old = [profiles.near, profiles.far].contains(&Profile::P0);
            assert_eq!(profiles.route_form() == RouteForm::G1, old, "{profiles}");
        }
    }
}
