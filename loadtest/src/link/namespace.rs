//! Network namespaces: made, entered, and removed again, those of a crashed run too.

use std::{
    fs::{self, File},
    io::Write as _,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use tokio::runtime::{Builder, Runtime};

use super::Error;

/// Where `ip netns` keeps them.
const FOLDER: &str = "/var/run/netns";
/// Start of the names of our namespaces; the process id follows.
const PREFIX: &str = "motience-";

/// A network namespace that ends with this value.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub(super) fn new(role: &str, number: u32) -> Result<Self, Error> {
        let name = format!("{PREFIX}{}-{number}-{role}", std::process::id());
        ip(&format!("netns add {name}\n"))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        // Without these the kernel sends packets of its own, and remembers from one connection how the next shall be.
        namespace.set("net/ipv6/conf/all/disable_ipv6", "1")?;
        namespace.set("net/ipv6/conf/default/disable_ipv6", "1")?;
        namespace.set("net/ipv4/tcp_no_metrics_save", "1")?;
        Ok(namespace)
    }

    /// Its name for `ip netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs `program` inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// A runtime all of whose tasks live inside: spawn on it, for `block_on` itself stays outside.
    pub fn runtime(&self, threads: usize) -> Result<Runtime, Error> {
        let namespace = Arc::new(self.open()?);
        let enter = move || enter(&namespace).expect("this process has just made the namespace");
        Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name(self.name.clone())
            .enable_all()
            .on_thread_start(enter)
            .build()
            .map_err(|e| Error::new("a runtime cannot be started", e))
    }

    /// Runs `action` on a thread inside.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let namespace = self.open()?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| enter(&namespace).map(|()| action()));
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// One command of `ip`, or several on lines of their own, inside.
    pub(super) fn ip(&self, commands: &str) -> Result<(), Error> {
        let lines: String = commands.lines().map(|line| format!("{}\n", line.trim())).collect();
        run(Command::new("ip").args(["-netns", &self.name, "-batch", "-"]), &lines)
    }

    fn set(&self, name: &str, value: &str) -> Result<(), Error> {
        let path = Path::new("/proc/sys").join(name);
        // A kernel without IPv6 has nothing to switch off.
        self.run(|| if path.exists() { fs::write(&path, value) } else { Ok(()) })?
            .map_err(|e| Error::new(format!("{name} cannot be set"), e))
    }

    fn open(&self) -> Result<File, Error> {
        File::open(path(&self.name)).map_err(|e| Error::new(format!("the namespace {} is gone", self.name), e))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn enter(namespace: &File) -> Result<(), Error> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|e| Error::new("a namespace cannot be entered", e.into()))
}

/// One command of `ip` outside.
pub(super) fn ip(commands: &str) -> Result<(), Error> {
    run(Command::new("ip").args(["-batch", "-"]), commands)
}

fn run(command: &mut Command, input: &str) -> Result<(), Error> {
    let failed = |e| Error::new("`ip` cannot be run (Debian's package is iproute2)", e);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        Ok(())
    } else {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::new(format!("`ip` refused `{}`", input.trim()), std::io::Error::other(said)))
    }
}

/// Removes the namespaces of runs that are no more: a process that is killed leaves its own behind.
pub(super) fn sweep() {
    for entry in fs::read_dir(FOLDER).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).and_then(|pid| pid.parse::<u32>().ok());
        if process.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            end_all(&name);
            remove(&name);
        }
    }
}

/// Ends what still runs in an abandoned namespace: servers whose starter was killed.
fn end_all(name: &str) {
    let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() else { return };
    for pid in String::from_utf8_lossy(&output.stdout).lines().filter_map(|pid| Pid::from_raw(pid.trim().parse().ok()?)) {
        // One that has ended meanwhile needs nothing.
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn remove(name: &str) {
    // Another run may have swept it away meanwhile.
    if let Err(e) = ip(&format!("netns del {name}\n"))
        && path(name).exists()
    {
        tracing::warn!(name, %e, "a network namespace stays behind");
    }
}

fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}
