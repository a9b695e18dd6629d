//! What is asked of a hub before a WebSocket begins (specification §19.4), and the names of rooms.

use crate::hash::sha256;
use crate::limits::{HUB_AGENT_BYTES_MAX, HUB_QUERY_BYTES_MAX, HUB_ROOM_BYTES_MAX};

/// What a connection wants to be, from the path and the parameters of its request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HubRequest {
    /// `/signal`: takes calls for agents.
    Signal,
    /// `/ice`: meets another party in a room.
    Ice(IceRequest),
}

/// A room, and who is called into it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IceRequest {
    /// The room's name.
    pub room: String,
    /// Whom to call; absent for the party that was called.
    pub call: Option<Call>,
}

/// Who calls whom.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Call {
    /// The agent that is called.
    pub target: String,
    /// Who the caller says it is.
    pub caller: String,
}

/// Why a request is none; its sender is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// A target, and nobody who calls.
    #[error("caller is missing")]
    CallerMissing,
    /// Bytes that are no text.
    #[error("a parameter is not UTF-8")]
    NotUtf8,
    /// Nothing is at this path.
    #[error("there is nothing at this path")]
    Path,
    /// No room, or one without a name.
    #[error("room is missing")]
    RoomMissing,
    /// A parameter beyond its bound.
    #[error("a parameter is too long")]
    TooLong,
}

impl HubRequest {
    /// Reads the path and the parameters behind its question mark. Of a parameter that comes twice
    /// the first counts, as upstream reads it; unknown ones are ignored.
    ///
    /// # Errors
    /// What is wrong with the request.
    pub fn parse(path: &str, query: &str) -> Result<Self, RequestError> {
        match path {
            "/signal" => Ok(Self::Signal),
            "/ice" => IceRequest::parse(query).map(Self::Ice),
            _ => Err(RequestError::Path),
        }
    }
}

impl IceRequest {
    fn parse(query: &str) -> Result<Self, RequestError> {
        if query.len() > HUB_QUERY_BYTES_MAX {
            return Err(RequestError::TooLong);
        }
        let parameter = |name: &str, bytes_max: usize| {
            let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            let value = pairs.find(|(key, _)| *key == name).map_or("", |(_, value)| value);
            let text = unescaped(value).ok_or(RequestError::NotUtf8)?;
            if text.len() > bytes_max { Err(RequestError::TooLong) } else { Ok(text) }
        };
        let room = parameter("room", HUB_ROOM_BYTES_MAX)?;
        let target = parameter("target", HUB_AGENT_BYTES_MAX)?;
        let caller = parameter("caller", HUB_AGENT_BYTES_MAX)?;
        if room.is_empty() {
            return Err(RequestError::RoomMissing);
        }
        let call = match (target.is_empty(), caller.is_empty()) {
            (true, _) => None,
            (false, true) => return Err(RequestError::CallerMissing),
            (false, false) => Some(Call { target, caller }),
        };
        Ok(Self { room, call })
    }
}

/// The room in which two agents meet, from the texts of their addresses.
pub fn room_id(one: &str, other: &str) -> String {
    let (first, second) = if one <= other { (one, other) } else { (other, one) };
    let hash = sha256(&[first.as_bytes(), b"\n", second.as_bytes()]);
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The address of a room at a hub: the parameter `room` is set in its place, or put at the end.
pub fn with_room(url: &str, room: &str) -> String {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let of_room = format!("room={room}");
    let is_room = |pair: &&str| pair.split('=').next() == Some("room");
    let mut pairs: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    match pairs.iter().position(is_room) {
        Some(at) => pairs.splice(at..=at, [&*of_room]).for_each(drop),
        None => pairs.push(&of_room),
    }
    format!("{base}?{}", pairs.join("&"))
}

/// Undoes the escapes of a query: `%xx`, and `+` for a space. An escape that is none stays as it is.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        let digits = behind.first_chunk::<2>().and_then(|digits| {
            let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
            Some(digit(digits[0])? << 4 | digit(digits[1])?)
        });
        match (first, digits) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = behind.get(2..).unwrap_or_default();
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_a_room_and_perhaps_who_calls_whom() {
        let ice = |query: &str| HubRequest::parse("/ice", query);
        let room = |call| Ok(HubRequest::Ice(IceRequest { room: "r".to_owned(), call }));
        let call = Call { target: "a+b".to_owned(), caller: "c d".to_owned() };
        assert_eq!(HubRequest::parse("/signal", "anything"), Ok(HubRequest::Signal));
        assert_eq!(ice("room=r"), room(None));
        assert_eq!(ice("room=r&caller=x&target="), room(None));
        assert_eq!(ice("x=1&target=a%2Bb&caller=c+d&room=r&room=s"), room(Some(call)));
        for query in ["", "room=", "room", "target=x&caller=y", "Room=r"] {
            assert_eq!(ice(query), Err(RequestError::RoomMissing), "{query}");
        }
        assert_eq!(ice("room=r&target=x"), Err(RequestError::CallerMissing));
        assert_eq!(ice("room=%ff"), Err(RequestError::NotUtf8));
        assert_eq!(HubRequest::parse("/", ""), Err(RequestError::Path));
        let long = "x".repeat(HUB_ROOM_BYTES_MAX + 1);
        assert_eq!(ice(&format!("room={long}")), Err(RequestError::TooLong));
        assert_eq!(ice(&"x".repeat(HUB_QUERY_BYTES_MAX + 1)), Err(RequestError::TooLong));
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescaped("%4a%4B%%41%4"), Some("JK%A%4".to_owned()));
    }
}
