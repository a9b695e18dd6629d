//! Query strings: what is parsed is known, and arguments survive being written.

use waystation_astral::frame::Profile;
use waystation_astral::gateway;
use waystation_astral::operations::{self, Operation, OperationError};
use waystation_astral::query::{self, QueryString};

/// Keys of arguments that any operation reads.
const KEYS: [&str; 11] = [
    "id",
    "in",
    "link_id",
    "nonce",
    "out",
    "session_id",
    "set_caller",
    "set_target",
    "size",
    "target",
    "visibility",
];

/// Reads the input as a query string of peers of every profile.
pub fn operation(input: &[u8]) {
    let known = operations::is_known(input);
    let of_gateway = gateway::parse(input);
    assert!(known || of_gateway.is_none());
    for profile in Profile::ALL {
        match operations::parse(input, profile) {
            Ok(request) => {
                assert!(known);
                let found = match request.operation {
                    Operation::Gateway(operation) => Some(Ok(operation)),
                    _ => None,
                };
                assert_eq!(found, of_gateway, "both parsers agree");
            }
            Err(OperationError::Unknown) => assert!(!known),
            Err(_) => assert!(known, "a query of nobody's is malformed"),
        }
    }
    let Ok(query) = QueryString::parse(input) else { return };
    assert!(input.starts_with(query.path().as_bytes()));
    let values: Vec<_> = KEYS.iter().filter_map(|key| Some((*key, query.argument(key)?))).collect();
    let arguments: Vec<_> = values.iter().map(|(key, value)| (*key, value.as_ref())).collect();
    let written = query::format(query.path(), &arguments);
    let Ok(again) = QueryString::parse(written.as_bytes()) else {
        assert!(written.len() > usize::from(u16::MAX), "only escapes can make it too long");
        return;
    };
    assert_eq!(again.path(), query.path());
    for key in KEYS {
        assert_eq!(again.argument(key), query.argument(key), "{key} changes on the way");
    }
}
