//! What every part of Motience shares.
//!
//! Without features this crate is what a device needs: the [`model`] and the [`wire`] codec, pure and without I/O.
//! The feature `backend` adds what a node needs: accounts ([`auth`]), the database ([`store`]), the [`log`], and the
//! [`relay`] that joins producers and consumers to it.
//!
//! Imports point one way: `model <- wire`, `model <- {store, log, auth} <- relay <- backend <- session`.

pub mod dotenv;
pub mod model;
pub mod mutation;
pub mod output;
pub mod wire;

#[cfg(feature = "backend")]
pub mod auth;
#[cfg(feature = "backend")]
pub mod backend;
#[cfg(feature = "backend")]
mod causes;
#[cfg(feature = "backend")]
pub mod clock;
#[cfg(feature = "backend")]
pub mod descriptors;
#[cfg(feature = "backend")]
pub mod env;
#[cfg(feature = "backend")]
pub mod healthcheck;
#[cfg(feature = "backend")]
pub mod http;
#[cfg(feature = "backend")]
pub mod lifecycle;
#[cfg(feature = "backend")]
pub mod log;
#[cfg(feature = "backend")]
pub mod permits;
#[cfg(feature = "backend")]
mod private;
#[cfg(feature = "backend")]
pub mod rate;
#[cfg(feature = "backend")]
pub mod relay;
#[cfg(feature = "backend")]
pub mod session;
#[cfg(feature = "backend")]
pub mod store;
#[cfg(feature = "backend")]
pub mod telemetry;
#[cfg(feature = "backend")]
pub mod uploads;
#[cfg(feature = "backend")]
pub use causes::causes;
#[cfg(any(feature = "testing", all(test, feature = "backend")))]
pub mod testing;
