//! `waystation dht …`: questions and commands about the node of the DHT.

use crate::arguments::{
    DhtCommand, DhtPlace, DhtPublishArguments, ListingArguments, SocketArgument,
};
use crate::questions::{print, show, socket};
use serde_json::Value;
use waystation_a2al::payload::TopicPayload;
use waystation_a2al::record::{RecordType, topic_key};
use waystation_management::dht::limits::LOOK_UP_TIMEOUT;
use waystation_management::limits::CLIENT_TIMEOUT;
use waystation_management::render;
use waystation_management::stats_socket::client;

/// `waystation dht`
pub(crate) fn dht(command: &DhtCommand) -> anyhow::Result<()> {
    match command {
        DhtCommand::Status(listing) => ask("/v1/dht", listing, render::dht::status),
        DhtCommand::Peers(listing) => ask("/v1/dht/peers", listing, render::dht::peers),
        DhtCommand::Records(listing) => ask("/v1/dht/records", listing, render::dht::records),
        DhtCommand::Lookup { address, listing } => {
            // No form of an address has other letters, and none has to be escaped.
            let is_plain = |letter: char| letter.is_ascii_alphanumeric();
            if !address.chars().all(is_plain) {
                anyhow::bail!("{address:?} is not an address of the DHT");
            }
            look_up(&format!("/v1/dht/lookup?address={address}"), listing)
        }
        DhtCommand::Get { place, listing } => {
            look_up(&format!("/v1/dht/get?{}", query(place)), listing)
        }
        DhtCommand::Publish(publish) => self::publish(publish),
        DhtCommand::Withdraw { place, socket } => {
            let document = post(&format!("/v1/dht/withdraw?{}", query(place)), socket)?;
            let key = document["withdrawn"].as_str().unwrap_or("-");
            print(format!("nothing of this node is renewed under {key} any more\n").as_bytes())
        }
    }
}

fn ask(uri: &str, listing: &ListingArguments, render: fn(&Value) -> String) -> anyhow::Result<()> {
    show(&client::get(&socket(&listing.socket)?, uri)?, listing.json, render)
}

fn look_up(uri: &str, listing: &ListingArguments) -> anyhow::Result<()> {
    // The program answers within its own limit, however busy it is.
    let answer = client::post(&socket(&listing.socket)?, uri, 2 * LOOK_UP_TIMEOUT)?;
    show(&answer, listing.json, render::dht::found)
}

fn publish(arguments: &DhtPublishArguments) -> anyhow::Result<()> {
    let Some(topic) = &arguments.topic else {
        let document = post("/v1/dht/publish", &arguments.socket)?;
        let records = document["published"].as_u64().unwrap_or(0);
        return print(format!("publishes {records} records anew\n").as_bytes());
    };
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let payload = TopicPayload {
        topic: topic.clone(),
        name: arguments.name.clone(),
        protocols: some(&arguments.protocol),
        tags: some(&arguments.tag),
        brief: arguments.brief.clone(),
        ..TopicPayload::default()
    };
    payload.check()?;
    let (key, kind) = (topic_key(topic), RecordType::TOPIC.0);
    let uri =
        format!("/v1/dht/publish?key={key}&type={kind}&payload={}", hex::encode(payload.encode()));
    post(&uri, &arguments.socket)?;
    print(format!("published under {key}\n").as_bytes())
}

fn post(uri: &str, at: &SocketArgument) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&client::post(&socket(at)?, uri, CLIENT_TIMEOUT)?)?)
}

/// The parameters of a place.
fn query(place: &DhtPlace) -> String {
    let otherwise = if place.topic.is_some() { RecordType::TOPIC } else { RecordType::ANY };
    let kind = place.record_type.unwrap_or(otherwise.0);
    let key = match (&place.topic, &place.key) {
        (Some(topic), _) => topic_key(topic).to_string(),
        // What is no key is told by the program, which says what one is; letters that are no digits
        // of one have no place in a request.
        (None, Some(key)) => key.chars().filter(char::is_ascii_alphanumeric).collect(),
        (None, None) => String::new(),
    };
    format!("key={key}&type={kind}")
}
