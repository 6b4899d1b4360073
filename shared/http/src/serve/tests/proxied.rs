//! Connections that a balancer announces by the PROXY protocol.

use proxy_header::{ProxiedAddress, ProxyHeader, Tlv};

use super::*;
use crate::proxied::Announced;

const PEER: &[u8] = b"GET /peer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Limits of a node behind a balancer on 127.0.0.1.
fn behind_a_balancer() -> Limits {
    let announced = Announced::from_env(&Env::from_pairs([("PROXY_PROTOCOL_FROM", "127.0.0.1, 10.0.0.0/8")])).unwrap();
    Limits { announced, ..Limits::default() }
}

/// A header of version 2 that names this client.
fn header(client: &str, tlvs: &[Tlv<'_>]) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let balancer = if client.is_ipv4() { "192.0.2.1:443" } else { "[2001:db8::1]:443" };
    let mut header = Vec::new();
    let address = ProxiedAddress::stream(client, balancer.parse().unwrap());
    ProxyHeader::with_tlvs(Some(address), tlvs.iter().cloned()).encode_v2(&mut header).unwrap();
    header
}

/// The answer to what is sent so, up to the end of the connection.
async fn answer(service: &Service, parts: &[&[u8]]) -> String {
    let mut stream = service.connect().await;
    for part in parts {
        // Whoever is refused early may not take the rest.
        let _ = stream.write_all(part).await;
    }
    String::from_utf8(closed(&mut stream).await).unwrap()
}

#[tokio::test]
async fn a_balancers_header_names_the_client_in_both_versions() {
    let service = start(behind_a_balancer()).await;
    let tlvs = [Tlv::Authority("motience.example".into()), Tlv::UniqueId(vec![7; 100].into())];
    let mut local = Vec::new();
    ProxyHeader::with_tlvs(None, []).encode_v2(&mut local).unwrap();
    for (header, client) in [
        (header("203.0.113.9:4711", &[]), Some("203.0.113.9:4711")),
        (header("[2001:db8::7]:4711", &tlvs), Some("[2001:db8::7]:4711")),
        (b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n".to_vec(), Some("203.0.113.9:4711")),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n".to_vec(), Some("[2001:db8::7]:4711")),
        // Checks of the balancer's own, and clients that it does not know.
        (local, None),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
    ] {
        // At once, and in pieces.
        let pieces: Vec<&[u8]> = header.chunks(5).chain([PEER]).collect();
        for answer in
            [answer(&service, &[&header[..], PEER].concat().chunks(4096).collect::<Vec<_>>()).await, answer(&service, &pieces).await]
        {
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            let told = answer.rsplit("\r\n\r\n").next().unwrap();
            assert_eq!(told.starts_with("127.0.0.1:"), client.is_none(), "{told}");
            assert!(client.is_none_or(|client| told == client), "{told}");
        }
    }
}

#[tokio::test]
async fn a_balancer_that_does_not_say_whom_it_speaks_for_is_closed() {
    let service = start(Limits { header: Duration::from_millis(500), ..behind_a_balancer() }).await;
    let good = header("203.0.113.9:4711", &[]);
    let mut other_version = good.clone();
    other_version[12] = 0x31;
    let mut datagram = good.clone();
    datagram[13] = 0x12;
    let mut too_long = good.clone();
    too_long[14..16].copy_from_slice(&[0xff, 0xff]);
    let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
    let addresses = b"PROXY TCP4 203.0.113.9 nowhere 1 2\r\n".as_slice();
    for beginning in [PEER, &other_version, &datagram, &too_long, &endless, addresses, b"PROXY TCP4 \n", &good[..20], b""] {
        // The last two end by the limit of the first request.
        let more: &[u8] = if beginning.len() > 20 { PEER } else { b"" };
        assert_eq!(answer(&service, &[beginning, more]).await, "", "{beginning:?}");
    }
}

#[tokio::test]
async fn a_header_of_anybody_else_is_no_request() {
    let service = start(Limits::default()).await;
    let answer = answer(&service, &[&header("203.0.113.9:4711", &[]), PEER]).await;
    assert!(!answer.contains("203.0.113.9") && !answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn the_limit_of_an_address_is_that_of_the_client() {
    let service = start(Limits { connections: 8, connections_each: 2, ..behind_a_balancer() }).await;
    let connect = async |client: &str| {
        let mut stream = service.connect().await;
        stream.write_all(&header(client, &[])).await.unwrap();
        stream
    };
    let mut held = Vec::new();
    for client in ["203.0.113.9:1", "203.0.113.9:2", "203.0.113.10:1"] {
        let mut stream = connect(client).await;
        ask(&mut stream).await;
        held.push(stream);
    }
    refused(&mut connect("203.0.113.9:3").await, 429).await;
    ask(&mut connect("203.0.113.10:2").await).await;
}
