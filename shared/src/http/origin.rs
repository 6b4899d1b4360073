//! Which pages may connect where a browser's own rules do not ask: WebSocket and WebTransport.

use axum::http::{HeaderMap, header};

use super::ApiError;

/// Refuses a page of an origin that is not among `allowed`; none there: any may connect.
pub fn check_origin(headers: &HeaderMap, allowed: &[String]) -> Result<(), ApiError> {
    // Only browsers send an origin; other clients are not what the list is about.
    let Some(origin) = headers.get(header::ORIGIN).filter(|_| !allowed.is_empty()) else { return Ok(()) };
    if allowed.iter().any(|a| a.as_bytes() == origin.as_bytes()) {
        Ok(())
    } else {
        Err(ApiError::forbidden("Pages of this origin may not connect.").with_code("origin_refused"))
    }
}
