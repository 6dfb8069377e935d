//! Several people sign one thing, with real programs: releases and plans that need two of two keys, signed one after the other, detached,
//! and on a machine that does not reach the controller. What is not what a signer has verified is refused before it is signed.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ensign_bundle::digest::Digest;
use ensign_bundle::ids::Ident;
use ensign_bundle::plan::file::PlanFile;
use ensign_bundle::plan::statements::Plan;
use ensign_bundle::statement::{self, Signed};
use ensign_bundle::trust::TrustState;
use ensign_bundle::trust::roles::{Role, Root, Scope, Targets};
use ensign_crypto::{PublicKey, SecretKey};
use ensign_tests::harness::{Fleet, Profile, build, put, write_tree};
use serde_json::Value;

/// A fleet of Ada, whose home is that of the fleet, and Bob: releases need both, and so does everything about the
/// devices of Lyon.
struct Shop {
    fleet: Fleet,
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

const BOBS: [(&str, u8); 2] = [("release", 81), ("deploy", 82)];

impl Shop {
    fn open(devices: usize) -> Result<Self> {
        let fleet = Fleet::empty(&build(Profile::Dev)?)?;
        let bob = |role: &str| key(if role == "release" { 81 } else { 82 }).public();
        let ada = |role: &str| -> Result<SecretKey> {
            let pem = fs::read_to_string(fleet.path(format!("home/keys/acme/{role}.pem")))?;
            Ok(SecretKey::from_pem(&pem)?)
        };
        let both = |role: &str| -> Result<Role> {
            let keys: Vec<PublicKey> = vec![ada(role)?.public(), bob(role)];
            Ok(Role { keys, threshold: 2 })
        };
        let mut root = statement::open_unverified::<Root>(&fs::read(fleet.path("kit/root.cbor"))?)?.body;
        root.scopes.push(Scope {
            name: Ident::parse("shop")?,
            select: "site = lyon".to_owned(),
            role: both("deploy")?,
        });
        let mut targets = statement::open_unverified::<Targets>(&fs::read(fleet.path("kit/targets.cbor"))?)?.body;
        targets.products.first_mut().context("an entry")?.role = both("release")?;
        let id = root.fleet;
        let root = statement::sign(&root, &[&ada("root")?], &id)?;
        let targets = statement::sign(&targets, &[&ada("targets")?], &id)?;
        let digest = Digest::of(&root);
        put(&fleet.path("kit/root.cbor"), &root, 0o600)?;
        put(&fleet.path("kit/targets.cbor"), &targets, 0o600)?;
        let context = fleet.path("home/contexts/acme");
        put(&context.join("targets.cbor"), &targets, 0o600)?;
        put(
            &context.join("trust.cbor"),
            TrustState::new(&root, &digest, &id)?.encode()?,
            0o600,
        )?;
        for file in [fleet.path("kit/kit.json"), context.join("context.json")] {
            let mut json: Value = serde_json::from_slice(&fs::read(&file)?)?;
            json["root_hash"] = digest.to_string().into();
            put(&file, serde_json::to_vec(&json)?, 0o600)?;
        }
        let mut shop = Self { fleet };
        shop.bobs_home()?;
        shop.fleet.start_controller()?;
        if devices > 0 {
            shop.join(devices)?;
        }
        Ok(shop)
    }

    /// Devices of Lyon, by a token whose grant both have signed.
    fn join(&mut self, devices: usize) -> Result<()> {
        let (grant, token) = (self.file("lyon.grant"), self.file("lyon.token"));
        let words = format!("token create --uses {devices} --label site=lyon");
        let hint = "ensign token sign GRANT";
        refused(
            self.ada(&words),
            20,
            "threshold-not-met",
            &["scope shop", "2 of 2", "has 1"],
            hint,
        )?;
        good(self.ada(&format!("{words} --grant {grant} --out {token}")))?;
        let publish = format!("token publish {grant}");
        let hint = format!("ensign token sign {grant}");
        refused(self.ada(&publish), 20, "unsigned", &["lyon.grant"], &hint)?;
        let would = json(self.ada(&format!("token sign {grant} --dry-run")))?;
        assert_eq!(
            would["changes"][0]["to"],
            if devices == 1 { "1 device" } else { "2 devices" }
        );
        good(self.ada(&format!("token sign {grant}")))?;
        refused(self.ada(&publish), 20, "threshold-not-met", &["1 of 2"], &hint)?;
        let sig = self.file("grant.sig");
        good(self.bob(&format!("token sign {grant} --detached --out {sig}")))?;
        assert_eq!(json(self.ada(&format!("token sign {grant} --add {sig}")))?["added"], 1);
        good(self.ada(&publish))?;
        for number in 1..=devices {
            let name = format!("dev{number}");
            let mut enroll = self.fleet.command("ensign-agent");
            let root = self.fleet.root(&name);
            enroll.arg("enroll").arg("--root").arg(root).args(["--name", &name]);
            enroll.arg("--token-file").arg(&token);
            good(enroll)?;
            self.fleet.start_device(&name)?;
        }
        Ok(())
    }

    /// Bob knows the fleet as it began, and has keys of his own.
    fn bobs_home(&self) -> Result<()> {
        let (from, to) = (self.fleet.path("home"), self.fleet.path("bob"));
        fs::create_dir_all(to.join("contexts/acme"))?;
        fs::create_dir_all(to.join("keys/acme"))?;
        fs::copy(from.join("current"), to.join("current"))?;
        for file in fs::read_dir(from.join("contexts/acme"))? {
            let file = file?;
            fs::copy(file.path(), to.join("contexts/acme").join(file.file_name()))?;
        }
        for (role, seed) in BOBS {
            let path = to.join(format!("keys/acme/{role}.pem"));
            let mut file = fs::File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            file.write_all(key(seed).to_pem().as_bytes())?;
        }
        Ok(())
    }

    fn ada(&self, words: &str) -> Command {
        let mut command = self.fleet.command("ensign");
        command.args(words.split(' '));
        command
    }

    /// Bob's machine does not reach the controller.
    fn bob(&self, words: &str) -> Command {
        let mut command = self.ada(words);
        command
            .env("ENSIGN_HOME", self.fleet.path("bob"))
            .env("ENSIGN_CONTROLLER", "127.0.0.1:1");
        command
    }

    fn release(&self, version: &str) -> Result<PathBuf> {
        let tree = self.fleet.path(format!("tree-{version}"));
        write_tree(&tree, &[("version", version)])?;
        self.fleet.bundle("app", version, &[("web", &tree)], &[])
    }

    /// A release that both have signed, published.
    fn published(&self, version: &str) -> Result<()> {
        let file = self.release(version)?;
        let file = file.display();
        good(self.ada(&format!("release sign {file}")))?;
        good(self.bob(&format!("release sign {file}")))?;
        good(self.ada(&format!("release publish {file}")))?;
        Ok(())
    }

    fn file(&self, name: &str) -> String {
        self.fleet.path(name).display().to_string()
    }
}

/// Runs to the end, demands 0, and returns standard output and error.
fn good(mut command: Command) -> Result<(String, String)> {
    let out = command.output()?;
    let (text, noise) = (String::from_utf8(out.stdout)?, String::from_utf8(out.stderr)?);
    ensure!(out.status.success(), "{command:?}: {}\n{text}\n{noise}", out.status);
    Ok((text, noise))
}

fn json(mut command: Command) -> Result<Value> {
    command.args(["-o", "json"]);
    Ok(serde_json::from_str(&good(command)?.0)?)
}

/// Refused with this code, with these words in the message and this in the hint.
fn refused(mut command: Command, exit: i32, code: &str, says: &[&str], hint: &str) -> Result<()> {
    let out = command.output()?;
    let text = String::from_utf8(out.stderr)?;
    ensure!(
        out.status.code() == Some(exit) && text.contains(&format!("({code})")),
        "{command:?}: {}, not {exit} ({code})\n{text}",
        out.status
    );
    let error = text.lines().find(|l| l.starts_with("error: ")).unwrap_or_default();
    for value in says {
        ensure!(error.contains(value), "{command:?}: no `{value}` in: {error}");
    }
    let found = text.lines().find_map(|l| l.strip_prefix("hint: ")).unwrap_or_default();
    ensure!(found.contains(hint), "{command:?}: no `{hint}` in: {found}");
    Ok(())
}

#[test]
fn a_release_needs_two_people_who_sign_in_their_own_place() -> Result<()> {
    let shop = Shop::open(0)?;
    let (file, other) = (shop.release("1.0.0")?, shop.release("1.1.0")?);
    let (file, other) = (file.display().to_string(), other.display().to_string());
    let publish = format!("release publish {file}");
    refused(
        shop.ada(&publish),
        20,
        "unsigned",
        &[],
        &format!("ensign release sign {file}"),
    )?;

    let signed = json(shop.ada(&format!("release sign {file}")))?;
    assert_eq!((&signed["signatures"], &signed["threshold"]), (&1.into(), &2.into()));
    let half = fs::read(&file)?;
    let (shown, _) = good(shop.ada(&format!("release show {file}")))?;
    assert!(
        shown.contains("1 of 2 needed") && shown.contains("threshold-not-met"),
        "{shown}"
    );
    let hint = format!("another key holder: `ensign release sign {file}`");
    refused(shop.ada(&publish), 20, "threshold-not-met", &["1 of 2"], &hint)?;

    // Bob says what he would sign, and signs into a file of its own.
    let detached = format!("release sign {file} --detached --out {}", shop.file("bob.sig"));
    let would = json(shop.bob(&format!("{detached} --dry-run")))?;
    let changes = would["changes"].as_array().context("changes")?;
    let change = |what: &str| changes.iter().find(|c| c["what"] == what).cloned().unwrap_or_default();
    assert_eq!(change("release")["to"], "app@1.0.0");
    assert_eq!(change("signatures")["from"], "1 of 2 needed");
    assert_eq!(change("signatures")["to"], "2 of 2 needed");
    assert!(!fs::exists(shop.file("bob.sig"))?, "a dry run writes nothing");
    let (text, noise) = good(shop.bob(&detached))?;
    assert!(noise.contains("component web") && noise.contains("1 file"), "{noise}");
    assert!(
        text.contains(&format!("release sign {file} --add {}", shop.file("bob.sig"))),
        "{text}"
    );
    assert!(fs::read(&file)? == half, "the bundle stays as it is");

    let add = |file: &str, sig: &str| shop.ada(&format!("release sign {file} --add {}", shop.file(sig)));
    refused(
        add(&other, "bob.sig"),
        23,
        "manifest-mismatch",
        &["bob.sig", &other],
        "sign",
    )?;
    put(Path::new(&shop.file("no.sig")), b"nothing", 0o644)?;
    refused(
        add(&file, "no.sig"),
        23,
        "malformed",
        &["no.sig"],
        "--detached --out SIG",
    )?;
    let joined = json(add(&file, "bob.sig"))?;
    assert_eq!((&joined["signatures"], &joined["added"]), (&2.into(), &true.into()));
    let whole = fs::read(&file)?;
    let again = json(add(&file, "bob.sig"))?;
    assert_eq!((&again["signatures"], &again["added"]), (&2.into(), &false.into()));
    assert!(fs::read(&file)? == whole, "the same signature changes nothing");
    good(shop.ada(&publish))?;
    let published = json(shop.ada("release show app@1.0.0"))?;
    assert_eq!(
        (&published["threshold"], &published["verdict"]),
        (&2.into(), &"ok".into())
    );
    Ok(())
}

#[test]
fn two_people_withdraw_a_release_with_a_document_that_travels() -> Result<()> {
    let shop = Shop::open(0)?;
    shop.published("1.0.0")?;
    let yank = "release yank app@1.0.0 --reason broken --yes";
    refused(
        shop.ada(yank),
        20,
        "threshold-not-met",
        &["2 of 2"],
        "--detached --out FILE",
    )?;
    let file = shop.file("app.release");
    good(shop.ada(&format!("{yank} --detached --out {file}")))?;
    let publish = format!("release publish {file}");
    let hint = format!("another key holder: `ensign release sign {file}`");
    refused(shop.ada(&publish), 20, "threshold-not-met", &["1 of 2"], &hint)?;
    // Bob, who does not reach the controller, has not seen the release.
    refused(
        shop.bob(&format!("release sign {file}")),
        32,
        "not-found",
        &["app@1.0.0"],
        "release publish",
    )?;
    let mut bob = shop.bob(&format!("release sign {file}"));
    bob.env("ENSIGN_CONTROLLER", shop.fleet.address());
    let (text, noise) = good(bob)?;
    assert!(noise.contains("withdrawn") && noise.contains("broken"), "{noise}");
    assert!(text.contains(&publish), "{text}");
    // Another content under the same name is signed by nobody.
    let signed = statement::open_unverified::<ensign_bundle::trust::roles::Release>(&fs::read(&file)?)?;
    let mut other = signed.body;
    other.security_floor = 1;
    let forged = shop.file("forged.release");
    put(Path::new(&forged), statement::seal(&other)?.encode(), 0o644)?;
    refused(
        shop.ada(&format!("release sign {forged}")),
        33,
        "already-published",
        &["other content"],
        "",
    )?;
    good(shop.ada(&publish))?;
    let shown = json(shop.ada("release show app@1.0.0"))?;
    assert_eq!((&shown["yanked"], &shown["threshold"]), (&"broken".into(), &2.into()));
    good(shop.ada(&publish))?;
    Ok(())
}

#[test]
fn what_a_release_signer_has_verified_is_the_base() -> Result<()> {
    let shop = Shop::open(0)?;
    shop.published("1.0.0")?;
    // Another 1.0.0.
    let tree = shop.fleet.path("another");
    write_tree(&tree, &[("version", "another")])?;
    let out = shop.file("other.bundle");
    let words = format!(
        "release build --product app --version 1.0.0 --tree web={} --out {out}",
        tree.display()
    );
    good(shop.ada(&words))?;
    let sign = format!("release sign {out}");
    refused(
        shop.ada(&sign),
        33,
        "already-published",
        &["app@1.0.0", "manifest"],
        "build a new version",
    )?;
    // A signature of the wrong key, and dates that no honest signer gives.
    let next = shop.release("1.1.0")?;
    let deploy = shop.file("home/keys/acme/deploy.pem");
    let words = format!("release sign {} --key {deploy}", next.display());
    refused(
        shop.ada(&words),
        20,
        "role-not-authorised",
        &["none of the 2"],
        "ensign key ls",
    )?;
    let unsigned = fs::read(&next)?;
    let (ada, bob) = (shop.file("ada.sig"), shop.file("bob.sig"));
    let path = next.display();
    good(shop.ada(&format!("release sign {path} --detached --out {ada}")))?;
    assert!(fs::read(&next)? == unsigned);
    let signed = statement::open_unverified::<ensign_bundle::trust::roles::Release>(&fs::read(&ada)?)?;
    let mut late = signed.body;
    late.expires += 40 * 24 * 3600;
    let root = statement::open_unverified::<Root>(&fs::read(shop.file("kit/root.cbor"))?)?.body;
    put(
        Path::new(&bob),
        statement::sign(&late, &[&key(81)], &root.fleet)?,
        0o644,
    )?;
    let add = format!("release sign {path} --add {bob}");
    refused(
        shop.ada(&add),
        22,
        "lifetime-refused",
        &["405d", "365d"],
        "build the release again",
    )?;
    let both = format!("release sign {path} --add {ada} --add {bob}");
    refused(
        shop.ada(&both),
        23,
        "content-mismatch",
        &["sha256", "bob.sig"],
        "--detached",
    )?;
    assert!(fs::read(&next)? == unsigned, "nothing was written");
    Ok(())
}

#[test]
fn a_plan_needs_two_people_one_of_them_far_from_the_controller() -> Result<()> {
    let shop = Shop::open(2)?;
    shop.published("1.0.0")?;
    let new = "--product app --version 1.0.0 --waves 50%,100% --soak 0s";
    let words = format!("rollout start {new} --yes");
    refused(
        shop.ada(&words),
        20,
        "threshold-not-met",
        &["scope shop", "2 of 2", "has 1"],
        "ensign rollout sign PLAN",
    )?;
    let plan = shop.file("app.plan");
    let written = json(shop.ada(&format!("rollout plan {new} --out {plan} --reason try")))?;
    assert_eq!(written["written"]["file"], plan.as_str());
    let start = format!("rollout start {plan} --yes --wait --timeout 120s");
    let hint = format!("ensign rollout sign {plan}");
    refused(shop.ada(&start), 20, "unsigned", &["no signature"], &hint)?;
    let signed = json(shop.ada(&format!("rollout sign {plan}")))?;
    assert_eq!(
        signed["scopes"][0],
        serde_json::json!({"scope": "all", "signatures": 1, "threshold": 1})
    );
    assert_eq!(
        signed["scopes"][1],
        serde_json::json!({"scope": "shop", "signatures": 1, "threshold": 2})
    );
    refused(shop.ada(&start), 20, "threshold-not-met", &["1 of 2"], &hint)?;

    // Bob's machine has never seen the release, nor the devices: the file brings both, with their signatures.
    let would = json(shop.bob(&format!("rollout sign {plan} --dry-run")))?;
    let changes = would["changes"].as_array().context("changes")?;
    let change = |what: &str| changes.iter().find(|c| c["what"] == what).cloned().unwrap_or_default();
    assert_eq!(change("brings")["to"], "app@1.0.0");
    assert_eq!(change("reason")["to"], "try");
    assert_eq!(change("signatures in scope shop")["to"], "2 of 2 needed");
    let (_, noise) = good(shop.bob(&format!(
        "rollout sign {plan} --detached --out {}",
        shop.file("bob.sig")
    )))?;
    assert!(
        noise.contains("2 devices: dev1, dev2") || noise.contains("2 devices: dev2, dev1"),
        "{noise}"
    );
    assert!(noise.contains("not known without the controller"), "{noise}");
    let add = format!("rollout sign {plan} --add {}", shop.file("bob.sig"));
    assert_eq!(json(shop.ada(&add))?["added"], 1);
    assert_eq!(json(shop.ada(&add))?["added"], 0);
    good(shop.ada(&start))?;
    let versions = shop.fleet.versions()?;
    assert!(versions.values().all(|v| v.as_deref() == Some("1.0.0")), "{versions:?}");
    // Once more is no new rollout.
    let id = written["written"]["id"].clone();
    assert_eq!(json(shop.ada(&format!("rollout start {plan} --yes")))?["id"], id);
    Ok(())
}

/// Changes a plan file as somebody would who passes it on.
fn forged(shop: &Shop, name: &str, change: impl FnOnce(&mut PlanFile, &mut Plan)) -> Result<String> {
    let mut file = PlanFile::parse(&fs::read(shop.file("app.plan"))?)?;
    let mut body = file.plan.body.clone();
    change(&mut file, &mut body);
    file.plan = Signed {
        envelope: statement::seal(&body)?,
        body,
    };
    put(Path::new(&shop.file(name)), file.encode()?, 0o644)?;
    Ok(shop.file(name))
}

#[test]
fn a_plan_file_that_is_not_what_it_says_is_refused_by_its_signers() -> Result<()> {
    let shop = Shop::open(2)?;
    shop.published("1.0.0")?;
    let plan = shop.file("app.plan");
    let words = format!("rollout plan --product app --version 1.0.0 --waves 100% --select all --out {plan}");
    good(shop.ada(&words))?;
    let again = "ensign rollout plan";
    let mut wrong = Vec::new();
    let mut check = |name: &str, exit: i32, code: &str, says: &[&str], hint: &str| {
        let sign = format!("rollout sign {}", shop.file(name));
        for signer in [shop.ada(&sign), shop.bob(&sign)] {
            wrong.extend(refused(signer, exit, code, says, hint).err().map(|e| format!("{e:#}")));
        }
    };
    put(Path::new(&shop.file("short.plan")), &fs::read(&plan)?[..400], 0o644)?;
    check("short.plan", 23, "malformed", &["short.plan"], again);
    forged(&shop, "smuggled.plan", |_, body| body.select = "name = dev1".to_owned())?;
    check(
        "smuggled.plan",
        25,
        "plan-mismatch",
        &["`name = dev1`", "dev2"],
        "ask who made the plan",
    );
    forged(&shop, "fewer.plan", |file, _| {
        file.devices.pop();
    })?;
    check("fewer.plan", 23, "content-mismatch", &["1 device", "signs 2"], "");
    forged(&shop, "twice.plan", |file, _| file.devices[1] = file.devices[0].clone())?;
    check("twice.plan", 33, "conflict", &["twice"], "");
    forged(&shop, "other.plan", |_, body| body.release.manifest = Digest([7; 32]))?;
    check(
        "other.plan",
        25,
        "plan-mismatch",
        &["manifest 0707", "app@1.0.0"],
        again,
    );
    forged(&shop, "late.plan", |_, body| {
        body.issued -= 30 * 24 * 3600;
        body.seq -= 30 * 24 * 3600;
        body.expires = body.issued + 24 * 3600;
    })?;
    check("late.plan", 22, "plan-expired", &["expired at", "it is"], again);
    forged(&shop, "early.plan", |_, body| {
        body.issued += 10 * 24 * 3600;
        body.expires = body.issued + 24 * 3600;
    })?;
    check(
        "early.plan",
        22,
        "lifetime-refused",
        &["issued at", "the clock here or the signer's"],
        "",
    );
    forged(&shop, "unknown.plan", |_, body| {
        body.release.version = "9.9.9".parse().unwrap();
    })?;
    check(
        "unknown.plan",
        32,
        "not-found",
        &["app@9.9.9"],
        "ensign release publish FILE",
    );
    // Evidence that nobody signed.
    forged(&shop, "evidence.plan", |file, _| {
        let end = file.devices[0].binding.len() - 1;
        file.devices[0].binding[end] ^= 1;
    })?;
    check(
        "evidence.plan",
        20,
        "threshold-not-met",
        &["evidence of dev"],
        "make the plan again",
    );
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));

    // The honest file, a key that signs no plan, a signature over another plan, and one that is broken.
    let root = shop.file("home/keys/acme/root.pem");
    let words = format!("rollout sign {plan} --key {root}");
    refused(
        shop.ada(&words),
        20,
        "role-not-authorised",
        &["none of the 2", "all, shop"],
        "ensign key ls",
    )?;
    let sig = shop.file("bob.sig");
    let second = forged(&shop, "second.plan", |_, body| body.seq += 1)?;
    good(shop.bob(&format!("rollout sign {second} --detached --out {sig}")))?;
    let add = format!("rollout sign {plan} --add {sig}");
    refused(
        shop.ada(&add),
        23,
        "content-mismatch",
        &["bob.sig", "sha256"],
        "--detached",
    )?;
    good(shop.bob(&format!("rollout sign {plan} --detached --out {sig}")))?;
    let mut broken = fs::read(&sig)?;
    let end = broken.len() - 1;
    broken[end] ^= 1;
    put(Path::new(&sig), broken, 0o644)?;
    refused(shop.ada(&add), 20, "signature-invalid", &["bob.sig"], "")?;
    Ok(())
}

#[test]
fn a_signer_who_has_seen_newer_metadata_does_not_go_back() -> Result<()> {
    let shop = Shop::open(1)?;
    shop.published("1.0.0")?;
    let plan = shop.file("app.plan");
    good(shop.ada(&format!("rollout plan --product app --version 1.0.0 --out {plan}")))?;
    // Metadata that names another document for the release than the file carries: Bob has seen it.
    forged(&shop, "chainless.plan", |file, _| {
        file.chain.retain(|e| e.kind() != "release");
    })?;
    refused(
        shop.bob(&format!("rollout sign {}", shop.file("chainless.plan"))),
        21,
        "rollback-refused",
        &["app@1.0.0", "is the current one"],
        "ensign rollout plan",
    )?;
    let state = shop.fleet.path("bob/contexts/acme/trust.cbor");
    let before = fs::read(&state)?;
    // Another release is published meanwhile, and Bob learns of it from a later file.
    shop.published("1.1.0")?;
    let later = shop.file("later.plan");
    good(shop.ada(&format!("rollout plan --product app --version 1.1.0 --out {later}")))?;
    good(shop.bob(&format!("rollout sign {later} --dry-run")))?;
    let after = fs::read(&state)?;
    assert!(before != after, "what was verified is remembered");
    // The older file is still good: what it brings is still current. The state does not follow it back.
    good(shop.bob(&format!("rollout sign {plan} --dry-run")))?;
    assert!(snapshot(&after)? == snapshot(&fs::read(&state)?)?);
    Ok(())
}

fn snapshot(state: &[u8]) -> Result<u64> {
    let trusted = ensign_bundle::trust::Trusted::decode(state)?;
    Ok(trusted.snapshot().context("a snapshot")?.version)
}
