//! Why a token or a password check was refused.

/// Why a caller is not who it says it is, or cannot be checked just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not one of our tokens: malformed, of a foreign issuer, tampered with, or signed otherwise.
    #[error("the token is not valid")]
    Invalid,
    /// Our token, but expired.
    #[error("the token has expired")]
    Expired,
    /// A refresh token where an access token belongs, or the other way round.
    #[error("this kind of token is not accepted here")]
    WrongKind,
    /// A token that was revoked.
    #[error("the token has been revoked")]
    Revoked,
    /// A good token of another issuer whose claims give no role here, or another than its account has.
    #[error("the token gives its holder no role here, or another than before")]
    NoRole,
    /// The keys of another issuer are not known, and it does not answer.
    #[error("the token's issuer is unreachable")]
    IssuerAway,
    /// All that may hash passwords at once are at it; try again later.
    #[error("too many passwords are being checked")]
    Busy,
    /// A key or a certificate cannot be looked up: the database is away.
    #[error("the database is unavailable")]
    Unavailable,
    /// Signing or hashing failed: a fault of the program or of the machine.
    #[error("the token or password could not be processed")]
    Internal,
}

impl Error {
    /// A stable name for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Invalid => "invalid_token",
            Self::Expired => "token_expired",
            Self::WrongKind => "wrong_token_type",
            Self::Revoked => "token_revoked",
            Self::NoRole => "no_role",
            Self::IssuerAway => "issuer_away",
            Self::Busy => "busy",
            Self::Unavailable => "database_away",
            Self::Internal => "internal",
        }
    }
}
