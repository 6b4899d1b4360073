//! One limiter for all transports: connections ([`permits`]), memory for what comes in ([`uploads`]), rates ([`rate`]), and what plans allow
//! ([`quota`]).

pub mod permits;
pub mod quota;
pub mod rate;
pub mod uploads;
