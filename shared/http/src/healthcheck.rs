//! The command `healthcheck` of our programs: asks a running one whether it is ready, for container engines without curl.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use motience_settings::{
    env::{self, Env},
    output::say,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::Operations;

/// Asks `/ready` at `address`, or at HEALTHCHECK_ADDRESS, or at this machine's operations port as the settings have it. Success only
/// where 200 is the answer within `limit` seconds.
pub async fn run(program: &str, address: Option<String>, limit: u64, default_port: u16) -> ExitCode {
    let address = match address.map_or_else(|| configured(default_port), Ok) {
        Ok(address) => address,
        Err(e) => return failed(program, &e.to_string()),
    };
    match timeout(Duration::from_secs(limit), status(&address)).await {
        Ok(Ok(200)) => {
            // Whoever does not read it has the exit code.
            let _ = say("ready");
            ExitCode::SUCCESS
        }
        Ok(Ok(status)) => failed(program, &format!("not ready: {address} answered {status}")),
        Ok(Err(e)) => failed(program, &format!("not reachable: {address}: {e}")),
        Err(_) => failed(program, &format!("no answer from {address} within {limit} s")),
    }
}

fn configured(default_port: u16) -> Result<String, env::Error> {
    let env = Env::load()?;
    let (told, address) = env.read(|reader| (reader.group::<Operations>().healthcheck, Operations::address(reader, default_port)))?;
    if let Some(address) = told {
        return Ok(address);
    }
    if address.port() == 0 {
        return Err(env::Error::invalid("OPERATIONS_PORT", "is 0, any port: say by --address which one it became"));
    }
    Ok(reachable(address.first()).to_string())
}

/// An address that a client on this machine can use: "every interface" is none.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { std::net::Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    address
}

fn failed(program: &str, why: &str) -> ExitCode {
    eprintln!("{program}: {why}");
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
