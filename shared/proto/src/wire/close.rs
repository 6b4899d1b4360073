//! Why a connection was closed: QUIC application error codes, each with one meaning.

/// The reason in a QUIC CONNECTION_CLOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum CloseCode {
    /// All is done.
    Done = 0,
    /// The peer broke the protocol.
    Protocol = 1,
    /// No token, a bad one, or one that has expired or was revoked.
    Unauthenticated = 2,
    /// A good token of an account that may not do this.
    Forbidden = 3,
    /// A newer connection of the same device took over.
    Fenced = 4,
    /// Something over its limit.
    TooLarge = 5,
    /// Too much, too fast: come back later.
    RateLimited = 6,
    /// The node is going away: connect to another.
    Draining = 7,
    /// The node failed: try again.
    Internal = 8,
}

impl CloseCode {
    /// Whether coming back with the same credentials and settings can succeed.
    ///
    /// A device does not come back after a `Protocol`, `Forbidden` or `TooLarge`; after `Unauthenticated` it logs in
    /// first; after `Fenced` it lets the newer connection be.
    pub fn is_worth_retrying(self) -> bool {
        matches!(self, Self::Done | Self::RateLimited | Self::Draining | Self::Internal)
    }

    /// The code with this number.
    pub fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Done,
            1 => Self::Protocol,
            2 => Self::Unauthenticated,
            3 => Self::Forbidden,
            4 => Self::Fenced,
            5 => Self::TooLarge,
            6 => Self::RateLimited,
            7 => Self::Draining,
            8 => Self::Internal,
            _ => return None,
        })
    }

    /// As metrics and logs say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Protocol => "protocol",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Fenced => "fenced",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::Draining => "draining",
            Self::Internal => "internal",
        }
    }

    /// The code's number.
    pub fn number(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for n in 0..9 {
            assert_eq!(CloseCode::from_number(n).unwrap().number(), n as u32);
        }
        assert_eq!(CloseCode::from_number(9), None);
    }
}
