//! A small authentication service: numbers the tokens it hands out, and refuses when it is told to. Something before it may speak
//! instead.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use motience_certs::Trust;
use motience_device::{Credentials, login::Auth};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) url: String,
    pub(crate) logins: Arc<AtomicUsize>,
    pub(crate) refreshes: Arc<AtomicUsize>,
    pub(crate) refuses: Arc<AtomicBool>,
    /// A firewall answers instead of it.
    pub(crate) blocked: Arc<AtomicBool>,
    pub(crate) asked: Arc<AtomicUsize>,
}

impl Service {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = Self {
            url,
            logins: Arc::default(),
            refreshes: Arc::default(),
            refuses: Arc::default(),
            blocked: Arc::default(),
            asked: Arc::default(),
        };
        let serving = service.clone();
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"}") && socket.read_buf(&mut request).await.unwrap() > 0 {}
                let answer = serving.answer(&String::from_utf8(request).unwrap());
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        service
    }

    pub(crate) fn credentials(&self) -> Credentials {
        let auth = Auth::new(&self.url, &Trust::Platform).unwrap();
        Credentials::account(auth, "user", "password".into())
    }

    fn answer(&self, request: &str) -> String {
        self.asked.fetch_add(1, SeqCst);
        if self.blocked.load(SeqCst) {
            let page = "<html>Access denied</html>";
            return format!(
                "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n{page}",
                page.len()
            );
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        let token = match path {
            _ if self.refuses.load(SeqCst) => String::new(),
            "/login" => format!("login-{}", self.logins.fetch_add(1, SeqCst) + 1),
            "/refresh" => format!("refresh-{}", self.refreshes.fetch_add(1, SeqCst) + 1),
            _ => String::new(),
        };
        let (status, body) = if token.is_empty() {
            (
                "401 Unauthorized\r\ncontent-type: application/problem+json",
                r#"{"status":401,"code":"bad_credentials","error":"no"}"#.to_owned(),
            )
        } else {
            let body = format!(r#"{{"access_token":"{token}","refresh_token":"r","expires_in":60,"user_id":7,"role":"producer"}}"#);
            ("200 OK", body)
        };
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }
}
