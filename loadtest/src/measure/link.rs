//! `loadtest link`: a command, or a person, at the device's end of a bad link.

use std::{ffi::OsString, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;
use motience_loadtest::link::{Bursts, Counts, Direction, Link, Loss, Name, Rate, SERVER};
use tokio::process::Command;

/// Options of `loadtest link`. Options given beside the profile take the place of the profile's own, both ways.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// The kind of link.
    #[arg(long, value_enum, default_value = "clean")]
    profile: Name,
    /// Milliseconds each way.
    #[arg(long)]
    delay: Option<f64>,
    /// Mean of what is added to that, in milliseconds.
    #[arg(long)]
    jitter: Option<f64>,
    /// Per cent of the packets that are lost, each by itself.
    #[arg(long, conflicts_with = "bursts")]
    loss: Option<f64>,
    /// Per cent of the time in which everything is lost.
    #[arg(long)]
    bursts: Option<f64>,
    /// Milliseconds that a burst lasts.
    #[arg(long, default_value_t = 40.0)]
    burst: f64,
    /// Per cent of the packets that are overtaken.
    #[arg(long)]
    reordered: Option<f64>,
    /// Per cent of the packets that arrive twice.
    #[arg(long)]
    doubled: Option<f64>,
    /// Mbit/s.
    #[arg(long)]
    rate: Option<f64>,
    /// Milliseconds of waiting that the queue before the bottleneck has room for.
    #[arg(long, default_value_t = 100.0)]
    queue: f64,
    /// Larger packets vanish.
    #[arg(long)]
    mtu: Option<u16>,
    /// Equal seeds drop the same packets.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A program to run at the device's end, and its arguments.
    #[arg(last = true)]
    command: Vec<OsString>,
}

/// Runs the command, or waits for ctrl-c.
pub(crate) async fn run(options: Options) -> Result<bool> {
    let link = Link::new(options.impairment(), options.seed)?;
    let (device, server) = (link.device().name(), link.server().name());
    eprintln!(
        "The link is up ({:?}). The server's side is reached at {SERVER} (MOTIENCE_LINK_SERVER in the command's environment).",
        options.profile
    );
    eprintln!("  a program at the server's side:  ip netns exec {server} COMMAND   (listen on 0.0.0.0 or {SERVER})");
    eprintln!("  a program at the device's side:  ip netns exec {device} COMMAND");
    let done = if let Some((program, arguments)) = options.command.split_first() {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", device]).arg(program).args(arguments);
        command.env("MOTIENCE_LINK_SERVER", SERVER.to_string()).env("MOTIENCE_LINK_SERVER_NAMESPACE", server).kill_on_drop(true);
        let mut child = command.spawn().context("`ip` cannot be run")?;
        tokio::select! {
            status = child.wait() => status?.success(),
            _ = tokio::signal::ctrl_c() => false,
        }
    } else {
        eprintln!("It stays until ctrl-c.");
        tokio::signal::ctrl_c().await?;
        true
    };
    print("device to server", link.counts(Direction::Up));
    print("server to device", link.counts(Direction::Down));
    Ok(done)
}

fn print(way: &str, c: Counts) {
    let Counts { packets, bytes, delivered, lost, overflowed, swallowed } = c;
    eprintln!(
        "{way}: {packets} packets, {bytes} bytes; {delivered} delivered, {lost} lost, {overflowed} dropped by the queue, {swallowed} swallowed"
    );
}

impl Options {
    fn impairment(&self) -> motience_loadtest::link::Profile {
        let mut profile = self.profile.profile();
        let ms = |ms: f64| Duration::from_secs_f64(ms.max(0.0) / 1000.0);
        for impairment in [&mut profile.up, &mut profile.down] {
            impairment.delay = self.delay.map_or(impairment.delay, ms);
            impairment.jitter = self.jitter.map_or(impairment.jitter, ms);
            impairment.loss = match (self.loss, self.bursts) {
                (Some(per_cent), _) => Loss::Random(per_cent / 100.0),
                (None, Some(per_cent)) => Loss::Bursts(Bursts::blackouts(per_cent / 100.0, ms(self.burst))),
                (None, None) => impairment.loss,
            };
            impairment.reordered = self.reordered.map_or(impairment.reordered, |p| p / 100.0);
            impairment.doubled = self.doubled.map_or(impairment.doubled, |p| p / 100.0);
            if let Some(mbit) = self.rate {
                let bits = mbit * 1e6;
                impairment.rate = Some(Rate { bits: bits as u64, queue: (bits / 8.0 * self.queue / 1000.0) as u64 });
            }
            impairment.mtu = self.mtu.or(impairment.mtu);
        }
        profile
    }
}
