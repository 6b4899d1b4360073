//! A stream's query.

use std::collections::HashSet;

use motience_http::ApiError;
use motience_proto::model::ProducerId;
use motience_relay::{
    StartPosition,
    pipeline::{Options, Request, Start},
};
use time::format_description::well_known::Rfc3339;

/// The query, read.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) token: Option<String>,
    producers: Option<String>,
    pub(super) from: Option<String>,
    received_at: Option<String>,
    by: Option<String>,
    pub(super) events: Option<String>,
    /// The pipeline's part.
    pub(super) wishes: Request,
}

impl Wanted {
    /// Sorts the members of a query; those it does not know mean nothing here. Of one that is there twice the last counts, but for
    /// `where`, of which all do.
    pub(super) fn read(members: Vec<(String, String)>) -> Self {
        let mut wanted = Self::default();
        for (name, value) in members {
            let Some(value) = wanted.wishes.take(&name, value) else { continue };
            match name.as_str() {
                "token" => wanted.token = Some(value),
                "from" => wanted.from = Some(value),
                "producers" => wanted.producers = Some(value),
                "received_at" => wanted.received_at = Some(value),
                "by" => wanted.by = Some(value),
                "events" => wanted.events = Some(value),
                _ => {}
            }
        }
        wanted
    }

    /// Named producers; `None`: whatever the caller may read.
    pub(super) fn producers(&self) -> Result<Option<HashSet<ProducerId>>, ApiError> {
        self.producers.as_deref().map(ids).transpose()
    }

    pub(super) fn options(&self) -> Result<Options, ApiError> {
        Ok(self.wishes.read()?)
    }

    /// Whether the records are to say when they came.
    pub(super) fn received(&self) -> Result<bool, ApiError> {
        match self.received_at.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(ApiError::invalid("received_at", "received_at is true or false.")),
        }
    }

    /// A stream that begins at a time of the devices' own clocks begins with the oldest record, and leaves out what is before that time.
    pub(super) fn begin_by(&mut self, start: Start) -> Result<Start, ApiError> {
        match (Clock::read(self.by.as_deref())?, start.everywhere) {
            (Clock::Device, StartPosition::Time(time)) => {
                let time = time.format(&Rfc3339).map_err(|_| ApiError::invalid("from", "from is beyond all times."))?;
                self.wishes.selection.conditions.push(format!("/timestamp>=\"{time}\""));
                Ok(Start { everywhere: StartPosition::Earliest, ..start })
            }
            _ => Ok(start),
        }
    }
}

/// Clock that `from` and `to` go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// The platform's: when a record came.
    Received,
    /// The device's: what the record says itself.
    Device,
}

impl Clock {
    /// `received`, which is the default, or `device`.
    pub(crate) fn read(by: Option<&str>) -> Result<Self, ApiError> {
        match by {
            None | Some("received") => Ok(Self::Received),
            Some("device") => Ok(Self::Device),
            Some(_) => Err(ApiError::invalid("by", "by is `received` or `device`: whose clock the times are of.")),
        }
    }
}

fn ids(list: &str) -> Result<HashSet<ProducerId>, ApiError> {
    let id = |text: &str| text.trim().parse().ok().filter(|id: &ProducerId| id.0 > 0);
    let ids: Option<HashSet<_>> = list.split(',').map(id).collect();
    ids.ok_or_else(|| ApiError::invalid("producers", "producers is a list of ids with commas, such as 1,2."))
}
