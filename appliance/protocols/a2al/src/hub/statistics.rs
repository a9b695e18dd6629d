//! What a hub counts.

/// Why a connection or a request was turned away.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Refusal {
    /// There are as many connections as there may be.
    Connections,
    /// Its source has as many connections as one may have.
    ConnectionsOfSource,
    /// Its source connects too often.
    ArrivalsOfSource,
    /// Its source calls too often.
    CallsOfSource,
    /// There are as many rooms as there may be.
    Rooms,
    /// Its source waits in as many rooms as one may.
    WaitingOfSource,
    /// Not a request of this protocol.
    BadRequest,
}

impl Refusal {
    /// Every reason, in the order of their counters.
    pub const ALL: [Self; 7] = [
        Self::Connections,
        Self::ConnectionsOfSource,
        Self::ArrivalsOfSource,
        Self::CallsOfSource,
        Self::Rooms,
        Self::WaitingOfSource,
        Self::BadRequest,
    ];

    /// Its name in counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsOfSource => "connections_of_source",
            Self::ArrivalsOfSource => "arrivals_of_source",
            Self::CallsOfSource => "calls_of_source",
            Self::Rooms => "rooms",
            Self::WaitingOfSource => "waiting_of_source",
            Self::BadRequest => "bad_request",
        }
    }
}

/// Why a hub ends a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum CloseReason {
    /// No request came in time.
    NoRequest,
    /// Its agents said nothing for too long.
    Idle,
    /// Nobody takes calls for the one that was called.
    NoAgent,
    /// Nobody came into the room.
    Unpaired,
    /// Nothing was said in the room for too long.
    RoomIdle,
    /// The other party has left the room.
    OtherLeft,
    /// Two parties were in the room already.
    RoomTaken,
    /// Too much was said before anybody came.
    TooMuchEarly,
    /// More was said than a connection or a room may say.
    TooFast,
    /// It does not read what it is sent.
    SlowReader,
}

impl CloseReason {
    /// Every reason, in the order of their counters.
    pub const ALL: [Self; 10] = [
        Self::NoRequest,
        Self::Idle,
        Self::NoAgent,
        Self::Unpaired,
        Self::RoomIdle,
        Self::OtherLeft,
        Self::RoomTaken,
        Self::TooMuchEarly,
        Self::TooFast,
        Self::SlowReader,
    ];

    /// Its name in counters, and what the one that is cut is told.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoRequest => "no_request",
            Self::Idle => "idle",
            Self::NoAgent => "no_agent",
            Self::Unpaired => "unpaired",
            Self::RoomIdle => "room_idle",
            Self::OtherLeft => "other_left",
            Self::RoomTaken => "room_taken",
            Self::TooMuchEarly => "too_much_early",
            Self::TooFast => "too_fast",
            Self::SlowReader => "slow_reader",
        }
    }
}

/// Why a message led to nothing.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Ignored {
    /// Not a frame, or one that only parties in a room say.
    Frame,
    /// A name that is empty or too long.
    AgentName,
    /// A name more than a connection may register.
    RegistrationsOfConnection,
    /// A name more than a source may register.
    RegistrationsOfSource,
    /// A name more than a hub takes.
    Registrations,
    /// A question to the network that is not answered: it is none, or changes something.
    Question,
    /// A question to the network while as many wait for their answers as may.
    QuestionsWaiting,
}

impl Ignored {
    /// Every reason, in the order of their counters.
    pub const ALL: [Self; 7] = [
        Self::Frame,
        Self::AgentName,
        Self::RegistrationsOfConnection,
        Self::RegistrationsOfSource,
        Self::Registrations,
        Self::Question,
        Self::QuestionsWaiting,
    ];

    /// Its name in counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Frame => "frame",
            Self::AgentName => "agent_name",
            Self::RegistrationsOfConnection => "registrations_of_connection",
            Self::RegistrationsOfSource => "registrations_of_source",
            Self::Registrations => "registrations",
            Self::Question => "question",
            Self::QuestionsWaiting => "questions_waiting",
        }
    }
}

/// Counters since the start.
#[derive(Clone, Debug, Default)]
pub struct HubStatistics {
    /// Connections taken in.
    pub connections: u64,
    /// Names registered that were not, by that connection.
    pub registrations: u64,
    /// Names that another source wanted and the connection that had them kept.
    pub contests_kept: u64,
    /// Names that went to another source, because the connection that had them was gone.
    pub contests_lost: u64,
    /// Calls passed on to the agent.
    pub calls: u64,
    /// Rooms in which two parties met.
    pub rooms: u64,
    /// Messages copied in rooms.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Questions to the network that were answered.
    pub answers: u64,
    refused: [u64; Refusal::ALL.len()],
    closed: [u64; CloseReason::ALL.len()],
    ignored: [u64; Ignored::ALL.len()],
}

impl HubStatistics {
    /// What was turned away for a reason.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize]
    }

    /// Connections that the hub ended for a reason.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize]
    }

    /// Messages that led to nothing for a reason.
    pub fn ignored(&self, reason: Ignored) -> u64 {
        self.ignored[reason as usize]
    }

    pub(super) fn refuse(&mut self, reason: Refusal) {
        self.refused[reason as usize] += 1;
    }

    pub(super) fn close(&mut self, reason: CloseReason) {
        self.closed[reason as usize] += 1;
    }

    pub(super) fn ignore(&mut self, reason: Ignored) {
        self.ignored[reason as usize] += 1;
    }
}
