//! The bad link does what it is told: delay, loss, blocks, another uplink, another NAT port. Needs root; without it, the
//! tests say so and check that the refusal is an honest one.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    time::{Duration, Instant},
};

use motience_loadtest::link::{Block, Direction, Impairment, Link, Loss, Profile, SERVER, UPLINKS};

const PORT: u16 = 7000;
const MS: Duration = Duration::from_millis(1);
/// Longest wait for what must come.
const LIMIT: Duration = Duration::from_secs(10);
/// How long nothing must come.
const SILENCE: Duration = Duration::from_millis(300);

fn link(impairment: Impairment) -> Option<Link> {
    match Link::new(Profile::both(impairment), 7) {
        Ok(link) => Some(link),
        Err(e) => {
            assert!(e.is_denied(), "{e:?}");
            assert!(rustix::process::geteuid().is_root() || e.to_string().contains("root"), "{e}");
            println!("not checked: {e}");
            None
        }
    }
}

/// A UDP echo at the server's side; it answers to where the packet came from.
fn echo(link: &Link) {
    let socket = link.server().run(|| UdpSocket::bind((SERVER, PORT)).unwrap()).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let told = from.to_string();
            // The answer begins with the sender's address, as seen from here.
            let answer = [&[told.len() as u8], told.as_bytes(), &buffer[..length]].concat();
            let _ = socket.send_to(&answer, from);
        }
    });
}

fn device(link: &Link) -> UdpSocket {
    let socket = link.device().run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// The address that the server saw.
fn ask(socket: &UdpSocket) -> std::io::Result<String> {
    let mut buffer = [0; 2000];
    socket.send_to(b"hello", (SERVER, PORT))?;
    let length = socket.recv(&mut buffer)?;
    let told = usize::from(buffer[0]);
    assert_eq!(&buffer[1 + told..length], b"hello");
    Ok(String::from_utf8_lossy(&buffer[1..=told]).into_owned())
}

#[test]
fn packets_take_their_time_and_are_counted() {
    let Some(link) = link(Impairment::calm(25 * MS)) else { return };
    echo(&link);
    let socket = device(&link);
    let began = Instant::now();
    assert!(ask(&socket).unwrap().starts_with(&UPLINKS[0].to_string()));
    assert!(began.elapsed() >= 50 * MS, "{:?}", began.elapsed());
    // A packet is counted as delivered just after it is handed out.
    while link.counts(Direction::Down).delivered < 1 && began.elapsed() < LIMIT {
        std::thread::yield_now();
    }
    let (up, down) = (link.counts(Direction::Up), link.counts(Direction::Down));
    assert_eq!((up.packets, up.bytes, up.delivered), (1, 20 + 8 + 5, 1));
    assert_eq!((down.packets, down.delivered), (1, 1));
}

#[test]
fn everything_is_lost_where_everything_is_to_be() {
    let Some(link) = link(Impairment::calm(MS).losing(Loss::Random(1.0))) else { return };
    echo(&link);
    let socket = device(&link);
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(ask(&socket).is_err());
    assert_eq!(link.counts(Direction::Up).lost, 1);
    link.change(Profile::both(Impairment::calm(MS)));
    ask(&socket).unwrap();
}

#[test]
fn blocked_udp_leaves_tcp_alone() {
    let Some(link) = link(Impairment::calm(MS)) else { return };
    echo(&link);
    let listener = link.server().run(|| TcpListener::bind((SERVER, PORT)).unwrap()).unwrap();
    let (heard, hear) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        heard.send(bytes).unwrap();
    });
    link.block(Block::Udp);
    let socket = device(&link);
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(ask(&socket).is_err());
    let mut stream = link.device().run(|| TcpStream::connect((SERVER, PORT)).unwrap()).unwrap();
    stream.write_all(b"hello").unwrap();
    assert_eq!(hear.recv_timeout(LIMIT).unwrap(), *b"hello");
    link.block(Block::Nothing);
    ask(&socket).unwrap();
}

#[test]
fn another_uplink_is_another_address() {
    let Some(link) = link(Impairment::calm(MS)) else { return };
    echo(&link);
    let socket = device(&link);
    assert!(ask(&socket).unwrap().starts_with(&UPLINKS[0].to_string()));
    link.use_uplink(1).unwrap();
    assert!(ask(&socket).unwrap().starts_with(&UPLINKS[1].to_string()));
    link.use_uplink(0).unwrap();
    assert!(ask(&socket).unwrap().starts_with(&UPLINKS[0].to_string()));
}

#[test]
fn a_nat_that_forgets_gives_another_port() {
    let Some(link) = link(Impairment::calm(MS)) else { return };
    echo(&link);
    let socket = device(&link);
    let before = ask(&socket).unwrap();
    link.rebind();
    let after = ask(&socket).unwrap();
    assert_ne!(before, after);
    assert_eq!(ask(&socket).unwrap(), after, "it stays until the next time");
    link.rebind();
    assert_ne!(ask(&socket).unwrap(), after);
}

#[test]
fn namespaces_end_with_the_link() {
    let Some(link) = link(Impairment::calm(MS)) else { return };
    let names = [link.device().name(), link.server().name()].map(|n| std::path::Path::new("/var/run/netns").join(n));
    assert!(names.iter().all(|n| n.exists()));
    drop(link);
    assert!(names.iter().all(|n| !n.exists()));
}
