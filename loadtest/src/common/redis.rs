//! Work of a private Redis, as it counts it itself.

use anyhow::{Context as _, Result};
use motience_testing::Redis;

/// Functions that Redis has run so far.
pub(crate) async fn calls(redis: &Redis) -> Result<u64> {
    let stats = redis.command("INFO commandstats").await;
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_fcall:calls=")).context("Redis has run no function")?;
    let digits: String = line.chars().take_while(char::is_ascii_digit).collect();
    Ok(digits.parse()?)
}
