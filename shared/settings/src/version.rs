//! The line that `--version` prints: version, commit, features.

/// The version of the workspace; the commit where MOTIENCE_COMMIT named it to the build, as `scripts/package` does; and which of the
/// program's `features` it was built with.
pub fn version(features: &[(&str, bool)]) -> String {
    describe(commit(), features)
}

/// The commit that was built, where the build was told; otherwise `unknown`.
pub fn commit() -> &'static str {
    option_env!("MOTIENCE_COMMIT").filter(|commit| !commit.is_empty()).unwrap_or("unknown")
}

fn describe(commit: &str, features: &[(&str, bool)]) -> String {
    let on: Vec<_> = features.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    let features = if on.is_empty() { "none".to_owned() } else { on.join(" ") };
    format!("{} (commit {commit}, features: {features})", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_was_built() {
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(describe("unknown", &[("demo", false)]), format!("{version} (commit unknown, features: none)"));
        assert_eq!(describe("abc", &[("demo", true), ("mutation", true)]), format!("{version} (commit abc, features: demo mutation)"));
    }
}
