//! A program whose output is one JSON object: run at each interval, with a time limit and a size limit.

use std::{io, process::Stdio, time::Duration};

use bytes::Bytes;
use tokio::{
    io::AsyncReadExt as _,
    process::Command,
    time::{self, MissedTickBehavior},
};

use super::Sink;

pub(super) async fn run(command: &[String], limit: Duration, interval: Duration, sink: &Sink) {
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match output(command, limit, sink.max_record).await {
            Ok(json) => drop(sink.put(json).await),
            Err(reason) => sink.bad(&reason),
        }
    }
}

/// What the program prints. It is killed when it takes too long, prints too much, or nobody waits any longer.
async fn output(command: &[String], limit: Duration, max: usize) -> Result<Bytes, String> {
    let (program, arguments) = command.split_first().ok_or("no program")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("{program} does not start: {e}"))?;
    let mut output = Vec::new();
    let work = async {
        if let Some(stdout) = child.stdout.take() {
            stdout.take(max as u64 + 1).read_to_end(&mut output).await?;
        }
        if output.len() > max {
            return Err(io::Error::other(format!("more than {max} bytes of output")));
        }
        child.wait().await
    };
    let status = time::timeout(limit, work).await.map_err(|_| format!("{program} took longer than {} s", limit.as_secs_f64()))?;
    let status = status.map_err(|e| format!("{program}: {e}"))?;
    if status.success() { Ok(output.into()) } else { Err(format!("{program} failed: {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(script: &str, limit: Duration) -> Result<Bytes, String> {
        output(&["sh".into(), "-c".into(), script.into()], limit, 100).await
    }

    #[tokio::test]
    async fn output_and_failures() {
        let limit = Duration::from_secs(20);
        assert_eq!(sh("echo '{\"t\":1}'", limit).await.unwrap(), "{\"t\":1}\n");
        assert!(sh("exit 3", limit).await.unwrap_err().contains("exit status: 3"));
        assert!(sh("yes", limit).await.unwrap_err().contains("more than 100 bytes"));
        assert!(output(&["/does/not/exist".into()], limit, 1).await.unwrap_err().contains("does not start"));
        assert!(sh("exec sleep 60", Duration::from_millis(50)).await.unwrap_err().contains("took longer"));
    }
}
