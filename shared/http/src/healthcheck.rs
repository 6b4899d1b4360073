//! The command `healthcheck` of our programs: asks a running one whether it is ready, for container engines without curl. Questions to an
//! operations port.

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

/// Longest answer that is read.
const MAX_ANSWER: u64 = 64 * 1024;

/// Asks `/ready` at `address`, or at HEALTHCHECK_ADDRESS, or at this machine's operations port as the settings have it. Success only
/// where 200 is the answer within `limit` seconds.
pub async fn run(program: &str, address: Option<String>, limit: u64, default_port: u16) -> ExitCode {
    let address = match address.map_or_else(|| configured(default_port), Ok) {
        Ok(address) => address,
        Err(e) => return failed(program, &e.to_string()),
    };
    match timeout(Duration::from_secs(limit), ask(&address, "/ready")).await {
        Ok(Ok((200, _))) => {
            // Whoever does not read it has the exit code.
            let _ = say("ready");
            ExitCode::SUCCESS
        }
        Ok(Ok((status, _))) => failed(program, &format!("not ready: {address} answered {status}")),
        Ok(Err(e)) => failed(program, &format!("not reachable: {address}: {e}")),
        Err(_) => failed(program, &format!("no answer from {address} within {limit} s")),
    }
}

pub(crate) fn configured(default_port: u16) -> Result<String, env::Error> {
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

pub(crate) fn failed(program: &str, why: &str) -> ExitCode {
    eprintln!("{program}: {why}");
    ExitCode::FAILURE
}

/// Status and body of the answer to a GET.
pub(crate) async fn ask(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    let status = answer.get(9..12).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    status.zip(body).ok_or_else(|| std::io::Error::other("not an HTTP answer"))
}
