//! Who may join, and whom a device listens to.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use ensign_bundle::plan::token::Token;
use ensign_bundle::reason::Code;
use ensign_crypto::SecretKey;
use ensign_tests::harness::{Fleet, Profile, build, put};
use ensign_tests::hostile::unix_now;

/// A fresh token, and when it expires.
fn token(fleet: &Fleet, more: &[&str]) -> Result<String> {
    let made = fleet.json(["token", "create"].iter().chain(more))?;
    Ok(made["token"].as_str().context("a token")?.to_owned())
}

/// Joining as `name` must fail.
fn refused(fleet: &Fleet, name: &str, token: &str, code: Code, values: &[&str]) -> Result<String> {
    let root = fleet.root(name).display().to_string();
    let args = ["enroll", "--root", &root, "--name", name, "--token", token];
    let message = fleet.fails("ensign-agent", &args, code, values)?;
    let listed = fleet.json(["device", "ls"])?.to_string();
    assert!(
        !listed.contains(&format!("\"{name}\"")),
        "{name} is in the registry: {listed}"
    );
    Ok(message)
}

#[test]
fn a_token_that_was_not_copied_whole_lets_nobody_in() -> Result<()> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 0)?;
    let whole = token(&fleet, &[])?;
    let cut = &whole[..whole.len() - 1];
    let middle = whole.len() / 2;
    let other = if whole.as_bytes()[middle] == b'A' { 'B' } else { 'A' };
    let wrong = format!("{}{other}{}", &whole[..middle], &whole[middle + 1..]);
    for text in ["rubbish", cut, &wrong] {
        refused(&fleet, "x", text, Code::TokenMalformed, &["token"])?;
    }
    Ok(())
}

#[test]
fn a_token_that_nobody_made_lets_nobody_in() -> Result<()> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 0)?;
    let mut forged: Token = token(&fleet, &[])?.parse()?;
    forged.key = SecretKey::from_seed([7; 32]);
    refused(&fleet, "x", &forged.to_text()?, Code::TokenUnknown, &["token"])?;
    Ok(())
}

#[test]
fn a_token_past_its_expiry_lets_nobody_in() -> Result<()> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 0)?;
    let short = token(&fleet, &["--ttl", "1s"])?;
    let made = unix_now();
    fleet.wait_for("the clock passes the token's expiry", |_| Ok(unix_now() > made + 1))?;
    refused(&fleet, "x", &short, Code::TokenExpired, &["expired at", "it is"])?;
    Ok(())
}

#[test]
fn a_token_that_is_used_up_or_revoked_lets_nobody_in() -> Result<()> {
    let (mut fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let standing = fleet.standing("dev1", &first)?;
    let once = token(&fleet, &["--uses", "1"])?;
    let root = fleet.root("dev2").display().to_string();
    let join = ["enroll", "--root", &root, "--name", "dev2", "--token", &once];
    let (exit, errors) = fleet.exit("ensign-agent", join)?;
    assert_eq!(exit, 0, "{errors}");
    refused(&fleet, "x", &once, Code::TokenUsedUp, &["1 of 1 times"])?;

    let gone = token(&fleet, &["--uses", "9"])?;
    let id = fleet.json(["token", "ls"])?;
    let id = id
        .as_array()
        .into_iter()
        .flatten()
        .find(|t| t["uses"] == 9)
        .and_then(|t| t["id"].as_str().or(t["key"].as_str()))
        .with_context(|| id.to_string())?
        .to_owned();
    fleet.ensign(["token", "revoke", &id, "--yes"], [""; 0])?;
    refused(&fleet, "y", &gone, Code::TokenRevoked, &["revoked"])?;

    fleet.unmoved(&standing)?;
    fleet.start_device("dev2")?;
    fleet.goes_on("1.1.0")?;
    Ok(())
}

/// Wherever joining stops, before the controller accepts or after it: the same command again is the same device.
#[test]
fn an_enrolment_that_was_interrupted_is_repeated_at_no_cost() -> Result<()> {
    let mut fleet = Fleet::start(&build(Profile::Dev)?, 0)?;
    for file in [
        "link/tls.pem",
        "applier/receipt.pem",
        "link/joining.json",
        "applier/trust/a.cbor",
        "applier/binding.cbor",
        "link/device.json",
    ] {
        let name = file.replace(['/', '.'], "-");
        let once = token(&fleet, &["--uses", "1"])?;
        let root = fleet.root(&name);
        // What is in the way of a write, as a full disk would be.
        let target = root.join("var/lib/ensign").join(file);
        let obstacle = target.with_file_name(format!(".{}.new", target.file_name().unwrap_or_default().display()));
        fs::create_dir_all(&obstacle)?;
        let text = root.display().to_string();
        let args = ["enroll", "--root", &text, "--name", &name, "--token", &once];
        let (exit, errors) = fleet.exit("ensign-agent", args)?;
        assert_eq!(exit, i32::from(Code::Io.exit()), "{file}: {errors}");
        fs::remove_dir(&obstacle)?;
        for again in ["after the fault", "once more"] {
            let (exit, errors) = fleet.exit("ensign-agent", args)?;
            assert_eq!(exit, 0, "{file}, {again}: {errors}");
        }
        let rows = fleet.json(["device", "ls"])?;
        let mine = rows.as_array().into_iter().flatten();
        let mine = mine.filter(|row| row["name"].as_str().is_some_and(|n| n.starts_with(&name)));
        assert_eq!(mine.count(), 1, "{file}: {rows}");
        let tokens = fleet.json(["token", "ls"])?;
        let used = tokens.as_array().into_iter().flatten().all(|t| t["used"] == 1);
        assert!(used, "{file}: {tokens}");
        fleet.start_device(&name)?;
    }
    fleet.goes_on("1.0.0")?;
    Ok(())
}

/// A device that lost one of its keys is another one: it joins with two new keys, and a use of the token.
#[test]
fn a_device_that_lost_a_key_joins_as_another_one() -> Result<()> {
    let mut fleet = Fleet::start(&build(Profile::Dev)?, 0)?;
    let twice = token(&fleet, &["--uses", "3"])?;
    let root = fleet.root("dev1");
    let text = root.display().to_string();
    let args = ["enroll", "--root", &text, "--name", "dev1", "--token", &twice];
    for (file, rows) in [("", 1), ("link/tls.pem", 2), ("applier/receipt.pem", 3)] {
        if !file.is_empty() {
            fs::remove_file(root.join("var/lib/ensign").join(file))?;
        }
        let (exit, errors) = fleet.exit("ensign-agent", args)?;
        assert_eq!(exit, 0, "{file}: {errors}");
        let listed = fleet.json(["device", "ls"])?;
        assert_eq!(listed.as_array().map_or(0, Vec::len), rows, "{file}: {listed}");
    }
    fleet.start_device("dev1")?;
    fleet.wait_for("dev1 is connected", |f| {
        Ok(f.status("dev1")?["controller"]["connected"] == true)
    })
}

#[test]
fn a_device_that_the_registry_lost_gets_nothing_until_it_is_back() -> Result<()> {
    let (mut fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let standing = fleet.standing("dev1", &first)?;
    fleet.device("dev1")?.stop();
    fleet.controller()?.stop();
    // The same fleet, as its controller was before anybody joined.
    let (data, aside) = (fleet.path("controller"), fleet.path("aside"));
    move_folder(&data, &aside)?;
    fs::create_dir(fleet.path("kit/keys")).or_else(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(e),
    })?;
    for key in ["timestamp.pem", "snapshot.pem", "controller.pem", "https.pem"] {
        put(
            &fleet.path("kit/keys").join(key),
            fs::read(aside.join("keys").join(key))?,
            0o600,
        )?;
    }
    fleet.start_controller()?;
    fleet.start_device("dev1")?;
    let id = fleet.status("dev1")?["id"].as_str().context("an id")?.to_owned();
    fleet.wait_for_refusal("dev1", Code::NotAuthorised, &[&id, "not in this fleet"])?;
    fleet.unmoved(&standing)?;

    fleet.controller()?.stop();
    fs::remove_dir_all(&data)?;
    move_folder(&aside, &data)?;
    fleet.start_controller()?;
    fleet.goes_on("1.1.0")?;
    Ok(())
}

#[test]
fn a_revoked_device_is_told_so_and_keeps_what_it_runs() -> Result<()> {
    let (fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 2)?;
    let standing = fleet.standing("dev1", &first)?;
    fleet.ensign(["device", "suspend", "dev1", "--yes"], [""; 0])?;
    fleet.wait_for_refusal("dev1", Code::Suspended, &["suspended"])?;
    fleet.unmoved(&standing)?;
    fleet.ensign(["device", "unsuspend", "dev1", "--yes"], [""; 0])?;
    fleet.goes_on("1.1.0")?;
    let second = fleet.path("next-1.1.0");
    let standing = fleet.standing("dev1", &second)?;
    fleet.ensign(["device", "revoke", "dev1", "--yes"], [""; 0])?;
    fleet.wait_for_refusal("dev1", Code::Revoked, &["revoked"])?;
    fleet.unmoved(&standing)
}

#[test]
fn a_controller_with_another_key_is_not_listened_to() -> Result<()> {
    let bin = build(Profile::Dev)?;
    let (mut fleet, first) = Fleet::with_first_release(&bin, 1)?;
    let other = Fleet::start(&bin, 0)?;
    let pinned = token(&fleet, &[])?.parse::<Token>()?.controller.to_string();
    let theirs = token(&other, &[])?.parse::<Token>()?.controller.to_string();

    // A device told to join elsewhere.
    let root = fleet.root("x").display().to_string();
    let text = token(&fleet, &[])?;
    let args = [
        "enroll",
        "--root",
        &root,
        "--name",
        "x",
        "--token",
        &text,
        "--controller",
        other.address(),
    ];
    fleet.fails("ensign-agent", &args, Code::WrongControllerKey, &[&pinned, &theirs])?;

    // A member that is led to another controller.
    let standing = fleet.standing("dev1", &first)?;
    fleet.device("dev1")?.stop();
    let config = fleet.root("dev1").join("etc/ensign/agent.toml");
    let addresses = format!("[controller]\naddresses = [\"{}\"]\n", other.address());
    put(&config, addresses, 0o644)?;
    fleet.start_device("dev1")?;
    fleet.wait_for_refusal("dev1", Code::WrongControllerKey, &[&pinned, &theirs])?;
    fleet.unmoved(&standing)?;
    fleet.device("dev1")?.stop();
    fs::remove_file(&config)?;
    fleet.start_device("dev1")?;

    // A controller whose TLS key root does not name serves nobody.
    fleet.controller()?.stop();
    let (key, kept) = (fleet.path("controller/keys/controller.pem"), fleet.path("kept.pem"));
    put(&kept, fs::read(&key)?, 0o600)?;
    let new = SecretKey::from_seed([9; 32]);
    put(&key, new.to_pem().as_bytes(), 0o600)?;
    let refused = format!("{:#}", fleet.start_controller().err().context("it starts")?);
    let shown = new.public().id().to_string();
    ensure!(refused.contains(&pinned) && refused.contains(&shown), "{refused}");
    put(&key, fs::read(&kept)?, 0o600)?;
    fleet.start_controller()?;
    fleet.goes_on("1.1.0")?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a test's folder need not survive a power cut")]
fn move_folder(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    Ok(fs::rename(from, to)?)
}
