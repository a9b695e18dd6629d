//! What is admitted, what is entered, and what is kept.

use super::*;
use crate::config::{self, Config};
use crate::fixtures::moment;
use waystation_astral::frame::Profile;
use waystation_astral::identity::SecretKey;
use waystation_relay::ids::CoreId;

fn identity(number: u32) -> Identity {
    let mut scalar = [0; 32];
    scalar[28..].copy_from_slice(&number.to_be_bytes());
    SecretKey::from_bytes(&scalar).unwrap().identity()
}

fn settings(text: &str) -> AccountSettings {
    AccountSettings::of_config(&config::parse(text, "x").unwrap())
}

fn up(number: u32, slot: u32, network: Network) -> LinkUp {
    LinkUp {
        link: LinkTag { core: CoreId(0), slot, generation: 1 },
        identity: identity(number),
        profile: Profile::P4,
        link_id: 7,
        remote: "203.0.113.7:41000".parse().unwrap(),
        local: "198.51.100.9:1791".parse().unwrap(),
        inner: network == Network::Gateway,
        network,
        dial: None,
    }
}

fn totals(bytes_in: u64) -> LinkTotals {
    LinkTotals { bytes_in, bytes_out: 2, frames_in: 3, frames_out: 4, age_ns: 5 }
}

#[test]
fn links_beyond_the_cap_of_an_identity_are_refused_and_the_old_ones_stay() {
    let mut accounts = Accounts::new(settings("[limits]\nlinks_per_identity_max = 2"));
    assert!(accounts.link_up(moment(0), &up(1, 0, Network::Tcp)).is_ok());
    assert!(accounts.link_up(moment(0), &up(1, 1, Network::Gateway)).is_ok());
    let refusal = accounts.link_up(moment(0), &up(1, 2, Network::Tcp)).unwrap_err();
    assert_eq!(refusal, LinkRefusal::Identity { max: 2 });
    assert!(accounts.link_up(moment(0), &up(2, 3, Network::Tcp)).is_ok(), "others are not held");
    // The end of the refused one changes nothing; that of an admitted one makes room.
    accounts.link_down(moment(1), up(1, 2, Network::Tcp).link, &totals(9));
    assert_eq!(accounts.get(&identity(1)).unwrap().links(), 2);
    assert_eq!(accounts.get(&identity(1)).unwrap().used().bytes_in, 0);
    accounts.link_down(moment(1), up(1, 0, Network::Tcp).link, &totals(9));
    assert!(accounts.link_up(moment(2), &up(1, 2, Network::Tcp)).is_ok());
    assert_eq!(accounts.refused_links(), 1);
}

#[test]
fn links_beyond_the_caps_of_a_network_are_refused() {
    let mut accounts = Accounts::new(settings(
        "[limits]\nlinks_per_identity_and_network_max = 1\ntcp_links_max = 2\ntor_links_max = 0",
    ));
    assert!(accounts.link_up(moment(0), &up(1, 0, Network::Tcp)).is_ok());
    let refusal = accounts.link_up(moment(0), &up(1, 1, Network::Tcp)).unwrap_err();
    let network = Network::Tcp;
    assert_eq!(refusal, LinkRefusal::IdentityAndNetwork { network, max: 1 });
    assert!(accounts.link_up(moment(0), &up(1, 1, Network::Gateway)).is_ok());
    assert!(accounts.link_up(moment(0), &up(2, 2, Network::Tcp)).is_ok());
    let refusal = accounts.link_up(moment(0), &up(3, 3, Network::Tcp)).unwrap_err();
    assert_eq!(refusal, LinkRefusal::Network { network, max: 2 });
    let refusal = accounts.link_up(moment(0), &up(3, 3, Network::Tor)).unwrap_err();
    assert_eq!(refusal.to_string(), "there are 0 tor links (limits.tor_links_max)");
    assert_eq!(accounts.links_of(Network::Tcp), 2);
}

#[test]
fn peer_has_its_own_limits() {
    let (one, two) = (identity(1), identity(2));
    let settings = settings(&format!(
        "[limits]\nlinks_per_identity_max = 1\nregistrations_per_identity_max = 0\n\
         rate = \"1MiB\"\n[[peer]]\nidentity = \"{one}\"\nlinks_max = 3\nregistrations_max = 1\n\
         rate = \"none\"\nsessions_max = 5\nburst = \"64KiB\"\n"
    ));
    let accounts = Accounts::new(settings);
    assert!(accounts.may_register(&one) && !accounts.may_register(&two));
    let limits = accounts.limits_of(&one);
    assert_eq!((limits.links, limits.links_per_network, limits.quota.sessions), (3, 3, 5));
    assert_eq!((limits.quota.bytes_per_s, limits.quota.burst_bytes), (None, 65_536));
    assert_eq!(accounts.limits_of(&two).links, 1);
    assert_eq!(accounts.limits_of(&two).quota.bytes_per_s, Some(1 << 20));
}

#[test]
fn reload_changes_quotas_that_are_in_use() {
    let mut accounts = Accounts::new(settings("[limits]\nsessions_per_identity_max = 2"));
    let quota = accounts.link_up(moment(0), &up(1, 0, Network::Tcp)).unwrap();
    assert!(quota.enter_session() && quota.enter_session() && !quota.enter_session());
    accounts.set(settings("[limits]\nsessions_per_identity_max = 3\nrate = \"16KiB\""));
    assert!(quota.enter_session() && !quota.enter_session());
    assert_ne!(quota.allowance_bytes(0), u64::MAX);
    assert_eq!(accounts.get(&identity(1)).unwrap().sessions(), 3);
}

#[test]
fn identity_has_one_quota_over_all_links_and_after_them() {
    let mut accounts = Accounts::new(settings(""));
    let first = accounts.link_up(moment(0), &up(1, 0, Network::Tcp)).unwrap();
    let second = accounts.link_up(moment(0), &up(1, 1, Network::Tcp)).unwrap();
    accounts.link_down(moment(1), up(1, 0, Network::Tcp).link, &totals(1));
    accounts.link_down(moment(1), up(1, 1, Network::Tcp).link, &totals(1));
    let third = accounts.quota_of(moment(2), &identity(1));
    assert!(Arc::ptr_eq(&first, &second) && Arc::ptr_eq(&first, &third));
}

#[test]
fn what_links_and_pipes_carried_adds_up() {
    let mut accounts = Accounts::new(settings(""));
    for slot in 0..3 {
        accounts.link_up(moment(0), &up(1, slot, Network::Tcp)).unwrap();
        accounts.link_down(moment(slot.into()), up(1, slot, Network::Tcp).link, &totals(10));
        // A report that comes twice is entered once.
        accounts.link_down(moment(9), up(1, slot, Network::Tcp).link, &totals(10));
    }
    let socket = |slot| SocketTag { core: CoreId(1), slot, generation: 0 };
    accounts.joined(socket(0), identity(2), identity(1));
    accounts.joined(socket(1), identity(2), identity(1));
    accounts.join_failed(socket(1));
    for slot in [0, 0, 1, 2] {
        accounts.socket_closed(moment(7), socket(slot), [100, 50]);
    }
    let caller = accounts.get(&identity(2)).unwrap().used();
    assert_eq!((caller.pipes, caller.pipe_bytes_in, caller.pipe_bytes_out), (1, 50, 100));
    let account = accounts.get(&identity(1)).unwrap();
    let wanted = Used {
        links: 3,
        bytes_in: 30,
        bytes_out: 6,
        frames_in: 9,
        frames_out: 12,
        link_time_ns: 15,
        pipes: 1,
        pipe_bytes_in: 100,
        pipe_bytes_out: 50,
    };
    assert_eq!(account.used(), &wanted);
    assert_eq!((account.first_seen(), account.last_seen()), (moment(0), moment(7)));
    assert_eq!(account.profiles().collect::<Vec<_>>(), [Profile::P4.name()]);
}

#[test]
fn least_recently_seen_of_those_without_links_is_summed_up_with_the_others() {
    let mut accounts = Accounts::new(settings("[limits]\naccounts_kept_max = 300"));
    // The first keeps its link and so its account; the second's quota is still in use.
    accounts.link_up(moment(0), &up(1, 1, Network::Tcp)).unwrap();
    let held = accounts.quota_of(moment(0), &identity(2));
    for number in 2..=303 {
        come_and_go(&mut accounts, number);
    }
    assert_eq!(accounts.len(), 301);
    assert!(accounts.get(&identity(1)).is_some() && accounts.get(&identity(2)).is_some());
    assert!(accounts.get(&identity(3)).is_none() && accounts.get(&identity(4)).is_none());
    let (others, evicted) = accounts.others();
    assert_eq!((others.links, others.bytes_in, evicted), (2, 2, 2));
    assert!(Arc::ptr_eq(&held, &accounts.quota_of(moment(9), &identity(2))));
}

fn come_and_go(accounts: &mut Accounts, number: u32) {
    let up = up(number, 7, Network::Tcp);
    accounts.link_up(moment(number.into()), &up).unwrap();
    accounts.link_down(moment(number.into()), up.link, &totals(1));
}

#[test]
fn lowered_number_of_accounts_holds_at_once_and_a_raised_one_from_then_on() {
    let mut accounts = Accounts::new(settings("[limits]\naccounts_kept_max = 300"));
    (1..=300).for_each(|number| come_and_go(&mut accounts, number));
    accounts.set(settings("[limits]\naccounts_kept_max = 256"));
    assert_eq!((accounts.len(), accounts.others().1), (256, 44));
    assert!(accounts.get(&identity(44)).is_none() && accounts.get(&identity(45)).is_some());
    accounts.set(settings(""));
    (301..=400).for_each(|number| come_and_go(&mut accounts, number));
    assert_eq!((accounts.len(), accounts.others().1), (356, 44));
}

#[test]
fn latest_are_those_with_links_and_then_those_seen_last() {
    let mut accounts = Accounts::new(settings(""));
    (3..=5).for_each(|number| come_and_go(&mut accounts, number));
    accounts.link_up(moment(1), &up(1, 1, Network::Tcp)).unwrap();
    accounts.link_up(moment(2), &up(2, 2, Network::Tcp)).unwrap();
    accounts.link_up(moment(2), &up(2, 3, Network::Tcp)).unwrap();
    assert_eq!(accounts.latest(9), [2, 1, 5, 4, 3].map(identity));
    assert_eq!(accounts.latest(3), [2, 1, 5].map(identity));
    assert_eq!(accounts.latest(0), []);
}

#[test]
fn account_takes_no_more_than_the_bound_on_their_number_reckons_with() {
    assert!(size_of::<(Identity, Account)>() <= 176, "{}", size_of::<(Identity, Account)>());
}

#[test]
fn successor_in_the_same_place_ends_a_link_whose_end_was_lost() {
    let mut accounts = Accounts::new(AccountSettings::of_config(&Config::default()));
    accounts.link_up(moment(0), &up(1, 4, Network::Tcp)).unwrap();
    let mut next = up(2, 4, Network::Tcp);
    next.link.generation = 2;
    accounts.link_up(moment(1), &next).unwrap();
    assert_eq!(accounts.get(&identity(1)).unwrap().links(), 0);
    assert_eq!(accounts.links_of(Network::Tcp), 1);
    accounts.link_down(moment(2), up(1, 4, Network::Tcp).link, &totals(1));
    assert_eq!(accounts.get(&identity(2)).unwrap().links(), 1);
}
