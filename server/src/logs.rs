//! `motience-server log`: the file of an embedded node's log, looked through, repaired, and let go of what is too old.

use std::process::ExitCode;

use motience_backend as backend;
use motience_log::embedded::{self, Health};
use motience_runtime::clock::Clock;
use motience_settings::{env::Env, output::say};

use crate::cli::LogAction;

/// Does it, says what was found, and tells the outcome by the exit code, whether or not anybody reads the rest.
pub(crate) fn run(env: &Env, action: LogAction) -> anyhow::Result<ExitCode> {
    let dir = backend::Settings::from_env(env)?.data_dir;
    let health = match action {
        LogAction::Check => embedded::check(&dir)?,
        LogAction::Repair => embedded::repair(&dir)?,
        LogAction::Confirm => {
            embedded::confirm(&dir, Clock::system().now())?;
            let _ = say("The clock is taken to be right: what is too old by it goes.");
            return Ok(ExitCode::SUCCESS);
        }
    };
    tell(&health);
    if let Some(kept) = &health.kept {
        let _ = say(format_args!("What can be read is in a new file. The damaged one was put aside: {}", kept.display()));
    } else if health.is_good() {
        let _ = say("Nothing is damaged.");
    } else {
        let _ =
            say("Readers are told of what is damaged and go on behind it. `motience-server log repair` makes a sound file of the rest.");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(health: &Health) {
    let _ = say(format_args!("{} logs, {} records, {} bytes can be read.", health.logs, health.records, health.bytes));
    for finding in &health.findings {
        let _ = say(format_args!("The file: {finding}"));
    }
    for (key, from, to) in &health.damaged {
        let _ = say(format_args!("Producer {}: records {from} to {to} are damaged.", key.producer));
    }
    for (key, from, to) in &health.lost {
        let _ = say(format_args!("Producer {}: records {from} to {to} were damaged, and are lost.", key.producer));
    }
    for key in &health.forgetful {
        let _ = say(format_args!("Producer {}: some of what is known of its devices or of clients' ids is damaged.", key.producer));
    }
}
