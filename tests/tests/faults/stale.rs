//! A controller in a thief's hands, fifth part: metadata that is old, incomplete, late or forged, shown to people who sign. Every verb
//! that signs refuses, and nothing that was signed leaves the machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ensign_bundle::digest::Digest;
use ensign_bundle::reason::Code;
use ensign_bundle::statement::{self, Document};
use ensign_bundle::trust::roles::{Root, Snapshot, Targets, Timestamp};
use ensign_crypto::SecretKey;
use ensign_tests::harness::{Fleet, Profile, build, write_tree};
use ensign_tests::hostile::{Liar, Stolen, copy_folder, unix_now};
use serde_json::{Value, json};

/// Ten years, seconds.
const LONG: u64 = 10 * 365 * 24 * 3600;

/// What is shown in place of the newest documents.
struct Lie {
    what: &'static str,
    code: Code,
    /// By kind; none: it is left out.
    shown: Vec<(&'static str, Option<Vec<u8>>)>,
}

fn lie(what: &'static str, code: Code, shown: Vec<(&'static str, Option<Vec<u8>>)>) -> Lie {
    Lie { what, code, shown }
}

fn signed<T: Document>(stolen: &Stolen, body: &T, key: &SecretKey) -> Result<Vec<u8>> {
    Ok(statement::sign(body, &[key], &stolen.fleet)?)
}

/// Every lie that online keys, wrong keys, and people who once signed something that has expired can make.
fn lies(stolen: &Stolen) -> Result<Vec<Lie>> {
    let now = unix_now();
    let wrong = SecretKey::from_seed([93; 32]);
    let late = (now - 200, now - 100);
    let (root, _) = stolen.newest::<Root>(|r| r.version)?;
    let (targets, targets_bytes) = stolen.newest::<Targets>(|t| t.version)?;
    let (snapshot, snapshot_bytes) = stolen.newest::<Snapshot>(|s| s.version)?;
    let (timestamp, _) = stolen.newest::<Timestamp>(|t| t.version)?;
    let over = |snapshot: &[u8]| stolen.forge_timestamp(snapshot, |_| ());
    let with_snapshot =
        |bytes: Vec<u8>| -> Result<Vec<_>> { Ok(vec![("timestamp", Some(over(&bytes)?)), ("snapshot", Some(bytes))]) };
    let with_targets = |bytes: Vec<u8>| -> Result<Vec<_>> {
        let mut shown = with_snapshot(stolen.forge_snapshot(&bytes, snapshot.releases.clone())?)?;
        shown.push(("targets", Some(bytes)));
        Ok(shown)
    };
    let without = |kind: &'static str, mut shown: Vec<(&'static str, Option<Vec<u8>>)>| {
        shown.retain(|(k, _)| *k != kind);
        shown.push((kind, None));
        shown
    };
    let next_targets = |(issued, expires): (u64, u64)| Targets {
        version: targets.version + 1,
        issued,
        expires,
        ..targets.clone()
    };
    let next_snapshot = |(issued, expires): (u64, u64)| Snapshot {
        version: snapshot.version + 1,
        issued,
        expires,
        ..snapshot.clone()
    };
    let next_root = |(issued, expires): (u64, u64)| Root {
        version: root.version + 1,
        issued,
        expires,
        ..root.clone()
    };
    let fresh = (now, now + 3600);
    let people = stolen.operator_key("targets")?;
    let honest_targets = signed(stolen, &next_targets(fresh), &people)?;
    let mut lies = Vec::new();

    let older = stolen.forge_timestamp(&snapshot_bytes, |t| t.version = timestamp.version - 1)?;
    lies.push(lie(
        "an older timestamp",
        Code::RollbackRefused,
        vec![("timestamp", Some(older))],
    ));
    let older = Snapshot {
        version: snapshot.version - 1,
        ..snapshot.clone()
    };
    let older = with_snapshot(signed(stolen, &older, &stolen.snapshot)?)?;
    lies.push(lie("an older snapshot", Code::RollbackRefused, older));
    let struck = with_snapshot(stolen.forge_snapshot(&targets_bytes, Vec::new())?)?;
    lies.push(lie("a snapshot without a release", Code::RollbackRefused, struck));

    lies.push(lie("no timestamp", Code::MetadataMissing, vec![("timestamp", None)]));
    let unseen = with_snapshot(signed(stolen, &next_snapshot(fresh), &stolen.snapshot)?)?;
    lies.push(lie("no snapshot", Code::MetadataMissing, without("snapshot", unseen)));
    let unseen = with_targets(honest_targets)?;
    lies.push(lie("no targets", Code::MetadataMissing, without("targets", unseen)));

    let expired = stolen.forge_timestamp(&snapshot_bytes, |t| (t.issued, t.expires) = late)?;
    lies.push(lie(
        "an expired timestamp",
        Code::MetadataExpired,
        vec![("timestamp", Some(expired))],
    ));
    let expired = with_snapshot(signed(stolen, &next_snapshot(late), &stolen.snapshot)?)?;
    lies.push(lie("an expired snapshot", Code::MetadataExpired, expired));
    let expired = with_targets(signed(stolen, &next_targets(late), &people)?)?;
    lies.push(lie("expired targets", Code::MetadataExpired, expired));
    let expired = signed(stolen, &next_root(late), &stolen.operator_key("root")?)?;
    lies.push(lie(
        "an expired root",
        Code::MetadataExpired,
        vec![("root", Some(expired))],
    ));
    let future = stolen.forge_timestamp(&snapshot_bytes, |t| {
        (t.issued, t.expires) = (now + LONG, now + LONG + 3600);
    })?;
    lies.push(lie(
        "a timestamp of the far future",
        Code::LifetimeRefused,
        vec![("timestamp", Some(future))],
    ));

    let (mut forged, _) = stolen.newest::<Timestamp>(|t| t.version)?;
    forged.version += 1;
    let forged = signed(stolen, &forged, &wrong)?;
    lies.push(lie(
        "a timestamp by another key",
        Code::RoleNotAuthorised,
        vec![("timestamp", Some(forged))],
    ));
    let forged = with_snapshot(signed(stolen, &next_snapshot(fresh), &wrong)?)?;
    lies.push(lie("a snapshot by another key", Code::RoleNotAuthorised, forged));
    let forged = with_targets(signed(stolen, &next_targets(fresh), &stolen.timestamp)?)?;
    lies.push(lie("targets by the online keys", Code::RoleNotAuthorised, forged));
    let forged = signed(stolen, &next_root(fresh), &stolen.snapshot)?;
    lies.push(lie(
        "a root by the online keys",
        Code::RoleNotAuthorised,
        vec![("root", Some(forged))],
    ));
    Ok(lies)
}

/// The answer to `GET /v1/metadata` with the lie in it.
fn tell(shown: &[(&'static str, Option<Vec<u8>>)], answer: &mut Value) {
    let Some(documents) = answer.as_array_mut() else { return };
    for (kind, bytes) in shown {
        documents.retain(|d| d["kind"] != *kind);
        if let Some(bytes) = bytes {
            documents.insert(0, json!({"kind": kind, "bytes": STANDARD.encode(bytes)}));
        }
    }
}

/// Files that people hand to the verbs, as they must stay.
struct Files {
    fleet: PathBuf,
    before: Vec<(PathBuf, Digest)>,
    /// What verbs would write.
    never: Vec<PathBuf>,
}

impl Files {
    fn unchanged(&self) -> Result<()> {
        for (path, digest) in &self.before {
            ensure!(Digest::of(&fs::read(path)?) == *digest, "{} changed", path.display());
        }
        for path in &self.never {
            ensure!(!path.exists(), "{} was written", path.display());
        }
        Ok(())
    }
}

/// Everything that a verb could sign is prepared while the controller is honest.
fn prepare(fleet: &Fleet) -> Result<(Files, Vec<Vec<String>>)> {
    let bundle = fleet.bundle("app", "3.0.0", &[("web", &fleet.path("second"))], &[])?;
    let file = |name: &str| fleet.path(name).display().to_string();
    let (plan, grant, token, draft) = (file("a.plan"), file("a.grant"), file("a.token"), file("a.root"));
    let start = "--product app --version 2.0.0 --yes";
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for ready in [
        format!("rollout plan {start} --out {plan}"),
        format!("token create --grant {grant} --out {token}"),
        format!("key root rotate --floor app.counter=1 --out {draft}"),
    ] {
        fleet.ensign(words(&ready), [""; 0])?;
    }
    let (new_plan, new_draft) = (file("b.plan"), file("b.root"));
    let bundle_name = bundle.display();
    let verbs = [
        format!("rollout start {start}"),
        format!("rollout plan {start} --out {new_plan}"),
        format!("rollout sign {plan}"),
        format!("rollout start {plan} --yes"),
        "rollout promote app".to_owned(),
        "rollout abort app --keep --yes".to_owned(),
        "device label dev1 --label site=paris".to_owned(),
        "device hold dev1".to_owned(),
        "device unhold dev1".to_owned(),
        "token create".to_owned(),
        format!("token sign {grant}"),
        format!("release sign {bundle_name}"),
        format!("key root rotate --floor app.counter=2 --out {new_draft}"),
        format!("key root sign {draft}"),
        format!("key root publish {draft} --yes"),
    ];
    let kept = [PathBuf::from(plan), grant.into(), draft.into(), bundle];
    let before = kept
        .into_iter()
        .map(|path| Ok((path.clone(), Digest::of(&fs::read(&path)?))));
    let files = Files {
        fleet: fleet.path("home"),
        before: before.collect::<Result<_>>()?,
        never: vec![new_plan.into(), new_draft.into()],
    };
    Ok((files, verbs.iter().map(|verb| words(verb)).collect()))
}

/// Runs a verb with a copy of the operator's home: a lie that was believed a little must not help the next one.
fn refuses(fleet: &Fleet, liar: &Liar, files: &Files, verb: &[String], lie: &Lie) -> Result<()> {
    let home = tempfile::tempdir()?;
    copy_folder(&files.fleet, home.path())?;
    private(home.path())?;
    let out = fleet
        .command("ensign")
        .env("ENSIGN_HOME", home.path())
        .args(verb)
        .args(["-o", "json", "--controller", &liar.address()])
        .output()?;
    let errors = String::from_utf8_lossy(&out.stderr);
    let what = format!("{}: {verb:?}: {}\n{errors}", lie.what, out.status);
    ensure!(out.status.code() == Some(i32::from(lie.code.exit())), "{what}");
    ensure!(errors.contains(&format!("\"{}\"", lie.code.name())), "{what}");
    ensure!(errors.contains("the controller's metadata is refused"), "{what}");
    ensure!(liar.posted().is_empty(), "something left the machine: {what}");
    files.unchanged().context(what)
}

fn private(home: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    for entry in fs::read_dir(home)? {
        let path = entry?.path();
        if path.is_dir() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
            private(&path)?;
        }
    }
    Ok(())
}

#[test]
fn no_verb_signs_on_metadata_that_is_old_missing_expired_or_forged() -> Result<()> {
    let (mut fleet, _) = Fleet::with_first_release(&build(Profile::Dev)?, 2)?;
    let tree = fleet.path("second");
    write_tree(&tree, &[("version", "2.0.0")])?;
    fleet.release("2.0.0", &[("web", &tree)], &[])?;
    let (files, verbs) = prepare(&fleet)?;
    fleet.controller()?.stop();
    let stolen = Stolen::from(&fleet)?;
    fleet.start_controller()?;
    for lie in lies(&stolen)? {
        let shown = lie.shown.clone();
        let liar = Liar::start(&fleet, move |path, _, answer| {
            if path.starts_with("/v1/metadata") {
                tell(&shown, answer);
            }
        })?;
        for verb in &verbs {
            refuses(&fleet, &liar, &files, verb, &lie)?;
        }
    }
    fleet.goes_on("4.0.0")?;
    Ok(())
}
