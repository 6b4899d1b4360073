//! Bytes that no client would send, and some that only few do.

use quinn::{RecvStream, SendStream, VarInt};

use super::*;

/// The header block of a request: names and values as they are (RFC 9204, section 4.5.6).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0, 0];
    for (name, value) in fields {
        // The name's length has three bits, then a byte.
        if name.len() < 7 {
            block.push(0x20 | name.len() as u8);
        } else {
            block.extend([0x27, (name.len() - 7) as u8]);
        }
        block.extend(name.bytes());
        assert!(value.len() < 127);
        block.push(value.len() as u8);
        block.extend(value.bytes());
    }
    block
}

fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = bytes::BytesMut::new();
    crate::varint::put(kind, &mut frame);
    crate::varint::put(payload.len() as u64, &mut frame);
    frame.extend_from_slice(payload);
    frame.to_vec()
}

fn post(more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = vec![(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", "/echo")];
    fields.extend(more);
    frame(1, &block(&fields))
}

async fn send(client: &Client, bytes: &[u8]) -> (SendStream, RecvStream) {
    let (mut send, recv) = timeout(LIMIT, client.quic.open_bi()).await.expect("a stream in time").unwrap();
    send.write_all(bytes).await.unwrap();
    (send, recv)
}

/// The code that a stream was reset with.
async fn reset(recv: &mut RecvStream) -> VarInt {
    match timeout(LIMIT, recv.read_to_end(1 << 20)).await.expect("an end in time") {
        Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(code))) => code,
        other => panic!("{other:?}"),
    }
}

async fn whole(recv: &mut RecvStream) -> Vec<u8> {
    timeout(LIMIT, recv.read_to_end(1 << 20)).await.expect("an end in time").unwrap()
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|part| part == text)
}

#[tokio::test]
async fn a_malformed_request_ends_only_itself() {
    let server = Server::start(Router::new().route("/echo", any(echo))).await;
    let mut client = server.connect().await;
    let plain = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/echo")];
    for (bad, kept) in [
        (("connection", "close"), 4),
        (("Upper", "case"), 4),
        (("te", "gzip"), 4),
        (("content-length", "x"), 4),
        (("host", "elsewhere"), 4),
        ((":unknown", "x"), 4),
        ((":protocol", "nothing"), 4),
        (("x-no-path", ""), 3),
        (("x-only-method", ""), 1),
    ] {
        let mut fields = plain[..kept].to_vec();
        fields.push(bad);
        let (_send, mut recv) = send(&client, &frame(1, &block(&fields))).await;
        assert_eq!(reset(&mut recv).await.into_inner(), Code::H3_MESSAGE_ERROR.value(), "{bad:?}");
    }
    // A head that does not come at all.
    let (mut ended, mut recv) = send(&client, b"").await;
    ended.finish().unwrap();
    assert_eq!(reset(&mut recv).await.into_inner(), Code::H3_REQUEST_INCOMPLETE.value());
    assert_eq!(client.get("/echo").await.unwrap().status, 200);
    assert!(!client.ended.is_finished());
}

#[tokio::test]
async fn empty_and_unknown_frames_mean_nothing() {
    let server = Server::start(Router::new().route("/echo", any(echo))).await;
    let client = server.connect().await;
    let mut bytes = frame(0x21, b"first of all");
    bytes.extend(post(&[]));
    for piece in [frame(0, b""), frame(0, b"one "), frame(0x40, &[9; 100_000]), frame(0, b""), frame(0, b"two")] {
        bytes.extend(piece);
    }
    let (mut sending, mut recv) = send(&client, &bytes).await;
    sending.finish().unwrap();
    let answer = whole(&mut recv).await;
    assert!(contains(&answer, b"one ") && contains(&answer, b"two"), "{answer:?}");
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_it_says_is_an_error_of_the_request() {
    let refused = async |request: Request| match request.into_body().collect().await {
        Ok(whole) => String::from_utf8(whole.to_bytes().to_vec()).unwrap(),
        Err(e) => format!("refused: {e}"),
    };
    let server = Server::start(Router::new().route("/echo", any(refused))).await;
    let client = server.connect().await;
    for (body, good) in [(&b"123"[..], true), (b"12", false), (b"1234", false)] {
        let mut bytes = post(&[("content-length", "3")]);
        bytes.extend(frame(0, body));
        let (mut sending, mut recv) = send(&client, &bytes).await;
        // The server may have stopped reading.
        let _ = sending.finish();
        assert_eq!(!contains(&whole(&mut recv).await, b"refused"), good, "{body:?}");
    }
}

#[tokio::test]
async fn what_breaks_the_frames_ends_the_connection_with_its_code() {
    for (bytes, code) in [
        // A body without a head.
        (frame(0, b"x"), Code::H3_FRAME_UNEXPECTED),
        // SETTINGS where none belong.
        (frame(4, b""), Code::H3_FRAME_UNEXPECTED),
        // Half a head.
        (post(&[])[..20].to_vec(), Code::H3_FRAME_ERROR),
        // Half a piece of the body.
        ([post(&[]), frame(0, b"12345")[..4].to_vec()].concat(), Code::H3_FRAME_ERROR),
        // The head of a piece of the body, and nothing of it.
        ([post(&[]), frame(0, b"12345")[..2].to_vec()].concat(), Code::H3_FRAME_ERROR),
        // A header block that names a table that is not there.
        (frame(1, &[0x05, 0x00, 0x80]), Code::QPACK_DECOMPRESSION_FAILED),
    ] {
        let server = Server::start(Router::new().route("/echo", any(echo))).await;
        let client = server.connect().await;
        let (mut sending, _recv) = send(&client, &bytes).await;
        sending.finish().unwrap();
        let ended = timeout(LIMIT, client.quic.closed()).await.expect("the connection ends");
        let quinn::ConnectionError::ApplicationClosed(close) = ended else { panic!("{ended:?}") };
        assert_eq!(close.error_code.into_inner(), code.value(), "{bytes:?}");
    }
}

#[tokio::test]
async fn a_control_stream_has_its_limits() {
    let server = Server::start(Router::new()).await;
    // Frames that nobody knows are skipped however long they are; SETTINGS are not read to no end.
    for (bytes, closes) in [
        ([vec![0], frame(4, b""), frame(0x21, &[0; 100_000])].concat(), false),
        ([vec![0, 4, 0x80, 0x10, 0, 0], vec![0; 100]].concat(), true),
        (vec![0x21, 1, 2, 3], false),
    ] {
        let quic = server.quic().await;
        let mut control = quic.open_uni().await.unwrap();
        control.write_all(&bytes).await.unwrap();
        let (mut sending, mut recv) = quic.open_bi().await.unwrap();
        sending.write_all(&post(&[])).await.unwrap();
        sending.finish().unwrap();
        let answered = timeout(LIMIT, recv.read_to_end(1 << 20)).await.expect("an end in time");
        if closes {
            timeout(LIMIT, quic.closed()).await.expect("the connection ends");
        } else {
            assert!(answered.is_ok(), "{answered:?}");
        }
    }
}
