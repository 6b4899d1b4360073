//! Any texts, one a line: what the encoder makes of them, the decoder undoes; and any template with any values does no harm.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use motience_proto::{
    model::Seq,
    wire::{
        Frame, Limits, Record,
        compact::{Decoder, Encoded, Encoder},
    },
};

const LIMITS: Limits = Limits { frame: 64 * 1024 };
const MAX_RECORD: usize = 64 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    for (n, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let json = Bytes::copy_from_slice(line);
        let (record, template) = encoder.encode(Record { seq: Seq(n as u64 + 1), json: json.clone() });
        if let Encoded::Compact(compact) = record {
            assert_eq!(decoder.expand(&compact, MAX_RECORD), Ok(json));
        }
        if let Some(template) = template {
            encoder.accepted(decoder.add(template).expect("the encoder knows the limits"));
        }
    }

    let (mut wire, mut decoder) = (BytesMut::from(bytes), Decoder::new());
    while let Ok(Some(frame)) = Frame::decode(&mut wire, LIMITS) {
        match frame {
            Frame::Template(template) => drop(decoder.add(template)),
            Frame::Compact(compact) => drop(decoder.expand(&compact, MAX_RECORD)),
            _ => {}
        }
    }
});
