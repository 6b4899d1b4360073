//! The attacker's connections, byte by byte: a library that keeps to the rules cannot break them.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::common::server::address;

/// Where the attacker comes from: another address than the honest clients', as an attacker has.
pub(super) const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 6, 6, 6);
/// Longest wait for a connection and for the answer to an upgrade.
const LIMIT: Duration = Duration::from_secs(5);
/// Longest head of an answer.
const HEAD: usize = 16 * 1024;

/// A connection from the attacker's address.
pub(super) async fn tcp(url: &str) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((ATTACKER, 0).into())?;
    Ok(timeout(LIMIT, socket.connect(address(url)?)).await??)
}

/// A WebSocket at `path`, as raw bytes from there on.
pub(super) async fn websocket(url: &str, path: &str) -> Result<TcpStream> {
    upgrade(url, path, "").await
}

/// The tunnel of motience/1.
pub(super) async fn tunnel(url: &str) -> Result<TcpStream> {
    upgrade(url, "/motience", "Sec-WebSocket-Protocol: motience.1\r\n").await
}

async fn upgrade(url: &str, path: &str, more: &str) -> Result<TcpStream> {
    let mut stream = tcp(url).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let head = timeout(LIMIT, head(&mut stream)).await??;
    ensure!(head.starts_with("HTTP/1.1 101 "), "no upgrade: {}", head.lines().next().unwrap_or_default());
    Ok(stream)
}

/// An answer's head; a byte at a time, so that nothing behind it is taken.
async fn head(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < HEAD, "an answer without an end of its head");
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head)?)
}

/// A WebSocket frame of a client (RFC 6455, section 5.2), masked with zeros.
pub(super) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        long => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(long as u16).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

/// The beginning of an HTTP/2 connection whose streams have this window (RFC 9113, sections 3.4 and 6.5).
pub(super) fn http2(window: u32) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut settings = 4_u16.to_be_bytes().to_vec();
    settings.extend_from_slice(&window.to_be_bytes());
    bytes.extend(http2_frame(4, 0, 0, &settings));
    bytes
}

/// A GET request on a stream of HTTP/2, without a body.
pub(super) fn http2_get(stream: u32, path: &str, token: Option<&str>) -> Vec<u8> {
    // RFC 7541, appendix A: `:method GET`, `:scheme http`; `:path` and `:authority` with values of their own.
    let mut block = vec![0x82, 0x86, 0x04];
    string(&mut block, path);
    block.push(0x01);
    string(&mut block, "localhost");
    if let Some(token) = token {
        // `authorization`, never indexed: 23 in four bits is 15 and 8.
        block.extend_from_slice(&[0x1f, 0x08]);
        string(&mut block, &format!("Bearer {token}"));
    }
    // END_HEADERS and END_STREAM.
    http2_frame(1, 0x05, stream, &block)
}

fn http2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A string literal of HPACK (RFC 7541, section 5.2), not Huffman coded.
fn string(block: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < 127 {
        block.push(length as u8);
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push((length % 128) as u8 | 0x80);
            length /= 128;
        }
        block.push(length as u8);
    }
    block.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_as_the_rfcs_say() {
        let mut block = Vec::new();
        string(&mut block, &"x".repeat(1337));
        // RFC 7541, appendix C.1.2 has 1337 in five bits; in seven it is 127, then 1210 as 0xba 0x09.
        assert_eq!(block[..3], [127, 0xba, 0x09]);
        assert_eq!(frame(9, &[7; 3]), [0x89, 0x83, 0, 0, 0, 0, 7, 7, 7]);
        assert_eq!(frame(1, &[7; 200])[..4], [0x81, 0xfe, 0, 200]);
        assert_eq!(http2_frame(4, 0, 1, &[1, 2])[..9], [0, 0, 2, 4, 0, 0, 0, 0, 1]);
    }
}
