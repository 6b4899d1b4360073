//! Log lines of refused requests: who asked, what for, whose account was meant; no password, no token, nothing twice in a moment.

use std::{
    io::Write,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::extract::ConnectInfo;
use serde_json::json;

use super::*;

/// The log as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The lines with these words, each.
    fn lines(&self, words: &[&str]) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_refused_login_says_who_tried_and_whose_account_it_was() {
    let log = Log::default();
    let written = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || written.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let platform = platform(&[("RATE_LIMIT_LOGIN_ACCOUNT", "1/m")]).await;
    let ask = async |path: &str, body: Value| {
        let mut request = request(Method::POST, path, Some("not-a-token"), Sent::Json(body));
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 7], 4711))));
        send(&platform.ap, request).await
    };
    let forged = "eve\nINFO a login of=root \u{202e}succeeded";
    for _ in 0..20 {
        ask("/login?token=s3cr3t", json!({"username": forged, "password": "hunter2"})).await;
    }
    let wrong = log.lines(&["a request is refused", "wrong_credentials"]);
    assert_eq!(wrong.len(), 1, "one in a while: {wrong:?}");
    assert!(wrong[0].contains("client=192.0.2.7") && wrong[0].contains(r#"account="eve\nINFO a login"#), "{}", wrong[0]);
    assert!(wrong[0].contains(r"\u{202e}") && wrong[0].contains("status=401") && wrong[0].contains(r#"path="/login""#), "{}", wrong[0]);
    let often = log.lines(&["a request is refused", "status=429"]);
    assert!(often.len() == 1 && often[0].contains("client=192.0.2.7") && often[0].contains(r#"account="eve"#), "{often:?}");
    let mut verify = request(Method::GET, "/verify", Some("not-a-token"), Sent::Nothing);
    verify.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 8], 4711))));
    send(&platform.ap, verify).await.problem(401, "invalid_token");
    assert_eq!(log.lines(&["invalid_token", "client=192.0.2.8", "/verify"]).len(), 1);
    for secret in ["hunter2", "s3cr3t", "not-a-token"] {
        assert!(log.lines(&[secret]).is_empty(), "{secret} is logged: {:?}", log.lines(&[secret]));
    }
}
