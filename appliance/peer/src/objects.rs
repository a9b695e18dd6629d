//! Objects as they come out of a session (spec §5.3): answers of services and of a gateway's
//! operations, on the calling thread and within one deadline.

use crate::clock::Deadline;
use crate::error::{PeerError, Step};
use crate::limits::{OBJECT_BYTES_MAX, OBJECTS_MAX, OPERATION_TIMEOUT};
use crate::link::Link;
use crate::session::Session;
use std::io::Read;
use waystation_astral::object::{self, ChannelForm, Object, ObjectReader, type_names};

impl Link {
    /// Asks a service and reads its objects up to the `eos` or the end of the session.
    ///
    /// # Errors
    ///
    /// As [`Link::query`]; [`PeerError::Refused`] for an error object; [`PeerError::TooManyObjects`].
    pub fn ask_objects(&self, query: &str) -> Result<Vec<Object>, PeerError> {
        let mut stream = ObjectStream::open(self.query(query)?);
        let mut objects = Vec::new();
        while let Some(object) = stream.next()? {
            match object.type_name.as_str() {
                type_names::EOS => break,
                _ if object::error_text(&object).is_some() => return Err(unexpected(object)),
                _ if objects.len() >= OBJECTS_MAX => {
                    return Err(PeerError::TooManyObjects(OBJECTS_MAX));
                }
                _ => objects.push(object),
            }
        }
        Ok(objects)
    }
}

/// What an answer is that nobody asked for.
pub(crate) fn unexpected(object: Object) -> PeerError {
    match object::error_text(&object) {
        Some(text) => PeerError::Refused { text },
        None => PeerError::UnexpectedObject { type_name: object.type_name },
    }
}

/// Reads objects from a session.
pub(crate) struct ObjectStream {
    session: Session,
    /// Absent until the first byte has told which form the channel has.
    reader: Option<ObjectReader>,
    deadline: Deadline,
}

impl ObjectStream {
    /// Nothing has been read yet.
    pub(crate) fn open(session: Session) -> Self {
        Self { session, reader: None, deadline: Deadline::after(OPERATION_TIMEOUT) }
    }

    /// The next object; `None` when the session ended before one began.
    pub(crate) fn next(&mut self) -> Result<Option<Object>, PeerError> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(reader) = &mut self.reader
                && let Some(object) = reader.next()?
            {
                return Ok(Some(object));
            }
            let timed_out = PeerError::Timeout { step: Step::Operation };
            let remaining = self.deadline.remaining().ok_or(timed_out)?;
            self.session.set_read_timeout(Some(remaining));
            let bytes = self
                .session
                .read(&mut buffer)
                .map_err(|source| PeerError::from_read(Step::Operation, source))?;
            let received = buffer.get(..bytes).unwrap_or_default();
            let Some(first) = received.first() else { return Ok(None) };
            let reader = self
                .reader
                .get_or_insert_with(|| ObjectReader::new(form_of(*first), OBJECT_BYTES_MAX));
            reader.push(received);
        }
    }
}

/// C1 begins with the upper half of a length below 256, C2 with the length of a type name, which is
/// 0 for blobs alone (spec §5.1, §5.3), and no service answers with one.
fn form_of(first: u8) -> ChannelForm {
    if first == 0 { ChannelForm::C1 } else { ChannelForm::C2 }
}
