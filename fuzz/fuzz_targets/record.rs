//! Any text: a record that is let in makes a consumer's message that is JSON and names the right producer, once.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use motience_proto::model::{ProducerId, record};

fuzz_target!(|json: &[u8]| {
    if record::check(json, record::MAX_RECORD).is_ok() {
        let mut message = BytesMut::new();
        record::encode(ProducerId(42), json, &mut message);
        assert_eq!(message.windows(14).filter(|w| *w == b"{\"producer_id\"").count().min(1), 1);
        record::Parts::of(json).expect("a checked record can be taken apart");
        assert!(message.starts_with(b"{\"producer_id\":\"42\",\""));
    }
});
