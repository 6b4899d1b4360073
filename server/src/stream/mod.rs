//! `GET /stream`: live records for HTTP clients, as server-sent events or as lines of JSON, over any version of HTTP.
//!
//! ```text
//! query, token -> Pipeline (what the caller may read, in the form it wants) -> Session (chunks, pulled) -> body
//! ```

mod cursors;
mod format;
mod query;
pub(crate) mod schema;
mod session;

use std::{collections::HashSet, convert::Infallible, sync::Arc};

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use motience_auth::{self as auth, Grant, Standing};
use motience_http::{Answer, ApiError, Client, Query, bearer};
use motience_limits::permits::{Refusal, Share};
use motience_proto::model::{ProducerId, Role, Transport, times};
use motience_relay::{
    StartPosition, SubscriberWatch,
    pipeline::{Options, Pipeline, Reader, Start},
};
use motience_session::{NoEvents, wanted_events};
use tokio_util::sync::CancellationToken;

pub(crate) use query::Clock;

use self::{
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
    ("from" = inline(Option<schema::StartText>), Query, description = "`live` (the default), `earliest`, a time (of arrival, unless `by=device`), a cursor, an offset such as `@456`, `1:7-456,2:7-9`, or `{\"1\":\"7-456\"}`. A time or a place that retention has passed is answered by `gap`", example = "live"),
    ("by" = inline(Option<schema::By>), Query, description = "Whose clock a time in `from` is of: `received` (the default), or `device`"),
    ("received_at" = inline(Option<schema::Flag>), Query, description = "Whether each record says when it came: `received_at`"),
    ("order" = inline(Option<schema::Order>), Query, description = "`log` (the default): as records arrived; `device`: as each device numbered them"),
    ("durable" = inline(Option<schema::CursorName>), Query, description = "A consumer's named cursor: the stream begins where it stands, and it moves by `POST /cursors/{name}`", example = "app"),
    ("where" = inline(Option<schema::Conditions>), Query, description = "A JSON pointer into the message, a comparison, a JSON value; all must hold", example = json!(["/data/temperature>30"])),
    ("fields" = inline(Option<schema::Fields>), Query, description = "JSON pointers with commas: what `data` keeps", example = "/data/temperature,/data/humidity"),
    ("every" = inline(Option<schema::Every>), Query, description = "The last value of each device in each such time", example = "10s"),
    ("events" = inline(Option<schema::Events>), Query, description = "`subscriptions`: a producer hears of its subscribers too"),
    ("token" = Option<String>, Query, description = "The access token or key, for clients that cannot send headers"),
    schema::LastEventId,
), responses(
    (status = 200, description = "Records, until the stream ends", content((String = "text/event-stream"), (String = "application/x-ndjson"))),
    (status = 400, description = "An expression that makes no sense: `column` and `caret` point at the character"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not subscribed to one of these, another's log, a named cursor of who is no consumer, or a key without the scope"),
    (status = 404, description = "No such producer"),
    (status = 406, description = "Neither form is acceptable"),
    (status = 409, description = "The account has as many named cursors as it may"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 429, description = "The account has too many streams"),
    (status = 503, description = "The database or the log is unavailable, or the node is full"),
))]
pub(crate) async fn stream(
    State(services): State<Shared>,
    Client(client): Client,
    Query(members): Query<Vec<(String, String)>>,
    over: Option<Extension<Answer>>,
    granted: Option<Extension<Grant>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut wanted = Wanted::read(members);
    let (grant, _in_progress) = match granted {
        Some(Extension(grant)) => (grant, None),
        None => {
            let grant = authenticate(&services, &headers, &wanted).await?;
            let in_progress = services.limiters.requests.plain(&grant)?;
            (grant, Some(in_progress))
        }
    };
    let producers = wanted.producers()?;
    let format = Format::negotiate(&headers).ok_or_else(|| {
        ApiError::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", "This is sent as text/event-stream or application/x-ndjson.")
    })?;
    let start = beginning(&headers, &wanted)?;
    let start = wanted.begin_by(start)?;
    let (options, received) = (wanted.options()?, wanted.received()?);
    let (backend, config) = (&services.backend, &services.config.stream);
    let news = events(&services, &grant, wanted.events.as_deref())?;
    let permit = backend.permits.account(grant.user, Share::Connections, Transport::Http)?;
    let client = auth::Client { transport: Transport::Http, address: Some(client.ip()), device: None };
    let standing = Arc::new(backend.standing(grant.clone(), client));
    // An event names the cursors of all logs, and a browser sends them back in the head of a request; a line names its own.
    let most = if format == Format::Events { config.producers } else { usize::MAX };
    let pipeline = pipeline(&services, &grant, (producers, most), &start, options, Arc::clone(&standing)).await?;
    let left = CancellationToken::new();
    let over = over.map(|Extension(over)| over);
    if let Some(over) = &over {
        tokio::spawn(end_with_token(Arc::clone(&standing), over.clone(), left.clone()));
    }
    let session = Session::new(Parts {
        pipeline,
        standing,
        news,
        received,
        format,
        beat_every: config.comment,
        most,
        leave: services.shutdown.draining().enter(),
        answer: over,
        _permit: permit,
        _left: left.drop_guard(),
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

/// News of its subscribers, for a producer that asks for them.
fn events(services: &Shared, grant: &Grant, events: Option<&str>) -> Result<Option<SubscriberWatch>, ApiError> {
    if events.is_some() && grant.role != Role::Producer {
        return Err(
            ApiError::forbidden("Events are for producers: consumers hear of their subscriptions in any case.").with_code("wrong_role")
        );
    }
    wanted_events(&services.backend, grant, events).map_err(|refused| match refused {
        NoEvents::Denied(denied) => denied.into(),
        NoEvents::Unknown => ApiError::invalid("events", refused.to_string()),
    })
}

/// Nobody asks a body for more whose client takes nothing, so the end of its token is waited for apart from it.
async fn end_with_token(standing: Arc<Standing>, over: Answer, left: CancellationToken) {
    if left.run_until_cancelled(standing.over()).await.is_some() {
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
fn beginning(headers: &HeaderMap, wanted: &Wanted) -> Result<Start, ApiError> {
    let resumed = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?")).filter(|value| !value.is_empty());
    let (field, text) = match (resumed, &wanted.from) {
        (Some(id), _) => ("last-event-id", id),
        (None, Some(from)) => ("from", from.as_str()),
        (None, None) => return Ok(Start::default()),
    };
    cursors::read(text).ok_or_else(|| {
        ApiError::invalid(
            field,
            format!(
                "{field} is `live`, `earliest`, {}, a cursor such as 7-456, an offset such as @456, or a cursor for each producer: 1:7-456,2:7-9.",
                times::FORMS
            ),
        )
    })
}

/// Producers that the caller reads.
async fn pipeline(
    services: &Shared,
    grant: &Grant,
    (producers, most): (Option<HashSet<ProducerId>>, usize),
    start: &Start,
    options: Options,
    standing: Arc<Standing>,
) -> Result<Pipeline, ApiError> {
    if producers.as_ref().is_some_and(|producers| producers.len() > most) {
        return Err(too_many(most));
    }
    if options.cursor.is_some() && grant.role != Role::Consumer {
        return Err(ApiError::forbidden("Named cursors are for consumers."));
    }
    let reader = reader(services, grant, producers).await?;
    let pipeline = services.backend.relay.pipeline(reader, start, options, standing).await?;
    let lacking = pipeline.lacks();
    let crowded = pipeline.crowded();
    if crowded.iter().any(|producer| lacking.contains(producer)) {
        let ids = crowded.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(ApiError::from(Refusal::Account).about(format!("The grant of {ids} has no room for this connection")));
    }
    if !lacking.is_empty() {
        let ids = lacking.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(ApiError::forbidden(format!("Not subscribed to {ids}.")).with_code("not_subscribed"));
    }
    let followed = pipeline.cursors().len();
    // An offset by itself is one of every log's present epoch.
    if matches!(start.everywhere, StartPosition::After(cursor) if cursor.log_epoch.0 != 0 && followed != 1) {
        return Err(ApiError::invalid("from", "A cursor is of one log: name one producer, or give each its own: 1:7-456,2:7-9."));
    }
    if followed > most { Err(too_many(most)) } else { Ok(pipeline) }
}

/// Producers that the caller may follow.
async fn reader(services: &Shared, grant: &Grant, producers: Option<HashSet<ProducerId>>) -> Result<Reader, ApiError> {
    match &producers {
        Some(named) => named.iter().try_for_each(|&producer| grant.may_consume(producer))?,
        None => grant.may_consume_any()?,
    }
    match (grant.role, producers) {
        (Role::Consumer, Some(chosen)) => Ok(Reader::Chosen(grant.user.consumer(), chosen)),
        (Role::Consumer, None) => Ok(Reader::Subscriptions(grant.user.consumer())),
        (Role::Producer, named) => {
            let own = HashSet::from([grant.user.producer()]);
            if named.is_some_and(|named| named != own) {
                return Err(ApiError::forbidden("A producer reads its own log only."));
            }
            Ok(Reader::Granted(own))
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
            Ok(Reader::Granted(named))
        }
    }
}

fn too_many(most: usize) -> ApiError {
    ApiError::invalid(
        "producers",
        format!("A stream of events follows at most {most} producers: name some of them, or take application/x-ndjson."),
    )
    .with_code("too_many_producers")
}
