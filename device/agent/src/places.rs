//! Where status files are.

use std::{env, path::PathBuf};

/// Where systemd puts the file of the service.
pub(super) const SYSTEMD_DIR: &str = "/run/motience-device";
/// How the names of status files begin and end.
pub(super) const NAME: [&str; 2] = ["status-", ".json"];

/// The name of a device's file.
pub(super) fn file_name(identity: u64) -> String {
    format!("{}{identity:016x}{}", NAME[0], NAME[1])
}

/// A folder for temporary files that is this user's own.
pub(super) fn own_temporary_dir() -> PathBuf {
    #[cfg(unix)]
    let name = format!("motience-device-{}", rustix::process::getuid().as_raw());
    #[cfg(not(unix))]
    let name = "motience-device";
    env::temp_dir().join(name)
}
