//! Epoch history of one log. A new epoch begins whenever the log's tail may have been lost: restart, failover, flush.
//!
//! Each entry is an epoch and the last offset that survived into it. Two epochs share the entries up to the lowest such offset of any
//! epoch after the older one, so a cursor of an earlier epoch is cut back to there (compare Kafka's leader-epoch cache, KIP-101).

use std::{fmt, str::FromStr};

use motience_proto::model::{Cursor, LogEpoch, Offset};

/// Most epochs remembered of one log. Of older ones only the lowest beginning is kept: a reader of such an epoch may be sent back
/// further than it had to be, never less.
pub const MAX_EPOCHS: usize = 32;

/// Each epoch and the last offset before it, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epochs(Vec<(LogEpoch, Offset)>);

impl Epochs {
    /// History of a log that began with this epoch.
    pub fn first(log_epoch: LogEpoch) -> Self {
        Self(vec![(log_epoch, Offset(0))])
    }

    /// Present epoch; 0 if the log has none.
    pub fn present(&self) -> LogEpoch {
        self.0.last().map_or(LogEpoch(0), |(log_epoch, _)| *log_epoch)
    }

    /// Each epoch and the last offset before it, oldest first.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (LogEpoch, Offset)> {
        self.0.iter().copied()
    }

    /// Begins an epoch after the offset `last`. Beginning the present epoch again changes nothing.
    pub fn begin(&mut self, log_epoch: LogEpoch, last: Offset) {
        if self.present() == log_epoch && !self.0.is_empty() {
            return;
        }
        self.0.push((log_epoch, last));
        if self.0.len() > MAX_EPOCHS {
            let (_, oldest) = self.0.remove(0);
            self.0[0].1 = self.0[0].1.min(oldest);
        }
    }

    /// Places a reader at `cursor` in the present epoch, whose last offset is `last`: at the cursor itself, or at the last offset that
    /// both epochs surely share.
    pub fn resume(&self, cursor: Cursor, last: Offset) -> Cursor {
        let later = match self.0.iter().position(|(log_epoch, _)| *log_epoch == cursor.log_epoch) {
            Some(at) => &self.0[at + 1..],
            None if cursor.log_epoch.0 == 0 => &[],
            None => &self.0[..],
        };
        let shared = later.iter().map(|(_, began)| *began).min().unwrap_or(last);
        Cursor { log_epoch: self.present(), offset: cursor.offset.min(shared).min(last) }
    }
}

impl fmt::Display for Epochs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (log_epoch, began)) in self.0.iter().enumerate() {
            write!(f, "{}{log_epoch}:{began}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl FromStr for Epochs {
    type Err = std::num::ParseIntError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let parts = s.split(',').filter(|part| !part.is_empty());
        let log_epoch = |part: &str| {
            let (log_epoch, began) = part.split_once(':').unwrap_or((part, ""));
            Ok((LogEpoch(log_epoch.parse()?), Offset(began.parse()?)))
        };
        parts.map(log_epoch).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn epochs(text: &str) -> Epochs {
        text.parse().unwrap()
    }

    fn resume(epochs: &Epochs, log_epoch: u64, offset: u64, last: u64) -> u64 {
        let resumed = epochs.resume(Cursor { log_epoch: LogEpoch(log_epoch), offset: Offset(offset) }, Offset(last));
        assert_eq!(resumed.log_epoch, epochs.present());
        resumed.offset.0
    }

    #[test]
    fn a_reader_goes_back_to_what_is_surely_shared() {
        let log = epochs("7:0,8:40,9:30");
        assert_eq!(resume(&log, 9, 50, 60), 50, "the present life needs no step back");
        assert_eq!(resume(&log, 8, 50, 60), 30);
        assert_eq!(resume(&log, 8, 20, 60), 20, "nothing was lost before it");
        assert_eq!(resume(&log, 7, 38, 60), 30, "a later life lost more than the next one");
        assert_eq!(resume(&log, 5, 38, 60), 0, "a life that nobody knows shares nothing for sure");
        assert_eq!(resume(&log, 0, 38, 60), 38, "an offset alone is believed");
        assert_eq!(resume(&log, 9, 99, 60), 60, "a place that no log gave out");
    }

    #[test]
    fn the_text_is_read_back() {
        assert_eq!(epochs("7:0,8:40").to_string(), "7:0,8:40");
        assert_eq!(epochs(""), Epochs::default());
        assert!("7".parse::<Epochs>().is_err());
    }

    proptest! {
        /// A log that is cut and written again and again: whoever resumes finds before its place only what it has read.
        #[test]
        fn no_reader_resumes_behind_what_it_has_not_read(cuts in proptest::collection::vec((0_u64..20, 0_u64..20), 1..60), reader in 0_usize..60, at in 0_u64..40) {
            let mut log: Vec<(u64, u64)> = Vec::new();
            let mut known = Epochs::first(LogEpoch(1));
            let mut read = None;
            for (i, (kept, written)) in cuts.iter().enumerate() {
                let log_epoch = i as u64 + 2;
                log.truncate(*kept as usize);
                // An epoch in which nothing was written left no trace.
                if *written > 0 {
                    known.begin(LogEpoch(log_epoch), Offset(log.len() as u64));
                    log.extend((0..*written).map(|n| (log_epoch, n)));
                }
                if i == reader {
                    let at = (at as usize).min(log.len());
                    read = Some((Cursor { log_epoch: known.present(), offset: Offset(at as u64) }, log[..at].to_vec()));
                }
            }
            if let Some((cursor, read)) = read {
                let to = known.resume(cursor, Offset(log.len() as u64)).offset.0 as usize;
                prop_assert!(to <= read.len());
                prop_assert_eq!(&log[..to], &read[..to]);
            }
        }
    }
}
