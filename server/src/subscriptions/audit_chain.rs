//! `GET /audit/chain`: whether every line of the audit log is as it was written, for operators.

use axum::extract::State;
use motience_http::{Admin, ApiError, Json, PagePermit, Query};
use motience_store::{AuditHead, BadLine, Verdict};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::http::Shared;

/// Which chain it has to be.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// A head that was told earlier, as `LINES:HASH`: the chain must have passed it. Without one nobody notices that lines were taken off its end.
    #[param(pattern = "^[1-9][0-9]{0,17}:[0-9a-f]{64}$")]
    head: Option<String>,
}

/// The chain, as it was found.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"lines": 9, "hash": "f2ca1bb6c7e907d06dafe4687e579fce76b37e4e93b7605022da52e6ccc26fd2", "erased": 0, "unchained": 0, "bad": null}))]
pub(super) struct AuditChain {
    /// Lines that are as they were written, from the first on.
    lines: i64,
    /// The hash of the last of them; with `lines` it is the head to be kept elsewhere.
    hash: String,
    /// How many of them have lost their address with an account.
    erased: u64,
    /// Lines that have no place in the chain yet.
    unchained: i64,
    /// The first line that is not as it was written; `null`: there is none.
    #[schema(required)]
    bad: Option<BadAuditLine>,
}

/// A line that was changed or removed.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"line": 7, "why": "is missing"}))]
pub(super) struct BadAuditLine {
    /// Its place in the chain, from 1.
    line: i64,
    /// In which way, as the end of a sentence.
    why: String,
}

/// Follows the chain of the audit log from its first line to its last, which takes a second for each hundred thousand of them, about.
#[utoipa::path(get, path = "/audit/chain", tag = "operators", security(("bearer" = [])), params(Wanted), responses(
    (status = 200, description = "Whether it holds", body = AuditChain),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not an operator"),
    (status = 422, description = "Not a head"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn audit_chain(
    State(services): State<Shared>,
    _caller: Admin,
    Query(wanted): Query<Wanted>,
    _permit: PagePermit,
) -> Result<Json<AuditChain>, ApiError> {
    let known = wanted.head.as_deref().map(read).transpose()?;
    services.backend.store.chain_acts().await?;
    let Verdict { good, bad, unchained } = services.backend.store.verify_audit(known.as_slice()).await?;
    let bad = bad.map(|BadLine { chain, why }| BadAuditLine { line: chain, why });
    Ok(Json(AuditChain { lines: good.head.chain, hash: good.head.hash, erased: good.erased, unchained, bad }))
}

fn read(text: &str) -> Result<AuditHead, ApiError> {
    let is_hash = |hash: &str| hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let head = text.split_once(':').filter(|(_, hash)| is_hash(hash));
    let lines = head.and_then(|(lines, hash)| Some((lines.parse().ok().filter(|lines| *lines > 0)?, hash.to_owned())));
    let (chain, hash) = lines.ok_or_else(|| ApiError::invalid("head", "head must be LINES:HASH, as a chain was told to end."))?;
    Ok(AuditHead { chain, hash })
}
