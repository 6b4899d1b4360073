//! The scope of a grant, and the stage that applies it: in front of everything that the consumer asks for, so that no filter of a consumer
//! tests what its scope hides.
//!
//! ```text
//! reorder -> SCOPE (devices, how far back, where, fields, every) -> the consumer's own filter, projection and sampling
//! ```
//!
//! An agreement is compiled once for a connection, with the language of a consumer's own selection, and evaluated at the same cost. A producer
//! without a scope has no entry here. Records of devices in quarantine are left out where records leave the pipeline ([`super::Pipeline::take`]).
//!
//! Invariant: a record that the stage does not let through, and a member that it does not show, reach no later stage.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use motience_proto::model::{Agreement, Cursor, DeviceId, ProducerId, agreement::MAX_AGREED_DEVICES, times};
use motience_runtime::clock::Clock;
use serde_json::value::{RawValue, to_raw_value};
use time::OffsetDateTime;

use super::{
    DeliveredRecord,
    sampler::{self, Sampler},
    selection::{self, Message, Selector, length},
};
use crate::{Notice, StartPosition};

/// The shortest length of `since`: records need a moment to be delivered.
const SHORTEST: Duration = Duration::from_secs(60);

/// An agreement that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScope {
    /// The text is no agreement.
    #[error("this is no agreement: {0}")]
    Unreadable(String),
    /// `where`, `fields` or `every`.
    #[error(transparent)]
    Selection(#[from] selection::Error),
    /// `devices`
    #[error("devices is a list of 1 to {MAX_AGREED_DEVICES} device ids")]
    Devices,
    /// `since`
    #[error("since is `now`, {}, or a length of a minute or more, such as 7d", times::FORMS)]
    Since,
    /// `connections`
    #[error("connections is 1 or more")]
    Connections,
}

impl InvalidScope {
    /// The member that is wrong.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "agreements",
            Self::Selection(error) => error.parameter,
            Self::Devices => "devices",
            Self::Since => "since",
            Self::Connections => "connections",
        }
    }
}

/// A compiled agreement.
#[derive(Clone, Debug)]
pub struct Scope {
    /// As it is stored: equal texts are one scope.
    text: String,
    selector: Selector,
    since: Option<Since>,
    connections: Option<u32>,
}

/// How far back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Time(OffsetDateTime),
    Last(Duration),
}

impl Scope {
    /// Reads what the store keeps.
    pub fn parse(text: &str) -> Result<Self, InvalidScope> {
        let agreement: Agreement = serde_json::from_str(text).map_err(|e| InvalidScope::Unreadable(e.to_string()))?;
        let devices = agreement.devices.as_ref().map(|devices| {
            let good = (1..=MAX_AGREED_DEVICES).contains(&devices.len()) && devices.iter().all(|device| DeviceId::is_valid(device));
            good.then(|| devices.iter().map(|device| device.as_str().into()).collect()).ok_or(InvalidScope::Devices)
        });
        if agreement.connections == Some(0) {
            return Err(InvalidScope::Connections);
        }
        Ok(Self {
            text: text.to_owned(),
            selector: Selector::of(&agreement.selection())?.limiting(devices.transpose()?),
            since: agreement.since.as_deref().map(Since::read).transpose()?,
            connections: agreement.connections,
        })
    }

    /// The text of an agreement that is made at `now`, checked; `None` where it limits nothing.
    pub fn text(mut agreement: Agreement, now: OffsetDateTime) -> Result<Option<String>, InvalidScope> {
        if agreement.since.as_deref() == Some("now") {
            let now = now.format(&time::format_description::well_known::Rfc3339);
            agreement.since = Some(now.map_err(|_| InvalidScope::Since)?);
        }
        if agreement.is_empty() {
            return Ok(None);
        }
        let text = serde_json::to_string(&agreement).map_err(|e| InvalidScope::Unreadable(e.to_string()))?;
        Self::parse(&text)?;
        Ok(Some(text))
    }

    /// Whether it is the scope of this text.
    pub fn is_of(&self, text: &str) -> bool {
        self.text == text
    }

    /// Most connections at once.
    pub fn connections(&self) -> Option<u32> {
        self.connections
    }

    /// Whether it lets through the last value of each device only, now and then: a list that is read in parts cannot do that.
    pub fn is_sampled(&self) -> bool {
        self.selector.every().is_some()
    }

    /// The earliest time of arrival that it lets through at `now`.
    pub fn floor(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        match self.since? {
            Since::Time(time) => Some(time),
            Since::Last(length) => Some(now.checked_sub(length.try_into().ok()?).unwrap_or(OffsetDateTime::UNIX_EPOCH)),
        }
    }

    /// A start position that begins no earlier than the scope does at `now`.
    pub fn bounded(&self, start: StartPosition, now: OffsetDateTime) -> StartPosition {
        match (start, self.floor(now)) {
            (StartPosition::Earliest, Some(floor)) => StartPosition::Time(floor),
            (StartPosition::Time(time), Some(floor)) => StartPosition::Time(time.max(floor)),
            // Records after a cursor that are too old are left out one by one.
            (other, _) => other,
        }
    }

    /// Whether it lets through anything of a device.
    pub fn has_device(&self, device: &str) -> bool {
        self.selector.has_device(device)
    }

    /// Whether what came then is within how far back it goes. A record whose log does not say when it came is not.
    pub fn reaches(&self, received: Option<OffsetDateTime>, now: OffsetDateTime) -> bool {
        self.floor(now).is_none_or(|floor| received.is_some_and(|received| received >= floor))
    }

    /// A kept record through the scope, whatever `every` says: its data as they are shown, and whether anything beside them is; `None` where it
    /// is not let through.
    pub fn view(
        &self,
        producer: ProducerId,
        device: &str,
        timestamp: OffsetDateTime,
        data: Box<RawValue>,
    ) -> Option<(Box<RawValue>, bool)> {
        // Cannot fail: texts are always JSON.
        let text = |text: &str| to_raw_value(text).ok();
        let time = timestamp.format(&time::format_description::well_known::Rfc3339).ok()?;
        let (producer, device, time) = (text(&producer.to_string())?, text(device)?, text(&time)?);
        let message = Message { producer_id: &producer, device_id: &device, timestamp: &time, data: &data };
        if !self.selector.admits(&message) {
            return None;
        }
        match self.selector.shown(&data) {
            Some(shown) => Some((RawValue::from_string(shown).ok()?, false)),
            None => Some((data, true)),
        }
    }
}

impl Since {
    fn read(text: &str) -> Result<Self, InvalidScope> {
        if let Some(length) = length(text) {
            return (length >= SHORTEST).then_some(Self::Last(length)).ok_or(InvalidScope::Since);
        }
        times::read(text).map(Self::Time).ok_or(InvalidScope::Since)
    }
}

/// The stage: the scopes of those producers that have one for this consumer, and what they hold.
#[derive(Default)]
pub struct Scopes {
    clock: Clock,
    limits: sampler::Limits,
    of: HashMap<ProducerId, Scoped>,
}

struct Scoped {
    scope: Arc<Scope>,
    /// Filter, projection and sampling of the scope.
    sampler: Sampler,
}

impl Scopes {
    /// No scopes yet.
    pub fn new(clock: Clock, limits: sampler::Limits) -> Self {
        Self { clock, limits, of: HashMap::new() }
    }

    /// Whether no producer has a scope.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Whether a producer has a scope.
    pub fn has(&self, producer: ProducerId) -> bool {
        self.of.contains_key(&producer)
    }

    /// Sets the scope of a producer; all that is held of it is dropped.
    pub fn set(&mut self, producer: ProducerId, scope: Option<Arc<Scope>>) {
        match scope {
            Some(scope) => {
                let sampler = Sampler::new(scope.selector.clone(), self.limits);
                self.of.insert(producer, Scoped { scope, sampler });
            }
            None => drop(self.of.remove(&producer)),
        }
    }

    /// Takes in the next record of a producer; `out` receives what is let through.
    pub fn push(&mut self, record: DeliveredRecord, now: Instant, out: &mut Vec<DeliveredRecord>) {
        match self.of.get_mut(&record.producer) {
            None => out.push(record),
            Some(Scoped { scope, sampler }) => {
                if scope.since.is_none() || scope.reaches(record.received, self.clock.now()) {
                    sampler.push(&record, now, out);
                } else {
                    sampler.pass(&record, out);
                }
            }
        }
    }

    /// Releases what must not come after a notice of its producer.
    pub fn notice(&mut self, notice: &Notice, out: &mut Vec<DeliveredRecord>) {
        let Some(Scoped { sampler, .. }) = self.of.get_mut(&notice.producer()) else { return };
        match *notice {
            Notice::Gap { producer, to, .. } => sampler.gap(producer, to, out),
            Notice::Reset { producer, cursor } => sampler.reset(producer, cursor, out),
        }
    }

    /// When [`Scopes::expire`] has something to do; `None` while nothing is held.
    pub fn due(&self) -> Option<Instant> {
        self.of.values().filter_map(|scoped| scoped.sampler.due()).min()
    }

    /// Releases what was held for long enough.
    pub fn expire(&mut self, now: Instant, out: &mut Vec<DeliveredRecord>) {
        self.of.values_mut().for_each(|scoped| scoped.sampler.expire(now, out));
    }

    /// Drops all that is held of a producer, whose records come after this cursor.
    pub fn start(&mut self, producer: ProducerId, cursor: Cursor) {
        if let Some(Scoped { sampler, .. }) = self.of.get_mut(&producer) {
            sampler.forget(producer);
            sampler.start(producer, cursor);
        }
    }

    /// Forgets every producer that is not kept.
    pub fn retain(&mut self, keep: impl Fn(ProducerId) -> bool) {
        self.of.retain(|&producer, _| keep(producer));
    }

    /// As of the sampler.
    pub fn low_watermark(&self, producer: ProducerId) -> Option<Cursor> {
        self.of.get(&producer)?.sampler.low_watermark(producer)
    }

    /// As of the sampler.
    pub fn cursor(&self, producer: ProducerId) -> Option<Cursor> {
        self.of.get(&producer)?.sampler.cursor(producer)
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scopes").field("producers", &self.of.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
