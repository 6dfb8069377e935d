use proptest::prelude::*;

use super::*;
use crate::digest::Digest;
use crate::fixture::{self, file, path, small_source};

fn sample() -> Manifest {
    fixture::manifest(&small_source())
}

fn encode(manifest: &Manifest) -> Vec<u8> {
    codec::encode(manifest).unwrap()
}

/// The reason for which the sample is refused after `change`.
fn refused(change: impl FnOnce(&mut Manifest)) -> Refusal {
    let mut manifest = sample();
    change(&mut manifest);
    Manifest::parse(&encode(&manifest)).unwrap_err()
}

/// The reason for which a tree of these encoded entries is refused.
fn refused_entries<T: Serialize>(entries: &[T]) -> Refusal {
    refused(|m| {
        let mut bytes = Vec::new();
        for entry in entries {
            codec::append(&mut bytes, entry).unwrap();
        }
        m.components[0].entries = ByteBuf::from(bytes);
        let mut totals = TreeCheck::default();
        for entry in m.components[0].entries() {
            if totals.push(&entry).is_err() {
                break;
            }
        }
        m.totals = totals.totals();
    })
}

fn empty_file(name: &str) -> Entry {
    Entry::file(path(name), 0, 0, Digest::of(b""))
}

#[test]
fn what_is_written_is_read_again() {
    let manifest = sample();
    let bytes = encode(&manifest);
    assert_eq!(Manifest::parse(&bytes), Ok(manifest.clone()));
    assert_eq!(encode(&Manifest::parse(&bytes).unwrap()), bytes);
    let paths: Vec<_> = manifest.components[0].entries().map(|e| e.path().to_string()).collect();
    assert_eq!(
        paths,
        [
            "bin",
            "bin/run",
            "etc",
            "etc/empty",
            "etc/page",
            "etc/page.copy",
            "link",
            "zero"
        ]
    );
    assert_eq!(
        manifest.totals,
        Totals {
            bytes: 20 + 240 + 240 + 100,
            inodes: 8,
            peak_staging: 4096 * 7
        }
    );
}

/// The decoder takes a byte string where a text stands; nobody writes one.
#[test]
fn a_manifest_and_its_entries_have_one_spelling() {
    let bytes = encode(&sample());
    let respelled = |text: &[u8]| {
        let head = 0x60 | u8::try_from(text.len()).unwrap();
        let wanted = [&[head], text].concat();
        let at = bytes.windows(wanted.len()).position(|w| w == wanted).unwrap();
        let mut other = bytes.clone();
        other[at] ^= 0x20;
        Manifest::parse(&other).unwrap_err()
    };
    for text in [&b"etc/page"[..], b"link", b"tree"] {
        let refusal = respelled(text);
        assert_eq!(refusal.code, Code::Malformed);
        assert!(refusal.text.contains("another spelling"), "{refusal}");
    }
}

#[test]
fn a_tree_keeps_its_name_in_every_release() {
    let source = small_source();
    let (first, second) = (
        sample(),
        fixture::release("1.0.1", &[("other", &source)])
            .0
            .into_contents()
            .manifest,
    );
    assert_eq!(first.components[0].tree_digest(), second.components[0].tree_digest());
    let mut changed = source.clone();
    changed.insert("new".to_owned(), file(b"new"));
    assert_ne!(
        first.components[0].tree_digest(),
        fixture::manifest(&changed).components[0].tree_digest()
    );
}

#[test]
fn hostile_paths_are_refused_as_paths() {
    let long = "n".repeat(256);
    for bad in [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        "",
        ".",
        "a\0b",
        "a\u{1b}b",
        &long,
    ] {
        let refusal = refused_entries(&[(0, bad, 0o644, 0, Digest::of(b""))]);
        assert_eq!(refusal.code, Code::PathRefused, "{bad:?}: {refusal}");
        assert_eq!(refused_entries(&[(1, bad, 0o755)]).code, Code::PathRefused, "{bad:?}");
        assert_eq!(refused_entries(&[(2, bad, "x")]).code, Code::PathRefused, "{bad:?}");
    }
    for target in ["/etc", "..", "a/../..", ""] {
        assert_eq!(
            refused_entries(&[(2, "l", target)]).code,
            Code::PathRefused,
            "{target:?}"
        );
    }
}

#[test]
fn e42_trees_that_are_not_trees_are_refused() {
    let dir = |name| Entry::dir(path(name));
    let link = |name| Entry::symlink(path(name), "x").unwrap();
    for (what, entries) in [
        ("twice", vec![empty_file("a"), empty_file("a")]),
        ("file and directory", vec![dir("a"), empty_file("a")]),
        ("unsorted", vec![empty_file("b"), empty_file("a")]),
        ("bytewise order", vec![dir("a"), empty_file("a-b"), empty_file("a/b")]),
        ("no parent", vec![empty_file("a/b")]),
        ("no grandparent", vec![dir("a"), dir("a/b/c")]),
        ("parent of another name", vec![dir("a"), empty_file("ab/c")]),
        ("below a file", vec![empty_file("a"), empty_file("a/b")]),
        ("below a symlink", vec![link("a"), empty_file("a/b")]),
    ] {
        let refusal = refused_entries(&entries);
        assert_eq!(refusal.code, Code::Malformed, "{what}: {refusal}");
        assert!(!refusal.text.contains("totals"), "{what}: {refusal}");
    }
}

#[test]
fn entries_of_another_shape_are_refused() {
    let (empty, other) = (Digest::of(b""), Digest::of(b"x"));
    let refusals = [
        refused_entries(&[(0, "a", 0o4755, 1, other)]),
        refused_entries(&[(0, "a", 0o600, 1, other)]),
        refused_entries(&[(1, "a", 0o777)]),
        refused_entries(&[(0, "a", 0o644, 0, other)]),
        refused_entries(&[(3, "a", 0o644)]),
        refused_entries(&[(0, "a", 0o644)]),
        refused_entries(&[(1, "a", 0o755, 0)]),
        refused_entries(&[(0, "a", 0o644, 0, empty, 0)]),
        refused_entries(&[(0, "a", -1, 0, empty)]),
        refused_entries(&["a"]),
    ];
    for (n, refusal) in refusals.iter().enumerate() {
        assert_eq!(refusal.code, Code::Malformed, "case {n}: {refusal}");
        assert!(!refusal.text.contains("totals"), "case {n}: {refusal}");
    }
    let cut = refused(|m| {
        m.components[0].entries.pop();
    });
    assert_eq!(cut.code, Code::Malformed);
}

#[test]
fn sums_do_not_overflow() {
    let huge = |name, size| Entry::file(path(name), 0, size, Digest::of(b"x"));
    let refusal = refused_entries(&[huge("a", u64::MAX - 5000), huge("b", u64::MAX - 5000)]);
    assert_eq!(refusal.code, Code::LimitExceeded);
    assert_eq!(refused_entries(&[huge("a", u64::MAX)]).code, Code::LimitExceeded);
    for change in [
        |t: &mut Totals| t.bytes += 1,
        |t: &mut Totals| t.inodes -= 1,
        |t: &mut Totals| t.peak_staging = 0,
    ] {
        assert_eq!(refused(|m| change(&mut m.totals)).code, Code::Malformed);
    }
}

#[test]
fn every_limit_holds() {
    assert_eq!(
        Manifest::parse(&vec![0; MANIFEST_BYTES + 1]).unwrap_err().code,
        Code::LimitExceeded
    );
    let too_many = refused(|m| m.components = vec![m.components[0].clone(); COMPONENTS + 1]);
    assert_eq!(too_many.code, Code::LimitExceeded);
    let table = refused(|m| m.components[0].blocks.length = BLOCK_TABLE_BYTES as u64 + 1);
    assert_eq!(table.code, Code::LimitExceeded);
    let units = refused(|m| m.components[0].units = (0..=UNITS).map(|n| format!("u{n}.service")).collect());
    assert_eq!(units.code, Code::LimitExceeded);
    let probe = Probe::Tcp {
        address: "a:1".to_owned(),
    };
    assert_eq!(
        refused(|m| m.health.probes = vec![probe; PROBES + 1]).code,
        Code::LimitExceeded
    );
}

#[test]
fn contradictions_are_refused() {
    let refusals = [
        refused(|m| m.components.push(m.components[0].clone())),
        refused(|m| m.components[0].kind = Kind::Handler),
        refused(|m| m.components[0].kind = Kind::Image),
        refused(|m| {
            let id = Ident::parse("mcu").unwrap();
            m.components[0].handler = Some(Handler { id, protocol: 1 });
        }),
        refused(|m| m.components[0].units = vec!["a.service".to_owned(); 2]),
        refused(|m| m.components[0].units = vec!["../a.service".to_owned()]),
        refused(|m| m.health.window_s = 61),
        refused(|m| m.health.deadline_s = 24 * 3600 + 1),
    ];
    for (n, refusal) in refusals.iter().enumerate() {
        assert_eq!(refusal.code, Code::Malformed, "case {n}: {refusal}");
    }
    assert_eq!(refused(|m| m.format = 2).code, Code::VersionUnknown);
}

#[test]
fn a_probe_runs_what_the_component_holds() {
    let probe = |component: &str, name| Probe::Exec {
        component: Ident::parse(component).unwrap(),
        path: path(name),
        args: Vec::new(),
    };
    let mut manifest = sample();
    manifest.health.probes = vec![probe("web", "bin/run"), probe("web", "link")];
    assert_eq!(Manifest::parse(&encode(&manifest)), Ok(manifest));
    for bad in [
        probe("web", "bin/no"),
        probe("web", "etc/page"),
        probe("db", "bin/run"),
        probe("web", "bin"),
    ] {
        assert_eq!(
            refused(|m| m.health.probes = vec![bad.clone()]).code,
            Code::Malformed,
            "{bad:?}"
        );
    }
}

#[test]
fn unknown_fields_are_refused() {
    #[derive(Serialize)]
    struct More<'a> {
        surprise: u8,
        #[serde(flatten)]
        manifest: &'a Manifest,
    }
    let manifest = sample();
    let bytes = codec::encode(&More {
        surprise: 1,
        manifest: &manifest,
    })
    .unwrap();
    assert_eq!(Manifest::parse(&bytes).unwrap_err().code, Code::Malformed);
}

#[test]
fn every_field_that_stands_in_both_documents_must_agree() {
    let contents = fixture::release("1.0.0", &[("web", &small_source())]).0.into_contents();
    let (manifest, release, bytes) = (&contents.manifest, &contents.release, &contents.manifest_bytes);
    assert_eq!(Manifest::open(bytes, release).as_ref(), Ok(manifest));
    let changes: [fn(&mut Release); 5] = [
        |r| r.product = Ident::parse("other").unwrap(),
        |r| r.release = Version::parse("1.0.1").unwrap(),
        |r| r.counter += 1,
        |r| r.security_floor += 1,
        |r| r.compatible.arch.push("aarch64".to_owned()),
    ];
    for (n, change) in changes.iter().enumerate() {
        let mut other = release.clone();
        change(&mut other);
        let refusal = Manifest::open(bytes, &other).unwrap_err();
        assert_eq!(refusal.code, Code::ManifestMismatch, "case {n}");
    }
    let mut other = release.clone();
    other.manifest.digest = Digest::of(b"x");
    assert_eq!(Manifest::open(bytes, &other).unwrap_err().code, Code::ContentMismatch);
    other.manifest.length += 1;
    assert_eq!(Manifest::open(bytes, &other).unwrap_err().code, Code::ContentMismatch);
}

#[test]
fn names_that_differ_in_case_only_are_pointed_out() {
    let draft = TreeDraft::new(
        Ident::parse("web").unwrap(),
        Kind::Tree,
        vec![empty_file("readme"), empty_file("README"), empty_file("x")],
    )
    .unwrap();
    assert_eq!(draft.case_clashes().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// No bytes panic, and what is accepted is what would be written.
    #[test]
    fn any_change_of_a_manifest_is_refused_or_understood(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = encode(&sample());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(manifest) = Manifest::parse(&bytes) {
            prop_assert_eq!(Manifest::parse(&encode(&manifest)), Ok(manifest));
        }
    }
}
