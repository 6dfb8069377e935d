//! The arrows of the architecture, read from `cargo metadata`: which crate may depend on which, and what pure crates do without.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Crates that hold tests: their arrows are not in the picture, and nothing that ships may use them.
const OF_TESTS: &[&str] = &["ensign-tests", "ensign-testkit"];

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

/// The picture at the top of `docs/architecture.md`: folder → the folders that it may use. Parts of one line are joined by arrows
/// that point at what is used; a line that starts with an arrow goes on from what stood above it.
fn picture() -> BTreeMap<String, BTreeSet<String>> {
    let page = include_str!("../../docs/architecture.md");
    let drawn = page.split("```").nth(1).expect("a picture").trim_start_matches("text");
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut above: Vec<(usize, String)> = Vec::new();
    for line in drawn.lines().filter(|line| !line.trim().is_empty()) {
        let indent = line.chars().take_while(|c| *c == ' ').count();
        above.retain(|(column, _)| *column < indent);
        let mut used: BTreeSet<String> = above.iter().map(|(_, folder)| folder.clone()).collect();
        let mut column = 0;
        for part in line.split('←') {
            let folders: Vec<_> = part.split(',').map(str::trim).filter(|f| !f.is_empty()).collect();
            for folder in &folders {
                uses.entry((*folder).to_owned())
                    .or_default()
                    .extend(used.iter().cloned());
            }
            let at = column + part.chars().take_while(|c| *c == ' ').count();
            for folder in folders {
                used.insert(folder.to_owned());
                above.push((at, folder.to_owned()));
            }
            column += part.chars().count() + 1;
        }
    }
    uses
}

/// The same from the manifests: folder → the folders of all workspace crates that it reaches.
fn reality(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let root = text(metadata, "workspace_root");
    let packages = list(metadata, "packages")
        .iter()
        .filter(|p| text(p, "manifest_path").starts_with(root) && text(p, "name").starts_with("ensign"));
    let folders: BTreeMap<&str, &str> = packages
        .map(|p| {
            let folder = text(p, "manifest_path").trim_start_matches(root);
            (
                text(p, "name"),
                folder.trim_matches('/').trim_end_matches("/Cargo.toml"),
            )
        })
        .collect();
    let direct = direct(metadata);
    let mut uses = BTreeMap::new();
    for (name, folder) in folders.iter().filter(|(name, _)| !OF_TESTS.contains(name)) {
        let mut reached = BTreeSet::new();
        let mut next = vec![*name];
        while let Some(name) = next.pop() {
            next.extend(
                direct[name]
                    .iter()
                    .filter(|d| folders.contains_key(*d) && reached.insert(**d)),
            );
        }
        let reached = reached.into_iter().map(|name| folders[name].to_owned()).collect();
        uses.insert((*folder).to_owned(), reached);
    }
    uses
}

#[test]
fn the_picture_of_the_architecture_is_what_the_manifests_say() {
    assert_eq!(
        picture(),
        reality(&metadata()),
        "left: docs/architecture.md, right: the manifests"
    );
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

/// What counts checked signatures is a feature for tests of the cost.
#[test]
fn nothing_that_ships_counts_signatures() {
    let features = |root: &str, edges: &str| {
        let args = [
            "tree", "--locked", "-p", root, "-e", edges, "--prefix", "none", "--format", "{p} {f}",
        ];
        String::from_utf8(stdout(Command::new(env!("CARGO")).args(args))).expect("text")
    };
    let counted = |tree: &str| {
        let mut lines = tree.lines().filter(|line| line.starts_with("ensign-crypto "));
        lines.any(|line| line.contains("counted"))
    };
    assert!(
        counted(&features("ensign-bundle", "normal,dev")),
        "the feature is found where it is"
    );
    for root in ["ensign-agent", "ensign-controller", "ensign"] {
        let tree = features(root, "normal");
        assert!(tree.contains("ensign-crypto "), "the tree of {root} was read");
        assert!(!counted(&tree), "{root} counts signatures");
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
