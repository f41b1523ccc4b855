//! Whatever a runtime's socket says: frames, messages, requests, records.
//!
//! The first byte is how many bytes come at a time.
#![no_main]

use std::collections::HashSet;

use ccnp_eventlog::messages::nri::ConfigureRequest;
use ccnp_eventlog::nri::adjustment::Detail;
use ccnp_eventlog::nri::audit::Audit;
use ccnp_eventlog::nri::session::{Method, Received, Session};
use ccnp_eventlog::record;
use libfuzzer_sys::fuzz_target;
use protobuf::Message;

fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else { return };
    let mut session = Session::default();
    let mut audit = Audit::new("00-eventlog".to_owned(), Detail::Full, 0, HashSet::new());
    for piece in bytes.chunks(usize::from(*piece).max(1)) {
        let Ok(received) = session.receive(piece) else { return };
        for received in received {
            let Received::Call(call) = received else { continue };
            let records = match call.method {
                Method::Configure => ConfigureRequest::parse_from_bytes(&call.payload)
                    .map(|runtime| audit.configured(&runtime, true)),
                _ => audit.hear(&call),
            };
            for record in records.unwrap_or_default() {
                let data = record.to_event_data();
                assert_eq!(record::decode(&data), Some(record.to_json()));
                assert!(data.len() < 256 << 10);
            }
        }
    }
    audit.finish();
});
