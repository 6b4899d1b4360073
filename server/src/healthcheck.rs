//! `motience-server healthcheck`: asks a running server whether it is ready, for container engines without curl.

use std::{process::ExitCode, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Asks `/ready` at `address`; success only where it answers 200 within `limit` seconds.
pub(crate) async fn ask(address: &str, limit: u64) -> ExitCode {
    match timeout(Duration::from_secs(limit), status(address)).await {
        Ok(Ok(200)) => {
            println!("ready");
            ExitCode::SUCCESS
        }
        Ok(Ok(status)) => failed(&format!("not ready: {address} answered {status}")),
        Ok(Err(e)) => failed(&format!("not reachable: {address}: {e}")),
        Err(_) => failed(&format!("no answer from {address} within {limit} s")),
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("motience-server: {why}");
    ExitCode::FAILURE
}

async fn status(address: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    // The status line is all that matters: `HTTP/1.1 200`.
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    std::str::from_utf8(&head[9..]).ok().and_then(|s| s.parse().ok()).ok_or_else(|| std::io::Error::other("not an HTTP answer"))
}
