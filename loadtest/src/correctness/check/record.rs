//! The records of a check: each says who it is, so that whatever comes out can be laid beside what went in.

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::history::{Hash, Id};

/// Most bytes of padding; the least is none.
const MAX_PAD: usize = 300;

/// A new record and its hash.
pub(crate) fn make(id: Id, device_id: &str) -> (Bytes, Hash) {
    let pad: String = std::iter::repeat_with(fastrand::alphanumeric).take(fastrand::usize(0..MAX_PAD)).collect();
    let sum = sum(id, &pad);
    let data = format!(r#"{{"id":"{id}","pad":"{pad}","sum":"{sum}"}}"#);
    let timestamp = format!("\"2025-01-29T11:{:02}:{:02}Z\"", id.number / 60 % 60, id.number % 60);
    let json = format!(r#"{{"device_id":"{device_id}","timestamp":{timestamp},"data":{data}}}"#);
    let hash = Hash::of(&[format!("\"{device_id}\"").as_bytes(), timestamp.as_bytes(), data.as_bytes()]);
    (json.into(), hash)
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    device_id: &'a RawValue,
    #[serde(borrow)]
    timestamp: &'a RawValue,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Data<'a> {
    id: Id,
    #[serde(borrow)]
    pad: std::borrow::Cow<'a, str>,
    sum: Hash,
}

/// Reads what a consumer was given: whose record it is, and the hash of what the device said in it.
pub(crate) fn read(message: &str) -> Result<(Id, Hash)> {
    let parts: Message<'_> = serde_json::from_str(message).context("that is no record")?;
    let data: Data<'_> = serde_json::from_str(parts.data.get()).context("that is none of our records")?;
    Ok((data.id, Hash::of(&[parts.device_id.get().as_bytes(), parts.timestamp.get().as_bytes(), parts.data.get().as_bytes()])))
}

/// Reads `data` as a database gives it back, which may have written it anew: it vouches for itself.
pub(crate) fn read_data(data: &str) -> Result<Id> {
    let data: Data<'_> = serde_json::from_str(data).context("that is none of our records")?;
    if sum(data.id, &data.pad) != data.sum {
        bail!("the content of {} was changed", data.id);
    }
    Ok(data.id)
}

fn sum(id: Id, pad: &str) -> Hash {
    Hash::of(&[id.to_string().as_bytes(), pad.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_known_again() {
        let id = Id { device: 3, incarnation: 1, number: 4711 };
        let (json, hash) = make(id, "check-3");
        motience_proto::model::record::check(&json, 1024).unwrap();
        let text = std::str::from_utf8(&json).unwrap();
        let message = text.replacen('{', r#"{"producer_id":"3","#, 1);
        assert_eq!(read(&message).unwrap(), (id, hash));
        let envelope = format!("{},\"cursor\":\"1-2\"}}", message.strip_suffix('}').unwrap());
        assert_eq!(read(&envelope).unwrap(), (id, hash));
        let data = text.split_once("\"data\":").unwrap().1.strip_suffix('}').unwrap();
        assert_eq!(read_data(&data.replace("\":\"", "\" : \"")).unwrap(), id);
        assert!(read_data(&data.replace("\"pad\":\"", "\"pad\":\"x")).is_err());
    }
}
