//! Tokens of other issuers: they have no family of their own, so an account's are ended by the time at which they were issued.

use motience_proto::model::UserId;
use time::OffsetDateTime;

/// Families of grants by tokens of another issuer begin so.
pub(super) const EXTERNAL_FAMILY: &str = "external:";

/// The family of grants by tokens of another issuer: those of one account.
pub fn external_family(user: UserId) -> String {
    format!("{EXTERNAL_FAMILY}{user}")
}

/// Up to when an account's tokens of other issuers are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExternalEnd {
    /// The moment: those that were issued up to this second are ended.
    pub at: OffsetDateTime,
    /// The second in which the token was issued that stays, where one does.
    pub kept: Option<OffsetDateTime>,
}

impl ExternalEnd {
    /// Whether a token that was issued then is ended. Tokens tell their time to the second.
    pub fn ends(self, issued_at: OffsetDateTime) -> bool {
        let issued = issued_at.unix_timestamp();
        issued <= self.at.unix_timestamp() && self.kept.is_none_or(|kept| issued != kept.unix_timestamp())
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    #[test]
    fn the_second_of_the_moment_is_ended_and_that_of_the_kept_token_is_not() {
        let at = OffsetDateTime::UNIX_EPOCH + Duration::milliseconds(5500);
        let second = |n: i64| OffsetDateTime::UNIX_EPOCH + Duration::seconds(n);
        let ended = |kept| (0..8).filter(|&n| ExternalEnd { at, kept }.ends(second(n))).collect::<Vec<_>>();
        assert_eq!(ended(None), [0, 1, 2, 3, 4, 5]);
        assert_eq!(ended(Some(second(3))), [0, 1, 2, 4, 5]);
    }
}
