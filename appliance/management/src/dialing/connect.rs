//! Makes the connection of one dial: straight, through a Tor proxy, or to a gateway's socket.
//!
//! Runs in a task of the management thread's runtime, which may be dropped at any moment before it
//! is done. It ends before act one, so a dropped one harms nobody: a gateway's socket port, which a
//! clean end without a byte would crash (spec §11.2, trap e), sees a reset.

use super::error::DialCause;
use super::socks5::{self, SocksError};
use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use waystation_astral::gateway::nonce_object;

/// The way to a peer's end of a byte stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A TCP connection.
    Tcp { address: SocketAddr },
    /// A TCP connection to a SOCKS5 proxy, which connects to a name.
    Tor { proxy: SocketAddr, name: String, port: u16 },
    /// A TCP connection to a gateway's socket port that starts with a nonce.
    GatewaySocket { address: SocketAddr, nonce: u64 },
}

/// Makes the connection, within `limit` as a whole.
///
/// # Errors
/// [`DialCause`]: no connection, none in time, or a proxy that says no.
pub(super) async fn connect(route: Route, limit: Duration) -> Result<StdTcpStream, DialCause> {
    match timeout(limit, connect_by(route)).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err(DialCause::ConnectTimeout),
    }
}

async fn connect_by(route: Route) -> Result<StdTcpStream, DialCause> {
    let failed = |error: io::Error| DialCause::Connect(error.kind());
    let stream = match route {
        Route::Tcp { address } => TcpStream::connect(address).await.map_err(failed)?,
        Route::Tor { proxy, name, port } => {
            let unreachable = |error: io::Error| SocksError::Unreachable(error.kind());
            let mut stream = TcpStream::connect(proxy).await.map_err(unreachable)?;
            socks5::connect(&mut stream, &name, port).await?;
            stream
        }
        Route::GatewaySocket { address, nonce } => present(address, nonce).await.map_err(failed)?,
    };
    // The stream of what may be thousands of tiny records (spec §3.3).
    stream.set_nodelay(true).map_err(failed)?;
    stream.into_std().map_err(failed)
}

async fn present(address: SocketAddr, nonce: u64) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_zero_linger()?;
    let mut stream = socket.connect(address).await?;
    stream.write_all(&nonce_object(nonce)).await?;
    socket2::SockRef::from(&stream).set_linger(None)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read};
    use std::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(10);

    fn run(route: Route, limit: Duration) -> Result<StdTcpStream, DialCause> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(connect(route, limit))
    }

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[test]
    fn gateway_socket_starts_with_the_nonce_object_and_ends_as_usual() {
        let (listener, address) = listener();
        let stream = run(Route::GatewaySocket { address, nonce: 0x2233_4455_6677_8899 }, LIMIT);
        let stream = stream.unwrap();
        assert_eq!(socket2::SockRef::from(&stream).linger().unwrap(), None);
        drop(stream);
        let mut heard = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, nonce_object(0x2233_4455_6677_8899));
    }

    #[test]
    fn refused_connection_is_told_by_its_kind() {
        let (listener, address) = listener();
        drop(listener);
        let refused = DialCause::Connect(ErrorKind::ConnectionRefused);
        assert_eq!(run(Route::Tcp { address }, LIMIT).unwrap_err(), refused);
        let nonce = 1;
        assert_eq!(run(Route::GatewaySocket { address, nonce }, LIMIT).unwrap_err(), refused);
        let name = "a.onion".to_owned();
        let unreachable = SocksError::Unreachable(ErrorKind::ConnectionRefused);
        assert_eq!(
            run(Route::Tor { proxy: address, name, port: 1 }, LIMIT).unwrap_err(),
            DialCause::Proxy(unreachable)
        );
    }

    #[test]
    fn proxy_that_says_nothing_is_given_up_in_time() {
        let (_listener, proxy) = listener();
        let route = Route::Tor { proxy, name: "a.onion".to_owned(), port: 1 };
        assert_eq!(run(route, Duration::from_millis(50)).unwrap_err(), DialCause::ConnectTimeout);
    }
}
