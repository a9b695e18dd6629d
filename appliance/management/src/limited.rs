//! What keeps links and pipes from being faster, as documents and tables tell it.
//!
//! Pure functions on values of a listing, called on the management thread.

use serde_json::{Map, Value, json};
use waystation_relay::limiting::{Cause, CauseShares, HeldUp};

/// The cause with the largest share of the last interval and all shares: whichever way the payload
/// goes, and apart for what the peer has sent (`in`) and what is to be sent to it (`out`).
pub(crate) fn limited_by(held_up: &HeldUp) -> Value {
    let mut value = one_way(&held_up.shares());
    value["in"] = one_way(&held_up.sent_shares());
    value["out"] = one_way(&held_up.due_shares());
    value
}

fn one_way(shares: &CauseShares) -> Value {
    let by_cause =
        |cause: Cause| (cause.name().to_owned(), json!(to_permille(shares.share(cause))));
    let all: Map<_, _> = Cause::ALL.into_iter().map(by_cause).collect();
    json!({ "cause": shares.largest().map(Cause::name), "shares": all })
}

/// More digits would only be noise.
fn to_permille(share: f64) -> f64 {
    (share * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_and_shares_are_told_by_name() {
        let held_up = HeldUp { interval_ns: 3, core_ns: 2, ..HeldUp::default() };
        let value = limited_by(&held_up);
        assert_eq!(value["cause"], "core");
        assert_eq!(value["shares"]["core"], 0.667);
        assert_eq!(value["shares"]["sender_idle"], 0.333);
        assert_eq!(value["in"]["cause"], "core");
        assert_eq!(value["out"]["cause"], "sender_idle");
    }

    #[test]
    fn before_the_first_interval_there_is_no_cause() {
        assert_eq!(limited_by(&HeldUp::default())["cause"], Value::Null);
    }
}
