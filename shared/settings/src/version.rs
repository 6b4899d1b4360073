//! The line that `--version` prints: version, commit, features.

/// The version of the workspace; the commit where MOTIENCE_COMMIT named it to the build, as `scripts/package` does; and which of the
/// program's `features` it was built with.
pub fn version(features: &[(&str, bool)]) -> String {
    describe(option_env!("MOTIENCE_COMMIT").filter(|commit| !commit.is_empty()), features)
}

fn describe(commit: Option<&str>, features: &[(&str, bool)]) -> String {
    let on: Vec<_> = features.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    let features = if on.is_empty() { "none".to_owned() } else { on.join(" ") };
    format!("{} (commit {}, features: {features})", env!("CARGO_PKG_VERSION"), commit.unwrap_or("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_was_built() {
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(describe(None, &[("demo", false)]), format!("{version} (commit unknown, features: none)"));
        assert_eq!(
            describe(Some("abc"), &[("demo", true), ("mutation", true)]),
            format!("{version} (commit abc, features: demo mutation)")
        );
    }
}
