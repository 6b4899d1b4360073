//! `GET /stream`: live records for HTTP clients, as server-sent events or as lines of JSON, over any version of HTTP.
//!
//! ```text
//! query, token -> Feed (whom the caller may follow) -> Thinned (what it wants) -> Session (chunks, pulled) -> body
//! ```

mod cursors;
mod format;
mod query;
mod schema;
mod session;

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
};

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use motience_auth::Grant;
use motience_http::{Answer, ApiError, Query, bearer};
use motience_limits::permits::Share;
use motience_proto::model::Transport;
use motience_proto::model::{ProducerId, Role, times};
use motience_relay::{Feed, ReadFrom, view::Thinned};
use tokio_util::sync::CancellationToken;

pub(crate) use format::put_line;
pub(crate) use query::Clock;

use self::{
    cursors::From,
    format::Format,
    query::Wanted,
    session::{Parts, Session},
};
use crate::http::Shared;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Records as they come, each the message of `motience.v2`: `producer_id`, `device_id`, `timestamp`, `data`, `offset`, `cursor`,
/// `record_id`. Server-sent events carry all cursors as `id`, so that a browser resumes by itself; lines of JSON tell them in
/// `{"type":"cursors"}`. `gap`, `reset` and `end` are said, never implied.
///
/// A consumer follows its subscriptions, or those it names; a producer its own log; an operator whom it names. The stream ends
/// when the token does, and when the subscription to a named producer does.
#[utoipa::path(get, path = "/stream", tag = "data", security(("bearer" = [])), params(
    ("producers" = inline(Option<schema::Producers>), Query, description = "Ids with commas; without it all that the caller is subscribed to", example = "1,2"),
    ("from" = inline(Option<schema::Place>), Query, description = "`live` (the default), `earliest`, a time (of arrival, unless `by=device`), a cursor, an offset such as `@456`, `1:7-456,2:7-9`, or `{\"1\":\"7-456\"}`. A time or a place that retention has passed is answered by `gap`", example = "live"),
    ("by" = inline(Option<schema::By>), Query, description = "Whose clock a time in `from` is of: `received` (the default), or `device`"),
    ("received_at" = inline(Option<schema::Flag>), Query, description = "Whether each record says when it came: `received_at`"),
    ("where" = inline(Option<schema::Conditions>), Query, description = "A JSON pointer into the message, a comparison, a JSON value; all must hold", example = json!(["/data/temperature>30"])),
    ("fields" = inline(Option<schema::Fields>), Query, description = "JSON pointers with commas: what `data` keeps", example = "/data/temperature,/data/humidity"),
    ("every" = inline(Option<schema::Every>), Query, description = "The last value of each device in each such time", example = "10s"),
    ("token" = Option<String>, Query, description = "The access token, for clients that cannot send headers"),
    schema::LastEventId,
), responses(
    (status = 200, description = "Records, until the stream ends", content((String = "text/event-stream"), (String = "application/x-ndjson"))),
    (status = 400, description = "An expression that makes no sense: `column` and `caret` point at the character"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not subscribed to one of these, or another's log"),
    (status = 404, description = "No such producer"),
    (status = 406, description = "Neither form is acceptable"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 429, description = "The account has too many streams"),
    (status = 503, description = "The database or the log is unavailable, or the node is full"),
))]
pub(crate) async fn stream(
    State(services): State<Shared>,
    Query(members): Query<Vec<(String, String)>>,
    over: Option<Extension<Answer>>,
    granted: Option<Extension<Grant>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut wanted = Wanted::read(members);
    let (grant, _under_way) = match granted {
        Some(Extension(grant)) => (grant, None),
        None => {
            let grant = authenticate(&services, &headers, &wanted).await?;
            let under_way = services.limiters.requests.plain(&grant)?;
            (grant, Some(under_way))
        }
    };
    let producers = wanted.producers()?;
    let format = Format::negotiate(&headers).ok_or_else(|| {
        ApiError::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", "This is sent as text/event-stream or application/x-ndjson.")
    })?;
    let from = beginning(&headers, &wanted)?;
    let from = wanted.begin_by(from)?;
    let (view, received) = (wanted.view()?, wanted.received()?);
    let (backend, config) = (&services.backend, &services.config.stream);
    let permit = backend.permits.account(grant.user, Share::Connections, Transport::Http)?;
    let mut feed = feed(&services, &grant, producers).await?;
    if let Some(from) = from {
        feed.resume(&places(from, &feed)?).await?;
    }
    let left = CancellationToken::new();
    let over = over.map(|Extension(over)| over);
    if let Some(over) = &over {
        tokio::spawn(end_with_token(backend.ended(&grant), over.clone(), left.clone()));
    }
    let session = Session::new(Parts {
        feed,
        thinned: Thinned::new(view, config.view),
        received,
        format,
        beat_every: config.comment,
        most: config.producers,
        ended: Box::pin(backend.ended(&grant)),
        draining: services.draining.clone(),
        over,
        permit,
        left: left.drop_guard(),
    });
    let chunks = stream::unfold(session, |mut session| async {
        let chunk = session.chunk().await?;
        Some((Ok::<_, Infallible>(chunk), session))
    });
    let mut response = Body::from_stream(chunks).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, format.content_type());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies of the nginx kind gather an answer before they pass it on, unless told not to.
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

/// Nobody asks a body for more whose client takes nothing, so the end of its token is waited for apart from it.
async fn end_with_token(ended: impl Future<Output = ()>, over: Answer, left: CancellationToken) {
    if left.run_until_cancelled(ended).await.is_some() {
        over.over();
    }
}

/// A browser's `EventSource` can send no headers, so its token comes in the query.
async fn authenticate(services: &Shared, headers: &HeaderMap, wanted: &Wanted) -> Result<Grant, ApiError> {
    let token = bearer(headers).or(wanted.token.as_deref()).ok_or_else(|| {
        ApiError::unauthenticated("no_token", "Log in, and send the access token as `Authorization: Bearer …` or as `?token=`.")
    })?;
    Ok(services.backend.authenticate(token).await?)
}

/// Where to begin; what a browser says by itself wins.
fn beginning(headers: &HeaderMap, wanted: &Wanted) -> Result<Option<From>, ApiError> {
    let resumed = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?")).filter(|value| !value.is_empty());
    let (field, text) = match (resumed, &wanted.from) {
        (Some(id), _) => ("last-event-id", id),
        (None, Some(from)) => ("from", from.as_str()),
        (None, None) => return Ok(None),
    };
    let from = cursors::read(text).ok_or_else(|| {
        ApiError::invalid(
            field,
            format!(
                "{field} is `live`, `earliest`, {}, a cursor such as 7-456, an offset such as @456, or a cursor for each producer: 1:7-456,2:7-9.",
                times::FORMS
            ),
        )
    })?;
    Ok(Some(from))
}

/// Whom the caller follows.
async fn feed(services: &Shared, grant: &Grant, producers: Option<HashSet<ProducerId>>) -> Result<Feed, ApiError> {
    let (relay, most) = (&services.backend.relay, services.config.stream.producers);
    if producers.as_ref().is_some_and(|producers| producers.len() > most) {
        return Err(too_many(most));
    }
    match (grant.role, producers) {
        (Role::Consumer, Some(chosen)) => {
            let feed = relay.chosen_feed(grant.user.consumer(), chosen).await?;
            match feed.lacks().as_slice() {
                [] => Ok(feed),
                lacking => {
                    let ids = lacking.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    Err(ApiError::forbidden(format!("Not subscribed to {ids}.")).with_code("not_subscribed"))
                }
            }
        }
        (Role::Consumer, None) => {
            let feed = relay.feed(grant.user.consumer(), None).await?;
            if feed.followed().count() > most { Err(too_many(most)) } else { Ok(feed) }
        }
        (Role::Producer, named) => {
            let own = HashSet::from([grant.user.producer()]);
            if named.is_some_and(|named| named != own) {
                return Err(ApiError::forbidden("A producer reads its own log only."));
            }
            Ok(relay.granted_feed(own).await?)
        }
        // Which roles may leave it out is nothing that a document of parameters can say: it is no matter of form.
        (Role::Admin, None) => Err(ApiError::forbidden("An operator names whom to follow, in producers.").with_code("no_producers")),
        (Role::Admin, Some(named)) => {
            let ids: Vec<_> = named.iter().map(|producer| producer.user()).collect();
            let users = services.backend.store.users_by_id(&ids).await?;
            let missing = |producer: &&ProducerId| users.get(&producer.user()).is_none_or(|user| user.role != Role::Producer);
            if let Some(producer) = named.iter().find(missing) {
                return Err(ApiError::not_found(format!("There is no producer {producer}.")));
            }
            Ok(relay.granted_feed(named).await?)
        }
    }
}

fn too_many(most: usize) -> ApiError {
    ApiError::invalid("producers", format!("A stream follows at most {most} producers: name some of them.")).with_code("too_many_producers")
}

/// The place in each log.
fn places(from: From, feed: &Feed) -> Result<HashMap<ProducerId, ReadFrom>, ApiError> {
    match from {
        From::Each(places) => Ok(places),
        From::Everywhere(ReadFrom::Live) => Ok(HashMap::new()),
        // An offset by itself is one of every log's present epoch.
        From::Everywhere(ReadFrom::After(cursor)) if cursor.log_epoch.0 != 0 && feed.followed().count() != 1 => {
            Err(ApiError::invalid("from", "A cursor is of one log: name one producer, or give each its own: 1:7-456,2:7-9."))
        }
        From::Everywhere(place) => Ok(feed.followed().map(|producer| (producer, place)).collect()),
    }
}
