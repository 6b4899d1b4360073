//! The record of acts: what changed somebody's rights, or was an operator's doing, is written down once it is done, with the address that the request
//! came from. Refused requests need no call: [`attempts`](crate::attempts) gathers them.

use motience_proto::model::UserId;
use motience_store::{Erased, NewAct, RecordErasure};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
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

    /// Records an act that was done to an account, by itself or by an operator.
    pub async fn record_of_account(&self, act: &'static str, actor: UserId, account: UserId, detail: Value) {
        self.record(act, Some(actor), account_object(account), account, detail).await;
    }
}

/// The object of acts that were done to an account.
pub fn account_object(account: UserId) -> String {
    format!("account:{account}")
}

/// Detail of the act of an erasure: which records, in words of the API.
pub fn erasure_detail(erasure: &RecordErasure) -> Value {
    let Erased { device, from, to, first, last } = &erasure.erased;
    let time = |at: &OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
    json!({
        "erasure": erasure.id, "device": device, "from": from.as_ref().map(time), "to": to.as_ref().map(time), "first": first, "last": last,
    })
}
