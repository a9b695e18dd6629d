//! The client's half of SOCKS5 CONNECT (RFC 1928), without authentication and with the name
//! resolved by the proxy: how onion services are reached.
//!
//! Called by the tasks that make connections, on the management thread; it reads no byte beyond the
//! reply, because the next one belongs to the link. Its caller bounds the time.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// RFC 1928 §3.
const VERSION: u8 = 5;
/// RFC 1928 §3: no authentication required.
const NO_AUTHENTICATION: u8 = 0;
/// RFC 1928 §4.
const CONNECT: u8 = 1;
/// RFC 1928 §5.
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;
/// Bytes of the longest bound address in a reply with its port: a name of 255 bytes (RFC 1928 §6).
const BOUND_MAX_BYTES: usize = 255 + 2;

/// Why the proxy gave no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocksError {
    /// The proxy itself cannot be reached.
    #[error("cannot connect to it: {0}")]
    Unreachable(io::ErrorKind),
    /// The conversation broke off.
    #[error("it broke off: {0}")]
    Broken(io::ErrorKind),
    /// It does not speak SOCKS5.
    #[error("it does not speak SOCKS5")]
    Version,
    /// It wants a password.
    #[error("it wants authentication")]
    Authentication,
    /// It said no.
    #[error("{}", reply_text(*.code))]
    Refused { code: u8 },
    /// A name that does not fit its length byte, which no onion name is.
    #[error("the name is too long")]
    Name,
}

impl From<io::Error> for SocksError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.kind())
    }
}

/// RFC 1928 §6, and what Tor adds for onion services (its `socks-extensions`).
fn reply_text(code: u8) -> &'static str {
    match code {
        1 => "general failure",
        2 => "not allowed",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "time to live expired",
        7 => "command not supported",
        8 => "address type not supported",
        0xf0 => "onion service descriptor not found",
        0xf1 => "onion service descriptor invalid",
        0xf2 => "onion service introduction failed",
        0xf3 => "onion service rendezvous failed",
        0xf4 => "onion service wants client authorization",
        0xf5 => "onion service refuses the client authorization",
        0xf6 => "onion address invalid",
        0xf7 => "onion service introduction timed out",
        _ => "unknown failure",
    }
}

/// Asks for a connection to `name`. When it returns, the stream is that connection.
///
/// # Errors
/// [`SocksError`]; the stream is of no use then.
pub(super) async fn connect<S>(stream: &mut S, name: &str, port: u16) -> Result<(), SocksError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Ok(name_bytes) = u8::try_from(name.len()) else { return Err(SocksError::Name) };
    stream.write_all(&[VERSION, 1, NO_AUTHENTICATION]).await?;
    let mut choice = [0; 2];
    stream.read_exact(&mut choice).await?;
    match choice {
        [VERSION, NO_AUTHENTICATION] => {}
        [VERSION, _] => return Err(SocksError::Authentication),
        _ => return Err(SocksError::Version),
    }
    let mut request = vec![VERSION, CONNECT, 0, NAME, name_bytes];
    request.extend_from_slice(name.as_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await?;
    read_reply(stream).await
}

async fn read_reply<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(), SocksError> {
    let mut head = [0; 4];
    // A proxy that refuses may end the connection right behind the code.
    stream.read_exact(&mut head[..2]).await?;
    match head {
        [VERSION, 0, ..] => {}
        [VERSION, code, ..] => return Err(SocksError::Refused { code }),
        _ => return Err(SocksError::Version),
    }
    stream.read_exact(&mut head[2..]).await?;
    let address_bytes = match head[3] {
        IPV4 => 4,
        IPV6 => 16,
        NAME => usize::from(stream.read_u8().await?),
        _ => return Err(SocksError::Version),
    };
    let mut bound = [0; BOUND_MAX_BYTES];
    stream.read_exact(&mut bound[..address_bytes + 2]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{DuplexStream, duplex};

    const ONION: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";

    /// A conversation with a proxy that expects `asked` before each answer.
    async fn converse(answers: &[&[u8]]) -> (Result<(), SocksError>, DuplexStream, Vec<u8>) {
        let (mut ours, mut theirs) = duplex(1024);
        let proxy = async {
            let mut heard = vec![0; 3];
            theirs.read_exact(&mut heard).await.unwrap();
            if let Some(choice) = answers.first() {
                theirs.write_all(choice).await.unwrap();
            }
            if let Some(reply) = answers.get(1) {
                let mut request = vec![0; 5 + ONION.len() + 2];
                theirs.read_exact(&mut request).await.unwrap();
                heard.extend(request);
                theirs.write_all(reply).await.unwrap();
            }
            theirs.shutdown().await.unwrap();
            heard
        };
        let (outcome, heard) = tokio::join!(connect(&mut ours, ONION, 1791), proxy);
        (outcome, ours, heard)
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(future)
    }

    #[test]
    fn name_is_sent_unresolved_and_what_follows_the_reply_is_left() {
        for bound in [
            &[IPV4, 127, 0, 0, 1, 0, 80][..],
            &[IPV6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 80],
            &[NAME, 3, b'a', b'.', b'b', 0, 80],
        ] {
            let reply = [&[VERSION, 0, 0], bound, b"act two"].concat();
            let (outcome, mut rest, heard) = block_on(converse(&[&[VERSION, 0], &reply]));
            assert_eq!(outcome, Ok(()));
            let asked = [&[5, 1, 0, 5, 1, 0, 3, 62], ONION.as_bytes(), &[6, 255]].concat();
            assert_eq!(heard, asked);
            let mut left = Vec::new();
            block_on(rest.read_to_end(&mut left)).unwrap();
            assert_eq!(left, b"act two");
        }
    }

    #[test]
    fn every_refusal_is_told_by_its_code() {
        for code in (1..=8).chain(0xf0..=0xf7) {
            let (outcome, _, _) = block_on(converse(&[&[VERSION, 0], &[VERSION, code]]));
            assert_eq!(outcome, Err(SocksError::Refused { code }));
            assert_ne!(reply_text(code), reply_text(0x77));
        }
    }

    #[test]
    fn proxy_that_speaks_something_else_is_told() {
        let broken = Err(SocksError::Broken(io::ErrorKind::UnexpectedEof));
        for (answers, expected) in [
            (&[&[VERSION, 2][..]][..], Err(SocksError::Authentication)),
            (&[&[VERSION, 0xff]], Err(SocksError::Authentication)),
            (&[b"HTTP/1.1 400 Bad Request"], Err(SocksError::Version)),
            (&[&[VERSION, 0], &[4, 90]], Err(SocksError::Version)),
            (&[&[VERSION, 0], &[VERSION, 0, 0, 9]], Err(SocksError::Version)),
            (&[], broken.clone()),
            (&[&[VERSION]], broken.clone()),
            (&[&[VERSION, 0], &[]], broken.clone()),
            (&[&[VERSION, 0], &[VERSION]], broken.clone()),
            (&[&[VERSION, 0], &[VERSION, 0, 0]], broken.clone()),
            (&[&[VERSION, 0], &[VERSION, 0, 0, IPV4, 127, 0]], broken.clone()),
            (&[&[VERSION, 0], &[VERSION, 0, 0, NAME, 200, 0]], broken.clone()),
        ] {
            let (outcome, _, _) = block_on(converse(answers));
            assert_eq!(outcome, expected, "{answers:?}");
        }
    }

    #[test]
    fn slow_proxy_waits_as_long_as_its_caller_lets_it() {
        let waited = block_on(async {
            let (mut ours, _theirs) = duplex(1024);
            tokio::time::timeout(Duration::from_millis(20), connect(&mut ours, ONION, 1)).await
        });
        assert!(waited.is_err());
    }

    #[test]
    fn name_that_no_length_byte_can_say_is_refused_unsent() {
        let outcome = block_on(async {
            let (mut ours, _theirs) = duplex(1024);
            connect(&mut ours, &"a".repeat(256), 1).await
        });
        assert_eq!(outcome, Err(SocksError::Name));
    }
}
