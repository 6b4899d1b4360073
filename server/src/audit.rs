//! `motience-server audit`: the audit log, exported, and looked through for lines that were changed or removed.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, ensure};
use motience_settings::{env::Env, output::say};
use motience_store::{AuditHead, AuditLine, BadLine, Chain, MAX_PAGE, Store};
use serde_json::{Value, json};

use crate::{admin::on_store, cli::AuditAction};

/// Does it, says what was found, and tells the outcome by the exit code.
pub(crate) async fn run(env: &Env, action: AuditAction) -> anyhow::Result<ExitCode> {
    match action {
        AuditAction::Export => on_store(env, async |_, store| export(store).await).await,
        AuditAction::Verify { file: Some(file), heads } => {
            let (chain, bad) = exported(&file, &read(&heads)?)?;
            Ok(tell(&chain, bad.as_ref())?)
        }
        AuditAction::Verify { file: None, heads } => {
            let (heads, mut code) = (read(&heads)?, ExitCode::FAILURE);
            on_store(env, async |_, store| {
                let verdict = store.verify_audit(&heads).await?;
                code = tell(&verdict.good, verdict.bad.as_ref())?;
                if verdict.unchained > 0 {
                    let _ = say(format_args!("{} acts have no place in the chain yet: a running node gives them one.", verdict.unchained));
                }
                Ok(())
            })
            .await?;
            Ok(code)
        }
    }
}

/// Heads as they are told: `LINES:HASH`.
fn read(heads: &[String]) -> anyhow::Result<Vec<AuditHead>> {
    let head = |text: &String| {
        let (chain, hash) = text.split_once(':')?;
        Some(AuditHead { chain: chain.parse().ok()?, hash: hash.to_owned() })
    };
    heads.iter().map(|text| head(text).with_context(|| format!("a head is written LINES:HASH, and not {text}"))).collect()
}

async fn export(store: &Store) -> anyhow::Result<()> {
    store.chain_acts().await?;
    let mut head = AuditHead::default();
    loop {
        let lines = store.audit_lines(head.chain).await?;
        for line in &lines {
            say(line.to_json())?;
            head = AuditHead { chain: line.chain, hash: line.hash.clone() };
        }
        if lines.len() < MAX_PAGE as usize {
            break;
        }
    }
    Ok(say(json!({"head": {"chain": head.chain, "hash": head.hash}}))?)
}

/// Follows the lines of an export, which ends with its head.
fn exported(path: &Path, known: &[AuditHead]) -> anyhow::Result<(Chain, Option<BadLine>)> {
    let file = File::open(path).with_context(|| format!("the export {} cannot be read", path.display()))?;
    let (mut chain, mut ended) = (Chain::default(), false);
    let bad = |chain: &Chain, why: &str| Some(BadLine { chain: chain.head.chain + 1, why: why.to_owned() });
    for text in BufReader::new(file).lines() {
        let text = text?;
        ensure!(!ended, "{} has lines behind its head", path.display());
        if let Some(line) = AuditLine::from_json(&text) {
            if let Err(line) = chain.follow(&line) {
                return Ok((chain, Some(line)));
            }
            if known.iter().any(|known| known.chain == chain.head.chain && known.hash != chain.head.hash) {
                let line = BadLine { chain: chain.head.chain, why: "is not the one that was there".to_owned() };
                return Ok((chain, Some(line)));
            }
            continue;
        }
        let head: Value = serde_json::from_str(&text).unwrap_or_default();
        let (Some(lines), Some(hash)) = (head["head"]["chain"].as_i64(), head["head"]["hash"].as_str()) else {
            let line = bad(&chain, "cannot be read");
            return Ok((chain, line));
        };
        if (lines, hash) != (chain.head.chain, chain.head.hash.as_str()) {
            let line = bad(&chain, "is missing");
            return Ok((chain, line));
        }
        ended = true;
    }
    let is_short = !ended || known.iter().any(|known| known.chain > chain.head.chain);
    let missing = if is_short { bad(&chain, "is missing") } else { None };
    Ok((chain, missing))
}

fn tell(chain: &Chain, bad: Option<&BadLine>) -> io::Result<ExitCode> {
    let Chain { head, erased } = chain;
    say(format_args!("{} lines are as they were written; of {erased} the address was erased.", head.chain))?;
    match bad {
        None => {
            say(format_args!("Head: {}:{}", head.chain, head.hash))?;
            Ok(ExitCode::SUCCESS)
        }
        Some(BadLine { chain, why }) => {
            say(format_args!("Line {chain} {why}."))?;
            Ok(ExitCode::FAILURE)
        }
    }
}
