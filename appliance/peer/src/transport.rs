//! What a link runs over: two blocking halves and a way to close both. A TCP connection, a Unix
//! socket and a session (for an inner link) are transports. Used by the threads of one link.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// The reading half of a transport.
pub trait ReadHalf: Read + Send {
    /// Sets how long one read may block before it fails with `WouldBlock` or `TimedOut`.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;
}

/// Ends a transport from any thread.
pub trait Close: Send + Sync + fmt::Debug {
    /// Ends both directions and wakes whoever reads or writes. Never blocks for long.
    fn close(&self);

    /// Says whether dropping or closing the transport from now on resets it instead of ending it
    /// cleanly. A clean end within the negotiation kills a stock P4 daemon (spec §4.3).
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn reset_on_close(&self, reset: bool) -> io::Result<()>;
}

/// The parts of a transport.
pub struct Halves {
    pub reader: Box<dyn ReadHalf>,
    pub writer: Box<dyn Write + Send>,
    pub closer: Arc<dyn Close>,
}

impl fmt::Debug for Halves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Halves").field("closer", &self.closer).finish_non_exhaustive()
    }
}

/// Anything a link can run over.
pub trait Duplex {
    /// Takes the transport apart; each half then belongs to one thread.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn into_halves(self) -> io::Result<Halves>;
}

impl Duplex for Halves {
    fn into_halves(self) -> io::Result<Halves> {
        Ok(self)
    }
}

impl Duplex for TcpStream {
    fn into_halves(self) -> io::Result<Halves> {
        self.set_nodelay(true)?;
        self.set_write_timeout(Some(crate::limits::WRITE_TIMEOUT))?;
        Ok(socket_halves(self))
    }
}

impl Duplex for UnixStream {
    fn into_halves(self) -> io::Result<Halves> {
        self.set_write_timeout(Some(crate::limits::WRITE_TIMEOUT))?;
        Ok(socket_halves(self))
    }
}

fn socket_halves<S: Socket>(socket: S) -> Halves {
    let socket = Arc::new(socket);
    Halves {
        reader: Box::new(SocketHalf(Arc::clone(&socket))),
        writer: Box::new(SocketHalf(Arc::clone(&socket))),
        closer: Arc::new(SocketHalf(socket)),
    }
}

/// The calls both kinds of socket share.
trait Socket: Send + Sync + fmt::Debug + 'static {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize>;
    fn send(&self, bytes: &[u8]) -> io::Result<usize>;
    fn send_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize>;
    fn receive_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;
    fn end(&self);
    fn linger_zero(&self, on: bool) -> io::Result<()>;
}

impl Socket for TcpStream {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut socket = self;
        socket.read(buffer)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut socket = self;
        socket.write(bytes)
    }

    fn send_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut socket = self;
        socket.write_vectored(bytes)
    }

    fn receive_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(timeout)
    }

    fn end(&self) {
        // The only failure is that the connection is gone already.
        let _ = self.shutdown(Shutdown::Both);
    }

    fn linger_zero(&self, on: bool) -> io::Result<()> {
        socket2::SockRef::from(self).set_linger(on.then_some(Duration::ZERO))
    }
}

impl Socket for UnixStream {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut socket = self;
        socket.read(buffer)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut socket = self;
        socket.write(bytes)
    }

    fn send_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut socket = self;
        socket.write_vectored(bytes)
    }

    fn receive_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(timeout)
    }

    fn end(&self) {
        // The only failure is that the connection is gone already.
        let _ = self.shutdown(Shutdown::Both);
    }

    fn linger_zero(&self, _on: bool) -> io::Result<()> {
        Ok(())
    }
}

/// One of the three uses of a socket. They share the descriptor, so that it is closed (and with
/// linger 0 reset) when the last of them is dropped.
#[derive(Debug)]
struct SocketHalf<S>(Arc<S>);

impl<S: Socket> Read for SocketHalf<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.receive(buffer)
    }
}

impl<S: Socket> ReadHalf for SocketHalf<S> {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.receive_timeout(timeout)
    }
}

impl<S: Socket> Write for SocketHalf<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes)
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.send_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: Socket> Close for SocketHalf<S> {
    fn close(&self) {
        self.0.end();
    }

    fn reset_on_close(&self, reset: bool) -> io::Result<()> {
        self.0.linger_zero(reset)
    }
}
