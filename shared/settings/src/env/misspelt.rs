//! Variables that nothing reads, but that look as if somebody thought so.

use std::collections::BTreeSet;

/// Every setting of ours is in it, because it is made of the declarations.
const DOCUMENTED: &str = include_str!("../../../../.env.example");
/// Beginnings of names that are nobody else's.
const OURS: [&str; 2] = ["MOTIENCE_", "RATE_LIMIT_"];
/// Ends of the names that Kubernetes makes of a service's name.
const KUBERNETES: [&str; 6] = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT", "_TCP", "_TCP_ADDR", "_TCP_PROTO"];
/// Shorter names are near to too many others.
const SHORTEST: usize = 7;

/// Names among these that are no settings, each with the setting that was meant, if one is near.
pub(super) fn misspelt<'n>(names: impl Iterator<Item = &'n str>) -> Vec<(String, Option<&'static str>)> {
    let known: BTreeSet<&str> = DOCUMENTED.lines().filter_map(|line| setting(line.strip_prefix('#').unwrap_or(line))).collect();
    let suspicious = |name: &&str| !known.contains(name) && !KUBERNETES.iter().any(|end| name.ends_with(end)) && !name.contains("_PORT_");
    names
        .filter(suspicious)
        .filter_map(|name| {
            let near = known.iter().copied().find(|known| is_near(name, known));
            (near.is_some() || OURS.iter().any(|ours| name.starts_with(ours))).then(|| (name.to_owned(), near))
        })
        .collect()
}

fn setting(line: &str) -> Option<&str> {
    let (name, _) = line.split_once('=')?;
    (!name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')).then_some(name)
}

/// Whether one is the other with a letter or two wrong, missing, too many or exchanged, or in another case.
fn is_near(name: &str, known: &str) -> bool {
    if name.eq_ignore_ascii_case(known) {
        return true;
    }
    let allowed = if known.len() >= 12 { 2 } else { 1 };
    known.len() >= SHORTEST && name.len().abs_diff(known.len()) <= allowed && distance(name.as_bytes(), known.as_bytes()) <= allowed
}

/// Letters to change, add, remove or exchange with their neighbour (optimal string alignment).
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0].iter_mut().enumerate().for_each(|(j, cell)| *cell = j);
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = changed.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_noticed_and_others_names_are_not() {
        for (name, meant) in [
            ("JWT_SECERT", Some("JWT_SECRET")),
            ("DATABSE_URL", Some("DATABASE_URL")),
            ("RATE_LIMIT_LOGINS", Some("RATE_LIMIT_LOGIN")),
            ("rate_limit_login", Some("RATE_LIMIT_LOGIN")),
            ("MOTIENCE_ENVIRONMENT", None),
            ("RATE_LIMIT_EVERYTHING", None),
            ("QUIC_MAX_CONECTIONS", Some("QUIC_MAX_CONNECTIONS")),
            ("TRUSTED_PROXY", None),
        ] {
            let found = misspelt([name].into_iter());
            match name {
                "TRUSTED_PROXY" => assert!(found.is_empty(), "three letters away"),
                _ => assert_eq!(found, [(name.to_owned(), meant)]),
            }
        }
        let foreign = [
            "PATH",
            "HOME",
            "LOGNAME",
            "HOSTNAME",
            "PGHOST",
            "NODE_VERSION",
            "TERM",
            "USER",
            "JWT_SECRET",
            "MOTIENCE_PORT",
            "MOTIENCE_SERVICE_HOST",
            "MOTIENCE_PORT_3001_TCP_ADDR",
            "CARGO_HOME",
            "DB_HOSTS",
            "AP_PORTS",
        ];
        assert_eq!(misspelt(foreign.into_iter()), [("DB_HOSTS".to_owned(), Some("DB_HOST")), ("AP_PORTS".to_owned(), Some("AP_PORT"))]);
    }
}
