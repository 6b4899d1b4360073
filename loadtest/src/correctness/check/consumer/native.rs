//! A consumer over motience/1, by the client library.

use std::time::Duration;

use anyhow::Result;
use motience_device::consumer::{Config, Consumer, Delivery};
use motience_device::login::Credentials;
use motience_proto::{
    model::{DeviceId, ProducerId},
    wire::Start,
};
use tokio::time::{Instant, sleep_until};

use super::{Book, Plan};
use crate::correctness::check::{device::impatient, history::Event};

/// How long after the end of a follow it is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

pub(super) async fn read(plan: &Plan, mut book: Book) -> Result<()> {
    let id = DeviceId::new(&format!("consumer-{}", plan.number))?;
    let (client, policy) = impatient(&plan.server, plan.ca.clone(), id)?;
    let mut consumer = Consumer::start(Config { client, policy }, Credentials::Token(plan.token.clone().into()))?;
    for producer in &plan.producers {
        consumer.subscribe(ProducerId(*producer), start(&book, *producer)).await?;
    }
    let mut ended: Vec<(Instant, i64)> = Vec::new();
    loop {
        let due = ended.first().map(|(at, _)| *at);
        let delivery = tokio::select! {
            delivery = consumer.next() => delivery?,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let (_, producer) = ended.remove(0);
                // The library begins anew with this follow, like a new process.
                book.history.put(Event::Resumed { producer, cursor: book.cursors.get(producer) });
                consumer.subscribe(ProducerId(producer), start(&book, producer)).await?;
                continue;
            }
        };
        match delivery {
            Delivery::Record { producer, cursor, record_id, message } => {
                book.received(producer.0, cursor, record_id, std::str::from_utf8(&message)?)?;
            }
            Delivery::Reset { producer, cursor } => book.reset(producer.0, cursor)?,
            Delivery::Gap { producer, from, to, .. } => book.gap(producer.0, from.0, to.0)?,
            // These follows want everything.
            Delivery::Passed { .. } => {}
            Delivery::Following { producer } => book.history.put(Event::Following { producer: producer.0 }),
            Delivery::Ended { producer, refusal } => {
                ended.push((Instant::now() + ASK_AGAIN, producer.0));
                book.history.put(Event::Ended { producer: producer.0, why: refusal });
            }
        }
    }
}

fn start(book: &Book, producer: i64) -> Start {
    book.cursors.get(producer).map_or(Start::Earliest, Start::After)
}
