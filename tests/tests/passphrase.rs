//! Fleets whose signing keys have a passphrase, with real programs: made so, and made so later.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use ensign_tests::harness::{Fleet, Profile, build, write_tree};
use serde_json::Value;

const FILE: &str = "ENSIGN_PASSPHRASE_FILE";

fn secret(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::File::create(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

fn ends(mut command: Command) -> Result<(i32, String)> {
    let out = command.stdin(Stdio::null()).output()?;
    Ok((
        out.status.code().context("it ended by itself")?,
        String::from_utf8(out.stderr)?,
    ))
}

#[test]
fn the_passphrase_changes_and_keys_come_from_elsewhere() -> Result<()> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 0)?;
    let (old, new) = (fleet.path("old"), fleet.path("new"));
    secret(&old, "correct horse battery\n")?;
    secret(&new, "staple and another horse\n")?;
    let ensign = |words: &str, passphrase: &Path| {
        let mut command = fleet.command("ensign");
        command.args(words.split(' ')).env(FILE, passphrase);
        command
    };
    let passwd = "key passwd --new-passphrase-file new";
    let (exit, text) = ends(ensign(passwd, &old))?;
    assert!(exit == 33 && text.contains("fleet set lab=false"), "{exit} {text}");
    let backup = fleet.path("deploy-backup.pem");
    secret(&backup, &fs::read_to_string(fleet.path("home/keys/acme/deploy.pem"))?)?;
    assert_eq!(ends(ensign("fleet set lab=false --yes", &old))?.0, 0);
    let sealed = fleet.path("release-backup.pem");
    secret(&sealed, &fs::read_to_string(fleet.path("home/keys/acme/release.pem"))?)?;

    assert_eq!(ends(ensign(passwd, &new))?.0, 31, "the one before is asked for");
    assert_eq!(ends(ensign("token create", &old))?.0, 0, "nothing was changed");
    let (exit, text) = ends(ensign(passwd, &old))?;
    assert_eq!(exit, 0, "{text}");
    assert_eq!(ends(ensign("token create", &old))?.0, 31);
    assert_eq!(ends(ensign("token create", &new))?.0, 0);

    // From a plain backup and from one under the passphrase before: both end up under the one in use.
    for lost in ["deploy", "release"] {
        fs::remove_file(fleet.path(format!("home/keys/acme/{lost}.pem")))?;
    }
    assert_eq!(ends(ensign("token create", &new))?.0, 32);
    let (exit, text) = ends(ensign("key import deploy-backup.pem --name deploy", &new))?;
    assert!(exit == 0 && text.contains("stays"), "{text}");
    assert_eq!(
        ends(ensign("key import release-backup.pem --name deploy", &new))?.0,
        33,
        "taken"
    );
    let (exit, text) = ends(ensign("key import release-backup.pem --name release", &new))?;
    assert_eq!(exit, 2, "no terminal to ask for the other passphrase: {text}");
    let (exit, text) = ends(ensign(
        "key import release-backup.pem --name release --passphrase-file old",
        &new,
    ))?;
    assert_eq!(exit, 0, "{text}");
    assert_eq!(
        ends(ensign("key import release-backup.pem --name release", &new))?.0,
        0,
        "again"
    );
    assert_eq!(ends(ensign("token create", &new))?.0, 0);
    let keys = fleet.json(["key", "ls"])?;
    let keys = keys.as_array().context("a list")?;
    assert!(
        keys.len() == 5 && keys.iter().all(|k| k["encrypted"] == true && k["role"] != Value::Null),
        "{keys:?}"
    );
    Ok(())
}

#[test]
fn a_lab_gets_a_passphrase_and_goes_on() -> Result<()> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 2)?;
    let (right, wrong) = (fleet.path("right"), fleet.path("wrong"));
    secret(&right, "correct horse battery\n")?;
    secret(&wrong, "correct horse buttery\n")?;
    let ensign = |words: &str, passphrase: Option<&Path>| {
        let mut command = fleet.command("ensign");
        command.args(words.split(' ')).env_remove(FILE);
        if let Some(path) = passphrase {
            command.env(FILE, path);
        }
        command
    };
    assert_eq!(fleet.json(["fleet", "show"])?["lab"], true);

    let (exit, text) = ends(ensign("fleet set lab=false --yes", None))?;
    assert_eq!(exit, 2, "{text}");
    assert!(text.contains("(passphrase-missing)") && text.contains(FILE), "{text}");
    let (exit, text) = ends(ensign("fleet set lab=false", Some(&right)))?;
    assert_eq!(exit, 2, "it asks first: {text}");
    assert_eq!(fleet.json(["fleet", "show"])?["lab"], true, "nothing was done");

    let (exit, text) = ends(ensign("fleet set lab=false --yes", Some(&right)))?;
    assert_eq!(exit, 0, "{text}");
    let shown = fleet.json(["fleet", "show"])?;
    assert_eq!((&shown["lab"], &shown["root_version"]), (&false.into(), &2.into()));
    for key in fleet.json(["key", "ls"])?.as_array().context("a list")? {
        let path = key["path"].as_str().context("a path")?;
        let pem = fs::read_to_string(path)?;
        assert!(key["encrypted"] == true && !pem.contains("BEGIN PRIVATE KEY"), "{path}");
        assert_eq!(fs::metadata(path)?.permissions().mode() & 0o777, 0o600, "{path}");
    }
    let (exit, text) = ends(ensign("fleet set lab=false --yes", Some(&right)))?;
    assert_eq!(exit, 0, "once more changes nothing: {text}");
    assert_eq!(fleet.json(["fleet", "show"])?["root_version"], 2);

    // What signs nothing asks for nothing.
    for words in [
        "rollout ls",
        "device ls",
        "key export-pub deploy",
        "fleet status",
        "token create --dry-run",
    ] {
        let (exit, text) = ends(ensign(words, None))?;
        assert_eq!(exit, 0, "{words}: {text}");
    }
    let (exit, text) = ends(ensign("token create", None))?;
    assert_eq!(exit, 2, "{text}");
    assert!(text.contains("(passphrase-missing)\nhint: "), "{text}");
    let (exit, text) = ends(ensign("token create", Some(&wrong)))?;
    assert_eq!(exit, 31, "{text}");
    assert!(
        text.contains("(passphrase-wrong)") && text.contains("deploy.pem"),
        "{text}"
    );
    fs::set_permissions(&right, fs::Permissions::from_mode(0o644))?;
    let (exit, text) = ends(ensign("token create", Some(&right)))?;
    assert!(exit == 2 && text.contains("chmod 600"), "{text}");
    fs::set_permissions(&right, fs::Permissions::from_mode(0o600))?;

    // Once per command: standard input can be read only once, and two grants are signed.
    let mut child = ensign(
        "device label dev1 dev2 --label shift=late",
        Some(Path::new("/dev/stdin")),
    )
    .stdin(Stdio::piped())
    .stdout(Stdio::null())
    .stderr(Stdio::piped())
    .spawn()?;
    child
        .stdin
        .take()
        .context("a pipe")?
        .write_all(b"correct horse battery\n")?;
    let out = child.wait_with_output()?;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));

    // Devices follow the new root: a release goes out as before.
    write_tree(&fleet.path("tree"), &[("file", "content")])?;
    for words in [
        "release build --product app --version 1.0.0 --tree app=tree --out app.bundle",
        "release sign app.bundle",
        "release publish app.bundle",
        "rollout start --product app --version 1.0.0 --waves 100% --soak 0s --yes --wait --timeout 120s",
    ] {
        let (exit, text) = ends(ensign(words, Some(&right)))?;
        assert_eq!(exit, 0, "{words}: {text}");
    }
    let versions = fleet.versions()?;
    assert!(versions.values().all(|v| v.as_deref() == Some("1.0.0")), "{versions:?}");
    Ok(())
}

#[test]
fn a_fleet_is_made_with_a_passphrase() -> Result<()> {
    let fleet = Fleet::empty(&build(Profile::Dev)?)?;
    let path = fleet.path("passphrase");
    let init = |passphrase: bool| {
        let mut command = fleet.command("ensign");
        command
            .args("fleet init --name safe --controller 127.0.0.1:1 --kit kit2 -o json".split(' '))
            .env_remove(FILE);
        if passphrase {
            command.env(FILE, &path);
        }
        command
    };
    let (exit, text) = ends(init(false))?;
    assert_eq!(exit, 2, "{text}");
    assert!(text.contains(FILE) && text.contains("--no-passphrase"), "{text}");
    secret(&path, "short\n")?;
    let (exit, text) = ends(init(true))?;
    assert!(exit == 2 && text.contains("5 characters"), "{text}");
    assert!(!fleet.path("kit2").exists(), "nothing was made");
    secret(&path, "correct horse battery\n")?;
    let out = init(true).output()?;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let made: Value = serde_json::from_slice(&out.stdout)?;
    assert_eq!(made["lab"], false);
    for key in made["keys"].as_array().context("a list")? {
        let pem = fs::read_to_string(key["path"].as_str().context("a path")?)?;
        assert!(pem.starts_with("-----BEGIN ENSIGN ENCRYPTED PRIVATE KEY-----"), "{pem}");
    }
    Ok(())
}
