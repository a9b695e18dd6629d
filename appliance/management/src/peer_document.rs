//! `/v1/peers`: what each identity has here, has used and may use, and how peers are being dialed.
//!
//! Pure functions, called on the management thread.

use crate::accounts::{Account, Accounts, IdentityLimits, NETWORKS, Used};
use crate::clock::Moment;
use crate::config::Config;
use crate::dialing::{PeerRow, PeerState};
use crate::documents::{CoreListing, SCHEMA};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use waystation_astral::identity::Identity;
use waystation_engine::control::LinkTotals;

/// What a document is made from, besides the listings of the cores.
#[derive(Debug)]
pub struct Known<'a> {
    pub accounts: &'a Accounts,
    pub config: &'a Config,
    /// The configured peers.
    pub dials: Vec<PeerRow>,
    pub now: Moment,
}

/// At most `limit` identities: those with links first, then those seen last. What open links have
/// carried is in the listings of the cores, as far as they answered.
pub fn peers(known: &Known<'_>, listings: &[CoreListing], limit: usize) -> Value {
    let live = live(listings);
    let dials: BTreeMap<_, _> = known.dials.iter().map(|row| (row.identity, row)).collect();
    let strangers = dials.keys().filter(|identity| known.accounts.get(identity).is_none());
    let total = known.accounts.len() + strangers.clone().count();
    let mut identities = known.accounts.latest(limit);
    identities.extend(strangers);
    let rows: Vec<_> = identities
        .iter()
        .take(limit)
        .map(|identity| row(known, identity, live.get(identity), dials.get(identity).copied()))
        .collect();
    let missing = listings.iter().filter(|listing| listing.listing.is_none());
    let (others, evicted) = known.accounts.others();
    json!({
        "schema": SCHEMA,
        "total": total,
        "truncated": rows.len() < total,
        "cores_missing": missing.map(|listing| listing.core.0).collect::<Vec<_>>(),
        "peers": rows,
        "others": { "identities": evicted, "used": used(others) },
    })
}

/// What the open links of each identity have carried so far.
fn live(listings: &[CoreListing]) -> BTreeMap<Identity, Used> {
    let mut live: BTreeMap<Identity, Used> = BTreeMap::new();
    let answered = listings.iter().filter_map(|listing| listing.listing.as_deref());
    for link in answered.flat_map(|listing| &listing.links) {
        live.entry(link.identity).or_default().add_link(&LinkTotals {
            bytes_in: link.bytes_in,
            bytes_out: link.bytes_out,
            frames_in: link.frames_in,
            frames_out: link.frames_out,
            age_ns: link.age_ns,
        });
    }
    live
}

fn row(
    known: &Known<'_>,
    identity: &Identity,
    live: Option<&Used>,
    dial: Option<&PeerRow>,
) -> Value {
    let mut row = Map::new();
    row.insert("identity".to_owned(), json!(identity.to_string()));
    let account = known.accounts.get(identity);
    row.insert("links".to_owned(), json!(account.map_or(0, Account::links)));
    row.insert("sessions".to_owned(), json!(account.map_or(0, Account::sessions)));
    let networks = NETWORKS.into_iter().filter_map(|network| {
        let links = account.map_or(0, |account| account.links_of(network));
        (links > 0).then(|| (network.name().to_owned(), json!(links)))
    });
    row.insert("networks".to_owned(), Value::Object(networks.collect()));
    let profiles: Vec<_> = account.into_iter().flat_map(Account::profiles).collect();
    row.insert("profiles".to_owned(), json!(profiles));
    let mut sum = account.map(|account| *account.used()).unwrap_or_default();
    sum.add(&live.copied().unwrap_or_default());
    row.insert("used".to_owned(), used(&sum));
    row.insert("refused_links".to_owned(), json!(account.map_or(0, Account::refused_links)));
    row.insert("limits".to_owned(), limits(&known.accounts.limits_of(identity)));
    let seen = account.map(|account| match account.links() {
        0 => account.last_seen(),
        _ => known.now,
    });
    row.insert("last_seen_unix_ms".to_owned(), json!(seen.map(Moment::unix_ms)));
    let first = account.map(|account| account.first_seen().unix_ms());
    row.insert("first_seen_unix_ms".to_owned(), json!(first));
    row.insert("configured".to_owned(), json!(known.config.peer(identity).is_some()));
    row.insert("dial".to_owned(), json!(dial.map(|dial| dial_state(dial, known.now))));
    Value::Object(row)
}

fn used(used: &Used) -> Value {
    json!({
        "links": used.links,
        "bytes_in": used.bytes_in,
        "bytes_out": used.bytes_out,
        "frames_in": used.frames_in,
        "frames_out": used.frames_out,
        "link_time_ms": used.link_time_ns / 1_000_000,
        "pipes": used.pipes,
        "pipe_bytes_in": used.pipe_bytes_in,
        "pipe_bytes_out": used.pipe_bytes_out,
    })
}

fn limits(limits: &IdentityLimits) -> Value {
    json!({
        "links": limits.links,
        "links_per_network": limits.links_per_network,
        "sessions": limits.quota.sessions,
        "registrations": limits.registrations,
        "bytes_per_s": limits.quota.bytes_per_s,
        "burst_bytes": limits.quota.burst_bytes,
    })
}

fn dial_state(dial: &PeerRow, now: Moment) -> Value {
    let wait_ms = match dial.state {
        PeerState::Waiting { until_ns } => {
            Some(until_ns.saturating_sub(now.monotonic_ns) / 1_000_000)
        }
        PeerState::Linked { .. } | PeerState::Dialing { .. } | PeerState::Awaited => None,
    };
    json!({
        "state": dial.state.name(),
        "wait_ms": wait_ms,
        "dials": dial.dials,
        "failures": dial.failures,
        "last_error": dial.last_error.as_ref().map(ToString::to_string),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::AccountSettings;
    use crate::fixtures::{listings, moment, peer};
    use waystation_astral::frame::Profile;
    use waystation_engine::control::{LinkUp, Network};
    use waystation_relay::ids::{CoreId, LinkTag};

    fn up() -> LinkUp {
        LinkUp {
            link: LinkTag { core: CoreId(0), slot: 1, generation: 7 },
            identity: peer(),
            profile: Profile::P4,
            link_id: 7,
            remote: "203.0.113.7:41000".parse().unwrap(),
            local: "198.51.100.9:1791".parse().unwrap(),
            inner: false,
            network: Network::Tcp,
            dial: None,
        }
    }

    #[test]
    fn peer_shows_what_ended_and_open_links_carried_together() {
        let config = Config::default();
        let mut accounts = Accounts::new(AccountSettings::of_config(&config));
        accounts.link_up(moment(1), &up()).unwrap();
        let totals = LinkTotals { bytes_in: 100, ..LinkTotals::default() };
        accounts.link_down(moment(2), up().link, &totals);
        accounts.link_up(moment(3), &up()).unwrap();
        let known = Known { accounts: &accounts, config: &config, dials: vec![], now: moment(9) };
        let document = peers(&known, &listings(), 10);
        let row = &document["peers"][0];
        assert_eq!(row["identity"], peer().to_string());
        // The listing has two open links of it, with 10 bytes each.
        assert_eq!((&row["used"]["bytes_in"], &row["used"]["links"]), (&json!(120), &json!(3)));
        assert_eq!((&row["links"], &row["networks"]), (&json!(1), &json!({ "tcp": 1 })));
        assert_eq!(row["last_seen_unix_ms"], moment(9).unix_ms(), "it is here now");
        assert_eq!(row["limits"]["links"], 64);
        assert_eq!((&document["total"], &document["truncated"]), (&json!(1), &json!(false)));
        assert_eq!(document["cores_missing"], json!([1]));
    }

    #[test]
    fn configured_peer_that_was_never_here_shows_how_it_is_dialed() {
        let config = Config::default();
        let accounts = Accounts::new(AccountSettings::of_config(&config));
        let until_ns = moment(9).monotonic_ns + 5_000_000;
        let dial = PeerRow {
            identity: peer(),
            endpoints: vec![],
            state: PeerState::Waiting { until_ns },
            dials: 4,
            failures: 2,
            last_error: None,
        };
        let known =
            Known { accounts: &accounts, config: &config, dials: vec![dial], now: moment(9) };
        let document = peers(&known, &[], 10);
        let row = &document["peers"][0];
        assert_eq!(row["dial"]["state"], "waiting");
        assert_eq!((&row["dial"]["wait_ms"], &row["dial"]["failures"]), (&json!(5), &json!(2)));
        assert_eq!(row["last_seen_unix_ms"], Value::Null);
        assert_eq!(peers(&known, &[], 0)["truncated"], true);
    }
}
