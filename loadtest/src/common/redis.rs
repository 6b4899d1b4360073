//! A private Redis: its work and memory, as it counts them itself, and commands as it reads them.

use anyhow::{Context as _, Result};
use motience_testing::Redis;

/// Functions that Redis has run so far.
pub(crate) async fn calls(redis: &Redis) -> Result<u64> {
    number(redis, "INFO commandstats", "cmdstat_fcall:calls=").await.context("Redis has run no function")
}

/// Bytes that its data take.
pub(crate) async fn used(redis: &Redis) -> Result<u64> {
    number(redis, "INFO memory", "used_memory:").await
}

/// The number behind `name` in an answer.
async fn number(redis: &Redis, command: &str, name: &str) -> Result<u64> {
    let answer = redis.command(command).await;
    let rest = answer.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("Redis tells no {name}"))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Ok(digits.parse()?)
}

/// Reports of devices that are kept there. Those of a device count twice where a period of half an hour has just ended.
pub(crate) async fn reports(redis: &Redis) -> Result<u64> {
    let mut all = 0;
    for key in redis.command("KEYS *:reports:*").await.lines().filter(|line| line.contains(":reports:")) {
        all += number(redis, &format!("HLEN {key}"), ":").await?;
    }
    Ok(all)
}

/// Logs of which there are such reports.
pub(crate) async fn reported(redis: &Redis) -> Result<u64> {
    let keys = redis.command("KEYS *:reported").await;
    match keys.lines().find(|line| line.ends_with(":reported")) {
        Some(key) => number(redis, &format!("ZCARD {key}"), ":").await,
        None => Ok(0),
    }
}

/// Adds the beginning of a command of so many words, and the first of them, as Redis reads it (RESP2, an array of bulk strings).
pub(crate) fn put(buffer: &mut Vec<u8>, words: usize, first: &[impl AsRef<[u8]>]) {
    buffer.extend_from_slice(format!("*{words}\r\n").as_bytes());
    first.iter().for_each(|word| put_word(buffer, word.as_ref()));
}

/// Adds a word of a command.
pub(crate) fn put_word(buffer: &mut Vec<u8>, word: &[u8]) {
    buffer.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
    buffer.extend_from_slice(word);
    buffer.extend_from_slice(b"\r\n");
}
