//! A fleet of one device without a controller: signs everything, plays the link half and the runner, and drives the real applier.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test kit: what cannot be set up fails the test"
)]

pub(crate) mod bed;
pub(crate) mod device;
pub(crate) mod runner;

use std::fs::File;
use std::io::Write as _;

pub(crate) use ensign_testkit::fleet::{FLEET, Fleet, Recipe, Release, exec};
pub(crate) use ensign_testkit::{Files, files, key, noise};

pub(crate) fn unix() -> u64 {
    ensign_agent::clock::unix()
}

/// A tree with everything that a tree can have.
pub(crate) fn web(text: &str) -> Files {
    let mut web = files(&[
        ("index.html", text.as_bytes()),
        ("copy.html", text.as_bytes()),
        ("empty", b""),
        ("lib/deep/er/link", b"-> ../../../index.html"),
        ("*bin/run", b"#!/bin/sh\nexit 0\n"),
        ("dangling", b"-> nowhere"),
    ]);
    web.insert("large".to_owned(), (false, noise(1, 3_500_000)));
    web.insert("zero".to_owned(), (false, vec![0; 2_000_000]));
    web
}

pub(crate) fn probed(version: &'static str, text: &str) -> Release {
    let mut recipe = Recipe::new(version, files(&[("*check", text.as_bytes())])).unit("web.service");
    recipe.probes = vec![exec("check")];
    recipe.build()
}

/// A file with these bytes and no name.
pub(crate) fn scratch(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}
