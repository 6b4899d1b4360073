//! A body taken in whole, within its limit and within the memory that its connection and its account may hold.

use std::{error::Error, io};

use axum::{RequestExt as _, body::HttpBody as _, extract::Request, http::StatusCode};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http_body_util::LengthLimitError;
use motience_limits::uploads::{Full, Part, Upload};

use super::{ApiError, InflatesTooFar};

/// A body, and the room that it holds while it is kept.
#[derive(Debug)]
pub struct Collected {
    /// All of it.
    pub bytes: Bytes,
    _room: Option<Part>,
}

/// Takes in a request's body. One that says how long it is finds its room before any of it is read.
pub async fn collect(request: Request) -> Result<Collected, ApiError> {
    let mut room = request.extensions().get::<Upload>().map(Upload::part);
    let body = request.into_limited_body();
    let said = body.size_hint().exact().and_then(|said| usize::try_from(said).ok()).unwrap_or(0);
    if let Some(room) = &mut room {
        room.set(said)?;
    }
    let mut body = body.into_data_stream();
    // A body that comes in one piece is not copied.
    let mut bytes = Bytes::new();
    let mut several = BytesMut::new();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|e| broken(&e))?;
        if let Some(room) = &mut room {
            room.set(said.max(bytes.len().max(several.len()) + piece.len()))?;
        }
        if bytes.is_empty() {
            bytes = piece;
            continue;
        }
        if several.is_empty() {
            several = BytesMut::with_capacity(said.max(bytes.len() + piece.len()));
            several.extend_from_slice(&bytes);
        }
        several.extend_from_slice(&piece);
    }
    Ok(Collected { bytes: if several.is_empty() { bytes } else { several.freeze() }, _room: room })
}

/// Refusal of a body that could not be read to its end.
pub fn broken(error: &axum::Error) -> ApiError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(full) = error.downcast_ref::<Full>() {
            return (*full).into();
        }
        if error.is::<InflatesTooFar>() {
            return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "The body inflates further than this service takes.");
        }
        if error.is::<LengthLimitError>() {
            return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "The body is larger than this service takes.");
        }
        // The error within an I/O error is no source of it, but stands for it.
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    ApiError::malformed("The body cannot be read.")
}
