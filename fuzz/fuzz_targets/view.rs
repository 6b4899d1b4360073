//! Any expressions, one a line, over any message: whatever can be read is evaluated without harm, and what is shown is JSON.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use motience_proto::model::{ProducerId, record};
use motience_relay::pipeline::selection::Selector;

fuzz_target!(|text: &str| {
    let mut lines = text.splitn(4, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (condition, fields, every, json) = (line(), line(), line(), line());
    for selector in
        [Selector::parse(&[condition], None, None), Selector::parse(&[], Some(fields), None), Selector::parse(&[], None, Some(every))]
    {
        match selector {
            Err(error) => assert!((1..=error.expression.chars().count() + 1).contains(&error.column)),
            Ok(selector) => {
                // A message that is no record never reaches a log, but must do no harm here.
                selector.apply(&Bytes::copy_from_slice(json.as_bytes()));
                if record::check(json.as_bytes(), record::MAX_RECORD).is_ok() {
                    let mut message = BytesMut::new();
                    record::encode(ProducerId(42), json.as_bytes(), &mut message);
                    if let Some(shown) = selector.apply(&message.freeze()) {
                        record::Parts::of(&shown).expect("what is shown is a message");
                    }
                }
            }
        }
    }
});
