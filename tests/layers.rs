//! The structure of the source: imports go one way, and unsafe has two places.

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up; a module uses only what stands before it.
const LAYERS: [&str; 16] = [
    "error",
    "log",
    "record",
    "json",
    "source",
    "lock",
    "publish",
    "messages",
    "rpc",
    "systemd",
    "live",
    "container_log",
    "nri",
    "server",
    "client",
    "program",
];

/// The same within `log` and `nri`; and `server` is put together by its `mod.rs` alone.
const LOG: [&str; 9] = [
    "reader",
    "algorithm",
    "event_type",
    "register",
    "event",
    "payload",
    "slice",
    "warning",
    "write",
];
const NRI: [&str; 9] =
    ["mux", "ttrpc", "session", "leaf", "adjustment", "outcome", "audit", "writer", "plugin"];
const SERVER: [&str; 6] = ["timer", "listener", "connections", "service", "health", "reflection"];

fn source(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files
}

/// The code of a file without comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The names that follow `prefix` in a file: `crate::error::Error` gives `error`,
/// and `crate::{json, log}` both.
fn uses(code: &str, prefix: &str) -> Vec<String> {
    let word = |text: &str| {
        text.trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(list) => {
                let list = list.split('}').next().unwrap_or_default();
                names.extend(list.split(',').map(word).filter(|name| !name.is_empty()));
            }
            None => names.push(word(rest)),
        }
    }
    names
}

fn only_downward(file: &str, layer: usize, layers: &[&str], used: Vec<String>) {
    for name in used {
        if let Some(other) = layers.iter().position(|layer| *layer == name) {
            assert!(other <= layer, "{file} uses {name}, which stands above it");
        }
    }
}

#[test]
fn imports_go_one_way() {
    let src = source("src");
    for path in rust_files(&src) {
        let file = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        let module = file.trim_end_matches(".rs").split('/').next().unwrap().to_owned();
        if matches!(module.as_str(), "lib" | "bin") {
            continue;
        }
        let layer = LAYERS.iter().position(|layer| *layer == module);
        let layer = layer.unwrap_or_else(|| panic!("{file} has no place in the layers"));
        only_downward(&file, layer, &LAYERS, uses(&code(&path), "crate::"));
    }
}

#[test]
fn imports_within_folders_go_one_way_too() {
    for (folder, layers) in
        [("src/log", &LOG[..]), ("src/nri", &NRI[..]), ("src/server", &SERVER[..])]
    {
        for path in rust_files(&source(folder)) {
            let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if module == "mod" {
                continue;
            }
            let layer = layers.iter().position(|layer| *layer == module);
            let layer = layer.unwrap_or_else(|| panic!("{module} has no place in {folder}"));
            only_downward(&module, layer, layers, uses(&code(&path), "super::"));
        }
    }
}

#[test]
fn the_log_module_does_no_io() {
    for path in rust_files(&source("src/log")) {
        let code = code(&path);
        for word in ["std::fs", "std::io", "std::net", "std::env", "std::time", "nix::", "libc::"] {
            assert!(!code.contains(word), "{} uses {word}", path.display());
        }
    }
}

#[test]
fn unsafe_stands_in_two_files_and_says_why() {
    let src = source("src");
    let mut found = Vec::new();
    for path in rust_files(&src) {
        let text = fs::read_to_string(&path).unwrap();
        let blocks = code(&path).matches("unsafe {").count();
        assert_eq!(
            code(&path).matches("unsafe ").count(),
            blocks,
            "{}: blocks only",
            path.display()
        );
        if blocks > 0 {
            let reasons = text.matches("// SAFETY:").count();
            assert_eq!(reasons, blocks, "{}: a reason for each block", path.display());
            found.push(path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned());
        }
    }
    found.sort();
    assert_eq!(found, ["server/listener.rs", "source.rs"]);
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = fs::read_to_string(source("Cargo.toml")).unwrap();
    let mut reason = false;
    let mut within = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            within = line.contains("dependencies");
            reason = false;
        } else if line.starts_with('#') {
            reason = true;
        } else if line.trim().is_empty() {
            reason = false;
        } else if within {
            assert!(reason, "{line:?} has no reason above it");
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for path in rust_files(&source("src")) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{} does not", path.display());
    }
}
