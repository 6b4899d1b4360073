//! Who a caller is: tokens, passwords, and what was revoked before its time.
//!
//! A login gives a [`Pair`]: a short-lived access token, checked without the database and turned into a [`Grant`], and a refresh
//! token that the store lets be used once. All pairs that come from one login are a family, which is revoked as a whole. A key of a
//! program is looked up, and becomes a [`Grant`] too, whose [`Scopes`] limit what its account may do.
//! Nothing here touches the network or the database.

mod config;
mod device_states;
mod error;
mod external;
mod grant;
mod hash_queue;
mod hasher;
mod live;
mod names;
mod policy;
mod random;
mod revocations;
mod rights;
mod scopes;
mod secrets;
mod signing;
mod standing;
mod tokens;

pub use self::{
    config::{Config, PLACEHOLDER_SECRET, SECRET_FILE, SecretFileError, Settings},
    device_states::{DeviceStates, device_of_message},
    error::Error,
    external::{ExternalEnd, external_family},
    grant::{Grant, device_family, key_family},
    hash_queue::{HashLimits, Turn, Waiter},
    hasher::{Hasher, Verdict, spare_processors},
    live::{Client, LiveConnection, LiveConnections},
    names::{InvalidUsername, MAX_PASSWORD, canonical_username, folded},
    policy::{Weak, check_password},
    random::id as random_id,
    revocations::Revocations,
    rights::{Denied, member_scopes},
    scopes::{Scope, Scopes, UnknownScope},
    secrets::{SecretKind, secret_hash},
    signing::{KeyFile, PublicKey, SigningKeyError, key_file, key_files, spent_key_files},
    standing::{NotRenewed, Standing},
    tokens::{MAX_TOKEN, NONCE_TTL, Pair, RefreshClaims, Tokens},
};
