//! Ports next to those of allocations that are kept for their clients (RFC 8656 §7.2).
//!
//! [`Reservations`] are shared by the servers of an address, because the kernel may bring a client's
//! second 5-tuple to another data core than its first: a table of atomic words, looked at for
//! requests alone, where a token is found on whichever core it is shown. [`Keeper`] is what each
//! server has of its own: which of them it has made, so that it can end those nobody comes for. There
//! is no lock, and no reservation is ever had twice: whoever changes its token first has it.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::allocation::ends_ns;
use crate::attribute::Family;
use crate::limits::{
    RESERVATION_LIFETIME_S, RESERVATION_SLOTS_PER_KEPT, RESERVATION_TOKEN_BYTES, RESERVATIONS_MAX,
    TOKEN_DRAWS,
};

/// What a client names a reservation with.
pub(super) type Token = [u8; RESERVATION_TOKEN_BYTES];

/// The words of slots without a token; neither is ever one.
const FREE: u64 = 0;
const BEING_WRITTEN: u64 = 1;

/// Every port that is kept, on all servers that share an address.
#[derive(Debug)]
pub(crate) struct Reservations {
    /// The relayed addresses, of IPv4 and of IPv6.
    ips: [Option<IpAddr>; 2],
    /// A token's place is its remainder.
    slots: Box<[Slot]>,
}

/// One reservation. Its token is written last and taken first, so whoever reads the same token before
/// and after the rest has read what belongs to it.
#[derive(Debug, Default)]
struct Slot {
    token: AtomicU64,
    /// The keyed hash of the user whose quota counts it, and who alone may use it.
    user: AtomicU64,
    ends_ns: AtomicU64,
    /// The port, and the family above it.
    port: AtomicU64,
}

impl Reservations {
    /// None yet, of so many servers.
    pub(crate) fn new(ips: [Option<IpAddr>; 2], servers: usize) -> Self {
        let slots = servers.max(1) * RESERVATIONS_MAX * RESERVATION_SLOTS_PER_KEPT;
        Self { ips, slots: (0..slots).map(|_| Slot::default()).collect() }
    }

    /// Keeps a port under a token that nobody has. The values are random.
    fn keep(&self, draws: [u64; TOKEN_DRAWS], address: SocketAddr, user: u64, ends_ns: u64) -> u64 {
        for token in draws.into_iter().filter(|token| *token > BEING_WRITTEN) {
            let Some(slot) = self.slot(token) else { continue };
            if slot.token.compare_exchange(FREE, BEING_WRITTEN, SeqCst, SeqCst).is_ok() {
                let family = Family::of(address.ip()).index() as u64;
                slot.user.store(user, SeqCst);
                slot.ends_ns.store(ends_ns, SeqCst);
                slot.port.store(family << 16 | u64::from(address.port()), SeqCst);
                slot.token.store(token, SeqCst);
                return token;
            }
        }
        FREE
    }

    /// The address that a user may have for a token. Nobody else can have it then.
    pub(super) fn claim(&self, token: &Token, user: u64, now_ns: u64) -> Option<SocketAddr> {
        let token = u64::from_be_bytes(*token);
        let slot = self.slot(token)?;
        let is_good = token > BEING_WRITTEN
            && slot.token.load(SeqCst) == token
            && slot.user.load(SeqCst) == user
            && now_ns < slot.ends_ns.load(SeqCst);
        let bits = slot.port.load(SeqCst);
        let ip = (*self.ips.get((bits >> 16) as usize)?)?;
        // The rest was another reservation's unless the token is still there.
        let is_mine = is_good && self.remove(token);
        is_mine.then(|| SocketAddr::new(ip, (bits & 0xffff) as u16))
    }

    /// Ends a reservation. Returns whether it was still one.
    fn remove(&self, token: u64) -> bool {
        let slot = self.slot(token);
        slot.is_some_and(|slot| slot.token.compare_exchange(token, FREE, SeqCst, SeqCst).is_ok())
    }

    fn holds(&self, token: u64) -> bool {
        self.slot(token).is_some_and(|slot| slot.token.load(SeqCst) == token)
    }

    fn slot(&self, token: u64) -> Option<&Slot> {
        // The remainder is less than a length, so it is a usize.
        self.slots.get((token % self.slots.len() as u64) as usize)
    }
}

/// A reservation as its server remembers it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) address: SocketAddr,
    pub(super) user: Box<str>,
    token: u64,
    ends_ns: u64,
}

/// The reservations that one server has made. All of them are kept equally long, so the oldest ends
/// first.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// Those that were used on another core are here until they would have ended, or until there is
    /// no room.
    order: VecDeque<Kept>,
}

impl Keeper {
    /// How many there are, and how many ends are waited for.
    pub(super) fn lens(&self, all: &Reservations) -> [usize; 2] {
        let kept = self.order.iter().filter(|kept| all.holds(kept.token)).count();
        [kept, self.order.len()]
    }

    /// Whether there is no room for one more.
    pub(super) fn is_full(&mut self, all: &Reservations) -> bool {
        if self.order.len() >= RESERVATIONS_MAX {
            self.order.retain(|kept| all.holds(kept.token));
        }
        self.order.len() >= RESERVATIONS_MAX
    }

    /// Keeps a port for a user, who is known by name and by its keyed hash. Returns the token; none
    /// if all that could be drawn are others'.
    pub(super) fn keep(
        &mut self,
        all: &Reservations,
        draws: [u64; TOKEN_DRAWS],
        address: SocketAddr,
        (user, hash): (&str, u64),
        now_ns: u64,
    ) -> Option<Token> {
        let ends_ns = ends_ns(now_ns, RESERVATION_LIFETIME_S);
        let token = all.keep(draws, address, hash, ends_ns);
        if token == FREE {
            return None;
        }
        self.order.push_back(Kept { address, user: user.into(), token, ends_ns });
        Some(token.to_be_bytes())
    }

    /// A token was used, perhaps one of these.
    pub(super) fn forget(&mut self, token: &Token) {
        let token = u64::from_be_bytes(*token);
        if let Some(place) = self.order.iter().position(|kept| kept.token == token) {
            self.order.remove(place);
        }
    }

    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        self.order.front().map(|kept| kept.ends_ns)
    }

    /// A reservation that nobody came for in time.
    pub(super) fn pop_expired(&mut self, all: &Reservations, now_ns: u64) -> Option<Kept> {
        while self.order.front().is_some_and(|kept| kept.ends_ns <= now_ns) {
            let kept = self.order.pop_front()?;
            if all.remove(kept.token) {
                return Some(kept);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use std::sync::atomic::AtomicU32;

    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 15));
    const ALICE: (&str, u64) = ("alice", 7);

    fn all() -> Reservations {
        Reservations::new([Some(IP), None], 2)
    }

    fn draws(first: u64) -> [u64; TOKEN_DRAWS] {
        std::array::from_fn(|index| first + index as u64)
    }

    #[test]
    fn a_token_is_good_once_for_its_user_and_in_time() {
        let (all, mut keeper) = (all(), Keeper::default());
        let address = SocketAddr::new(IP, 50_001);
        let token = keeper.keep(&all, draws(99), address, ALICE, 0).unwrap();
        assert_eq!(all.claim(&token, 8, 0), None, "another user");
        assert_eq!(all.claim(&token, 7, 30_000_000_000), None, "too late");
        assert_eq!(all.claim(&100_u64.to_be_bytes(), 7, 0), None, "another token");
        assert_eq!(all.claim(&token, 7, 29_999_999_999), Some(address));
        assert_eq!(all.claim(&token, 7, 0), None, "used");
        assert_eq!(keeper.lens(&all), [0, 1]);
        assert!(keeper.pop_expired(&all, u64::MAX).is_none());
        assert_eq!(keeper.next_deadline_ns(), None);
    }

    #[test]
    fn tokens_of_others_are_passed_over_and_words_that_are_none_never_given() {
        let (all, mut keeper) = (all(), Keeper::default());
        let address = SocketAddr::new(IP, 50_001);
        let first = keeper.keep(&all, draws(0), address, ALICE, 0).unwrap();
        assert_eq!(first, 2_u64.to_be_bytes());
        let second = keeper.keep(&all, draws(2), address, ALICE, 0).unwrap();
        assert_eq!(second, 3_u64.to_be_bytes());
        assert_eq!(keeper.keep(&all, [2; TOKEN_DRAWS], address, ALICE, 0), None);
        for word in [FREE, BEING_WRITTEN] {
            assert_eq!(all.claim(&word.to_be_bytes(), 0, 0), None);
        }
    }

    #[test]
    fn used_tokens_make_room_when_it_is_wanted() {
        let (all, mut keeper) = (all(), Keeper::default());
        let address = SocketAddr::new(IP, 50_001);
        let tokens: Vec<_> = (0..RESERVATIONS_MAX as u64)
            .map(|place| keeper.keep(&all, draws(2 + place), address, ALICE, 0).unwrap())
            .collect();
        assert!(keeper.is_full(&all));
        all.claim(&tokens[5], 7, 0).unwrap();
        assert!(!keeper.is_full(&all));
        keeper.forget(&tokens[6]);
        assert_eq!(keeper.lens(&all)[1], RESERVATIONS_MAX - 2);
    }

    #[test]
    fn of_several_cores_that_claim_a_token_at_once_one_has_it() {
        let all = all();
        for round in 0..500_u64 {
            let mut keeper = Keeper::default();
            let address = SocketAddr::new(IP, 50_001);
            let token = keeper.keep(&all, draws(2 + round), address, ALICE, 0).unwrap();
            let claimed = AtomicU32::new(0);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        if all.claim(&token, 7, 0).is_some() {
                            claimed.fetch_add(1, SeqCst);
                        }
                    });
                }
            });
            assert_eq!(claimed.into_inner(), 1);
        }
    }
}
