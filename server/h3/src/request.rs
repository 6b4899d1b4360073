//! Reads a request's head within its limits, checks what `h3` leaves unchecked, and puts it in the form that services know from HTTP/1.1 and
//! HTTP/2.

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use h3::{
    error::{Code, StreamError},
    frame::FrameStreamError,
    proto::frame::Frame,
    quic::{SendStream as _, StreamErrorIncoming},
    server::{RequestResolver, RequestStream},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use tokio::time::timeout;

use crate::{
    fields,
    gate::TooLong,
    quic::{Bidi, Link},
};

/// The header block `:status: 431`: a name of QPACK's static table (RFC 9204, appendix A) and a value in plain text.
const TOO_LARGE: &[u8] = &[0x00, 0x00, 0x5f, 0x09, 0x03, b'4', b'3', b'1'];

/// Header fields of one hop of HTTP/1.1. They make a message malformed (RFC 9114, section 4.2).
pub(super) const OF_A_CONNECTION: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Why there is no request. The peer has been told as far as it can be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("no head in time")]
    Late,
    #[error("the head is too large")]
    TooLarge,
    #[error("malformed: {0}")]
    Malformed(&'static str),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// A request whose head is read.
pub(super) struct Head {
    pub(super) request: Request<()>,
    pub(super) stream: RequestStream<Bidi, Bytes>,
    /// Value of `content-length`.
    pub(super) length: Option<u64>,
    /// Whether the client sends its body only after `100 Continue`.
    pub(super) waits: bool,
}

/// Reads the head.
pub(super) async fn read(mut resolver: RequestResolver<Link, Bytes>, limit: Duration) -> Result<Head, Error> {
    let Ok(frame) = timeout(limit, poll_fn(|cx| resolver.frame_stream.poll_next(cx))).await else {
        resolver.frame_stream.reset(Code::H3_REQUEST_REJECTED.value());
        return Err(Error::Late);
    };
    if let Err(FrameStreamError::Quic(StreamErrorIncoming::Unknown(e))) = &frame
        && e.is::<TooLong>()
    {
        resolver.frame_stream.send_data(Frame::Headers(Bytes::from_static(TOO_LARGE))).map_err(lost)?;
        // The stream ends when the resolver is dropped.
        let _ = timeout(limit, poll_fn(|cx| resolver.frame_stream.poll_ready(cx))).await;
        return Err(Error::TooLarge);
    }
    let ordered = match &frame {
        Ok(Some(Frame::Headers(block))) => fields::check(block),
        _ => Ok(()),
    };
    let (request, mut stream) = match timeout(limit, resolver.accept_with_frame(frame)?.resolve()).await {
        Ok(Err(StreamError::HeaderTooBig { .. })) => return Err(Error::TooLarge),
        resolved => resolved.map_err(|_| Error::Late)??,
    };
    match ordered.and_then(|()| checked(request)) {
        Ok((request, length, waits)) => Ok(Head { request, stream, length, waits }),
        Err(why) => {
            stream.stop_stream(Code::H3_MESSAGE_ERROR);
            stream.stop_sending(Code::H3_MESSAGE_ERROR);
            Err(Error::Malformed(why))
        }
    }
}

fn lost(error: StreamErrorIncoming) -> Error {
    Error::Stream(StreamError::Undefined(Box::new(error)))
}

/// The request as services take it, the length of its body, and whether the client waits for `100 Continue`.
fn checked(mut request: Request<()>) -> Result<(Request<()>, Option<u64>, bool), &'static str> {
    let headers = request.headers();
    if OF_A_CONNECTION.iter().any(|name| headers.contains_key(name)) {
        return Err("a header field of HTTP/1.1's connections");
    }
    if headers.get_all(header::TE).iter().any(|te| te != "trailers") {
        return Err("te can only name trailers");
    }
    let path = request.uri().path_and_query().map_or("", |path| path.as_str());
    let anything = *request.method() == Method::OPTIONS && path == "*";
    if *request.method() != Method::CONNECT && !path.starts_with('/') && !anything {
        return Err("no path");
    }
    let length = content_length(headers)?;
    let waits = headers.get(header::EXPECT).is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    join_cookies(request.headers_mut());
    if !request.headers().contains_key(header::HOST)
        && let Some(host) = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok())
    {
        request.headers_mut().insert(header::HOST, host);
    }
    Ok((request, length, waits))
}

/// The length of the body, which may be repeated but must be one number (RFC 9110, section 8.6).
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, &'static str> {
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for text in value.to_str().unwrap_or("?").split(',').map(str::trim) {
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
                return Err("content-length is no number");
            }
            let number = text.parse().map_err(|_| "content-length is no number")?;
            if length.replace(number).is_some_and(|before: u64| before != number) {
                return Err("content-length says two things");
            }
        }
    }
    Ok(length)
}

/// Joins cookies, which HTTP/3 may send in several fields, into the one field of other versions (RFC 9114, section 4.2.1).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, uri: &str, headers: &[(&str, &str)]) -> Result<(Request<()>, Option<u64>, bool), &'static str> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        checked(request.body(()).unwrap())
    }

    #[test]
    fn a_request_gets_the_form_of_other_versions() {
        let cookies = [("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers"), ("expect", "100-Continue")];
        let (request, length, waits) = check("GET", "https://localhost:4433/data?x=1", &cookies).unwrap();
        assert_eq!(request.headers()["cookie"], "a=1; b=2");
        assert_eq!(request.headers()["host"], "localhost:4433");
        assert_eq!((length, waits), (None, true));
        assert_eq!(check("POST", "https://h/", &[("content-length", "7, 7")]).unwrap().1, Some(7));
        assert!(check("OPTIONS", "*", &[]).is_ok());
    }

    #[test]
    fn malformed_requests_are_known() {
        for (method, uri, headers) in [
            ("GET", "https://h/", &[("connection", "close")][..]),
            ("GET", "https://h/", &[("transfer-encoding", "chunked")]),
            ("GET", "https://h/", &[("te", "gzip")]),
            ("GET", "*", &[]),
            ("POST", "https://h/", &[("content-length", "+7")]),
            ("POST", "https://h/", &[("content-length", "7"), ("content-length", "8")]),
        ] {
            assert!(check(method, uri, headers).is_err(), "{method} {uri} {headers:?}");
        }
    }
}
