//! Settings: from the environment and from .env files; what a program says on its output; which build it is.

pub mod dotenv;
pub mod env;
pub mod output;
mod version;

pub use version::{commit, version};
