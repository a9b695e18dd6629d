//! Messages with descriptors over a Unix socket.
//!
//! Used on the management thread, and by the next process before it has one. A message is a head of
//! two numbers, its descriptors, which go with bytes of their own, and its bytes. Nothing is taken
//! that is longer than the limits, before any memory is.

use super::message::Message;
use super::{DESCRIPTORS_PER_BYTE, MESSAGE_BYTES_MAX, MESSAGE_DESCRIPTORS_MAX};
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// Memory for descriptors on their way, to whatever alignment.
const SPACE_BYTES: usize = cmsg_space!(ScmRights(DESCRIPTORS_PER_BYTE));

/// Why two processes do not understand each other. Both go on as before.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other one has gone, or the kernel refuses.
    #[error("the other process has gone: {0}")]
    Gone(#[from] io::Error),
    /// It takes too long.
    #[error("the other process has not answered within {0:?}")]
    Late(Duration),
    /// It speaks otherwise.
    #[error("the other process speaks another form: {0}")]
    Form(#[from] serde_json::Error),
    /// More than is ever said.
    #[error("a message of {bytes} bytes with {descriptors} descriptors is too long")]
    TooLong { bytes: usize, descriptors: usize },
    /// Something else than it was time for.
    #[error("the other process has said {said} instead of {wanted}")]
    Unexpected { said: String, wanted: &'static str },
    /// It does not want to.
    #[error("the running program refuses: {0}")]
    Refused(String),
}

impl ChannelError {
    /// Something came that it was not time for. What is in it is not repeated: it may be a secret.
    pub(crate) fn unexpected(message: &Message, wanted: &'static str) -> Self {
        Self::Unexpected { said: message.name().to_owned(), wanted }
    }
}

/// One end of a conversation.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: UnixStream,
}

impl Channel {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    pub(crate) fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Says something, with descriptors that the other process gets too.
    pub(crate) async fn send(
        &mut self,
        message: &Message,
        descriptors: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(), ChannelError> {
        let mut written = Erased::default();
        serde_json::to_writer(&mut written, message)?;
        let Erased(bytes) = written;
        check(bytes.len(), descriptors.len())?;
        let sending = async {
            self.stream.write_all(&head(bytes.len(), descriptors.len())).await?;
            for few in descriptors.chunks(DESCRIPTORS_PER_BYTE) {
                self.send_descriptors(few).await?;
            }
            self.stream.write_all(&bytes).await
        };
        timeout(limit, sending).await.map_err(|_elapsed| ChannelError::Late(limit))??;
        Ok(())
    }

    /// Hears the next message.
    pub(crate) async fn receive(
        &mut self,
        limit: Duration,
    ) -> Result<(Message, Vec<OwnedFd>), ChannelError> {
        let receiving = self.receive_unbounded();
        timeout(limit, receiving).await.map_err(|_elapsed| ChannelError::Late(limit))?
    }

    async fn receive_unbounded(&mut self) -> Result<(Message, Vec<OwnedFd>), ChannelError> {
        let bytes = self.stream.read_u32().await? as usize;
        let count = self.stream.read_u32().await? as usize;
        check(bytes, count)?;
        let mut descriptors = Vec::with_capacity(count);
        while descriptors.len() < count {
            let few = DESCRIPTORS_PER_BYTE.min(count - descriptors.len());
            self.receive_descriptors(few, &mut descriptors).await?;
        }
        let mut text = Zeroizing::new(vec![0; bytes]);
        self.stream.read_exact(&mut text).await?;
        Ok((serde_json::from_slice(&text)?, descriptors))
    }

    async fn send_descriptors(&self, few: &[BorrowedFd<'_>]) -> io::Result<()> {
        let sent = self.stream.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); SPACE_BYTES];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(few)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let byte = [IoSlice::new(&[0])];
            Ok(sendmsg(self.stream.as_fd(), &byte, &mut control, SendFlags::NOSIGNAL)?)
        });
        match sent.await? {
            1 => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    async fn receive_descriptors(&self, few: usize, into: &mut Vec<OwnedFd>) -> io::Result<()> {
        let wanted = into.len() + few;
        let received = self.stream.async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); SPACE_BYTES];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let mut bytes = [IoSliceMut::new(&mut byte)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = recvmsg(self.stream.as_fd(), &mut bytes, &mut control, flags)?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    into.extend(descriptors);
                }
            }
            Ok(received.bytes)
        });
        match received.await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            // The kernel leaves out what this process may not have.
            _ if into.len() != wanted => {
                Err(io::Error::other("too few descriptors came; is LimitNOFILE high enough?"))
            }
            _ => Ok(()),
        }
    }
}

/// Bytes that may be secrets, and are nowhere once they are dropped: also not where they were before
/// they grew.
#[derive(Default)]
struct Erased(Zeroizing<Vec<u8>>);

impl io::Write for Erased {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (length, capacity) = (self.0.len() + bytes.len(), self.0.capacity());
        if length > capacity {
            let mut larger = Vec::with_capacity(length.max(2 * capacity));
            larger.extend_from_slice(&self.0);
            self.0 = Zeroizing::new(larger);
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn check(bytes: usize, descriptors: usize) -> Result<(), ChannelError> {
    if bytes > MESSAGE_BYTES_MAX || descriptors > MESSAGE_DESCRIPTORS_MAX {
        return Err(ChannelError::TooLong { bytes, descriptors });
    }
    Ok(())
}

fn head(bytes: usize, descriptors: usize) -> [u8; 8] {
    let mut head = [0; 8];
    // Both are within limits that are far below.
    head[..4].copy_from_slice(&u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes());
    head[4..].copy_from_slice(&u32::try_from(descriptors).unwrap_or(u32::MAX).to_be_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    const LIMIT: Duration = Duration::from_secs(60);

    fn pair() -> [Channel; 2] {
        let (one, other) = UnixStream::pair().unwrap();
        [Channel::new(one), Channel::new(other)]
    }

    #[tokio::test]
    async fn descriptors_arrive_with_their_message_in_order() {
        let [mut here, mut there] = pair();
        let sockets: Vec<_> = (0..300).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        let message = Message::Refusal("x".repeat(1_000_000));
        let sending = async {
            here.send(&message, &descriptors, LIMIT).await.unwrap();
            here.send(&Message::Ready, &[], LIMIT).await.unwrap();
        };
        let receiving =
            async { (there.receive(LIMIT).await.unwrap(), there.receive(LIMIT).await.unwrap()) };
        let ((), ((first, arrived), (second, none))) = tokio::join!(sending, receiving);
        assert!(matches!(first, Message::Refusal(text) if text.len() == 1_000_000));
        assert!(matches!(second, Message::Ready) && none.is_empty());
        let ports = |sockets: Vec<UdpSocket>| -> Vec<u16> {
            sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect()
        };
        let arrived: Vec<UdpSocket> = arrived.into_iter().map(UdpSocket::from).collect();
        assert_eq!(ports(arrived), ports(sockets));
    }

    #[tokio::test]
    async fn message_of_another_form_or_length_is_refused() {
        let [mut here, mut there] = pair();
        here.stream.write_all(&head(4, 0)).await.unwrap();
        here.stream.write_all(b"junk").await.unwrap();
        assert!(matches!(there.receive(LIMIT).await, Err(ChannelError::Form(_))));
        here.stream.write_all(&head(MESSAGE_BYTES_MAX + 1, 0)).await.unwrap();
        assert!(matches!(there.receive(LIMIT).await, Err(ChannelError::TooLong { .. })));
        drop(here);
        assert!(matches!(there.receive(LIMIT).await, Err(ChannelError::Gone(_))));
    }

    #[test]
    fn erased_bytes_never_grow_where_they_are() {
        let mut written = Erased::default();
        let mut wanted = Vec::new();
        for piece in (0..=255_u8).map(|number| vec![number; usize::from(number % 70)]) {
            let (place, capacity) = (written.0.as_ptr(), written.0.capacity());
            io::Write::write_all(&mut written, &piece).unwrap();
            wanted.extend(piece);
            assert!(written.0.capacity() == capacity || written.0.as_ptr() != place);
        }
        assert_eq!(*written.0, wanted);
    }

    #[tokio::test]
    async fn who_says_nothing_is_late() {
        let [_here, mut there] = pair();
        let limit = Duration::from_millis(1);
        assert!(matches!(there.receive(limit).await, Err(ChannelError::Late(_))));
    }
}
