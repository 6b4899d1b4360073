//! A child process that never outlives the test.

use std::{
    fs::File,
    future::Future,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Longest wait for a server to answer, or to end when asked.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// Between two looks.
const POLL: Duration = Duration::from_millis(20);

/// A running server. Dropping it kills it at once.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    /// Holds a pipe whose other end is ours. When we are gone, however that came, it reads the end and kills the server.
    watchdog: Child,
    name: &'static str,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, its output added to `log`.
    pub(super) fn spawn(name: &'static str, mut command: Command, log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).expect("the log of the test server can be written");
        let errors = output.try_clone().expect("a file handle can be doubled");
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|e| panic!("{name} could not be started: {e}"));
        let watchdog = Command::new("sh")
            .args(["-c", "read -r _; kill -s KILL \"$0\" 2>/dev/null"])
            .arg(child.id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell can be started");
        Self { child, watchdog, name, log: log.to_owned() }
    }

    /// Waits until `ready` says so; `false` where the server ended first (its port was taken, say).
    pub(super) async fn is_ready<F: Future<Output = bool>>(&mut self, ready: impl Fn() -> F) -> bool {
        let deadline = Instant::now() + LIMIT;
        while !ready().await {
            if self.exited().is_some() {
                return false;
            }
            assert!(Instant::now() < deadline, "{} did not answer within {LIMIT:?}:\n{}", self.name, self.output());
            tokio::time::sleep(POLL).await;
        }
        true
    }

    /// Sends a signal by its name: `TERM`, `STOP`.
    pub(super) fn signal(&self, signal: &str) {
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{} is not there to be sent {signal}", self.name);
    }

    /// Asks the server to end and waits until it has.
    pub(super) async fn stop(mut self, signal: &str) {
        self.signal(signal);
        let deadline = Instant::now() + LIMIT;
        while self.exited().is_none() {
            assert!(Instant::now() < deadline, "{} did not end within {LIMIT:?}:\n{}", self.name, self.output());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Asks the server to end at once, and kills it where it does not.
    pub(super) fn quit(mut self) {
        let (quick, pause) = (Duration::from_secs(5), std::sync::mpsc::channel::<()>());
        let deadline = Instant::now() + quick;
        if self.exited().is_none() {
            // A paused server would not hear it.
            self.signal("CONT");
            self.signal("QUIT");
        }
        while self.exited().is_none() && Instant::now() < deadline {
            let _ = pause.1.recv_timeout(POLL);
        }
    }

    /// Output of the server.
    pub(super) fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the server is our child")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The watchdog first: once the server is waited for, its number may be another's.
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago; who uses it must be ready to try another.
pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback has free ports");
    listener.local_addr().expect("a bound listener has an address").port()
}

/// So many free ports, for TCP and UDP, below those that most systems give to outgoing connections: they are still free when whoever
/// listened there is started again.
pub fn lasting_ports<const N: usize>() -> [u16; N] {
    // None is found twice, as those that were found are held until all are.
    let held: [_; N] =
        std::array::from_fn(|_| (0..1000).find_map(|_| hold(fastrand::u16(12_000..32_000))).expect("the loopback has free ports"));
    held.map(|(port, ..)| port)
}

/// Settings of a node that has [`lasting_ports`]: the port of each of its listeners, `AP` for `AP_PORT`.
pub fn port_settings<const N: usize>(listeners: [&str; N]) -> Vec<(String, String)> {
    listeners.iter().zip(lasting_ports::<N>()).map(|(name, port)| (format!("{name}_PORT"), port.to_string())).collect()
}

fn hold(port: u16) -> Option<(u16, TcpListener, UdpSocket)> {
    let place = (Ipv4Addr::LOCALHOST, port);
    Some((port, TcpListener::bind(place).ok()?, UdpSocket::bind(place).ok()?))
}

/// The program `name`, from PATH or one of `folders`.
pub(super) fn find(name: &str, folders: &[PathBuf], package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(folders.iter().cloned())
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed; on Debian: apt-get install {package}"))
}
