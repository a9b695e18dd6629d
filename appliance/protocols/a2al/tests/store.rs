//! The store under its limits, alone.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use waystation_a2al::keys::{Ed25519, PublicKey, SigningKey};
use waystation_a2al::limits::{
    MAILBOX_RECORDS_PER_KEY, MAILBOX_RECORDS_PER_KEY_AND_SIGNER, SHARE_RECORDS_MIN,
    SOVEREIGN_RECORDS_PER_KEY, TOPIC_RECORDS_PER_KEY,
};
use waystation_a2al::node_id::NodeId;
use waystation_a2al::payload::{MailboxPayload, TopicPayload};
use waystation_a2al::prefix::Prefix;
use waystation_a2al::record::{
    Category, RecordError, RecordType, SignedRecord, Unsigned, Version, topic_key,
};
use waystation_a2al::store::{Origin, Put, PutError, Store, StoreLimits};
use waystation_a2al::time::{Millis, Now, UnixSeconds};

const START: u64 = 1_800_000_000;
const NEW: Result<Put, PutError> = Ok(Put::Stored { was_absent: true });

fn at(seconds: u64) -> Now {
    Now { millis: Millis(seconds * 1000), unix: UnixSeconds(START + seconds) }
}

fn store() -> Store {
    Store::new(StoreLimits { keys_max: 1000, bytes_max: 1 << 24 })
}

fn signer(number: u16) -> SigningKey {
    let mut seed = [9; 32];
    seed[..2].copy_from_slice(&number.to_be_bytes());
    SigningKey::from_seed(&seed).unwrap()
}

#[derive(Clone, Debug)]
struct Draft {
    signer: u16,
    record_type: u8,
    payload: Vec<u8>,
    sequence: u64,
    second: u64,
    ttl_s: u32,
}

impl Draft {
    fn sovereign(signer: u16, record_type: u8, sequence: u64) -> Self {
        Self { signer, record_type, payload: vec![], sequence, second: 0, ttl_s: 3600 }
    }

    fn topic(signer: u16, sequence: u64, second: u64) -> Self {
        let payload = TopicPayload { topic: "t".to_owned(), ..TopicPayload::default() };
        let payload = payload.encode();
        Self { signer, record_type: 0x10, payload, sequence, second, ttl_s: 3600 }
    }

    fn mail(number: u16, text: u8, second: u64) -> Self {
        let payload = MailboxPayload {
            recipient: signer(0).address(),
            sender: signer(number).address(),
            ephemeral_key: [0; 32],
            ciphertext: vec![text],
            nonce: [0; 12],
        };
        let payload = payload.encode();
        Self { signer: number, record_type: 0x80, payload, sequence: 1, second, ttl_s: 3600 }
    }

    fn key(&self) -> NodeId {
        match RecordType(self.record_type).category() {
            Category::Topic => topic_key("t"),
            Category::Mailbox => signer(0).address().node_id(),
            Category::Sovereign | Category::Unknown => signer(self.signer).address().node_id(),
        }
    }

    fn sign(&self) -> SignedRecord {
        let key = signer(self.signer);
        Unsigned {
            address: key.address(),
            record_type: RecordType(self.record_type),
            payload: self.payload.clone(),
            sequence: self.sequence,
            timestamp: START + self.second,
            ttl_s: self.ttl_s,
            delegation: Vec::new(),
        }
        .sign(&key)
    }
}

fn put(store: &mut Store, draft: &Draft, now: Now) -> Result<Put, PutError> {
    store.put(draft.key(), draft.sign(), Origin::Unknown, &mut Ed25519, now)
}

fn held(store: &mut Store, key: NodeId, now: Now) -> Vec<SignedRecord> {
    store.read(&key, RecordType::ANY, now).iter().map(|stored| (*stored.record).clone()).collect()
}

#[test]
fn one_topic_record_of_a_signer_replaces_the_other() {
    let mut store = store();
    assert_eq!(put(&mut store, &Draft::topic(1, 1, 0), at(0)), NEW);
    let newer = Draft::topic(1, 2, 0);
    let replaced = Ok(Put::Stored { was_absent: false });
    assert_eq!(put(&mut store, &newer, at(0)), replaced);
    assert_eq!(held(&mut store, newer.key(), at(0)), [newer.sign()]);
    assert_eq!(put(&mut store, &Draft::topic(1, 1, 0), at(0)), Ok(Put::Stale));
}

#[test]
fn a_sovereign_record_has_one_place() {
    let record = Draft::sovereign(1, 5, 1).sign();
    let wrong = store().put(NodeId([7; 32]), record, Origin::Unknown, &mut Ed25519, at(0));
    assert_eq!(wrong, Err(PutError::Record(RecordError::WrongKey)));
}

#[test]
fn crowds_lose_their_oldest() {
    let mut store = store();
    for text in 0..5 {
        assert_eq!(put(&mut store, &Draft::mail(1, text, u64::from(text)), at(10)), NEW);
    }
    let key = signer(0).address().node_id();
    let kept = held(&mut store, key, at(10));
    assert_eq!(kept.len(), MAILBOX_RECORDS_PER_KEY_AND_SIGNER);
    assert!(kept.iter().all(|record| record.timestamp > START));
    for number in 2..=51 {
        assert_eq!(put(&mut store, &Draft::mail(number, 0, 5 + u64::from(number)), at(60)), NEW);
    }
    let kept = held(&mut store, key, at(60));
    assert_eq!(kept.len(), MAILBOX_RECORDS_PER_KEY);
    for number in 1..=101 {
        assert_eq!(put(&mut store, &Draft::topic(number, 1, u64::from(number)), at(110)), NEW);
    }
    let kept = held(&mut store, topic_key("t"), at(110));
    assert_eq!(kept.len(), TOPIC_RECORDS_PER_KEY);
    assert!(kept.iter().all(|record| record.address != signer(1).address()));
}

#[test]
fn the_ninth_type_displaces_the_first_that_is_no_endpoint() {
    let mut store = store();
    let endpoint = waystation_a2al::payload::EndpointPayload::default().encode();
    let first = Draft { payload: endpoint, ..Draft::sovereign(1, 1, 1) };
    put(&mut store, &first, at(0)).unwrap();
    for record_type in 2..=9 {
        put(&mut store, &Draft::sovereign(1, record_type, 1), at(0)).unwrap();
    }
    let types: Vec<u8> =
        held(&mut store, first.key(), at(0)).iter().map(|record| record.record_type.0).collect();
    assert_eq!(types, [1, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn what_expired_is_gone_and_nothing_appears_twice() {
    let mut store = store();
    for record_type in 2..=5 {
        let ttl_s = if record_type == 2 { 2 } else { 600 };
        let draft = Draft { ttl_s, ..Draft::sovereign(1, record_type, 1) };
        assert_eq!(put(&mut store, &draft, at(0)), NEW);
    }
    let key = Draft::sovereign(1, 2, 1).key();
    assert_eq!(held(&mut store, key, at(2)).len(), 4, "still good in its last second");
    for second in 3..6 {
        assert_eq!(held(&mut store, key, at(second)).len(), 3);
    }
    assert_eq!(store.len(), 3);
    assert_eq!(store.expire(10, at(700)), 3);
    assert!(store.is_empty() && store.keys() == 0 && store.bytes() == 0);
}

#[test]
fn the_keys_touched_longest_ago_make_room() {
    let mut store = Store::new(StoreLimits { keys_max: 10, bytes_max: 1 << 20 });
    let key = |number| Draft::sovereign(number, 5, 1).key();
    for number in 1..=10 {
        put(&mut store, &Draft::sovereign(number, 5, 1), at(0)).unwrap();
    }
    held(&mut store, key(1), at(1));
    put(&mut store, &Draft::sovereign(11, 5, 1), at(2)).unwrap();
    assert_eq!(store.keys(), 10);
    assert!(!held(&mut store, key(1), at(3)).is_empty());
    assert!(held(&mut store, key(2), at(3)).is_empty());
    let mut small = Store::new(StoreLimits { keys_max: 1000, bytes_max: 10_000 });
    for number in 1..=100 {
        let draft = Draft { payload: vec![0; 500], ..Draft::sovereign(number, 5, 1) };
        put(&mut small, &draft, at(0)).unwrap();
        assert!(small.bytes() <= 10_000);
    }
    assert!(small.keys() >= 8);
}

/// The network of a peer; each has another one.
fn network(number: u16) -> Origin {
    let [high, low] = number.to_be_bytes();
    Origin::Network(Prefix::customer([10, high, low, 1].into()))
}

/// A full store of live records, each of somebody else.
fn full(keys: u16) -> Store {
    let mut store = Store::new(StoreLimits { keys_max: usize::from(keys), bytes_max: 1 << 24 });
    for number in 1..=keys {
        let draft = Draft::sovereign(number, 5, 1);
        let put = store.put(draft.key(), draft.sign(), network(number), &mut Ed25519, at(0));
        assert_eq!(put, NEW);
    }
    store
}

/// How many of those are still there.
fn live(store: &mut Store, keys: u16) -> usize {
    let is_there =
        |number: &u16| !held(store, Draft::sovereign(*number, 5, 1).key(), at(1)).is_empty();
    (1..=keys).filter(is_there).count()
}

#[test]
fn a_flood_from_few_networks_turns_over_itself_and_live_records_stay() {
    const KEYS: u16 = 500;
    let mut store = full(KEYS);
    // A flooder has as many keys as it wants, and reads its own records to keep them in use.
    for number in 1000..3000 {
        let draft = Draft::sovereign(number, 5, 1);
        let from = network(20_000 + number % 3);
        store.put(draft.key(), draft.sign(), from, &mut Ed25519, at(1)).unwrap();
        held(&mut store, draft.key(), at(1));
        assert!(store.keys() <= usize::from(KEYS));
    }
    // The first records of each pass for anybody's; after that it is its own that go.
    let gone = usize::from(KEYS) - live(&mut store, KEYS);
    assert!(gone <= 3 * (SHARE_RECORDS_MIN as usize + 1), "{gone} are gone");
    assert!(store.made_room() >= 2000 - gone as u64, "{}", store.made_room());
    // What is kept of the flood is its newest, and others still find room.
    let newest = Draft::sovereign(2999, 5, 1);
    assert_eq!(held(&mut store, newest.key(), at(1)), [newest.sign()]);
    let other = Draft::sovereign(5000, 5, 1);
    assert_eq!(store.put(other.key(), other.sign(), network(5000), &mut Ed25519, at(2)), NEW);
    assert_eq!(usize::from(KEYS) - live(&mut store, KEYS), gone);
}

#[test]
fn a_flood_of_few_signers_from_everywhere_turns_over_itself() {
    const KEYS: u16 = 500;
    let mut store = full(KEYS);
    for number in 0..1500_u16 {
        // Types 11 to 1F may stand anywhere.
        let draft = Draft { record_type: 0x11, payload: vec![], ..Draft::topic(9000, 1, 0) };
        let key = NodeId(waystation_a2al::sha256(&[&number.to_be_bytes()]));
        let from = network(20_000 + number);
        store.put(key, draft.sign(), from, &mut Ed25519, at(1)).unwrap();
    }
    let gone = usize::from(KEYS) - live(&mut store, KEYS);
    assert!(gone <= SHARE_RECORDS_MIN as usize + 1, "{gone} are gone");
}

#[test]
fn who_has_many_keys_in_one_network_drives_nobody_out_of_a_topic() {
    let mut store = store();
    for number in 1..=40 {
        let draft = Draft::topic(number, 1, 0);
        store.put(draft.key(), draft.sign(), network(number), &mut Ed25519, at(0)).unwrap();
    }
    for number in 1000..1300 {
        let draft = Draft::topic(number, 1, 50);
        store.put(draft.key(), draft.sign(), network(20_000), &mut Ed25519, at(60)).unwrap();
    }
    let kept = held(&mut store, topic_key("t"), at(60));
    assert_eq!(kept.len(), TOPIC_RECORDS_PER_KEY);
    assert!((1..=40).all(|number| kept.contains(&Draft::topic(number, 1, 0).sign())));
}

#[test]
fn own_records_make_no_room_for_others() {
    let mut store = Store::new(StoreLimits { keys_max: 300, bytes_max: 1 << 24 });
    let own = |number: u8| {
        let draft = Draft { record_type: 0x11, payload: vec![], ..Draft::topic(1, 1, 0) };
        (NodeId([number; 32]), draft.sign())
    };
    for number in 0..200 {
        let (key, record) = own(number);
        store.put(key, record, Origin::Own, &mut Ed25519, at(0)).unwrap();
    }
    for number in 1000..1500 {
        let draft = Draft::sovereign(number, 5, 1);
        store.put(draft.key(), draft.sign(), network(1), &mut Ed25519, at(1)).unwrap();
    }
    assert!((0..200).all(|number| held(&mut store, own(number).0, at(1)).len() == 1));
}

#[test]
fn waiting_mail_is_named_newest_first_and_not_more_than_eight() {
    let mut store = store();
    for number in 1..=20 {
        put(&mut store, &Draft::mail(number, 1, u64::from(number)), at(30)).unwrap();
    }
    let pool = store.waiting_mail(&signer(0).address().node_id(), at(30));
    assert_eq!(pool.len(), 1);
    assert_eq!((pool[0].count, pool[0].ids.len()), (20, 8));
    assert_eq!(pool[0].ids[0], Draft::mail(20, 1, 20).sign().record_id());
}

#[test]
fn a_record_is_verified_once_when_it_enters() {
    let mut store = store();
    let drafts: Vec<_> = (0..20).map(|signer| Draft::topic(signer, 1, 0)).collect();
    for draft in &drafts {
        assert!(matches!(put(&mut store, draft, at(0)), Ok(Put::Stored { .. })));
    }
    assert_eq!(store.verified(), 20);
    let key = drafts[0].key();
    for second in 0..50 {
        assert_eq!(held(&mut store, key, at(second)).len(), 20);
        assert!(store.peek(&key, RecordType::TOPIC, at(second)).is_some());
    }
    store.expire(100, at(60));
    for draft in &drafts {
        assert_eq!(put(&mut store, draft, at(60)), Ok(Put::Stale), "it is here word for word");
    }
    assert_eq!(store.verified(), 20, "neither reading nor repeating verifies");
    let mut forged = drafts[0].sign();
    forged.payload.push(0);
    assert!(store.put(key, forged, Origin::Unknown, &mut Ed25519, at(60)).is_err());
}

fn drafts() -> impl Strategy<Value = Draft> {
    let sovereign = (1..6_u16, 2..12_u8, 0..4_u64, 0..40_u64, 1..60_u32).prop_map(
        |(signer, record_type, sequence, second, ttl_s)| Draft {
            second,
            ttl_s,
            ..Draft::sovereign(signer, record_type, sequence)
        },
    );
    let topic =
        (1..6_u16, 0..4_u64, 0..40_u64, 1..60_u32).prop_map(|(signer, sequence, second, ttl_s)| {
            Draft { ttl_s, ..Draft::topic(signer, sequence, second) }
        });
    let mail =
        (1..4_u16, 0..8_u8, 0..40_u64, 1..60_u32).prop_map(|(signer, text, second, ttl_s)| Draft {
            ttl_s,
            ..Draft::mail(signer, text, second)
        });
    prop_oneof![sovereign, topic, mail]
}

/// What of a store is compared with a plain model: the newest version of each slot.
type Slot = (NodeId, PublicKey, u8, Vec<u8>);

fn slot(draft: &Draft, record: &SignedRecord) -> Slot {
    let category = record.record_type.category();
    let record_type = if category == Category::Topic { 0x10 } else { record.record_type.0 };
    let payload = if category == Category::Mailbox { record.payload.clone() } else { Vec::new() };
    (draft.key(), record.public_key, record_type, payload)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_store_holds_what_a_plain_model_holds(
        steps in vec((drafts(), 0..4_u64), 1..80),
    ) {
        let mut store = store();
        let mut newest: BTreeMap<[u8; 32], (Slot, Version, u64)> = BTreeMap::new();
        let mut second = 0;
        for (draft, passed) in steps {
            second += passed;
            let record = draft.sign();
            let outcome = store.put(draft.key(), record.clone(), Origin::Unknown, &mut Ed25519, at(second));
            let is_early = record.timestamp > START + second + 60;
            let is_late = record.expires_at() < START + second;
            prop_assert_eq!(outcome.is_err(), is_early || is_late);
            let slot = slot(&draft, &record);
            let name = waystation_a2al::sha256(&[&format!("{slot:?}").into_bytes()]);
            if let Ok(Put::Stored { .. }) = outcome {
                newest.insert(name, (slot, record.version(), record.expires_at()));
            } else if let (Ok(Put::Stale), Some((_, version, _))) = (outcome, newest.get(&name)) {
                prop_assert!(*version >= record.version());
            }
            check(&mut store, &newest, second);
        }
    }
}

/// Everything held is the newest of its slot, is good, and is within the limits.
fn check(store: &mut Store, newest: &BTreeMap<[u8; 32], (Slot, Version, u64)>, second: u64) {
    let keys: Vec<NodeId> = newest.values().map(|((key, ..), ..)| *key).collect();
    let mut total = 0;
    for key in std::collections::BTreeSet::from_iter(keys) {
        let records = held(store, key, at(second));
        total += records.len();
        let count = |category| {
            let of = records.iter().filter(|record| record.record_type.category() == category);
            of.count()
        };
        assert!(count(Category::Sovereign) <= SOVEREIGN_RECORDS_PER_KEY);
        assert!(count(Category::Mailbox) <= MAILBOX_RECORDS_PER_KEY);
        for record in &records {
            assert!(record.expires_at() >= START + second);
            let known = newest.values().any(|((at, signer, ..), version, _)| {
                *at == key && *signer == record.public_key && *version == record.version()
            });
            assert!(known, "something old came back");
        }
    }
    assert_eq!(store.len(), total);
    assert_eq!(store.records_by_use().count(), total);
}
