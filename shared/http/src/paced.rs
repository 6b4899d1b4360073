//! The body of an answer on its way to a client: given out in small pieces, so that little of it is held for a client that does
//! not read, and watched, so that such a client is let go.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::{Body, Bytes};
use hyper::body::{Body as _, Frame, SizeHint};

use super::stalls::UnderWay;

/// Bytes given out at once.
const PIECE: usize = 64 * 1024;
/// Bytes of the last piece. HTTP/2 asks for it once all before it has gone into the client's window, and for nothing after it: more
/// than this is never left with nobody watching.
const LAST: usize = 1024;

/// A body that is watched.
pub(super) struct Paced {
    inner: Body,
    /// Rest of a piece that was too large.
    rest: Option<Bytes>,
    under_way: UnderWay,
}

impl Paced {
    pub(super) fn new(inner: Body, under_way: UnderWay) -> Self {
        // Somebody has to ask for the first piece too.
        under_way.given();
        Self { inner, rest: None, under_way }
    }

    /// Cuts off what may be given out now, and keeps the rest.
    fn piece(&mut self, mut data: Bytes) -> Bytes {
        let most = if self.inner.is_end_stream() && data.len() > LAST { PIECE.min(data.len() - LAST) } else { PIECE };
        if data.len() <= most {
            return data;
        }
        let piece = data.split_to(most);
        self.rest = Some(data);
        piece
    }
}

impl hyper::body::Body for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        this.under_way.asked();
        let data = match this.rest.take() {
            Some(rest) => rest,
            None => match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            },
        };
        let piece = this.piece(data);
        this.under_way.given();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.as_ref().map_or(0, Bytes::len) as u64);
        let mut hint = SizeHint::new();
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(inner.lower().saturating_add(rest));
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use std::future::poll_fn;

    use super::{
        super::stalls::{Stalls, Waits},
        *,
    };

    #[tokio::test]
    async fn a_large_answer_is_given_out_in_pieces_that_add_up() {
        let second = Duration::from_secs(1);
        let stalls = Stalls::new(Waits { first: second, idle: second, write: second });
        for length in [0, 1, LAST, LAST + 1, PIECE, PIECE + LAST, PIECE + LAST + 1, 1 << 20] {
            let mut body = Paced::new(Body::from(vec![7; length]), stalls.begin());
            assert_eq!(body.size_hint().exact(), Some(length as u64));
            let mut pieces = Vec::new();
            while !body.is_end_stream() {
                let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).now_or_never().unwrap().unwrap().unwrap();
                pieces.push(frame.into_data().unwrap().len());
                assert_eq!(body.size_hint().exact(), Some((length - pieces.iter().sum::<usize>()) as u64));
            }
            assert_eq!(pieces.iter().sum::<usize>(), length);
            assert!(pieces.iter().all(|&piece| piece <= PIECE), "{pieces:?}");
            assert!(pieces.last().is_none_or(|&last| last <= LAST), "{pieces:?}");
        }
    }
}
