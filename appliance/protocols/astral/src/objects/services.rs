//! What a node offers, and the signals of a session's move (spec §9.3, §14).
//!
//! `services.discover` answers with updates; `nodes.migrate_session` exchanges signals.

use crate::identity::Identity;
use crate::object::{AnswerObject, FieldError, FieldReader, FieldWriter, json_string, type_names};

use super::{
    PayloadError, identity_json, read_identity_pointer, read_text, write_identity_pointer,
};

/// Says whether a service is there (spec §14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceUpdate {
    /// Whether it can be used.
    pub available: bool,
    /// Its name, at most 255 bytes.
    pub name: String,
    /// Who provides it.
    pub provider: Identity,
}

impl ServiceUpdate {
    /// Reads the payload; what it may say about the service beyond its name is ignored.
    ///
    /// # Errors
    /// [`PayloadError`] for a field that is cut short or malformed.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let mut fields = FieldReader::new(payload);
        let update = Self {
            available: fields.boolean()?,
            name: read_text(&mut fields, "name")?.to_owned(),
            provider: read_identity_pointer(&mut fields)?,
        };
        fields.presence()?;
        Ok(update)
    }
}

impl AnswerObject for ServiceUpdate {
    fn type_name(&self) -> &'static str {
        type_names::SERVICE_UPDATE
    }

    fn write_payload(&self, fields: &mut FieldWriter) -> Result<(), FieldError> {
        fields.boolean(self.available).s8(self.name.as_bytes())?;
        write_identity_pointer(&self.provider, fields);
        fields.boolean(false);
        Ok(())
    }

    /// The spec gives no example; fields stand in their order, as upstream's plain structures do.
    fn json(&self) -> Option<String> {
        Some(format!(
            "{{\"Available\":{},\"Name\":{},\"ProviderID\":{},\"Info\":null}}",
            self.available,
            json_string(&self.name),
            identity_json(&self.provider),
        ))
    }
}

/// A step of a session's move to another link (spec §9.3, third version).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Migration {
    /// The initiator can begin.
    Ready,
    /// The responder has marked its end of the old link.
    Switched,
    /// Both ends are marked.
    Resume,
    /// The session runs on the new link.
    Done,
}

impl Migration {
    /// Every step, in order.
    pub const ALL: [Self; 4] = [Self::Ready, Self::Switched, Self::Resume, Self::Done];

    /// Gives the word on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Switched => "switched",
            Self::Resume => "resume",
            Self::Done => "done",
        }
    }
}

/// A step of a session's move, with the receive window of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrateSignal {
    /// Which step.
    pub signal: Migration,
    /// The credit that the other side has once the session runs on.
    pub window_bytes: u32,
}

impl MigrateSignal {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`PayloadError`], also for the signals of earlier versions.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let mut fields = FieldReader::new(payload);
        let name = fields.s8()?;
        let signal = Migration::ALL.into_iter().find(|signal| signal.name().as_bytes() == name);
        Ok(Self { signal: signal.ok_or(PayloadError::Signal)?, window_bytes: fields.u32()? })
    }
}

impl AnswerObject for MigrateSignal {
    fn type_name(&self) -> &'static str {
        type_names::MIGRATE_SIGNAL
    }

    fn write_payload(&self, fields: &mut FieldWriter) -> Result<(), FieldError> {
        fields.s8(self.signal.name().as_bytes())?.u32(self.window_bytes);
        Ok(())
    }
}
