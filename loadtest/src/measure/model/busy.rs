//! A busy Redis: writes that nodes have made are sent to it again, over many connections, as fast as it takes them. So it serves several in each turn of its loop, and
//! each costs less than a lone one.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{bench::Bench, taken::Taken};
use crate::common::redis::put;

/// Connections that send writes, each with one under way.
const WRITERS: usize = 32;
/// Connections that follow every producer, as nodes do.
const FOLLOWERS: usize = 20;
/// Longest wait for the writes of all producers to be seen.
const SEEN_LIMIT: Duration = Duration::from_secs(60);

/// The beginning of its answer where the one sender's records were written (`shared/log/src/motience.lua`).
const WRITTEN: &[u8] = b"*3\r\n*1\r\n:1\r\n";

/// A write as Redis was sent it.
type Words = Vec<Vec<u8>>;

/// Microseconds of a busy Redis for a write of one record without followers, and what each of its followers adds.
pub(super) async fn measure(bench: &Bench, writes: &[Words], seconds: f64) -> Result<(f64, f64)> {
    let requests: Arc<[Vec<u8>]> = writes.iter().map(|words| encode(words)).collect();
    let alone = each(bench, &requests, seconds).await?;
    let channels: Vec<Vec<u8>> = writes.iter().map(channel).collect::<Result<_>>()?;
    let mut following = JoinSet::new();
    for _ in 0..FOLLOWERS {
        let mut follower = connect(bench).await?;
        for channel in &channels {
            follower.write_all(&encode(&[b"SSUBSCRIBE".to_vec(), channel.clone()])).await?;
        }
        following.spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            while follower.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        });
    }
    let followed = each(bench, &requests, seconds).await?;
    following.abort_all();
    Ok((alone, (followed - alone) / FOLLOWERS as f64))
}

/// Microseconds of Redis for each write.
async fn each(bench: &Bench, requests: &Arc<[Vec<u8>]>, seconds: f64) -> Result<f64> {
    let (done, mut writing) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
    for writer in 0..WRITERS {
        let (mut connection, requests, done) = (connect(bench).await?, Arc::clone(requests), Arc::clone(&done));
        writing.spawn(async move {
            let mut answer = vec![0; 4096];
            // Each begins elsewhere, so that one log is not written by all at once.
            for request in requests.iter().cycle().skip(writer * requests.len() / WRITERS) {
                // An answer is shorter than a packet, and there is one at a time.
                let asked = async {
                    connection.write_all(request).await?;
                    connection.read(&mut answer).await
                };
                match asked.await {
                    Ok(read) if answer[..read].starts_with(WRITTEN) => done.fetch_add(1, Ordering::Relaxed),
                    _ => return,
                };
            }
        });
    }
    sleep(Duration::from_secs(1)).await;
    let (before, begun) = (Taken::now(&bench.redis, &[]).await?, done.load(Ordering::Relaxed));
    sleep(Duration::from_secs_f64(seconds)).await;
    let used = before.until(&Taken::now(&bench.redis, &[]).await?);
    ensure!(writing.len() == WRITERS && writing.try_join_next().is_none(), "Redis refused a write that it has taken before");
    let writes = done.load(Ordering::Relaxed) - begun;
    writing.abort_all();
    eprintln!("  {:.0} writes/s, Redis {:.0} % busy", writes as f64 / used.seconds, 100.0 * used.redis / used.seconds);
    Ok(used.redis / writes as f64 * 1e6)
}

/// A write of each of so many producers, as they are made while this is polled.
pub(super) async fn observe(bench: &Bench, producers: usize) -> Result<Vec<Words>> {
    let mut monitor = BufReader::new(connect(bench).await?);
    monitor.write_all(b"MONITOR\r\n").await?;
    let mut writes = BTreeMap::new();
    let seen = async {
        while writes.len() < producers {
            let mut line = String::new();
            ensure!(monitor.read_line(&mut line).await? > 0, "Redis ends MONITOR");
            let words = decode(&line);
            // The function's name, the number of keys, and the first of them, which is the producer's.
            if let [call, function, _, key, ..] = &words[..]
                && call.eq_ignore_ascii_case(b"FCALL")
                && function.ends_with(b"_append")
            {
                writes.insert(key.clone(), words);
            }
        }
        Ok(())
    };
    timeout(SEEN_LIMIT, seen).await.context("not every producer has written")??;
    Ok(writes.into_values().collect())
}

/// The channel on which a write is published: the first argument behind the keys.
fn channel(words: &Words) -> Result<Vec<u8>> {
    let keys: usize = words.get(2).and_then(|keys| str::from_utf8(keys).ok()?.parse().ok()).context("a call says how many keys it has")?;
    words.get(3 + keys).cloned().context("a write names its channel")
}

async fn connect(bench: &Bench) -> Result<TcpStream> {
    let connection = TcpStream::connect((Ipv4Addr::LOCALHOST, bench.redis.port())).await?;
    connection.set_nodelay(true)?;
    Ok(connection)
}

fn encode(words: &[Vec<u8>]) -> Vec<u8> {
    let mut request = Vec::new();
    put(&mut request, words.len(), words);
    request
}

/// The words of a line of MONITOR: in quotes, with escapes.
fn decode(line: &str) -> Words {
    let (mut words, mut word, mut bytes) = (Words::new(), None::<Vec<u8>>, line.bytes());
    while let Some(byte) = bytes.next() {
        match (byte, &mut word) {
            (b'"', None) => word = Some(Vec::new()),
            (b'"', Some(_)) => words.extend(word.take()),
            (b'\\', Some(open)) => open.extend(match bytes.next() {
                Some(b'x') => {
                    let digits = [bytes.next(), bytes.next()].map(|digit| char::from(digit.unwrap_or(b'0')).to_digit(16).unwrap_or(0));
                    u8::try_from(digits[0] * 16 + digits[1]).ok()
                }
                Some(b'n') => Some(b'\n'),
                Some(b'r') => Some(b'\r'),
                Some(b't') => Some(b'\t'),
                Some(b'a') => Some(7),
                Some(b'b') => Some(8),
                other => other,
            }),
            (byte, Some(open)) => open.push(byte),
            (_, None) => {}
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_monitor_is_what_redis_was_sent() {
        let line = r#"1764250000.1 [0 127.0.0.1:5] "FCALL" "m_append" "1" "m:1:meta" "m:1:live" "a\"b\\\x00\xff\n""#;
        let words = decode(line);
        assert_eq!(words[1..4], [b"m_append".to_vec(), b"1".to_vec(), b"m:1:meta".to_vec()]);
        assert_eq!(words[5], b"a\"b\\\x00\xff\n");
        assert_eq!(channel(&words).unwrap(), b"m:1:live");
        assert_eq!(encode(&words[..2]), b"*2\r\n$5\r\nFCALL\r\n$8\r\nm_append\r\n");
    }
}
