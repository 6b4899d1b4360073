//! Cursors on disk: a file for each producer, rewritten in place by one write of a fixed width.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::Path,
};

use anyhow::{Context as _, Result};
use motience_proto::model::Cursor;

/// Wide enough for two 64-bit numbers and the mark between them.
const WIDTH: usize = 48;

pub(super) struct Cursors(HashMap<i64, (File, Option<Cursor>)>);

impl Cursors {
    pub(super) fn open(dir: &Path, producers: &[i64]) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let open = |producer: i64| {
            let path = dir.join(producer.to_string());
            let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
            let text = std::fs::read_to_string(&path)?;
            let cursor = match text.trim() {
                "" => None,
                text => Some(text.parse().with_context(|| format!("{} holds no cursor", path.display()))?),
            };
            Ok((producer, (file, cursor)))
        };
        producers.iter().map(|producer| open(*producer)).collect::<Result<_>>().map(Self)
    }

    pub(super) fn get(&self, producer: i64) -> Option<Cursor> {
        self.0.get(&producer).and_then(|(_, cursor)| *cursor)
    }

    pub(super) fn set(&mut self, producer: i64, cursor: Cursor) -> Result<()> {
        let (file, current) = self.0.get_mut(&producer).context("a producer that nobody follows")?;
        *current = Some(cursor);
        Ok(file.write_all_at(format!("{:<WIDTH$}", cursor.to_string()).as_bytes(), 0)?)
    }
}

#[cfg(test)]
mod tests {
    use motience_proto::model::{LogEpoch, Offset};

    use super::*;

    #[test]
    fn a_cursor_is_there_again_whatever_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let mut cursors = Cursors::open(dir.path(), &[1, 2]).unwrap();
        assert_eq!(cursors.get(1), None);
        let long = Cursor { log_epoch: LogEpoch(u64::MAX), offset: Offset(u64::MAX) };
        let short = Cursor { log_epoch: LogEpoch(1), offset: Offset(2) };
        for cursor in [long, short] {
            cursors.set(1, cursor).unwrap();
            let again = Cursors::open(dir.path(), &[1, 2]).unwrap();
            assert_eq!((again.get(1), again.get(2)), (Some(cursor), None));
        }
    }
}
