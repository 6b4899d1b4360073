//! Settings: from the environment, from .env files, and what a program says on its output.

pub mod dotenv;
pub mod env;
pub mod output;
