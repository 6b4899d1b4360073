//! A program whose output is one JSON object: run at each interval, with a time limit and a size limit. The log has its standard
//! error.

use std::{io, process::Stdio, time::Duration};

use bytes::Bytes;
use futures_util::future::{FusedFuture as _, FutureExt as _};
use tokio::{
    io::AsyncReadExt as _,
    process::{ChildStderr, Command},
    time::{self, MissedTickBehavior},
};

use super::Sink;

/// Most bytes of a program's standard error that are looked at; the rest is read and forgotten.
const MAX_COMPLAINT: usize = 2048;
/// How long what a program wrote last may take to arrive here, once it has ended.
const LAST_WORD: Duration = Duration::from_millis(50);

pub(super) async fn run(command: &[String], limit: Duration, interval: Duration, sink: &Sink) {
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said = String::new();
    loop {
        ticks.tick().await;
        let (output, complaint) = output(command, limit, sink.max_record).await;
        // A complaint that repeats at each reading is logged once.
        if complaint != said && !complaint.is_empty() {
            tracing::warn!(sensor = sink.counts.name, stderr = complaint, "the command wrote to its standard error");
        }
        said = complaint;
        match output {
            Ok(json) => drop(sink.put(json).await),
            Err(reason) => sink.bad(&reason),
        }
    }
}

/// Output of the program, and its standard error. The program is killed when it takes too long, prints too much, or nobody
/// waits any longer.
pub(super) async fn output(command: &[String], limit: Duration, max: usize) -> (Result<Bytes, String>, String) {
    let mut complaint = Vec::new();
    let output = work(command, limit, max, &mut complaint).await;
    let words = String::from_utf8_lossy(&complaint);
    let words: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    (output, words.join(" | ").chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}

async fn work(command: &[String], limit: Duration, max: usize, complaint: &mut Vec<u8>) -> Result<Bytes, String> {
    let (program, arguments) = command.split_first().ok_or("no program")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("{program} does not start: {e}"))?;
    let mut output = Vec::new();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        if let Some(stdout) = stdout {
            stdout.take(max as u64 + 1).read_to_end(&mut output).await?;
        }
        if output.len() > max {
            return Err(io::Error::other(format!("more than {max} bytes of output")));
        }
        child.wait().await
    };
    // A process that the program left behind may hold its standard error open for ever: reading ends with the program.
    let listening = listen(stderr, complaint).fuse();
    tokio::pin!(listening);
    let status = time::timeout(limit, async {
        tokio::pin!(work);
        tokio::select! {
            status = &mut work => status,
            () = &mut listening => work.await,
        }
    });
    let status = status.await;
    if !listening.is_terminated() {
        let _ = time::timeout(LAST_WORD, listening).await;
    }
    let status = status.map_err(|_| format!("{program} took longer than {} s (timeout_secs)", limit.as_secs_f64()))?;
    let status = status.map_err(|e| format!("{program}: {e}"))?;
    if status.success() { Ok(output.into()) } else { Err(format!("{program} failed: {status}")) }
}

/// Takes what the program says on its standard error, and goes on reading beyond the limit: who does not read it stops the program.
async fn listen(stderr: Option<ChildStderr>, complaint: &mut Vec<u8>) {
    let Some(mut stderr) = stderr else { return };
    let mut chunk = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut chunk).await {
        let room = MAX_COMPLAINT - complaint.len();
        complaint.extend_from_slice(&chunk[..count.min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(script: &str, limit: Duration) -> (Result<Bytes, String>, String) {
        output(&["sh".into(), "-c".into(), script.into()], limit, 100).await
    }

    async fn sh(script: &str, limit: Duration) -> Result<Bytes, String> {
        run(script, limit).await.0
    }

    #[tokio::test]
    async fn what_it_says_on_its_standard_error_is_kept() {
        let limit = Duration::from_secs(20);
        let (output, complaint) = run("echo 'no bus'; printf 'i2c: no such\n\n  device\t!\n' >&2; exit 3", limit).await;
        assert!(output.unwrap_err().contains("exit status: 3"));
        assert_eq!(complaint, "i2c: no such | device !");
        // More than is kept, and more than a pipe holds, does not stop it.
        let (output, complaint) = run("head -c 300000 /dev/zero | tr '\\0' x >&2; echo '{}'", limit).await;
        assert_eq!((output.unwrap(), complaint.len()), (Bytes::from_static(b"{}\n"), MAX_COMPLAINT));
        // Nor is waited for somebody else who holds it open.
        let (output, _) = run("sleep 600 >/dev/null & echo '{}'", limit).await;
        assert_eq!(output.unwrap(), "{}\n");
    }

    #[tokio::test]
    async fn output_and_failures() {
        let limit = Duration::from_secs(20);
        assert_eq!(sh("echo '{\"t\":1}'", limit).await.unwrap(), "{\"t\":1}\n");
        assert!(sh("exit 3", limit).await.unwrap_err().contains("exit status: 3"));
        assert!(sh("yes", limit).await.unwrap_err().contains("more than 100 bytes"));
        assert!(output(&["/does/not/exist".into()], limit, 1).await.0.unwrap_err().contains("does not start"));
        assert!(sh("exec sleep 60", Duration::from_millis(50)).await.unwrap_err().contains("took longer"));
    }
}
