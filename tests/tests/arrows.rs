//! The arrows of the architecture, read from `cargo metadata`: which crate may depend on which, and what pure crates do without.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Crate → what it may depend on inside the workspace.
const ARROWS: &[(&str, &[&str])] = &[
    ("ensign-crypto", &[]),
    ("ensign-bundle", &["ensign-crypto"]),
    ("ensign-apply", &["ensign-crypto", "ensign-bundle"]),
    ("ensign-rollout", &["ensign-crypto", "ensign-bundle"]),
    ("ensign-api", &["ensign-crypto", "ensign-bundle", "ensign-rollout"]),
    ("ensign-agent", &["ensign-crypto", "ensign-bundle", "ensign-apply"]),
    (
        "ensign-controller",
        &["ensign-crypto", "ensign-bundle", "ensign-rollout", "ensign-api"],
    ),
    (
        "ensign",
        &["ensign-crypto", "ensign-bundle", "ensign-rollout", "ensign-api"],
    ),
];

/// Crates that decide and never act, and what would let them act.
const PURE: &[&str] = &["ensign-crypto", "ensign-bundle", "ensign-apply", "ensign-rollout"];
const IMPURE: &[&str] = &[
    "tokio",
    "quinn",
    "sled",
    "nix",
    "rustix",
    "getrandom",
    "tempfile",
    "tracing-subscriber",
];

/// Never in what ships: a second TLS stack.
const BANNED: &[&str] = &["ring", "openssl-sys", "native-tls", "openssl"];

/// Licences that may stand in what ships.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "CC0-1.0",
    "0BSD",
    "Unlicense",
    "MIT-0",
    "BSL-1.0",
];

fn stdout(command: &mut Command) -> Vec<u8> {
    let out = command
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("the command starts");
    out.stdout
}

fn metadata() -> Value {
    let rustc = String::from_utf8(stdout(Command::new("rustc").arg("-vV"))).expect("text");
    let host = rustc
        .lines()
        .find_map(|l| l.strip_prefix("host: "))
        .expect("rustc names its host");
    let args = [
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--filter-platform",
        host,
    ];
    serde_json::from_slice(&stdout(Command::new(env!("CARGO")).args(args))).expect("cargo metadata prints JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// Direct dependencies that are compiled into each crate (no dev-dependencies).
fn direct(metadata: &Value) -> BTreeMap<&str, BTreeSet<&str>> {
    let normal = |p| {
        list(p, "dependencies")
            .iter()
            .filter(|d| d["kind"].is_null())
            .map(|d| text(d, "name"))
            .collect()
    };
    list(metadata, "packages")
        .iter()
        .map(|p| (text(p, "name"), normal(p)))
        .collect()
}

/// Every package compiled into `root` on this platform, with its licence. From `cargo tree`: `cargo metadata` also lists what no
/// feature switches on.
fn reachable(root: &str) -> BTreeMap<String, String> {
    let args = [
        "tree", "--locked", "-p", root, "-e", "normal", "--prefix", "none", "--format", "{p}|{l}",
    ];
    let out = String::from_utf8(stdout(Command::new(env!("CARGO")).args(args))).expect("text");
    let name = |package: &str| package.split(' ').next().unwrap_or_default().to_owned();
    let all: BTreeMap<_, _> = out
        .lines()
        .filter_map(|l| l.split_once('|'))
        .map(|(p, licence)| (name(p), licence.to_owned()))
        .collect();
    assert!(all.len() > 10, "the graph of {root} was read");
    all
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let metadata = metadata();
    let direct = direct(&metadata);
    for (name, allowed) in ARROWS {
        for dep in direct[name].iter().filter(|d| d.starts_with("ensign")) {
            assert!(allowed.contains(dep), "{name} may not depend on {dep}");
        }
    }
}

#[test]
fn agent_and_controller_do_not_reach_each_other() {
    let never = [
        ("ensign-agent", ["ensign-controller", "ensign-rollout"]),
        ("ensign-controller", ["ensign-agent", "ensign-apply"]),
    ];
    for (from, never) in never {
        let reached = reachable(from);
        for name in never {
            assert!(!reached.contains_key(name), "{from} reaches {name}");
        }
    }
}

#[test]
fn pure_crates_cannot_act() {
    let metadata = metadata();
    let direct = direct(&metadata);
    for name in PURE {
        for dep in IMPURE {
            assert!(
                !direct[name].contains(dep),
                "{name} is pure and may not depend on {dep}"
            );
        }
    }
}

#[test]
fn one_tls_stack_and_known_licences() {
    let shipped: BTreeMap<_, _> = ["ensign-agent", "ensign-controller", "ensign"]
        .iter()
        .flat_map(|r| reachable(r))
        .collect();
    assert!(
        !shipped.contains_key("ensign-tests"),
        "the tests, with their own client of TUF's JSON, are in what ships"
    );
    for name in BANNED {
        assert!(!shipped.contains_key(*name), "{name} is in what ships");
    }
    for (name, licence) in &shipped {
        let licence = licence
            .split_whitespace()
            .filter(|w| !w.starts_with("(*"))
            .collect::<Vec<_>>()
            .join(" ")
            .replace('/', " OR ");
        let known = |part: &str| {
            part.split(" OR ")
                .any(|term| LICENCES.contains(&term.trim_matches(['(', ')', ' '])))
        };
        assert!(licence.split(" AND ").all(known), "{name} has the licence `{licence}`");
    }
}

/// Files under the crates whose text matches, tests aside.
fn files_with(pattern: &str) -> BTreeSet<String> {
    let args = [
        "-rlE",
        pattern,
        "--include=*.rs",
        "crypto/src",
        "bundle/src",
        "agent",
        "controller",
    ];
    let out = stdout(Command::new("grep").args(args));
    String::from_utf8_lossy(&out).lines().map(str::to_owned).collect()
}

#[test]
fn one_place_for_the_codec_for_signatures_and_for_sled() {
    assert_eq!(
        files_with("serde_cbor::"),
        BTreeSet::from(["bundle/src/codec.rs".to_owned()])
    );
    let verifying = files_with(r"\.verify_strict\(");
    assert_eq!(verifying.len(), 1, "{verifying:?}");
    for file in files_with(r"(use |[^:a-z])sled::") {
        assert!(
            file.starts_with("controller/src/store/sled"),
            "{file} calls sled by itself"
        );
    }
}
