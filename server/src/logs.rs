//! `motience-server log`: the file of an embedded node's log, looked through, repaired, and let go of what is too old.

use std::{path::PathBuf, process::ExitCode};

use motience_shared::{
    clock::Clock,
    env::Env,
    log::embedded::{self, Health},
};

use crate::cli::LogAction;

/// Does it, says what was found, and tells the outcome by the exit code.
pub(crate) fn run(env: &Env, action: LogAction) -> anyhow::Result<ExitCode> {
    let dir = PathBuf::from(env.get("DATA_DIR").unwrap_or("data"));
    let health = match action {
        LogAction::Check => embedded::check(&dir)?,
        LogAction::Repair => embedded::repair(&dir)?,
        LogAction::Confirm => {
            embedded::confirm(&dir, Clock::system().now())?;
            println!("The clock is taken to be right: what is too old by it goes.");
            return Ok(ExitCode::SUCCESS);
        }
    };
    tell(&health);
    if let Some(kept) = &health.kept {
        println!("What can be read is in a new file. The damaged one was put aside: {}", kept.display());
    } else if health.is_good() {
        println!("Nothing is damaged.");
    } else {
        println!("Readers are told of what is damaged and go on behind it. `motience-server log repair` makes a sound file of the rest.");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(health: &Health) {
    println!("{} logs, {} records, {} bytes can be read.", health.logs, health.records, health.bytes);
    for finding in &health.findings {
        println!("The file: {finding}");
    }
    for (key, from, to) in &health.damaged {
        println!("Producer {}: records {from} to {to} are damaged.", key.producer);
    }
    for (key, from, to) in &health.lost {
        println!("Producer {}: records {from} to {to} were damaged, and are lost.", key.producer);
    }
    for key in &health.forgetful {
        println!("Producer {}: some of what is known of its devices or of clients' ids is damaged.", key.producer);
    }
}
