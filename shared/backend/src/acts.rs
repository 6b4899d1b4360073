//! The record of acts: what changed somebody's rights is written down once it is done.

use motience_proto::model::UserId;
use motience_store::NewAct;
use serde_json::Value;
use tracing::warn;

use super::Backend;

impl Backend {
    /// Records an act that is done: where that fails it stands all the same, and the log tells of it.
    ///
    /// `actor`: who did it, `None` for the platform itself. `object`: the thing that it changed, such as `key:ID`. `owner`: the account that
    /// it concerns, which may read of it. `detail`: more about it, never a secret.
    pub async fn record(&self, act: &'static str, actor: Option<UserId>, object: String, owner: UserId, detail: Value) {
        let act = NewAct { at: self.clock.now(), actor, act, object, concerns: [Some(owner), None], detail };
        if let Err(e) = self.store.record_act(&act).await {
            warn!(error = %e, act = act.act, object = act.object, "an act cannot be recorded");
        }
    }
}
