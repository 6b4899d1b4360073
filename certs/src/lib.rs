//! Certificates: PEM files into rustls, configurations for both ends, and a development CA made on first run.
//!
//! There is one TLS provider, aws-lc-rs, and it is passed explicitly everywhere: two in one process make rustls panic.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub mod client;
#[cfg(feature = "dev")]
pub mod dev;
#[cfg(feature = "dev")]
pub mod device_ca;
#[cfg(feature = "keys")]
pub mod device_key;
pub mod pem;
pub mod server;
#[cfg(feature = "dev")]
pub mod source;

#[cfg(all(test, feature = "dev"))]
mod tests;

pub use client::Trust;
pub use server::ServerIdentity;
#[cfg(feature = "dev")]
pub use source::Source;

/// The provider that every configuration here uses.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Makes the provider the default of the process, for libraries that ask for one. May be called again.
pub fn install_provider() {
    // An error only says that a default stands already; nothing in this workspace can set another.
    let _ = aws_lc_rs::default_provider().install_default();
}
