//! Rows of the history as PostgreSQL's `COPY` takes them, which writes twice as many a second as `INSERT`. In exchange it takes all rows or none: one
//! that is there already, or that the table cannot hold, is for the caller to write otherwise.

use std::fmt::Write as _;

use motience_proto::model::LogKey;
use sqlx::PgConnection;
use time::{OffsetDateTime, UtcOffset};

use super::{
    json,
    rows::{HistoryRow, in_range},
};
use crate::Error;

/// Adds the rows, which are new.
pub(super) async fn copy(connection: &mut PgConnection, rows: &[(LogKey, &HistoryRow)]) -> Result<u64, Error> {
    if rows.is_empty() {
        return Ok(0);
    }
    let mut lines = String::with_capacity(rows.iter().map(|(_, row)| row.data.get().len() + 256).sum());
    for (key, row) in rows {
        line(&mut lines, *key, row);
    }
    let mut copying = connection.copy_in_raw(COPY).await?;
    copying.send(lines.as_bytes()).await?;
    Ok(copying.finish().await?)
}

fn line(lines: &mut String, key: LogKey, row: &HistoryRow) {
    let (place, name) = (row.place, row.record_id);
    let numbers = [place.log_epoch.0, place.offset.0, name.producer_epoch.0, name.seq.0].map(u64::cast_signed);
    let _ = write!(lines, "{}\t", key.producer.0);
    text(lines, row.device.as_str());
    lines.push('\t');
    text(lines, &json::storable(row.data.get()));
    for at in [row.timestamp, row.received_at] {
        lines.push('\t');
        instant(lines, at);
    }
    for number in numbers {
        let _ = write!(lines, "\t{number}");
    }
    lines.push('\t');
    match row.extra.as_deref() {
        Some(extra) => text(lines, &json::storable(extra.get())),
        None => lines.push_str("\\N"),
    }
    let _ = writeln!(lines, "\t{}", key.log.0.cast_signed());
}

/// The characters that mean something in a line are escaped.
fn text(line: &mut String, text: &str) {
    for char in text.chars() {
        match char {
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            other => line.push(other),
        }
    }
}

/// In UTC, to the microsecond. The year before 1 is 1 BC to the database.
fn instant(line: &mut String, at: OffsetDateTime) {
    let at = in_range(at).to_offset(UtcOffset::UTC);
    let (year, era) = if at.year() < 1 { (1 - at.year(), " BC") } else { (at.year(), "") };
    let (month, day, micros) = (u8::from(at.month()), at.day(), at.microsecond());
    let _ = write!(line, "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{micros:06}+00{era}", at.hour(), at.minute(), at.second());
}

const COPY: &str = "COPY data_history (producer_id, device_id, payload, timestamp, received_at, log_epoch, log_offset, sender_epoch, sender_seq, \
     extra, log_id) FROM STDIN";
