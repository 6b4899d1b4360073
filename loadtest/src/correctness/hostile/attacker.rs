//! The attacker's process: it is told its target on standard input, attacks until that ends, and says how often it did what.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::Command,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    attacks::{self, Attack},
    target::{Count, Target},
};
use crate::common::{
    part::{Part, Told},
    process,
};

/// The longest attack: one that was forgotten ends by itself.
const LONGEST: Duration = Duration::from_secs(900);
/// How long an attack may take to reach the node before the next one begins all the same: long, as the attacker has what others leave of the
/// processors.
const REACH_LIMIT: Duration = Duration::from_secs(20);
/// How long all of them may take.
const BEGIN_LIMIT: Duration = REACH_LIMIT.saturating_mul(attacks::ALL.len() as u32 + 1);
/// The attacker's word when every attack has begun.
const BEGUN: &str = "begun";
/// How long the attacker may take to end.
const END_LIMIT: Duration = Duration::from_secs(20);
/// Descriptors that the attacks need.
const DESCRIPTORS: u64 = 16_384;

/// Options of the attacker.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// The attacks to carry out, separated by commas; all unless given.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Attacks until standard input ends. Cancelled, the attacks leave nothing behind but closed connections.
pub(crate) async fn run(options: Options) -> Result<bool> {
    motience_certs::install_provider();
    process::raise_descriptors(DESCRIPTORS)?;
    let mut input = BufReader::new(tokio::io::stdin());
    let mut line = String::new();
    input.read_line(&mut line).await?;
    let target: Arc<Target> = Arc::new(serde_json::from_str(&line).context("the target is expected on standard input")?);
    let chosen = chosen(&options.only)?;
    let mut running = JoinSet::new();
    let mut counts = Vec::new();
    for attack in chosen {
        let count = Count::default();
        counts.push((attack.name, count.clone()));
        running.spawn((attack.run)(Arc::clone(&target), count.clone()));
        let reached = async {
            while count.get() == 0 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        // One that does not come through by then goes on trying.
        let _ = timeout(REACH_LIMIT, reached).await;
    }
    say!("{BEGUN}");
    // Nothing more is said there: the read returns when the parent is done, or is gone.
    let _ = timeout(LONGEST, input.read_u8()).await;
    running.shutdown().await;
    let told: BTreeMap<_, _> = counts.iter().map(|(name, count)| (name, count.get())).collect();
    say!("{}", serde_json::to_string(&told)?);
    Ok(true)
}

fn chosen(only: &[String]) -> Result<Vec<&'static Attack>> {
    for name in only {
        let names = || attacks::ALL.iter().map(|attack| attack.name).collect::<Vec<_>>().join(", ");
        ensure!(attacks::ALL.iter().any(|attack| attack.name == name), "there is no attack '{name}'; there are: {}", names());
    }
    Ok(attacks::ALL.iter().filter(|attack| only.is_empty() || only.iter().any(|name| name == attack.name)).collect())
}

/// The running attacker.
pub(super) struct Attackers {
    part: Part,
    told: Told,
}

impl Attackers {
    /// Returns when every attack has reached the node, or has had its time to.
    pub(super) async fn start(target: &Target, only: &[String]) -> Result<Self> {
        chosen(only)?;
        // An attacker has a machine of its own; here it must at least not take the node's.
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(std::env::current_exe()?).arg("hostile-attacker");
        if !only.is_empty() {
            command.arg("--only").arg(only.join(","));
        }
        let (part, mut told) = Part::start("the attacker", command, target).await?;
        let word = timeout(BEGIN_LIMIT, told.next_line()).await.context("the attacker does not begin")??;
        ensure!(word.as_deref() == Some(BEGUN), "the attacker has ended before it began");
        Ok(Self { part, told })
    }

    /// Ends the attacks; how often each reached the node.
    pub(super) async fn end(mut self) -> Result<BTreeMap<String, u64>> {
        self.part.end(END_LIMIT).await?;
        let told = self.told.next_line().await?.unwrap_or_default();
        serde_json::from_str(&told).context("the attacker did not say what it did")
    }
}
