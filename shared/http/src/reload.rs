//! SIGHUP: settings are read again. Those that may change while a node runs are put in force, the others are named.

use std::collections::BTreeSet;

use motience_runtime::{lifecycle::Shutdown, telemetry};
use motience_settings::env::{Env, Error, Reader};
use tracing::{info, warn};

/// Reads the settings again at each SIGHUP, until the node leaves.
///
/// `read` makes settings of the variables; `apply` puts in force what it can and returns the names of those settings that it did, of the
/// changed ones.
pub async fn reload<T>(
    mut env: Env,
    shutdown: Shutdown,
    read: impl Fn(&mut Reader<'_>) -> T,
    mut apply: impl FnMut(&T, &[&'static str]) -> Vec<&'static str>,
) {
    while shutdown.soft().run_until_cancelled(shutdown.reload()).await.is_some() {
        let newer = match Env::load() {
            Ok(newer) => newer,
            Err(e) => {
                refuse(&[e]);
                continue;
            }
        };
        let mut names = BTreeSet::new();
        let (settings, mut errors) = newer.inspect(|reader| {
            let settings = read(reader);
            names.clone_from(reader.seen());
            settings
        });
        let filter = telemetry::chosen_filter(&newer, "info");
        errors.extend(filter.as_ref().err().map(|e| Error::invalid("RUST_LOG", e)).filter(|_| errors.is_empty()));
        if !errors.is_empty() {
            refuse(&errors);
            continue;
        }
        let changed = env.differences(&newer, &names);
        let mut applied = apply(&settings, &changed);
        // Also where an operator had set another for a while.
        let wanted = filter.unwrap_or_default();
        let is_other = telemetry::filter().is_some_and(|known| known != wanted);
        if (!is_other || telemetry::set_filter(&wanted).is_ok()) && (is_other || changed.contains(&"RUST_LOG")) {
            applied.push("RUST_LOG");
        }
        let later: Vec<_> = changed.into_iter().filter(|name| !applied.contains(name)).collect();
        info!(applied = applied.join(" "), "the settings were read again");
        if !later.is_empty() {
            warn!(settings = later.join(" "), "these settings have changed and need a restart");
        }
        env = newer;
    }
}

fn refuse(errors: &[Error]) {
    for error in errors {
        warn!(%error, "the settings cannot be read again; the old ones stay in force");
    }
}
