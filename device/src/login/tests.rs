//! Against a small HTTP server of our own on a real socket.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

const PAIR: &str = r#"{"access_token":"A","refresh_token":"R","token_type":"Bearer","expires_in":60,"user_id":7,"role":"producer"}"#;

/// Answers each request with what `script` says to its path and number; returns the base URL and the count.
async fn serve(script: impl Fn(&str, usize) -> String + Send + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let mut chunk = [0; 4096];
            loop {
                let n = socket.read(&mut chunk).await.unwrap();
                request.extend_from_slice(&chunk[..n]);
                if n == 0 || request.ends_with(b"}") {
                    break;
                }
            }
            let request = String::from_utf8(request).unwrap();
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let answer = script(&path, counted.fetch_add(1, SeqCst));
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, count)
}

fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

async fn login_against(answer: String) -> Result<Tokens, Error> {
    let (url, _) = serve(move |path, _| if path == "/login" { answer.clone() } else { http("404 Not Found", "", "") }).await;
    Auth::new(&format!("{url}/"), &Trust::Platform).unwrap().login("u", &"p".into()).await
}

#[tokio::test]
async fn a_pair_of_tokens() {
    let tokens = login_against(http("200 OK", "", PAIR)).await.unwrap();
    assert_eq!((tokens.access.expose_secret(), tokens.expires_in, tokens.user_id), ("A", 60, UserId(7)));
    assert!(!format!("{tokens:?}").contains("\"A\""));
}

#[tokio::test]
async fn each_status_has_its_meaning() {
    let refused = login_against(http("401 Unauthorized", "", r#"{"error":"wrong name or password"}"#)).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused { status: 401, reason } if reason == "wrong name or password"), "{refused}");
    assert!(!refused.is_worth_retrying());
    let limited = login_against(http("429 Too Many Requests", "retry-after: 7\r\n", "")).await.unwrap_err();
    assert!(matches!(limited, Error::RateLimited(wait) if wait == Duration::from_secs(7)), "{limited}");
    for answer in [http("500 Oops", "", ""), http("404 Not Found", "", ""), http("200 OK", "", "{}"), String::new()] {
        let error = login_against(answer).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
        assert!(error.is_worth_retrying());
    }
    let auth = Auth::new("http://127.0.0.1:1", &Trust::Platform).unwrap();
    assert!(matches!(auth.login("u", &"p".into()).await, Err(Error::Unavailable(_))));
    assert!(matches!(Auth::new("localhost:3001", &Trust::Platform), Err(Error::Config(_))));
}

#[tokio::test]
async fn a_token_is_kept_and_a_refused_refresh_falls_back_to_the_password() {
    let (url, count) = serve(|path, _| match path {
        "/api/auth/login" => http("200 OK", "", PAIR),
        _ => http("401 Unauthorized", "", ""),
    })
    .await;
    let auth = Auth::new(&format!("{url}/api/auth"), &Trust::Platform).unwrap();
    let credentials = Credentials::account(auth, "u", "p".into());
    credentials.token().await.unwrap();
    credentials.token().await.unwrap();
    assert_eq!(count.load(SeqCst), 1);
    assert_eq!(credentials.renew().await.unwrap().expose_secret(), "A");
    assert_eq!(count.load(SeqCst), 3, "a refresh, then a login");
    credentials.forget().await;
    credentials.token().await.unwrap();
    assert_eq!(count.load(SeqCst), 4);
}

#[tokio::test]
async fn registration() {
    let (url, _) = serve(|_, n| if n == 0 { http("201 Created", "", r#"{"id":3}"#) } else { http("409 Conflict", "", "") }).await;
    let auth = Auth::new(&url, &Trust::Platform).unwrap();
    assert_eq!(auth.register("u", &"p".into(), Role::Producer, Some("d")).await.unwrap(), UserId(3));
    assert!(matches!(auth.register("u", &"p".into(), Role::Producer, None).await, Err(Error::Taken)));
}
