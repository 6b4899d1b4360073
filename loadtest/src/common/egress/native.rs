//! motience/1.

use std::collections::VecDeque;

use anyhow::{Context as _, Result, bail, ensure};
use motience_certs::Trust;
use motience_device::client::{Config, Connector, Event, Session as Inner};
use motience_proto::{
    model::{DeviceId, ProducerEpoch, ProducerId},
    wire::{self, Intent},
};
use secrecy::SecretString;

use super::{Incoming, Start, Target};

/// A connection that follows.
pub(crate) struct Session {
    inner: Inner,
    ready: VecDeque<String>,
    _connector: Connector,
}

impl Session {
    pub(super) async fn open(target: &Target, start: &Start) -> Result<Self> {
        let trust = target.ca.clone().map_or(Trust::Platform, Trust::Ca);
        let connector = Connector::new(Config::new(target.server.parse()?, trust, DeviceId::new("reader")?))?;
        let token = SecretString::from(target.token.clone());
        let mut inner = connector.connect(&token, Intent::Consume, ProducerEpoch(fastrand::u64(1..))).await?;
        for producer in &target.producers {
            let from = match start {
                Start::Live => wire::Start::Live,
                Start::After(cursors) => cursors.get(producer).map_or(wire::Start::Earliest, |cursor| wire::Start::After(*cursor)),
            };
            inner.subscribe(ProducerId(*producer), from, "").await?;
        }
        let mut begun = 0;
        while begun < target.producers.len() {
            match inner.next().await? {
                Event::Cursor(_) => begun += 1,
                Event::Followed { refusal, .. } => ensure!(refusal.is_empty(), "a follow was refused: {refusal}"),
                other => bail!("unexpected before the first cursors: {other:?}"),
            }
        }
        Ok(Self { inner, ready: VecDeque::new(), _connector: connector })
    }

    pub(super) async fn next(&mut self) -> Result<Incoming> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Incoming::Message(message));
            }
            match self.inner.next().await {
                Ok(Event::Entries { entries, .. }) => {
                    for entry in entries {
                        self.ready.push_back(std::str::from_utf8(&entry.message).context("a message is no text")?.to_owned());
                    }
                }
                Ok(_) => {}
                Err(e) => return Ok(Incoming::End(e.to_string())),
            }
        }
    }
}
