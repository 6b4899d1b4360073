//! Context of the producer's task and of each of its connections.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Config, shared::Shared};
use crate::{client::Connector, login::Credentials};

pub(super) struct Context {
    pub(super) config: Config,
    pub(super) connector: Connector,
    pub(super) credentials: Arc<Credentials>,
    pub(super) shared: Arc<Shared>,
    /// Cancelled when the producer is shut down.
    pub(super) cancel: CancellationToken,
}
