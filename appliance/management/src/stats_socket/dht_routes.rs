//! What the parameters below `/v1/dht` say. Keys and payloads are hexadecimal digits.

use super::request::Question;
use super::routes::{Parameters, Refusal, refuse};
use crate::dht::DhtQuestion;
use crate::dht::limits::PAYLOAD_BYTES_MAX;
use waystation_a2al::address_text;
use waystation_a2al::node_id::NodeId;
use waystation_a2al::record::RecordType;

pub(super) fn look_up(given: &Parameters<'_>) -> Result<Question, Refusal> {
    let value = required(given, "address")?;
    let address = address_text::parse(value)
        .map_err(|error| refuse("address", value, format!("an address of the DHT: {error}")))?;
    Ok(Question::Dht(DhtQuestion::LookUp(address)))
}

pub(super) fn get(given: &Parameters<'_>) -> Result<Question, Refusal> {
    Ok(Question::Dht(DhtQuestion::Get { key: key(given)?, record_type: record_type(given)? }))
}

/// Without any parameter: everything of its own anew.
pub(super) fn publish(given: &Parameters<'_>) -> Result<Question, Refusal> {
    let names = ["key", "type", "payload"];
    if names.iter().all(|name| given.value(name).is_none()) {
        return Ok(Question::Dht(DhtQuestion::PublishAll));
    }
    let value = required(given, "payload")?;
    let payload = bytes(value).filter(|bytes| bytes.len() <= PAYLOAD_BYTES_MAX);
    let wanted = || format!("pairs of hex digits, at most {PAYLOAD_BYTES_MAX}");
    let payload = payload.ok_or_else(|| refuse("payload", value, wanted()))?;
    let (key, record_type) = (key(given)?, record_type(given)?);
    Ok(Question::Dht(DhtQuestion::Publish { key, record_type, payload }))
}

pub(super) fn withdraw(given: &Parameters<'_>) -> Result<Question, Refusal> {
    Ok(Question::Dht(DhtQuestion::Withdraw { key: key(given)?, record_type: record_type(given)? }))
}

fn required<'q>(given: &Parameters<'q>, name: &'static str) -> Result<&'q str, Refusal> {
    given.value(name).ok_or(Refusal::Missing { name })
}

fn key(given: &Parameters<'_>) -> Result<NodeId, Refusal> {
    let value = required(given, "key")?;
    let key = bytes(value).and_then(|bytes| Some(NodeId(*bytes.as_array()?)));
    key.ok_or_else(|| refuse("key", value, "64 hex digits".to_owned()))
}

fn record_type(given: &Parameters<'_>) -> Result<RecordType, Refusal> {
    let value = required(given, "type")?;
    let number = value.parse().map(RecordType);
    number.map_err(|_no_number| refuse("type", value, "a number up to 255".to_owned()))
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use crate::dht::DhtQuestion;
    use crate::stats_socket::{Question, asked};
    use waystation_a2al::node_id::NodeId;
    use waystation_a2al::record::RecordType;

    fn ask(method: &str, target: &str) -> Result<DhtQuestion, String> {
        match asked(method.as_bytes(), target.as_bytes(), true).unwrap() {
            Ok(Question::Dht(question)) => Ok(question),
            Ok(other) => panic!("{other:?}"),
            Err(document) => Err(String::from_utf8(document.body().to_vec()).unwrap()),
        }
    }

    #[test]
    fn keys_types_and_payloads_are_read() {
        let key = "ab".repeat(32);
        let (there, kind) = (NodeId([0xab; 32]), RecordType(16));
        assert_eq!(
            ask("POST", &format!("/v1/dht/get?key={key}&type=16")),
            Ok(DhtQuestion::Get { key: there, record_type: kind }),
        );
        assert_eq!(
            ask("POST", &format!("/v1/dht/publish?key={key}&type=16&payload=00fF")),
            Ok(DhtQuestion::Publish { key: there, record_type: kind, payload: vec![0, 255] }),
        );
        assert_eq!(
            ask("POST", &format!("/v1/dht/withdraw?key={key}&type=16")),
            Ok(DhtQuestion::Withdraw { key: there, record_type: kind }),
        );
        assert_eq!(ask("POST", "/v1/dht/publish"), Ok(DhtQuestion::PublishAll));
        assert_eq!(ask("GET", "/v1/dht"), Ok(DhtQuestion::Status));
        assert_eq!(ask("GET", "/v1/dht/peers?limit=7"), Ok(DhtQuestion::Peers { limit: 7 }));
    }

    #[test]
    fn what_is_none_of_them_is_named() {
        let key = "ab".repeat(32);
        let too_long = "00".repeat(701);
        for (method, target, words) in [
            ("GET", "/v1/dht/get?key=ab&type=1".to_owned(), "only POST"),
            ("POST", "/v1/dht/get?key=ab&type=1".to_owned(), "64 hex digits"),
            ("POST", format!("/v1/dht/get?key={key}"), "parameter type is missing"),
            ("POST", format!("/v1/dht/get?key={key}&type=256"), "up to 255"),
            ("POST", format!("/v1/dht/publish?key={key}&type=1"), "payload is missing"),
            ("POST", format!("/v1/dht/publish?key={key}&type=1&payload=0"), "pairs of hex"),
            ("POST", format!("/v1/dht/publish?key={key}&type=1&payload={too_long}"), "at most 700"),
            ("POST", "/v1/dht/lookup?address=nobody".to_owned(), "an address of the DHT"),
        ] {
            let error = ask(method, &target).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
