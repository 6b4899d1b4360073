//! How long each of several calls took.

use std::{
    fmt::{self, Display, Formatter},
    time::{Duration, Instant},
};

use anyhow::Result;

/// Durations in order; shown as median and 99th percentile in milliseconds.
pub(super) struct Samples(Vec<Duration>);

impl Samples {
    /// Makes `count` calls one after the other, each told its number. The first `warm` of them do not count: a connection does something for the first time.
    pub(super) async fn of(warm: usize, count: usize, mut call: impl AsyncFnMut(usize) -> Result<()>) -> Result<Self> {
        let mut taken = Vec::with_capacity(count);
        for n in 0..count {
            let began = Instant::now();
            call(n).await?;
            if n >= warm {
                taken.push(began.elapsed());
            }
        }
        Ok(Self::from(taken))
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn median(&self) -> Duration {
        self.0[self.0.len() / 2]
    }

    pub(super) fn tail(&self) -> Duration {
        self.0[self.0.len() * 99 / 100]
    }
}

impl From<Vec<Duration>> for Samples {
    fn from(mut taken: Vec<Duration>) -> Self {
        taken.sort_unstable();
        Self(taken)
    }
}

impl Display for Samples {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        f.pad(&format!("{:.1} / {:.1}", ms(self.median()), ms(self.tail())))
    }
}
