//! The refresh token's file: readable by this user alone, replaced whole.

use std::{fs, io, path::Path};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::private_file;

/// Content of the file.
#[derive(Serialize, Deserialize)]
struct Kept<T> {
    /// The service and the account.
    owner: String,
    refresh_token: T,
}

/// The token kept for `owner`; `None` where there is none, or none that can be read: a login is the way then.
pub(super) fn read(file: &Path, owner: &str) -> Option<SecretString> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(file = %file.display(), %error, "the kept refresh token cannot be read");
            }
            return None;
        }
    };
    let kept: Kept<SecretString> = serde_json::from_slice(&text).ok()?;
    (kept.owner == owner).then_some(kept.refresh_token)
}

/// Keeps it, on disk before this returns: the one before it is spent.
pub(super) fn write(file: &Path, owner: &str, token: &SecretString) -> io::Result<()> {
    let kept = Kept { owner: owner.to_owned(), refresh_token: token.expose_secret() };
    private_file::write_durably(file, &serde_json::to_vec(&kept)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_by_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state/token.json");
        assert!(read(&file, "a").is_none());
        write(&file, "a", &"one".into()).unwrap();
        write(&file, "a", &"two".into()).unwrap();
        assert_eq!(read(&file, "a").unwrap().expose_secret(), "two");
        assert!(read(&file, "b").is_none(), "another account's, or another service's");
        fs::write(&file, "half of").unwrap();
        assert!(read(&file, "a").is_none());
    }
}
