//! Pages of lists: bounded in bytes, written as they are taken, and so many at once for each connection.

use std::{convert::Infallible, io, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::FromRequestParts,
    http::{HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ApiError;

/// Bytes of a page that are written at once.
const PIECE: usize = 64 * 1024;

/// The pages that one connection may be sent at once. An extension of each request; cheap to clone.
#[derive(Clone, Debug)]
pub struct PageRoom(Arc<Semaphore>);

/// The right to read a page for a connection, and to hold it until the client has taken it. Waits for those before it.
#[derive(Debug)]
pub struct PagePermit(Option<OwnedSemaphorePermit>);

impl PageRoom {
    /// Room for so many pages.
    pub fn of(pages: usize) -> Self {
        Self(Arc::new(Semaphore::new(pages)))
    }
}

impl<S: Sync> FromRequestParts<S> for PagePermit {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        // Without a socket (a router called directly) there is nobody to hold back.
        let Some(PageRoom(room)) = parts.extensions.get::<PageRoom>().cloned() else { return Ok(Self(None)) };
        // Cannot fail: the semaphore is never closed.
        Ok(Self(room.acquire_owned().await.ok()))
    }
}

/// A page of a list, sent as a JSON array.
#[derive(Debug)]
pub struct Page<T> {
    permit: PagePermit,
    entries: Vec<T>,
    is_cut: bool,
    next: Option<HeaderValue>,
}

impl<T: Serialize + Send + 'static> Page<T> {
    /// As many of `entries` as have room in `bytes`, and at least one.
    pub fn new(permit: PagePermit, mut entries: Vec<T>, bytes: usize) -> Result<Self, ApiError> {
        let (mut kept, mut size) = (0, 2);
        for entry in &entries {
            let mut counter = Counter(0);
            serde_json::to_writer(&mut counter, entry).map_err(ApiError::internal)?;
            size += counter.0 + 1;
            if size > bytes && kept > 0 {
                break;
            }
            kept += 1;
        }
        let is_cut = kept < entries.len();
        entries.truncate(kept);
        Ok(Self { permit, entries, is_cut, next: None })
    }

    /// Names the part after this one where there may be more: where `may_be_more`, or where this one had no room for all.
    /// `next` makes the query of the next part out of the last entry.
    #[must_use]
    pub fn followed_by(mut self, may_be_more: bool, next: impl FnOnce(&T) -> String) -> Self {
        if may_be_more || self.is_cut {
            self.next = self.entries.last().and_then(|last| link(&next(last)));
        }
        self
    }

    /// Says where the next part begins although none of this one may be shown.
    #[must_use]
    pub fn or_followed_by(mut self, may_be_more: bool, next: impl FnOnce() -> String) -> Self {
        if may_be_more && self.entries.is_empty() {
            self.next = link(&next());
        }
        self
    }

    /// Replaces the header `Link`.
    #[must_use]
    pub fn linked(mut self, link: Option<HeaderValue>) -> Self {
        self.next = link;
        self
    }
}

/// A query alone, so that it holds under every alias and behind every proxy.
fn link(query: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("<?{query}>; rel=\"next\"")).ok()
}

impl<T: Serialize + Send + 'static> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        let mut writing = Writing { permit: self.permit, left: self.entries.into_iter(), begun: false };
        let first = match writing.piece() {
            Ok(first) => first.unwrap_or_default(),
            Err(e) => return ApiError::internal(e).into_response(),
        };
        let body = if writing.is_over() {
            Body::from(first)
        } else {
            let rest = stream::unfold(writing, async |mut writing| Some((writing.piece().transpose()?, writing)));
            // Compression asks once more after the end.
            Body::from_stream(stream::iter([Ok(first)]).chain(rest).fuse())
        };
        let mut response = ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response();
        if let Some(next) = self.next {
            response.headers_mut().insert(header::LINK, next);
        }
        response
    }
}

/// A page that is being written.
struct Writing<T> {
    permit: PagePermit,
    left: std::vec::IntoIter<T>,
    begun: bool,
}

impl<T: Serialize> Writing<T> {
    fn is_over(&self) -> bool {
        self.begun && self.left.as_slice().is_empty()
    }

    /// The next bytes; `None` at the end.
    fn piece(&mut self) -> serde_json::Result<Option<Bytes>> {
        if self.is_over() {
            self.permit.0 = None;
            return Ok(None);
        }
        let mut out = Vec::new();
        let mut mark = if self.begun { b',' } else { b'[' };
        self.begun = true;
        while out.len() < PIECE
            && let Some(entry) = self.left.next()
        {
            out.push(mark);
            serde_json::to_writer(&mut out, &entry)?;
            mark = b',';
        }
        if out.is_empty() {
            out.push(b'[');
        }
        if self.is_over() {
            out.push(b']');
        }
        Ok(Some(out.into()))
    }
}

/// Counts what is written, and keeps nothing.
struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    async fn sent(entries: Vec<String>, bytes: usize) -> (Vec<String>, usize, Option<String>) {
        let page = Page::new(PagePermit(None), entries, bytes).unwrap();
        let response = page.followed_by(false, |last| format!("after={}", &last[..1])).into_response();
        let link = response.headers().get(header::LINK).map(|link| link.to_str().unwrap().to_owned());
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (serde_json::from_slice(&body).unwrap(), body.len(), link)
    }

    #[tokio::test]
    async fn a_page_is_cut_at_its_bytes_and_says_what_follows() {
        assert_eq!(sent(vec![], 10).await, (vec![], 2, None));
        let long: Vec<String> = (0..10).map(|n| format!("{n}{}", "\"".repeat(50_000))).collect();
        for bytes in [1, 150_000, 450_000, 999_999, 2 << 20] {
            let (entries, length, link) = sent(long.clone(), bytes).await;
            assert!(length <= bytes || entries.len() == 1, "{length} of {bytes}");
            assert_eq!(entries, long[..entries.len()]);
            let next = (entries.len() < long.len()).then(|| format!("<?after={}>; rel=\"next\"", entries.len() - 1));
            assert_eq!(link, next, "{bytes}");
        }
    }

    #[tokio::test]
    async fn a_permit_is_kept_until_the_page_is_taken() {
        let room = PageRoom::of(1);
        let permit = PagePermit(room.0.clone().try_acquire_owned().ok());
        let response = Page::new(permit, vec!["x".repeat(PIECE); 3], usize::MAX).unwrap().into_response();
        assert_eq!(room.0.available_permits(), 0, "nobody has taken it");
        to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert_eq!(room.0.available_permits(), 1);
    }
}
