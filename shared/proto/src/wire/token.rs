//! A long-lived client renews its token without reconnecting.

use std::fmt;

use bytes::BytesMut;

use super::{
    error::Error,
    varint::{self, Body},
};

/// Longest access token, in bytes.
const MAX_TOKEN: usize = 4096;

/// Body of [`super::Frame::TokenRefresh`].
#[derive(Clone, PartialEq, Eq)]
pub struct TokenRefresh {
    /// A new access token of the same account.
    pub token: String,
}

impl TokenRefresh {
    pub(super) fn put(&self, out: &mut BytesMut) {
        varint::put_text(&self.token, out);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        Ok(Self { token: body.text(MAX_TOKEN)? })
    }
}

impl fmt::Debug for TokenRefresh {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRefresh").finish_non_exhaustive()
    }
}

/// Body of [`super::Frame::TokenAccepted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenAccepted {
    /// Seconds for which the new token is good.
    pub expires_in: u64,
}

impl TokenAccepted {
    pub(super) fn put(&self, out: &mut BytesMut) {
        varint::put(self.expires_in, out);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        Ok(Self { expires_in: body.number()? })
    }
}
