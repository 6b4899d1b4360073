//! Any bytes, cut anywhere: the decoder never panics, and what it reads it would write again.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use motience_proto::wire::{Frame, Limits};

const LIMITS: Limits = Limits { frame: 64 * 1024 };

fuzz_target!(|bytes: &[u8]| {
    let mut wire = BytesMut::from(bytes);
    while let Ok(Some(frame)) = Frame::decode(&mut wire, LIMITS) {
        let mut again = BytesMut::new();
        frame.encode(&mut again);
        assert_eq!(Frame::decode(&mut again, LIMITS), Ok(Some(frame)));
    }
});
