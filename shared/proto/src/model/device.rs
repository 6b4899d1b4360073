//! The state of a device: whether it may speak, and whether consumers hear it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// State of a device, as its producer or an operator has set it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceState {
    /// Its records are taken in and delivered.
    #[default]
    Active,
    /// Its records are taken in and withheld from consumers.
    Quarantined,
    /// Its records are refused, and so are its credentials.
    Revoked,
}

/// The text is no state of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a device is active, quarantined or revoked")]
pub struct UnknownDeviceState;

impl DeviceState {
    /// The state as the database and the API spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Quarantined => "quarantined",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DeviceState {
    type Err = UnknownDeviceState;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "active" => Ok(Self::Active),
            "quarantined" => Ok(Self::Quarantined),
            "revoked" => Ok(Self::Revoked),
            _ => Err(UnknownDeviceState),
        }
    }
}
