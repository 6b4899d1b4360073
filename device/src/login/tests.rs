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

/// Answers of the service itself.
fn problem(status: u16, words: &str) -> String {
    let body = format!(r#"{{"type":"about:blank","title":"T","status":{status},"detail":"{words}","code":"c","error":"{words}"}}"#);
    http(&format!("{status} T"), "content-type: application/problem+json\r\n", &body)
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
    let refused = login_against(problem(401, "wrong name or password")).await.unwrap_err();
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

/// Firewalls, captive portals and proxies know nothing of accounts.
#[tokio::test]
async fn only_the_service_itself_can_refuse() {
    let html = "<html>Access denied</html>";
    let (text, json) = ("content-type: text/html; charset=utf-8\r\n", "content-type: application/json\r\n");
    let known = "content-type: application/problem+json; charset=utf-8\r\n";
    for status in ["400 Bad Request", "401 Unauthorized", "403 Forbidden", "407 Proxy", "409 Conflict", "422 No", "451 No", "511 Login"] {
        for (headers, body) in [
            (text, html),
            ("", ""),
            ("", r#"{"error":"no"}"#),
            (json, r#"{"status":401,"code":"c","error":"no"}"#),
            // A gateway that speaks of problems, and not of ours.
            (known, r#"{"type":"about:blank","title":"Forbidden","status":403}"#),
            (known, r#"{"status":418,"code":"c","error":"no"}"#),
            (known, html),
        ] {
            let error = login_against(http(status, headers, body)).await.unwrap_err();
            assert!(error.is_worth_retrying(), "{status} {headers} {body}: {error}");
        }
    }
    let portal = login_against(http("302 Found", "location: http://portal.example/login\r\n", "")).await.unwrap_err().to_string();
    assert!(portal.contains("http://portal.example/login") && portal.contains("http://127.0.0.1:"), "{portal}");
    assert!(login_against(http("200 OK", text, html)).await.unwrap_err().is_worth_retrying());
    for status in [400, 401, 403, 422] {
        let error = login_against(problem(status, "no")).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_unknown_authority_is_told_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    #[expect(clippy::disallowed_methods, reason = "rustls compares with the system's clock")]
    let now = time::OffsetDateTime::now_utc();
    let certs = motience_certs::dev::ensure(&dir.path().join("a"), now).unwrap();
    let other = motience_certs::dev::ensure(&dir.path().join("b"), now).unwrap();
    let identity = motience_certs::server::ServerIdentity::load(&certs.chain, &certs.key).unwrap();
    let tls = motience_certs::server::tcp_config(identity, &[b"http/1.1"]);
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let _ = acceptor.accept(socket).await;
        }
    });
    let auth = Auth::new(&url, &Trust::Ca(other.ca)).unwrap();
    let error = auth.login("u", &"p".into()).await.unwrap_err();
    assert!(error.is_worth_retrying(), "whoever intercepts may go away");
    assert!(error.to_string().contains("--ca") && error.to_string().contains(&url), "{error}");
}

#[tokio::test]
async fn a_refresh_token_outlives_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state/token.json");
    let (url, count) = serve(|path, n| match path {
        "/login" => http("200 OK", "", PAIR),
        _ if n == 4 => problem(401, "spent"),
        _ => http("200 OK", "", &PAIR.replace("\"A\"", "\"B\"")),
    })
    .await;
    let start = || Credentials::account(Auth::new(&url, &Trust::Platform).unwrap(), "u", "p".into()).kept_in(file.clone());
    let token = async |credentials: Credentials| credentials.token().await.unwrap().expose_secret().to_owned();
    assert_eq!(token(start()).await, "A", "the first start logs in");
    assert_eq!(token(start()).await, "B", "later ones refresh");
    assert_eq!(token(start()).await, "B");
    let other = Credentials::account(Auth::new(&url, &Trust::Platform).unwrap(), "other", "p".into()).kept_in(file.clone());
    assert_eq!(token(other).await, "A", "another account's token is of no use");
    assert_eq!(count.load(SeqCst), 4);
    let other = Credentials::account(Auth::new(&url, &Trust::Platform).unwrap(), "other", "p".into()).kept_in(file.clone());
    assert_eq!(token(other).await, "A", "where the refresh is refused the password is still good");
    assert_eq!(count.load(SeqCst), 6);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(dir.path().join("state")).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

#[tokio::test]
async fn a_token_that_servers_refuse_is_refreshed_and_then_made_anew() {
    let (url, count) =
        serve(|path, _| if path == "/login" { http("200 OK", "", PAIR) } else { http("200 OK", "", &PAIR.replace("\"A\"", "\"B\"")) })
            .await;
    let credentials = Credentials::account(Auth::new(&url, &Trust::Platform).unwrap(), "u", "p".into());
    let obtain = async || {
        let (token, fresh) = credentials.obtain().await.unwrap();
        (token.expose_secret().to_owned(), fresh)
    };
    assert_eq!(obtain().await, ("A".into(), true));
    assert_eq!(obtain().await, ("A".into(), false));
    credentials.forget().await;
    assert_eq!(obtain().await, ("B".into(), false));
    credentials.forget().await;
    assert_eq!(obtain().await, ("A".into(), true), "twice in a row");
    credentials.accepted();
    credentials.forget().await;
    assert_eq!(obtain().await, ("B".into(), false));
    assert_eq!(count.load(SeqCst), 4);
}

#[tokio::test]
async fn a_token_is_kept_and_a_refused_refresh_falls_back_to_the_password() {
    let (url, count) = serve(|path, _| match path {
        "/api/auth/login" => http("200 OK", "", PAIR),
        _ => problem(401, "spent"),
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
    assert_eq!(count.load(SeqCst), 5, "a refresh, then a login");
}

#[tokio::test]
async fn registration() {
    let (url, _) = serve(|_, n| if n == 0 { http("201 Created", "", r#"{"id":3}"#) } else { problem(409, "taken") }).await;
    let auth = Auth::new(&url, &Trust::Platform).unwrap();
    assert_eq!(auth.register("u", &"p".into(), Role::Producer, Some("d")).await.unwrap(), UserId(3));
    assert!(matches!(auth.register("u", &"p".into(), Role::Producer, None).await, Err(Error::Taken)));
}
