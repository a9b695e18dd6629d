//! The running process's end: who may ask, what is said when, and what becomes of it.
//!
//! A future of the management thread's runtime. It knows the order of the messages and nothing of
//! what is in them: the management core, which it asks through a bounded channel, says what there
//! is to hand over. One conversation is had at a time; others wait in the socket's queue.

use super::{
    ANSWER_TIMEOUT, Ask, Channel, ChannelError, CoreMessage, LinksMessage, Message, Offer,
    START_TIMEOUT, TAKE_UP_TIMEOUT, VERSION,
};
use crate::limits::STATS_ACCEPT_PAUSE;
use crate::stats_socket::may_command;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use waystation_engine::clock::RunDelay;

/// Owner and root alone: what is said here are secrets.
const MODE: u32 = 0o600;
/// Why nothing comes of it where this process ends first.
const STOPPING: &str = "the program is stopping";

/// A question that the management core answers; a refusal is a sentence.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, String>>;

/// What a core has over UDP that has not been told, with its descriptors.
pub(crate) type ToldCore = (CoreMessage, Vec<OwnedFd>);

/// Links of all cores, each with its descriptor.
pub(crate) type ToldLinks = Vec<(LinksMessage, Vec<OwnedFd>)>;

/// How far a hand-over has come.
#[derive(Debug)]
pub(crate) enum Step {
    /// Somebody asks. Nothing changes yet.
    Asked { ask: Ask, reply: Reply<(Offer, Vec<OwnedFd>)> },
    /// The next process waits for all there is.
    Ready { reply: Reply<Vec<ToldCore>> },
    /// The next process has that. From now on links stand still that it can go on with.
    Freeze { reply: Reply<ToldLinks> },
    /// It has all of these, or none.
    LinksTaken { all: bool },
    /// It waits for what has changed, of each core as soon as it has told. From then on that core's
    /// datagrams wait. The channel has room for all cores.
    Prepared { rest: mpsc::Sender<Result<ToldCore, String>> },
    /// The next process knows that it is its turn.
    Yours { process: Option<i32> },
    /// It came to nothing.
    Failed { why: String },
}

/// Makes the socket, where one that a stopped program left behind is replaced.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    // Whoever connects before this is looked at as well.
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    Ok(listener)
}

/// Has one conversation after the other, until the future is dropped or one has ended well: then
/// this process has handed over.
pub(crate) async fn serve(listener: UnixListener, steps: mpsc::Sender<Step>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the hand-over's socket");
                sleep(STATS_ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !may_command(&stream) {
            tracing::warn!("somebody who is neither this user nor root asked for a hand-over");
            continue;
        }
        match converse(stream, &steps).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                let why = error.to_string();
                // The management core is there for as long as this is.
                let _ = steps.send(Step::Failed { why }).await;
            }
        }
    }
}

/// Returns whether this process has handed over; without an error, nothing has changed otherwise.
async fn converse(stream: UnixStream, steps: &mpsc::Sender<Step>) -> Result<bool, ChannelError> {
    let process = stream.peer_cred()?.pid();
    let mut channel = Channel::new(stream);
    let ask = match channel.receive(ANSWER_TIMEOUT).await? {
        (Message::Ask(ask), _) => ask,
        (other, _) => return Err(ChannelError::unexpected(&other, "ask")),
    };
    if ask.version != VERSION {
        let why = format!(
            "version {} ({}) speaks form {} of the hand-over, and this one, {}, form {VERSION}",
            ask.program,
            ask.identity,
            ask.version,
            env!("CARGO_PKG_VERSION"),
        );
        return refuse(&mut channel, why).await;
    }
    let cores = ask.cores;
    let (offer, descriptors) = match question(steps, |reply| Step::Asked { ask, reply }).await {
        Ok(offered) => offered,
        Err(why) => return refuse(&mut channel, why).await,
    };
    send(&mut channel, &Message::Offer(offer), &descriptors).await?;
    drop(descriptors);
    hear(&mut channel, "ready", START_TIMEOUT).await?;
    match question(steps, |reply| Step::Ready { reply }).await {
        Ok(cores) => tell(&mut channel, cores).await?,
        Err(why) => return give_up(&mut channel, why).await,
    }
    hear(&mut channel, "prepared", TAKE_UP_TIMEOUT).await?;
    hand_links_over(&mut channel, steps).await?;
    tell_rest(&mut channel, steps, cores).await?;
    hear(&mut channel, "taken", ANSWER_TIMEOUT).await?;
    // A process that is stopping would not hear of it, and clear away what is another's by then.
    let Ok(step) = steps.reserve().await else {
        return refuse(&mut channel, STOPPING.to_owned()).await;
    };
    // Said first: a process that is gone by now gets nothing.
    send(&mut channel, &Message::Yours, &[]).await?;
    step.send(Step::Yours { process });
    Ok(true)
}

/// Tells what all cores have told, and says that this was it.
async fn tell(channel: &mut Channel, cores: Vec<ToldCore>) -> Result<(), ChannelError> {
    for (core, descriptors) in cores {
        send(channel, &Message::Core(Box::new(core)), &descriptors).await?;
    }
    send(channel, &Message::Told, &[]).await
}

/// Tells what has changed: nobody waits for another core than its own.
async fn tell_rest(
    channel: &mut Channel,
    steps: &mpsc::Sender<Step>,
    cores: usize,
) -> Result<(), ChannelError> {
    let run_delay = RunDelay::of_this_thread();
    let before_ns = run_delay.read_ns();
    let (rest, mut told) = mpsc::channel(cores.max(1));
    // The management core is there for as long as this is.
    let _ = steps.send(Step::Prepared { rest }).await;
    for _ in 0..cores {
        match told.recv().await {
            Some(Ok((core, descriptors))) => {
                send(channel, &Message::Core(Box::new(core)), &descriptors).await?;
            }
            Some(Err(why)) => return give_up(channel, why).await,
            None => return give_up(channel, STOPPING.to_owned()).await,
        }
    }
    let processor_waited_ns = run_delay.read_ns().saturating_sub(before_ns);
    send(channel, &Message::Complete { processor_waited_ns }, &[]).await
}

/// Tells of links, before datagrams have to wait.
async fn hand_links_over(
    channel: &mut Channel,
    steps: &mpsc::Sender<Step>,
) -> Result<(), ChannelError> {
    let links = match question(steps, |reply| Step::Freeze { reply }).await {
        Ok(links) => links,
        Err(why) => return give_up(channel, why).await,
    };
    for (links, descriptors) in links {
        send(channel, &Message::Links(links), &descriptors).await?;
    }
    send(channel, &Message::LinksComplete, &[]).await?;
    let all = match channel.receive(TAKE_UP_TIMEOUT).await? {
        (Message::LinksTaken { all }, _) => all,
        (other, _) => return Err(ChannelError::unexpected(&other, "links_taken")),
    };
    // The management core is there for as long as this is.
    let _ = steps.send(Step::LinksTaken { all }).await;
    Ok(())
}

async fn refuse(channel: &mut Channel, why: String) -> Result<bool, ChannelError> {
    tracing::warn!(why, "a hand-over was refused");
    send(channel, &Message::Refusal(why), &[]).await?;
    Ok(false)
}

/// Says why this comes to nothing after all.
async fn give_up<T>(channel: &mut Channel, why: String) -> Result<T, ChannelError> {
    send(channel, &Message::Refusal(why.clone()), &[]).await?;
    Err(ChannelError::Refused(why))
}

async fn send(
    channel: &mut Channel,
    message: &Message,
    descriptors: &[OwnedFd],
) -> Result<(), ChannelError> {
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    channel.send(message, &descriptors, ANSWER_TIMEOUT).await
}

/// Waits for a message that says only its name.
async fn hear(
    channel: &mut Channel,
    wanted: &'static str,
    limit: std::time::Duration,
) -> Result<(), ChannelError> {
    let (message, _) = channel.receive(limit).await?;
    if message.name() == wanted {
        return Ok(());
    }
    Err(ChannelError::unexpected(&message, wanted))
}

async fn question<T>(
    steps: &mpsc::Sender<Step>,
    step: impl FnOnce(Reply<T>) -> Step,
) -> Result<T, String> {
    let (reply, answer) = oneshot::channel();
    steps.send(step(reply)).await.map_err(|_gone| STOPPING.to_owned())?;
    answer.await.unwrap_or_else(|_gone| Err(STOPPING.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers as the management core does that has nothing, up to the last question.
    async fn answer_all(steps: &mut mpsc::Receiver<Step>) {
        while let Some(step) = steps.recv().await {
            match step {
                Step::Asked { reply, .. } => {
                    let program = "of the test".to_owned();
                    let offer =
                        Offer { program, groups: Vec::new(), nonce_key: None, is_watched: false };
                    reply.send(Ok((offer, Vec::new()))).unwrap();
                }
                Step::Ready { reply } => reply.send(Ok(Vec::new())).unwrap(),
                Step::Freeze { reply } => reply.send(Ok(Vec::new())).unwrap(),
                Step::LinksTaken { all } => assert!(all),
                Step::Prepared { .. } => return,
                Step::Yours { .. } | Step::Failed { .. } => panic!("{step:?}"),
            }
        }
    }

    /// Asks, says all that a next process has to say, and hears the answer to its last word.
    async fn ask_all(there: UnixStream) -> Message {
        let mut channel = Channel::new(there);
        let ask = Ask {
            version: VERSION,
            program: "of the test".to_owned(),
            identity: String::new(),
            cores: 0,
            drain_ms: 0,
        };
        let said = [
            (Message::Ask(ask), "offer"),
            (Message::Ready, "told"),
            (Message::Prepared, "links_complete"),
            (Message::LinksTaken { all: true }, "complete"),
        ];
        for (message, answer) in said {
            send(&mut channel, &message, &[]).await.unwrap();
            hear(&mut channel, answer, ANSWER_TIMEOUT).await.unwrap();
        }
        send(&mut channel, &Message::Taken, &[]).await.unwrap();
        channel.receive(ANSWER_TIMEOUT).await.unwrap().0
    }

    #[tokio::test]
    async fn next_process_has_its_turn_once_it_has_taken_all() {
        let (here, there) = UnixStream::pair().unwrap();
        let (steps, mut hearing) = mpsc::channel(1);
        let core = answer_all(&mut hearing);
        let (outcome, answer, ()) = tokio::join!(converse(here, &steps), ask_all(there), core);
        assert!(outcome.unwrap() && matches!(answer, Message::Yours), "{answer:?}");
        assert!(matches!(hearing.try_recv(), Ok(Step::Yours { .. })));
    }

    #[tokio::test]
    async fn process_that_is_stopping_gives_nobody_the_turn() {
        let (here, there) = UnixStream::pair().unwrap();
        let (steps, mut hearing) = mpsc::channel(1);
        // It is told to stop while the next process takes up what it was told.
        let core = async {
            answer_all(&mut hearing).await;
            hearing.close();
            hearing.recv().await
        };
        let (outcome, answer, heard) = tokio::join!(converse(here, &steps), ask_all(there), core);
        assert!(!outcome.unwrap() && heard.is_none(), "{heard:?}");
        assert!(matches!(&answer, Message::Refusal(why) if why == STOPPING), "{answer:?}");
    }
}
