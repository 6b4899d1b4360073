//! One limiter for all transports: connections ([`permits`]), memory for what comes in ([`uploads`]), and rates ([`rate`]).

pub mod permits;
pub mod rate;
pub mod uploads;
