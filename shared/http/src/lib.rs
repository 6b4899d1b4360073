//! HTTP as every service of Motience speaks it: one accept loop with limits, one form of error, one set of extractors,
//! and the paths that operators ask.

mod client;
mod collect;
mod compression;
pub mod drain;
mod extract;
mod frames;
mod guarded;
pub mod healthcheck;
mod inflate;
mod limiter;
mod limits;
mod listen;
mod operations;
mod origin;
mod paced;
mod page;
mod paths;
mod problem;
mod proxied;
mod ration;
mod refusals;
mod reload;
mod serve;
mod stalls;
mod starting;

pub use client::{Client, ForwardedHeader, HasProxies, Network, Proxies};
pub use collect::{Collected, broken, collect};
pub use compression::compression;
pub use extract::{
    Admin, AnyToken, Bearer, Consume, Consumer, Decide, HasBackend, Json, Look, ManageDevices, ManageKeys, Path, Producer, Publish, Query,
    Right, Scoped, bearer, is_json, malformed_json, object, unsupported_media_type,
};
pub use inflate::{InflatesTooFar, Inflation, inflate};
pub use limits::{FrameRate, Limits};
pub use listen::{Host, ListenAddress, Listening, ServicePorts, check_plaintext};
pub use operations::{Detail, OPERATIONS, Operations, operations, operations_listener};
pub use origin::{Origins, called_host, check_origin, without_port};
pub use page::{Page, PagePermit, PageRoom};
pub use paths::{is_path, tolerant};
pub use problem::ApiError;
pub use proxied::Announced;
pub use ration::{Flooded, Ration, count_ended};
pub use refusals::{log_refusal, log_refusals, refusal, session_refused};
pub use reload::reload;
pub use serve::{Listener, PeerCertificate, serve};
pub use stalls::Answer;
pub use starting::while_starting;

pub use motience_limits::permits::ClientAddress;
