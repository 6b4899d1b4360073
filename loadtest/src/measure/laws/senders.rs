//! `loadtest laws --senders`: what an operator's search for a device costs beside the number of producers that have sent within the hour.

use anyhow::Result;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use motience_proto::model::Role;
use serde_json::json;

use super::{
    Options,
    caller::Caller,
    devices::{anew, counted},
    node::Node,
    people,
    samples::Samples,
};
use crate::common::redis::reported;

/// Producers that send at once.
const AT_ONCE: usize = 32;
/// Searches, and those of them that do not count.
const COUNT: usize = 50;
const WARM: usize = 5;

/// Measures each number of producers, and prints a table.
pub(super) async fn run(options: &Options) -> Result<()> {
    say!("{:>9} | {:>15} | {:>10} | {:>14}", "producers", "search, ms", "anew, ms", "CPU of it, ms");
    for &producers in &options.senders {
        let node = Node::start(options, &[]).await?;
        let (accounts, operator) = (node.accounts()?, Caller::of(&node.operator().await?)?);
        let mut database = node.database().await?;
        people::make(&mut database, Role::Producer, producers, "none").await?;
        let senders = people::logged_in(&node, &mut database, &people::prefix(Role::Producer)).await?;
        let record = json!({"device_id": "pump", "timestamp": "2025-01-29T11:35:00Z", "data": {"temperature": 21.5}});
        let sending = stream::iter(&senders).map(|sender| accounts.post(sender, &record));
        sending.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        counted(producers, async || reported(&node.redis).await).await?;
        let url = format!("{}/devices?query=pum", node.own.addresses.dsm);
        let found = Samples::of(WARM, COUNT, async |_| operator.page(&url).await.map(drop)).await?;
        let cpu = node.cpu()?;
        let anew = anew(&operator, &url).await?;
        let cpu = node.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e3 / anew.count() as f64;
        node.own.stop().await?;
        say!("{producers:>9} | {found:>15} | {:>10.1} | {cpu:>14.0}", anew.median().as_secs_f64() * 1e3);
    }
    Ok(())
}
