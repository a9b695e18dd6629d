//! Query strings: `path` or `path?arguments`, the arguments form-encoded (spec §8.1).
//!
//! Owns parsing and formatting. The gateway module and the management core's services call it;
//! the data path passes query strings through unread. It borrows from the frame, bounds the number
//! of arguments, and allocates only when an escaped value is asked for.

use std::borrow::Cow;

use crate::limits::{QUERY_ARGUMENTS_MAX, QUERY_STRING_BYTES_MAX};

/// Why bytes are not a query string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Longer than a frame can carry.
    #[error("query string of {bytes} bytes is over the {QUERY_STRING_BYTES_MAX} limit")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not UTF-8, before or after unescaping.
    #[error("query string is not UTF-8 text")]
    NotText,
    /// A `%` without two hexadecimal digits, or a bare `;`, which the upstream parser refuses.
    #[error("query argument {index} is not form-encoded")]
    Escape {
        /// Which argument, counted from 0.
        index: usize,
    },
    /// More arguments than we read.
    #[error("query string has more than {QUERY_ARGUMENTS_MAX} arguments")]
    TooManyArguments,
}

/// A well-formed query string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryString<'a> {
    path: &'a str,
    arguments: &'a str,
}

impl<'a> QueryString<'a> {
    /// Parses a query frame's string and checks every argument's escapes.
    ///
    /// # Errors
    /// [`QueryError`], whose only proper answer on the wire is a rejection with code 1.
    pub fn parse(query: &'a [u8]) -> Result<Self, QueryError> {
        if query.len() > QUERY_STRING_BYTES_MAX {
            return Err(QueryError::TooLong { bytes: query.len() });
        }
        let Ok(text) = core::str::from_utf8(query) else { return Err(QueryError::NotText) };
        let (path, arguments) = text.split_once('?').unwrap_or((text, ""));
        let parsed = Self { path, arguments };
        for (index, (key, value)) in parsed.pairs().enumerate() {
            if index >= QUERY_ARGUMENTS_MAX {
                return Err(QueryError::TooManyArguments);
            }
            unescape(key, index)?;
            unescape(value, index)?;
        }
        Ok(parsed)
    }

    /// Gives what precedes the first `?`, as it is.
    pub const fn path(&self) -> &'a str {
        self.path
    }

    /// Finds an argument's unescaped value; of repeated keys the first counts, and a key without
    /// `=` has the empty value.
    pub fn argument(&self, key: &str) -> Option<Cow<'a, str>> {
        let (index, (_, value)) = self.pairs().enumerate().find(|&(index, (found, _))| {
            found == key || unescape(found, index).is_ok_and(|found| found == key)
        })?;
        unescape(value, index).ok()
    }

    fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.arguments
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }
}

/// Writes a query string as upstream does: arguments sorted by key, escaped as form encoding.
pub fn format(path: &str, arguments: &[(&str, &str)]) -> String {
    let mut sorted = arguments.to_vec();
    sorted.sort_by_key(|&(key, _)| key);
    let mut text = path.to_owned();
    for (index, (key, value)) in sorted.into_iter().enumerate() {
        text.push(if index == 0 { '?' } else { '&' });
        escape(key, &mut text);
        text.push('=');
        escape(value, &mut text);
    }
    text
}

fn escape(value: &str, out: &mut String) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            _ => {
                out.push('%');
                out.extend([byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit & 15)]));
            }
        }
    }
}

fn unescape(value: &str, index: usize) -> Result<Cow<'_, str>, QueryError> {
    if !value.bytes().any(|byte| matches!(byte, b'%' | b'+' | b';')) {
        return Ok(Cow::Borrowed(value));
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'+' => bytes.push(b' '),
            b';' => return Err(QueryError::Escape { index }),
            b'%' => {
                let Some((&[high, low], after)) = rest.split_first_chunk() else {
                    return Err(QueryError::Escape { index });
                };
                let digits = char::from(high).to_digit(16).zip(char::from(low).to_digit(16));
                let Some((high, low)) = digits else {
                    return Err(QueryError::Escape { index });
                };
                bytes.push((high * 16 + low) as u8);
                rest = after;
            }
            _ => bytes.push(byte),
        }
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Cow::Owned(text)),
        Err(_) => Err(QueryError::NotText),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> QueryString<'_> {
        QueryString::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn path_ends_at_the_first_question_mark() {
        assert_eq!(parse("nodes.links").path(), "nodes.links");
        assert_eq!(parse("nodes.links?").path(), "nodes.links");
        assert_eq!(parse("a?b=c?d").path(), "a");
        assert_eq!(parse("a?b=c?d").argument("b").unwrap(), "c?d");
        assert_eq!(parse("").path(), "");
        assert_eq!(parse("?a=1").argument("a").unwrap(), "1");
    }

    #[test]
    fn first_value_wins_and_unknown_keys_are_ignored() {
        let query = parse("x?target=one&other=%20&&target=two&flag");
        assert_eq!(query.argument("target").unwrap(), "one");
        assert_eq!(query.argument("flag").unwrap(), "");
        assert_eq!(query.argument("missing"), None);
    }

    #[test]
    fn escapes_are_undone_in_keys_and_values() {
        let query = parse("y.acc?t%65xt=the+quick%20brown%2Bfox%3d%26");
        assert_eq!(query.argument("text").unwrap(), "the quick brown+fox=&");
        assert_eq!(parse("a?b=%C3%A9").argument("b").unwrap(), "é");
    }

    #[test]
    fn malformed_strings_are_refused() {
        for (query, error) in [
            (&b"a?b=%"[..], QueryError::Escape { index: 0 }),
            (b"a?c=d&b=%4", QueryError::Escape { index: 1 }),
            (b"a?%zz=1", QueryError::Escape { index: 0 }),
            (b"a?b=%+1", QueryError::Escape { index: 0 }),
            (b"a?b=1;c=2", QueryError::Escape { index: 0 }),
            (b"a?b=%ff", QueryError::NotText),
            (b"\xff", QueryError::NotText),
        ] {
            assert_eq!(QueryString::parse(query), Err(error), "{}", query.escape_ascii());
        }
    }

    #[test]
    fn arguments_and_length_are_bounded() {
        let most = format!("a?{}", vec!["b=c"; QUERY_ARGUMENTS_MAX].join("&"));
        assert!(QueryString::parse(most.as_bytes()).is_ok());
        let more = format!("{most}&b=c");
        assert_eq!(QueryString::parse(more.as_bytes()), Err(QueryError::TooManyArguments));
        let long = vec![b'a'; QUERY_STRING_BYTES_MAX + 1];
        assert_eq!(
            QueryString::parse(&long),
            Err(QueryError::TooLong { bytes: QUERY_STRING_BYTES_MAX + 1 })
        );
        assert!(QueryString::parse(&long[1..]).is_ok());
    }

    #[test]
    fn formatting_sorts_and_escapes() {
        assert_eq!(super::format("a.b", &[]), "a.b");
        assert_eq!(
            super::format("a.b", &[("z", "é&"), ("arg", "the quick"), ("m", "A-z_0.~/")]),
            "a.b?arg=the+quick&m=A-z_0.~%2F&z=%C3%A9%26"
        );
    }

    proptest! {
        #[test]
        fn formatted_arguments_read_back(
            key in ".{1,12}",
            value in ".{0,40}",
            other in "[a-z]{0,5}",
        ) {
            let text = super::format("some.op", &[(&key, &value), ("", &other)]);
            let query = QueryString::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(query.path(), "some.op");
            prop_assert_eq!(query.argument(&key).unwrap(), value);
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Ok(query) = QueryString::parse(&bytes) {
                let _ = query.argument("target");
                prop_assert!(bytes.starts_with(query.path().as_bytes()));
            }
        }
    }
}
