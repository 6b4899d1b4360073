//! Bodies that come compressed (RFC 9110, section 8.4): inflated as they are read, so that every limit of a body holds for what is in it.
//!
//! A body that inflates endlessly is read no further than its limit. One without a limit of its own, a stream of lines, may be only so
//! much longer than what came, and neither takes the processor for itself: it yields as it grows.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use async_compression::{
    tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder},
    zstd::DParameter,
};
use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use motience_limits::uploads::Upload;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::io::StreamReader;

use super::ApiError;

/// Bytes inflated at once.
const PIECE: usize = 16 * 1024;
/// Bytes inflated before others have their turn.
const TURN: usize = 128 * 1024;
/// The largest window that a zstd frame may ask for, as a power of two: 8 MiB (RFC 9659).
const ZSTD_WINDOW: u32 = 23;
/// Accepted codings, as a refusal lists them.
const TAKEN: &str = "gzip, deflate, br, zstd";

/// A body that is longer than what came of it allows.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the body inflates too far")]
pub struct InflatesTooFar;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    /// `None`: the body is as it is. Refused: one that is not known, and several on top of each other.
    fn of(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let lines = headers.get_all(header::CONTENT_ENCODING).iter();
        let names: Vec<String> = lines
            .flat_map(|line| {
                String::from_utf8_lossy(line.as_bytes()).split(',').map(|name| name.trim().to_ascii_lowercase()).collect::<Vec<_>>()
            })
            .filter(|name| !name.is_empty() && name != "identity")
            .collect();
        match names.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => Ok(None),
            ["gzip" | "x-gzip"] => Ok(Some(Self::Gzip)),
            ["deflate"] => Ok(Some(Self::Deflate)),
            ["br"] => Ok(Some(Self::Brotli)),
            ["zstd"] => Ok(Some(Self::Zstd)),
            _ => {
                let sentence = format!("Send the body plain, or with one Content-Encoding of: {TAKEN}.");
                Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_content_encoding", sentence))
            }
        }
    }

    fn decoder(self, body: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Pin<Box<dyn AsyncRead + Send>> {
        let body = StreamReader::new(Box::pin(body));
        match self {
            Self::Gzip => {
                let mut decoder = GzipDecoder::new(body);
                decoder.multiple_members(true);
                Box::pin(decoder)
            }
            Self::Deflate => Box::pin(ZlibDecoder::new(body)),
            Self::Brotli => Box::pin(BrotliDecoder::new(body)),
            Self::Zstd => {
                let mut decoder = ZstdDecoder::with_params(body, &[DParameter::window_log_max(ZSTD_WINDOW)]);
                decoder.multiple_members(true);
                Box::pin(decoder)
            }
        }
    }
}

impl Coding {
    /// Upper bound of the bytes that a decoder keeps beside its window.
    fn state(self) -> usize {
        match self {
            Self::Gzip | Self::Deflate => 48 << 10,
            Self::Brotli => 64 << 10,
            Self::Zstd => 256 << 10,
        }
    }

    /// The window that it fills as it goes on. `first`: the first byte that came, which says brotli's (RFC 7932, section 9.1). Every
    /// frame of zstd says its own.
    fn window(self, first: u8) -> usize {
        match self {
            Self::Gzip | Self::Deflate => 0,
            Self::Zstd => 1 << ZSTD_WINDOW,
            Self::Brotli => {
                let (bit, three, next) = (first & 1, first >> 1 & 7, first >> 4 & 7);
                1 << match (bit, three, next) {
                    (0, ..) => 16,
                    (_, 0, 0) => 17,
                    // A large window, which says its length behind.
                    (_, 0, 1) => 30,
                    (_, 0, next) => 8 + next,
                    (_, three, _) => 17 + three,
                }
            }
        }
    }
}

/// How far a body may inflate, beside the limits of any body.
#[derive(Clone, Copy, Debug)]
pub struct Inflation {
    /// Bytes that any body may inflate to, however few came.
    pub free: u64,
    /// How many times longer than what came it may be, beyond these.
    pub most: u64,
}

/// Takes the coding off a request's body.
pub async fn inflate(State(most): State<Inflation>, mut request: Request, next: Next) -> Response {
    let coding = match Coding::of(request.headers()) {
        Ok(coding) => coding,
        Err(refusal) => {
            let mut response = refusal.into_response();
            response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static(TAKEN));
            return response;
        }
    };
    request.headers_mut().remove(header::CONTENT_ENCODING);
    let Some(coding) = coding else { return next.run(request).await };
    // The header tells the length of the compressed body.
    request.headers_mut().remove(header::CONTENT_LENGTH);
    let upload = request.extensions().get::<Upload>().cloned();
    let request = request.map(|body| Body::from_stream(inflated(coding, body, most, upload.as_ref())));
    next.run(request).await
}

fn inflated(coding: Coding, body: Body, most: Inflation, upload: Option<&Upload>) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
    let came = Arc::new(AtomicU64::new(0));
    let first = Arc::new(OnceLock::new());
    let counted = body.into_data_stream().map_err(io::Error::other).inspect_ok({
        let (came, first) = (Arc::clone(&came), Arc::clone(&first));
        move |piece| {
            came.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if let Some(&byte) = piece.first() {
                first.get_or_init(|| byte);
            }
        }
    });
    let state = (coding.decoder(counted), upload.map(Upload::part), 0_u64, 0_usize);
    let pieces = stream::try_unfold(state, move |(mut decoder, mut room, mut whole, mut turn)| {
        let (came, first) = (Arc::clone(&came), Arc::clone(&first));
        async move {
            if let Some(room) = &mut room {
                let window = first.get().map_or(0, |&first| coding.window(first));
                let filled = usize::try_from(whole).unwrap_or(usize::MAX).min(window);
                room.set(coding.state() + filled).map_err(io::Error::other)?;
            }
            let mut piece = BytesMut::with_capacity(PIECE);
            let length = decoder.read_buf(&mut piece).await?;
            if length == 0 {
                return Ok(None);
            }
            whole += length as u64;
            if whole > most.free.saturating_add(most.most.saturating_mul(came.load(Ordering::Relaxed))) {
                metrics::counter!("motience_limited_total", "reason" => "inflation").increment(1);
                return Err(io::Error::other(InflatesTooFar));
            }
            turn += length;
            if turn >= TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
            Ok(Some((piece.freeze(), (decoder, room, whole, turn))))
        }
    });
    pieces.fuse()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coding(lines: &[&str]) -> Result<Option<Coding>, u16> {
        let headers =
            lines.iter().map(|line| (header::CONTENT_ENCODING, line.parse().unwrap())).fold(HeaderMap::new(), |mut all, (name, line)| {
                all.append(name, line);
                all
            });
        Coding::of(&headers).map_err(|refusal| refusal.status().as_u16())
    }

    #[test]
    fn a_decoder_s_window_is_known_from_its_first_byte() {
        // As encoders write them: `lgwin` 16, 17, 18, 22 and 24, then 10.
        for (first, window) in [(0x0c, 16), (0x01, 17), (0x03, 18), (0x0b, 22), (0x0f, 24), (0x21, 10), (0x1b, 22)] {
            assert_eq!(Coding::Brotli.window(first), 1 << window, "{first:#x}");
        }
        assert_eq!(Coding::Zstd.window(0x28), 8 << 20);
    }

    #[test]
    fn one_known_coding_is_taken() {
        assert_eq!(coding(&[]), Ok(None));
        assert_eq!(coding(&["identity"]), Ok(None));
        assert_eq!(coding(&["GZip"]), Ok(Some(Coding::Gzip)));
        assert_eq!(coding(&["x-gzip, identity"]), Ok(Some(Coding::Gzip)));
        assert_eq!(coding(&["deflate"]), Ok(Some(Coding::Deflate)));
        assert_eq!(coding(&["br"]), Ok(Some(Coding::Brotli)));
        assert_eq!(coding(&["zstd"]), Ok(Some(Coding::Zstd)));
        for lines in [&["gzip, gzip"][..], &["gzip", "br"], &["compress"], &["gzip;q=1"], &["aws-chunked"]] {
            assert_eq!(coding(lines), Err(415), "{lines:?}");
        }
    }
}
