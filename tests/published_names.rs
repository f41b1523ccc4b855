//! Names are a contract: the code, the document and the journal's catalogue have the
//! same ones.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use ccnp_eventlog::record::{
    nri_event, Action, Attribution, Body, Change, Field, Outcome, RegisterState, Shown,
};

fn shipped(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// The cells of the document's rows that begin with the cell given.
fn rows(document: &str) -> Vec<Vec<&str>> {
    let rows = document.lines().filter(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// One of each kind.
fn bodies() -> Vec<Body> {
    let register = RegisterState { name: "RTMR3".to_owned(), banks: Vec::new() };
    let plugin = "10-alpha".to_owned();
    let change = Change {
        target: None,
        field: Field::Env,
        action: Action::Add,
        name: None,
        value: Shown::Redacted,
        plugins: Vec::new(),
        attribution: Attribution::Unknown,
    };
    vec![
        Body::LogOpened {
            boot_id: String::new(),
            version: String::new(),
            previous: None,
            register: None,
        },
        Body::LogRecovered { bytes_cut: 0, events_extended: 0 },
        Body::RegisterChanged { register },
        Body::Lost { records: 0 },
        Body::SessionStarted { nri_version: String::new() },
        Body::SessionEnded,
        Body::PluginConnected { plugin: plugin.clone() },
        Body::PluginGone { plugin },
        Body::Baseline,
        Body::UnauditedCreation,
        Body::NoAdjustment,
        Body::Adjustment(change.clone()),
        Body::Update(change.clone()),
        Body::Outcome { of: 0, outcome: Outcome::Applied, change },
    ]
}

#[test]
fn every_kind_is_documented_and_in_the_catalogue() {
    let document = shipped("docs/container-log.md");
    let catalogue = shipped("systemd/catalog/ccnp-eventlog.catalog");
    let kind = |body: &Body| (format!("`{}`", body.kind()), body.message_id().to_owned());
    let kinds: BTreeSet<(String, String)> = bodies().iter().map(kind).collect();
    let documented = rows(&document).into_iter().filter(|row| row.len() == 3 && row[2].len() == 32);
    let documented = documented.map(|row| (row[0].to_owned(), row[2].to_owned()));
    assert_eq!(documented.collect::<BTreeSet<_>>(), kinds);
    let entries: BTreeSet<&str> =
        catalogue.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
    assert_eq!(entries, kinds.iter().map(|(_, id)| id.as_str()).collect());
}

#[test]
fn every_field_is_documented_in_the_order_of_records() {
    let document = shipped("docs/container-log.md");
    let documented: Vec<Vec<&str>> =
        rows(&document).into_iter().filter(|row| row.len() == 6 && row[0] != "`field`").collect();
    let documented: Vec<_> = documented.iter().filter(|row| row[0].starts_with('`')).collect();
    let fields: Vec<Field> = Field::all().collect();
    assert!(fields.is_sorted());
    assert_eq!(documented.len(), fields.len());
    for (row, field) in documented.into_iter().zip(fields) {
        assert_eq!(row[0], format!("`{}`", field.name()));
        assert_eq!(row[1], field.number().map_or(String::new(), |number| number.to_string()));
        let actions = [Action::Add, Action::Set, Action::Remove, Action::Clear];
        let messages: BTreeSet<&str> =
            actions.into_iter().filter_map(|action| nri_event(field, action)).collect();
        let told: BTreeSet<&str> = row[5].split(", ").filter(|told| !told.is_empty()).collect();
        assert_eq!(told, messages, "{field:?}");
    }
}

#[test]
fn fields_are_numbered_as_nri_numbers_them() {
    let numbers: BTreeSet<i32> = Field::all().filter_map(Field::number).collect();
    assert_eq!(numbers, (1..=40).collect());
    let names: BTreeSet<&str> = Field::all().map(Field::name).collect();
    assert_eq!(names.len(), 41, "each field has a name of its own");
}
