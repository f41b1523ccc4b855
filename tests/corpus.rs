//! The parser against real logs: what is in each, and what it adds up to.

mod common;

use std::collections::{BTreeMap, HashMap};

use ccnp_eventlog::error::{Defect, Malformed};
use ccnp_eventlog::log::payload::{describe, hex};
use ccnp_eventlog::log::warning::{warnings, Warning};
use ccnp_eventlog::log::{algorithm, End, Log, Registers};
use common::{ccel, corpus, read, replay::replay, table, tdx_guest, tpm_log};

fn registers(kind: &str) -> Registers {
    if kind == "ccel" {
        Registers::Rtmr
    } else {
        Registers::Pcr
    }
}

fn algorithms(log: &Log<Vec<u8>>) -> String {
    match log.spec_id() {
        Some(header) => {
            let names = header.algorithms.iter().map(|a| algorithm::name(a.algorithm));
            names.collect::<Vec<_>>().join(",")
        }
        None => "(no Spec ID header; SHA1 format)".to_owned(),
    }
}

fn padding(end: End) -> (String, String) {
    match end {
        End::AtLastByte => ("0".to_owned(), "-".to_owned()),
        End::Padding { bytes, byte: Some(byte) } => (bytes.to_string(), format!("{byte:#04x}")),
        other => (format!("{other:?}"), String::new()),
    }
}

#[test]
fn every_real_log_has_the_events_banks_and_padding_that_it_has() {
    let Some(corpus) = corpus() else { return };
    let rows = table(&corpus.join("MANIFEST.tsv"));
    assert!(rows.len() >= 47, "only {} logs in the manifest", rows.len());
    for row in rows {
        let file = &row["file"];
        let log = Log::parse(read(&corpus.join("logs").join(file)))
            .unwrap_or_else(|malformed| panic!("{file}: {malformed}"));
        assert_eq!(log.len().to_string(), row["events_excl_spec_id"], "{file}: events");
        assert_eq!(algorithms(&log), row["spec_id_algorithms"], "{file}: banks");
        let (bytes, byte) = padding(log.end());
        assert_eq!((&bytes, &byte), (&row["trailing_pad_bytes"], &row["pad_byte"]), "{file}: end");
        notes_hold(
            file,
            &log,
            registers(&row["kind"]),
            row.get("notes").map_or("", String::as_str),
        );
        assert_eq!(log.events().count(), log.len(), "{file}: every event can be had again");
    }
}

/// The manifest's remarks, each of which the parser must have noticed.
fn notes_hold(file: &str, log: &Log<Vec<u8>>, registers: Registers, notes: &str) {
    let found = warnings(log, registers);
    let other_banks = found.iter().filter(|w| matches!(w, Warning::Banks { .. })).count();
    let descriptions: Vec<String> = log.events().map(|event| describe(&event)).collect();
    let mut expected_other_banks = 0;
    for note in notes.split("; ").filter(|note| !note.is_empty()) {
        if note == "header index 1" {
            assert_eq!(log.spec_id().unwrap().index, 1, "{file}");
        } else if note.starts_with("StartupLocality") {
            assert!(descriptions.iter().any(|d| d == note), "{file}: {note}");
        } else if note == "EV_EFI_HCRTM_EVENT" {
            assert!(log.events().any(|event| event.event_type == 0x8000_0010), "{file}");
        } else if let Some((count, _)) = note.split_once(" event(s) with digest count") {
            expected_other_banks = count.parse().unwrap();
        } else if note.starts_with("specid size mismatch") {
            assert!(log.spec_id().unwrap().vendor_info_outside, "{file}");
        } else if let Some(vendor) = note.strip_prefix("vendorInfo=") {
            assert!(hex(log.header_bytes()).ends_with(vendor), "{file}");
        } else {
            assert!(note.starts_with("parse stops"), "{file}: what is meant by {note:?}?");
        }
    }
    assert_eq!(other_banks, expected_other_banks, "{file}: events with other banks");
}

/// `sha256: 12 match; sha1: 0 match, 8 mismatch(0,1), 6 not in log(8)`, compared
/// with what the machines' registers really held.
#[test]
fn the_events_add_up_to_the_registers_that_the_machines_had() {
    let Some(corpus) = corpus() else { return };
    let mut compared = 0;
    for row in table(&corpus.join("MANIFEST.tsv")) {
        let Some(expected) = row["expected_registers"].strip_prefix("yes (") else { continue };
        let file = &row["file"];
        let log = Log::parse(read(&corpus.join("logs").join(file))).unwrap();
        let json = corpus.join("expected").join(file.replace(".bin", ".json"));
        let json: HashMap<String, serde_json::Value> =
            serde_json::from_slice(&read(&json)).unwrap();
        let verdicts = expected.trim_end_matches(')').split("; ").map(|verdict| {
            let (bank, _) = verdict.split_once(": ").unwrap();
            let values = json[bank].as_object().unwrap();
            let values = values.iter().map(|(register, value)| {
                (register.parse().unwrap(), value.as_str().unwrap().to_owned())
            });
            compared += 1;
            format!("{bank}: {}", verdict_of(&log, bank, &values.collect()))
        });
        let verdicts = verdicts.collect::<Vec<_>>().join("; ");
        assert_eq!(verdicts.trim_end_matches(')'), expected.trim_end_matches(')'), "{file}");
    }
    assert!(compared >= 22, "only {compared} banks were compared");
}

fn verdict_of(log: &Log<Vec<u8>>, bank: &str, live: &BTreeMap<u32, String>) -> String {
    let (registers, algorithm) = match bank {
        "rtmr" => (Registers::Rtmr, algorithm::SHA384),
        "sha1" => (Registers::Pcr, algorithm::SHA1),
        "sha256" => (Registers::Pcr, algorithm::SHA256),
        other => panic!("bank {other}"),
    };
    let replayed = replay(log, registers, algorithm).unwrap();
    let (mut matching, mut mismatch, mut absent) = (0, Vec::new(), Vec::new());
    for (register, value) in live {
        let untouched = value.bytes().all(|c| c == b'0') || value.bytes().all(|c| c == b'f');
        match replayed.get(register) {
            Some(replayed) if hex(replayed) == *value => matching += 1,
            Some(_) => mismatch.push(register.to_string()),
            None if untouched => {}
            None => absent.push(register.to_string()),
        }
    }
    let mut verdict = format!("{matching} match");
    for (what, which) in [("mismatch", mismatch), ("not in log", absent)] {
        if !which.is_empty() {
            verdict += &format!(", {} {what}({})", which.len(), which.join(","));
        }
    }
    verdict
}

#[test]
fn every_malformed_log_gives_what_it_must() {
    let Some(corpus) = corpus() else { return };
    let rows = table(&corpus.join("malformed/INDEX.tsv"));
    assert_eq!(
        rows.len(),
        EXPECTED_OF_MALFORMED.len(),
        "a log without expectation, or the reverse"
    );
    let mut failures = Vec::new();
    for (file, expect) in EXPECTED_OF_MALFORMED {
        assert!(rows.iter().any(|row| row["file"] == *file), "{file} is not in the index");
        let log = Log::parse(read(&corpus.join("malformed").join(file)));
        if !expect(&log) {
            failures.push(format!("{file}: {:?}", log.map(|log| (log.len(), log.end()))));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

type Parsed = Result<Log<Vec<u8>>, Malformed>;

fn refused(log: &Parsed, offset: usize, defect: Defect) -> bool {
    log.as_ref().is_err_and(|malformed| malformed.offset == offset && malformed.defect == defect)
}

fn ends(log: &Parsed, events: usize, end: End) -> bool {
    log.as_ref().is_ok_and(|log| log.len() == events && log.end() == end)
}

fn breaks(log: &Parsed, events: usize, is: fn(Defect) -> bool) -> bool {
    log.as_ref().is_ok_and(|log| match log.end() {
        End::Broken(malformed) => {
            log.len() == events && malformed.readable_events == events && is(malformed.defect)
        }
        _ => false,
    })
}

fn warns(log: &Parsed, registers: Registers, is: fn(&Warning) -> bool) -> bool {
    log.as_ref().is_ok_and(|log| warnings(log, registers).iter().any(is))
}

fn says(log: &Parsed, position: usize, words: &str) -> bool {
    log.as_ref().is_ok_and(|log| describe(&log.event(position).unwrap()) == words)
}

type Expectation = (&'static str, fn(&Parsed) -> bool);

const EXPECTED_OF_MALFORMED: &[Expectation] = &[
    ("empty.bin", |log| refused(log, 0, Defect::Empty)),
    ("header-only.bin", |log| ends(log, 0, End::AtLastByte)),
    ("trunc-header-31.bin", |log| refused(log, 0, Defect::TruncatedHeader { left: 31 })),
    ("trunc-specid-data.bin", |log| {
        log.as_ref().is_err_and(|m| matches!(m.defect, Defect::DataPastEnd { left: 18, .. }))
    }),
    ("numalgs-ffffffff.bin", |log| refused(log, 0, Defect::AlgorithmsPastEnd { count: u32::MAX })),
    ("specid-eventsize-excludes-vendor.bin", |log| {
        ends(log, 1, End::AtLastByte)
            && warns(log, Registers::Pcr, |w| *w == Warning::VendorInfoOutside)
    }),
    ("specid-major1.bin", |log| {
        ends(log, 1, End::AtLastByte)
            && warns(log, Registers::Pcr, |w| matches!(w, Warning::HeaderVersion { major: 1, .. }))
    }),
    ("header-index1-ccel.bin", |log| ends(log, 1, pad(512, 0xff))),
    ("ccel-zero-pad.bin", |log| ends(log, 1, pad(512, 0x00))),
    ("ccel-nopad.bin", |log| ends(log, 1, End::AtLastByte)),
    ("ccel-ffpad-1.bin", |log| ends(log, 1, pad(1, 0xff))),
    ("ccel-ffpad-7.bin", |log| ends(log, 1, pad(7, 0xff))),
    ("ccel-noaction-index0.bin", |log| {
        ends(log, 2, pad(64, 0xff))
            && log
                .as_ref()
                .is_ok_and(|log| log.events().any(|event| event.index == 0 && !event.is_extended()))
    }),
    ("ccel-index5.bin", |log| {
        ends(log, 1, pad(64, 0xff))
            && warns(log, Registers::Rtmr, |w| {
                matches!(w, Warning::NoSuchRegister { index: 5, .. })
            })
    }),
    ("wbcl-ffffffff.bin", |log| {
        ends(log, 2, End::AtLastByte)
            && log.as_ref().is_ok_and(|log| log.event(2).unwrap().index == u32::MAX)
    }),
    ("digest-count-1-of-2.bin", |log| {
        ends(log, 1, End::AtLastByte)
            && warns(log, Registers::Pcr, |w| *w == Warning::Banks { position: 1 })
    }),
    ("digest-count-huge.bin", |log| {
        breaks(log, 0, |defect| {
            matches!(
                defect,
                Defect::DuplicateAlgorithm { .. }
                    | Defect::UnknownAlgorithm { .. }
                    | Defect::DigestPastEnd { .. }
                    | Defect::TruncatedHeader { .. }
            )
        })
    }),
    ("alg-not-in-header.bin", |log| {
        ends(log, 1, End::AtLastByte)
            && warns(log, Registers::Pcr, |w| *w == Warning::Banks { position: 1 })
    }),
    ("alg-unknown-declared.bin", |log| {
        ends(log, 1, End::AtLastByte)
            && log.as_ref().is_ok_and(|log| {
                let event = log.event(1).unwrap();
                event
                    .digests()
                    .any(|d| algorithm::size(d.algorithm).is_none() && !d.bytes.is_empty())
            })
    }),
    ("alg-declared-wrong-size.bin", |log| {
        ends(log, 1, End::AtLastByte)
            && warns(log, Registers::Pcr, |w| {
                *w == Warning::DeclaredSize { algorithm: algorithm::SHA256, size: 20 }
            })
    }),
    ("eventsize-ffffffff.bin", |log| {
        breaks(log, 0, |defect| matches!(defect, Defect::DataPastEnd { size: u32::MAX, .. }))
    }),
    ("eventsize-0.bin", |log| {
        ends(log, 1, End::AtLastByte)
            && log.as_ref().is_ok_and(|log| log.event(1).unwrap().data.is_empty())
    }),
    ("agile-startuplocality-3.bin", |log| says(log, 1, "StartupLocality 3")),
    ("agile-startuplocality-50.bin", |log| says(log, 1, "StartupLocality 3")),
    ("agile-hcrtm.bin", |log| {
        log.as_ref().is_ok_and(|log| log.events().any(|event| event.event_type == 0x8000_0010))
    }),
    ("sha1-startuplocality-first.bin", |log| {
        says(log, 1, "StartupLocality 3")
            && log.as_ref().is_ok_and(|log| log.spec_id().is_none() && log.len() == 2)
    }),
    ("sep-error.bin", |log| {
        warns(log, Registers::Pcr, |w| matches!(w, Warning::SeparatorError { .. }))
    }),
    ("sep-dup.bin", |log| {
        warns(log, Registers::Pcr, |w| matches!(w, Warning::SecondSeparator { .. }))
    }),
    ("uefivar-namelen-overflow.bin", |log| {
        says(log, 1, "not decodable: variable name longer than the event")
    }),
    ("gpt-partitions-huge.bin", |log| says(log, 1, "not decodable: more partitions than data")),
    ("tag-len-overrun.bin", |log| says(log, 1, "not decodable: tag longer than the event")),
];

fn pad(bytes: usize, byte: u8) -> End {
    End::Padding { bytes, byte: Some(byte) }
}

/// The fixture is what our encoder writes: change one, and the other shows it.
/// `CCNP_EVENTLOG_WRITE_FIXTURES=1` writes it anew.
#[test]
fn the_sample_ccel_is_what_our_encoder_writes() {
    let log = tdx_guest::log();
    if std::env::var_os("CCNP_EVENTLOG_WRITE_FIXTURES").is_some() {
        std::fs::write(ccel(), &log).unwrap();
    }
    assert!(
        read(&ccel()) == log,
        "tests/data/tdx-guest.ccel.bin is not tests/common/tdx_guest.rs's"
    );
    let parsed = Log::parse(log).unwrap();
    assert_eq!((parsed.len(), parsed.spec_id().unwrap().index), (26, 1));
    assert!(matches!(parsed.end(), End::Padding { byte: Some(0xff), .. }));
    assert_eq!(warnings(&parsed, Registers::Rtmr), []);
}

/// Our own measured boot: firmware, kernel and swtpm, captured with the PCRs that
/// it left.
#[test]
fn our_own_virtual_machines_log_adds_up_to_its_pcrs() {
    let log = Log::parse(read(&tpm_log())).unwrap();
    let pcrs: BTreeMap<String, BTreeMap<u32, String>> =
        serde_json::from_slice(&read(&common::data("vm-debian13.pcrs.json"))).unwrap();
    for (bank, algorithm) in
        [("sha1", algorithm::SHA1), ("sha256", algorithm::SHA256), ("sha384", algorithm::SHA384)]
    {
        let Some(live) = pcrs.get(bank) else { continue };
        let replayed = replay(&log, Registers::Pcr, algorithm).unwrap();
        for (pcr, value) in replayed {
            assert_eq!(hex(&value), live[&pcr], "{bank} PCR{pcr}");
        }
    }
}

/// The firmware wrote nothing: no bytes, or a log area as it was before.
#[test]
fn a_blank_log_area_is_no_log() {
    assert!(refused(&Log::parse(Vec::new()), 0, Defect::Empty));
    for (byte, length) in
        [0x00, 0xff].into_iter().flat_map(|b| [1, 7, 20, 32, 65536].map(|l| (b, l)))
    {
        assert!(refused(&Log::parse(vec![byte; length]), 0, Defect::Empty), "{length} x {byte:#x}");
    }
}

/// A file of words is not an event log, though its bytes would fit the SHA1 format.
#[test]
fn text_is_not_an_event_log() {
    let text = b"some words that are not a log at all, and then some more".to_vec();
    assert!(refused(&Log::parse(text), 0, Defect::NotALog));
}
