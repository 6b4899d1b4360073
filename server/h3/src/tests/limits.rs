//! The limits of one connection.

use super::*;

fn short(head: Duration) -> Limits {
    Limits { head, head_bytes: 8 * 1024, ..GENEROUS }
}

#[tokio::test]
async fn a_head_over_the_limit_is_answered_431() {
    let server = Server::with(Router::new().route("/", get(async || "ok")), short(LIMIT)).await;
    let mut client = server.connect().await;
    // Larger than what is read of it, and larger only once it is decoded.
    let long = "x".repeat(20_000);
    let repeated = "x".repeat(100);
    let heads = [vec![("x-long", long.as_str()); 1], vec![("x-many", repeated.as_str()); 70]];
    for head in heads {
        let mut large = request(Method::GET, "/");
        for (name, value) in &head {
            large = large.header(*name, *value);
        }
        // The client itself keeps to what the server says that it takes, once it has heard it.
        match client.begin(large).await {
            Ok(mut stream) => {
                stream.finish().await.unwrap();
                assert_eq!(read(&mut stream).await.unwrap().status, 431);
            }
            Err(StreamError::HeaderTooBig { .. }) => {}
            Err(e) => panic!("{e:?}"),
        }
    }
    assert_eq!(client.get("/").await.unwrap().status, 200, "the connection stays");

    // One that does not listen.
    let quic = server.quic().await;
    let (mut sending, mut recv) = quic.open_bi().await.unwrap();
    let mut bytes = vec![1, 0x80, 0, 0x50, 0, 0, 0];
    bytes.resize(10_000, b'x');
    // The server stops reading as soon as it knows.
    let _ = sending.write_all(&bytes).await;
    let answer = timeout(LIMIT, recv.read_to_end(1000)).await.unwrap().unwrap();
    assert_eq!(&answer[answer.len() - 3..], b"431");
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time_is_given_up() {
    let server = Server::with(Router::new(), short(Duration::from_millis(200))).await;
    let client = server.connect().await;
    for beginning in [&b"\x01"[..], b"\x01\x20\x00"] {
        let (mut sending, mut recv) = client.quic.open_bi().await.unwrap();
        sending.write_all(beginning).await.unwrap();
        let end = timeout(LIMIT, recv.read_to_end(1000)).await.expect("it is given up");
        assert!(matches!(end, Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(_)))), "{end:?}");
    }
    assert!(!client.ended.is_finished(), "the connection stays");
}

#[tokio::test]
async fn a_connection_that_asks_for_nothing_is_closed() {
    let server = Server::with(Router::new(), Limits { idle: Duration::from_millis(200), ..GENEROUS }).await;
    let client = server.connect().await;
    let ended = timeout(LIMIT, client.quic.closed()).await.expect("the connection ends");
    let quinn::ConnectionError::ApplicationClosed(close) = ended else { panic!("{ended:?}") };
    assert_eq!(close.error_code.into_inner(), Code::H3_NO_ERROR.value());
}

#[tokio::test]
async fn an_answer_that_is_not_taken_is_given_up() {
    let endless =
        async || Body::from_stream(futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[0; 65_536]))));
    let server = Server::with(Router::new().route("/", get(endless)), Limits { write: Duration::from_millis(200), ..GENEROUS }).await;
    let mut client = server.connect().await;
    let mut stream = client.begin(request(Method::GET, "/")).await.unwrap();
    stream.finish().await.unwrap();
    stream.recv_response().await.unwrap();
    // The stream's reset drops the bytes that were sent.
    let cut = async {
        loop {
            tokio::task::yield_now().await;
            if server.endpoint.open_connections() == 0 {
                panic!("the connection stays");
            }
            if client.quic.stats().frame_rx.reset_stream > 0 {
                return;
            }
        }
    };
    timeout(LIMIT, cut).await.expect("it is given up");
}
