//! The parser against a naive one, on anything.

mod common;

use ccnp_eventlog::error::Error;
use ccnp_eventlog::json::{self, View};
use ccnp_eventlog::log::payload::{describe, printable, printable_line};
use ccnp_eventlog::log::slice::{OutOfReach, Range};
use ccnp_eventlog::log::warning::warnings;
use ccnp_eventlog::log::write::{write_event, write_spec_id};
use ccnp_eventlog::log::{algorithm, Digest, End, Log, Registers, Slice};
use proptest::collection::vec;
use proptest::prelude::*;

/// A naive reading of a crypto-agile log without any oddity, as the specification
/// puts it: header, then events, to the last byte. `None` where it is anything else.
mod naive {
    pub type Event = (u32, u32, Vec<(u16, Vec<u8>)>, Vec<u8>);

    fn number(log: &[u8], at: &mut usize, bytes: usize) -> Option<usize> {
        let field = log.get(*at..*at + bytes)?;
        *at += bytes;
        Some(field.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte)))
    }

    fn bytes(log: &[u8], at: &mut usize, length: usize) -> Option<Vec<u8>> {
        let bytes = log.get(*at..*at + length)?.to_vec();
        *at += length;
        Some(bytes)
    }

    pub fn read(log: &[u8], sizes: &[(u16, usize)], header: usize) -> Option<Vec<Event>> {
        let (mut events, mut at) = (Vec::new(), header);
        while at < log.len() {
            let (index, kind) = (number(log, &mut at, 4)?, number(log, &mut at, 4)?);
            let mut digests = Vec::new();
            for _ in 0..number(log, &mut at, 4)? {
                let algorithm = u16::try_from(number(log, &mut at, 2)?).ok()?;
                let size = sizes.iter().find(|(known, _)| *known == algorithm)?.1;
                digests.push((algorithm, bytes(log, &mut at, size)?));
            }
            let size = number(log, &mut at, 4)?;
            let data = bytes(log, &mut at, size)?;
            events.push((index as u32, kind as u32, digests, data));
        }
        Some(events)
    }
}

const BANKS: [(u16, u16); 3] =
    [(algorithm::SHA1, 20), (algorithm::SHA256, 32), (algorithm::SHA384, 48)];

/// Events that end a log by looking like padding do not come out of an encoder.
fn events() -> impl Strategy<Value = Vec<naive::Event>> {
    let bank = |(algorithm, size): (u16, u16)| {
        proptest::option::of(vec(any::<u8>(), usize::from(size)))
            .prop_map(move |digest| digest.map(|digest| (algorithm, digest)))
    };
    let digests = BANKS.map(bank).prop_map(|digests| digests.into_iter().flatten().collect());
    let index = prop_oneof![0..24u32, Just(u32::MAX), any::<u32>()];
    let kind = prop_oneof![0..20u32, 0x8000_0000..0x8000_0011u32, any::<u32>()];
    let event = (index, kind, digests, vec(any::<u8>(), 0..200));
    let honest = |(index, kind, digests, _): &naive::Event| {
        let digests: &Vec<(u16, Vec<u8>)> = digests;
        (*index, *kind) != (u32::MAX, u32::MAX)
            && !((*index, *kind) == (0, 0) && digests.is_empty())
    };
    vec(event.prop_filter("padding", honest), 0..12)
}

fn encode(events: &[naive::Event]) -> Vec<u8> {
    let mut log = Vec::new();
    write_spec_id(&mut log, 0, &BANKS, b"vendor").unwrap();
    for (index, kind, digests, data) in events {
        let digests: Vec<_> =
            digests.iter().map(|(a, bytes)| Digest { algorithm: *a, bytes }).collect();
        write_event(&mut log, *index, *kind, &digests, data).unwrap();
    }
    log
}

fn decoded<B: AsRef<[u8]>>(log: &Log<B>) -> Vec<naive::Event> {
    let events = log.events().map(|event| {
        let digests = event.digests().map(|d| (d.algorithm, d.bytes.to_vec())).collect();
        (event.index, event.event_type, digests, event.data.to_vec())
    });
    events.collect()
}

/// Everything that is done with a log must bear whatever the log holds.
fn use_everything(bytes: &[u8]) {
    let Ok(log) = Log::parse(bytes) else { return };
    let mut end = log.header_bytes().len();
    for (number, event) in log.events().enumerate() {
        assert_eq!((event.position, event.offset), (number + 1, end));
        assert_eq!(event.bytes, &bytes[end..end + event.bytes.len()]);
        end += event.bytes.len();
        let words = describe(&event);
        assert!(
            words.chars().count() <= 201 + "not decodable: ".len()
                && !words.chars().any(char::is_control),
            "{words:?}"
        );
    }
    match log.end() {
        End::AtLastByte => assert_eq!(end, bytes.len()),
        End::Padding { bytes: padding, .. } => assert_eq!(end + padding, bytes.len()),
        End::Broken(malformed) => {
            assert_eq!((malformed.offset, malformed.readable_events), (end, log.len()));
        }
    }
    for registers in [Registers::Pcr, Registers::Rtmr] {
        warnings(&log, registers).iter().for_each(|warning| drop(warning.to_string()));
        let range = Range::new(1, i32::try_from(log.len()).unwrap()).unwrap();
        if let Ok(slice) = Slice::of(&log, range) {
            let mut json = Vec::new();
            json::write(&slice, View::Firmware(registers), &mut json).unwrap();
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(json["EventLogs"].as_array().unwrap().len(), log.len());
        }
    }
    let kept = log.clone().detach();
    assert_eq!(decoded(&kept), decoded(&log));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_borne(bytes in vec(any::<u8>(), 0..400)) {
        use_everything(&bytes);
    }

    #[test]
    fn a_log_with_a_few_wrong_bytes_is_borne(
        events in events(),
        wrong in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut log = encode(&events);
        for (at, byte) in wrong {
            let at = at.index(log.len());
            log[at] = byte;
        }
        use_everything(&log);
        use_everything(&log[..cut.index(log.len())]);
    }

    #[test]
    fn what_was_encoded_is_parsed_and_the_naive_parser_agrees(
        events in events(),
        padding in 0..40usize,
        byte in prop_oneof![Just(0x00u8), Just(0xff)],
    ) {
        let mut log = encode(&events);
        let length = log.len();
        let sizes = BANKS.map(|(algorithm, size)| (algorithm, usize::from(size)));
        log.resize(length + padding, byte);
        let parsed = Log::parse(&log).unwrap();
        prop_assert_eq!(&decoded(&parsed), &events);
        let header = parsed.header_bytes().len();
        prop_assert_eq!(naive::read(&log[..length], &sizes, header).unwrap(), events);
        let expected = match padding {
            0 => End::AtLastByte,
            bytes => End::Padding { bytes, byte: Some(byte) },
        };
        prop_assert_eq!(parsed.end(), expected);
    }

    /// A truncated log is never mistaken for a shorter one.
    #[test]
    fn truncation_is_not_the_end_of_the_log(events in events(), cut in any::<prop::sample::Index>()) {
        let log = encode(&events);
        let whole = Log::parse(&log).unwrap();
        let boundaries: Vec<usize> = whole.events().map(|event| event.offset).chain([log.len()]).collect();
        let first = boundaries[0];
        let cut = first + cut.index(log.len() - first + 1);
        let part = Log::parse(&log[..cut]).unwrap();
        let complete = boundaries.iter().filter(|boundary| **boundary <= cut).count() - 1;
        prop_assert_eq!(part.len(), complete);
        let last = boundaries[complete];
        let rest = &log[last..cut];
        let like_padding = rest.iter().all(|b| *b == 0) || rest.iter().all(|b| *b == 0xff)
            || rest.starts_with(&[0xff; 8]) || rest.starts_with(&[0; 12]);
        if boundaries.contains(&cut) {
            prop_assert_eq!(part.end(), End::AtLastByte);
        } else if !like_padding {
            let broken = matches!(part.end(), End::Broken(malformed) if malformed.offset == last);
            prop_assert!(broken, "{:?}", part.end());
        }
    }

    #[test]
    fn a_slice_is_the_events_asked_for_or_the_reason_why_not(
        events in events(),
        start in -2..16i32,
        count in -2..16i32,
    ) {
        let log = encode(&events);
        let log = Log::parse(&log).unwrap();
        let n = i32::try_from(events.len()).unwrap();
        let outcome = Range::new(start, count);
        if start < 0 || count < 0 {
            let negative = matches!(outcome, Err(Error::Negative { .. }));
            prop_assert!(negative);
            return Ok(());
        }
        let first = start.max(1);
        match Slice::of(&log, outcome.unwrap()) {
            Ok(slice) => {
                let wanted = if count == 0 { n - first + 1 } else { count };
                prop_assert_eq!(slice.count(), usize::try_from(wanted).unwrap());
                let got: Vec<_> = slice.events().map(|event| event.bytes.to_vec()).collect();
                let from = usize::try_from(first).unwrap();
                let expected: Vec<_> = (from..from + slice.count())
                    .map(|position| log.event(position).unwrap().bytes.to_vec())
                    .collect();
                prop_assert_eq!(&got, &expected);
                let [header, rest] = slice.bytes();
                prop_assert_eq!((header, rest.to_vec()), (log.header_bytes(), got.concat()));
            }
            Err(OutOfReach::Request(Error::StartPastEnd { .. })) => prop_assert!(start > n),
            Err(OutOfReach::Request(Error::CountPastEnd { .. })) => {
                prop_assert!(start <= n && first + count - 1 > n);
            }
            Err(other) => prop_assert!(false, "{other:?}"),
        }
    }

    /// Escapes are longer than what they stand for.
    #[test]
    fn a_line_is_no_longer_than_a_line(text in "[\\x00-\\x1fa]{0,400}") {
        prop_assert!(printable_line(&text).chars().count() <= 201);
    }

    #[test]
    fn nothing_unprintable_reaches_a_terminal(text in any::<String>()) {
        let line = printable(&text);
        let dangerous = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
        prop_assert!(!line.chars().any(dangerous));
    }
}
