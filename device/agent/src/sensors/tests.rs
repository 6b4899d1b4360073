//! Readings of sensors become records.

use super::*;

fn completed(readings: &'static str, name: Option<&str>) -> Result<Value, record::Invalid> {
    let device_id = DeviceId::new("dev").unwrap();
    let json = complete(&Bytes::from_static(readings.as_bytes()), &device_id, name, 1000)?;
    record::check(&json, 1000)?;
    Ok(serde_json::from_slice(&json).unwrap())
}

#[test]
fn readings_become_a_record_with_the_sensors_name() {
    let record = completed("{\"t\":1}\n", Some("room")).unwrap();
    assert_eq!(record["device_id"], "dev");
    assert_eq!(record["data"], serde_json::json!({"t": 1, "sensor": "room"}));
    assert!(record["timestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(completed("{\"t\":1}", None).unwrap()["data"], serde_json::json!({"t": 1}));
}

#[test]
fn a_whole_record_is_left_as_it_is() {
    let record = completed(r#"{"device_id":"dev","timestamp":5,"data":[1]}"#, Some("room")).unwrap();
    assert_eq!(record, serde_json::json!({"device_id": "dev", "timestamp": 5, "data": [1]}));
    // Records of another device would be refused by the service, and lost.
    assert_eq!(completed(r#"{"device_id":"x","timestamp":5,"data":[1]}"#, None).unwrap_err().code(), "wrong_device");
}

#[test]
fn what_is_neither_is_refused() {
    for bad in ["", "7", "{", "{\"data\":1,\"producer_id\":\"9\"}"] {
        assert!(completed(bad, None).is_err(), "{bad}");
    }
    let long: &'static str = format!("{{\"t\":\"{}\"}}", "x".repeat(960)).leak();
    assert!(completed(long, Some("room")).is_err());
}
