//! A controller in a thief's hands, sixth part: what it shows of rollouts, holds, labels and devices to people who are about to sign. What
//! leaves the operator's machine says what the signed plan and this machine's own memory say, or nothing does.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ensign_bundle::digest::{FleetId, PlanId};
use ensign_bundle::plan::statements::{Cancel, Grant, Hold, Plan, Promote};
use ensign_bundle::reason::Code;
use ensign_bundle::statement::{self, Document};
use ensign_bundle::trust::issue::Next as _;
use ensign_bundle::trust::roles::{FORMAT, Root};
use ensign_crypto::SecretKey;
use ensign_tests::harness::{ALL_AT_ONCE, Fleet, Profile, build, put, write_tree};
use ensign_tests::hostile::{Liar, Stolen, unix_now};
use serde_json::{Value, json};

/// Further ahead of the clock than this no number may be, seconds.
const DAY: u64 = 24 * 3600;

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// The verb through the liar fails with this code, and nothing leaves the machine.
fn refused(fleet: &Fleet, liar: &Liar, verb: &str, code: Code, values: &[&str]) -> Result<()> {
    let address = liar.address();
    let verb = format!("{verb} --controller {address}");
    let verb: Vec<&str> = verb.split(' ').collect();
    fleet.fails("ensign", &verb, code, values)?;
    let posted = liar.posted();
    ensure!(posted.is_empty(), "{verb:?} sent {posted:?}");
    Ok(())
}

/// The verb through the liar ends with 0. Returns the one envelope that left the machine.
fn sent(fleet: &Fleet, liar: &Liar, verb: &str) -> Result<Vec<u8>> {
    fleet.ensign(words(&format!("{verb} --controller {}", liar.address())), [""; 0])?;
    let posted = liar.posted();
    ensure!(posted.len() == 1, "{verb} sent {posted:?}");
    Ok(posted[0].body.clone())
}

fn open<T: Document>(bytes: &[u8]) -> Result<T> {
    Ok(statement::open_unverified::<T>(bytes)?.body)
}

/// Three devices and two products, each with a rollout that waits for its first promotion; and the rollouts as they are.
fn two_gates() -> Result<(Fleet, Value, Value)> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 3)?;
    let tree = fleet.path("tree");
    write_tree(&tree, &[("v", "1")])?;
    for product in ["app", "pos"] {
        let bundle = fleet.bundle(product, "1.0.0", &[(&format!("web-{product}"), &tree)], &[])?;
        for verb in ["sign", "publish"] {
            fleet.ensign(["release", verb], [&bundle])?;
        }
        let start =
            format!("rollout start --product {product} --version 1.0.0 --waves 1,2,100% --soak 0s --gate manual --yes");
        fleet.ensign(words(&start), [""; 0])?;
        fleet.wait_for("the second wave waits for an operator", |f| {
            let status = f.json(["rollout", "status", product])?;
            Ok(status["reason"]["code"] == "gate-not-open" && status["waves"][0]["state"] == "done")
        })?;
    }
    let show = |product: &str| fleet.json(["rollout", "status", product]);
    let (app, pos) = (show("app")?, show("pos")?);
    Ok((fleet, app, pos))
}

/// Every row of `product` in an answer about rollouts.
fn rows<'a>(answer: &'a mut Value, product: &str) -> Vec<&'a mut Value> {
    let rows: Vec<&mut Value> = match answer {
        Value::Array(rows) => rows.iter_mut().collect(),
        one => vec![one],
    };
    rows.into_iter().filter(|row| row["product"] == product).collect()
}

/// The thief wants a promotion of `pos`, or its end, and shows it under the name of `app`.
#[test]
fn a_promotion_and_an_abort_are_of_the_plan_that_was_meant() -> Result<()> {
    let (fleet, app, pos) = two_gates()?;
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let (app_id, pos_id) = (text(&app, "id"), text(&pos, "id"));
    let honest_plans = Liar::start(&fleet, |_, _, _| ())?;
    let promote = "rollout promote app --yes";
    let abort = "rollout abort app --keep --yes";

    // Another plan's digest behind the id, and another plan altogether.
    let other = text(&pos, "plan");
    let digest = other.clone();
    let liar = Liar::start(&fleet, move |path, _, answer| {
        if path == "/v1/rollouts" {
            for row in rows(answer, "app") {
                row["plan"] = json!(digest);
            }
        }
    })?;
    for verb in [promote, abort] {
        refused(&fleet, &liar, verb, Code::PlanMismatch, &[&app_id, &other])?;
    }
    let (id, digest) = (pos_id.clone(), other.clone());
    let liar = Liar::start(&fleet, move |path, _, answer| {
        if path == "/v1/rollouts" {
            for row in rows(answer, "app") {
                (row["plan"], row["id"]) = (json!(digest), json!(id));
            }
        }
    })?;
    for verb in [promote, abort] {
        refused(&fleet, &liar, verb, Code::PlanMismatch, &["app@1.0.0", "pos@1.0.0"])?;
    }

    // The plan itself, changed and signed by the thief; and other devices under its name.
    let genuine = seen(&fleet, "rollout promote app --dry-run", "/plan")?;
    let bytes = STANDARD.decode(genuine["plan"].as_str().context("a plan")?)?;
    let mut plan: Plan = open(&bytes)?;
    plan.expires -= 1;
    let forged = statement::sign(&plan, &[&SecretKey::from_seed([91; 32])], &FleetId([7; 32]))?;
    let digest = statement::open_unverified::<Plan>(&forged)?.digest();
    let shown = json!({"plan": STANDARD.encode(forged), "waves": genuine["waves"], "promotes": []});
    let under = shown.clone();
    let liar = Liar::start(&fleet, move |path, _, answer| {
        if path.ends_with("/plan") {
            answer.clone_from(&under);
        }
    })?;
    for verb in [promote, abort] {
        refused(&fleet, &liar, verb, Code::PlanMismatch, &[&app_id, &digest.to_string()])?;
    }
    let liar = Liar::start(&fleet, move |path, status, answer| match path {
        "/v1/rollouts" => {
            for row in rows(answer, "app") {
                (row["plan"], row["id"]) = (json!(digest), json!(PlanId::of(&digest)));
            }
        }
        path if path.ends_with("/plan") => {
            *status = 200;
            answer.clone_from(&shown);
        }
        _ => {}
    })?;
    for verb in [promote, abort] {
        refused(&fleet, &liar, verb, Code::RoleNotAuthorised, &["scope"])?;
    }
    let ours = fleet.member("dev1")?.device.to_string();
    let liar = Liar::start(&fleet, move |path, _, answer| {
        let waves = answer.get_mut("waves").filter(|_| path.ends_with("/plan"));
        for wave in waves.and_then(Value::as_array_mut).into_iter().flatten() {
            wave.as_array_mut().expect("members").retain(|m| m["device"] != ours);
        }
    })?;
    for verb in [promote, abort] {
        refused(&fleet, &liar, verb, Code::ContentMismatch, &["wave"])?;
    }

    // What the signed plan says is what leaves the machine: a wave that is said to be over is promoted all the same.
    let liar = Liar::start(&fleet, |path, _, answer| {
        if path.starts_with("/v1/rollouts") && !path.ends_with("/plan") {
            for row in rows(answer, "app") {
                row["waves"][1]["state"] = json!("done");
            }
        }
    })?;
    let promotion: Promote = open(&sent(&fleet, &liar, promote)?)?;
    assert_eq!((promotion.plan.to_string(), promotion.wave), (text(&app, "plan"), 2));
    fleet.wait_for("the third wave waits for an operator", |f| {
        let status = f.json(["rollout", "status", "app"])?;
        Ok(status["waves"][1]["state"] == "done")
    })?;
    let promotion: Promote = open(&sent(&fleet, &honest_plans, promote)?)?;
    assert_eq!(
        promotion.wave, 3,
        "the promotion of wave 2 is signed, so it is the next one's turn"
    );
    // The other gate is as shut as it was.
    assert_eq!(
        fleet.json(["rollout", "status", "pos"])?["waves"][1]["state"],
        "waiting"
    );
    let cancel: Cancel = open(&sent(&fleet, &honest_plans, "rollout abort pos --keep --yes")?)?;
    assert_eq!(cancel.plan.to_string(), other);
    Ok(())
}

/// What an honest controller answers on a path that ends so, while the verb runs.
fn seen(fleet: &Fleet, verb: &str, end: &'static str) -> Result<Value> {
    let found: Arc<Mutex<Option<Value>>> = Arc::default();
    let keep = Arc::clone(&found);
    let watcher = Liar::start(fleet, move |path, _, answer| {
        if path.ends_with(end) {
            *keep.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer.clone());
        }
    })?;
    fleet.ensign(words(&format!("{verb} --controller {}", watcher.address())), [""; 0])?;
    drop(watcher);
    let seen = found.lock().unwrap_or_else(PoisonError::into_inner).take();
    seen.with_context(|| format!("nothing was asked on {end}"))
}

/// Where the controller has lost the plan, its whole id still ends it; a digest that the id is not made of does not.
#[test]
fn a_plan_that_is_lost_is_ended_by_its_whole_id() -> Result<()> {
    let (fleet, app, pos) = two_gates()?;
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let lost = |swap: Option<String>| {
        Liar::start(&fleet, move |path, status, answer| {
            if path.ends_with("/plan") {
                *status = 409;
                let error = json!({"code": "plan-lost", "exit": 10, "message": "cannot be read", "hint": "restore it"});
                *answer = json!({ "error": error });
            } else if let (Some(digest), "/v1/rollouts") = (&swap, path) {
                for row in rows(answer, "app") {
                    row["plan"] = json!(digest);
                }
            }
        })
    };
    let by_id = format!("rollout abort {} --keep --yes", text(&app, "id"));
    let liar = lost(None)?;
    refused(&fleet, &liar, "rollout abort app --keep --yes", Code::PlanLost, &[])?;
    refused(&fleet, &liar, "rollout promote app", Code::PlanLost, &[])?;
    refused(
        &fleet,
        &lost(Some(text(&pos, "plan")))?,
        &by_id,
        Code::PlanMismatch,
        &[&text(&pos, "plan")],
    )?;
    let cancel: Cancel = open(&sent(&fleet, &liar, &by_id)?)?;
    assert_eq!(cancel.plan.to_string(), text(&app, "plan"));
    Ok(())
}

/// A plan, a hold and labels get numbers near the clock, whatever number is shown to be the last one.
#[test]
fn no_number_is_pushed_to_its_end() -> Result<()> {
    let (fleet, _) = Fleet::with_first_release(&build(Profile::Dev)?, 2)?;
    let tree = fleet.path("second");
    write_tree(&tree, &[("version", "2.0.0")])?;
    fleet.release("2.0.0", &[("web", &tree)], &[])?;
    let device = fleet.member("dev1")?.device;
    let thief = SecretKey::from_seed([92; 32]);
    let forged = Hold {
        format: FORMAT,
        issued: u64::MAX - 1,
        device,
        seq: u64::MAX - 1,
        held: false,
        reason: String::new(),
    };
    let shown = STANDARD.encode(statement::sign(&forged, &[&thief], &FleetId([7; 32]))?);
    let liar = Liar::start(&fleet, move |path, _, answer| match path {
        "/v1/rollouts" => {
            for row in rows(answer, "app") {
                row["seq"] = json!(u64::MAX - 1);
            }
        }
        "/v1/evidence" => {
            for row in answer.as_array_mut().into_iter().flatten() {
                row["hold"] = json!(shown);
            }
        }
        _ => {}
    })?;
    let near = |number: u64| {
        let now = unix_now();
        assert!(number <= now && number + DAY > now, "{number} at {now}");
    };
    let hold: Hold = open(&sent(&fleet, &liar, "device hold dev1")?)?;
    near(hold.seq);
    let unhold: Hold = open(&sent(&fleet, &liar, "device unhold dev1")?)?;
    assert!(
        unhold.seq > hold.seq,
        "this machine remembers what it signed, shown or not"
    );
    let start = "rollout start --product app --version 2.0.0 --waves 100% --soak 0s --yes";
    let body: Value = serde_json::from_slice(&sent(&fleet, &liar, start)?)?;
    let plan: Plan = open(&STANDARD.decode(body["plan"].as_str().context("a plan")?)?)?;
    near(plan.seq);
    drop(liar);
    fleet.goes_on("3.0.0")?;
    Ok(())
}

/// Labels that were replaced: the device is left out of plans, and its next labels go on top of the newest.
#[test]
fn labels_of_before_are_not_planned_with() -> Result<()> {
    let (fleet, _) = Fleet::with_first_release(&build(Profile::Dev)?, 2)?;
    let tree = fleet.path("second");
    write_tree(&tree, &[("version", "2.0.0")])?;
    fleet.release("2.0.0", &[("web", &tree)], &[])?;
    let device = fleet.member("dev1")?.device.to_string();
    fleet.ensign(words("device label dev1 --label pilot=yes"), [""; 0])?;
    let old = seen(&fleet, "device label dev1 --label pilot=no", "/v1/evidence")?;
    let liar = Liar::start(&fleet, move |path, _, answer| {
        if path == "/v1/evidence" {
            answer.clone_from(&old);
        }
    })?;
    let plan = "rollout plan --product app --version 2.0.0 --print-devices";
    let through = format!("{plan} --controller {}", liar.address());
    let preview = fleet.json(words(&through))?;
    assert_eq!(preview["devices"], 1, "{preview}");
    let refused = preview["refused"].to_string();
    ensure!(
        refused.contains("rollback-refused") && refused.contains("dev1"),
        "{preview}"
    );
    let canary = "rollout plan --product app --version 2.0.0 --canary pilot=yes";
    let canary = format!("{canary} --controller {}", liar.address());
    let canary = words(&canary);
    fleet.fails(
        "ensign",
        &canary.iter().map(String::as_str).collect::<Vec<_>>(),
        Code::NobodyMatches,
        &[],
    )?;
    let next: Grant = open(&sent(&fleet, &liar, "device label dev1 --label floor=2")?)?;
    let labels = serde_json::to_value(&next.labels)?;
    assert_eq!(
        labels["pilot"], "no",
        "on top of the newest labels: {labels} of {device}"
    );
    assert_eq!(
        fleet.json(words(plan))?["devices"],
        2,
        "an honest controller shows the newest"
    );
    Ok(())
}

/// A device that joined since somebody last looked is said to be new; where root's policy wants known canaries, it opens no wave before
/// this operator has seen it.
#[test]
fn canaries_are_devices_that_this_machine_has_seen() -> Result<()> {
    let (mut fleet, _) = Fleet::with_first_release(&build(Profile::Dev)?, 2)?;
    let tree = fleet.path("second");
    write_tree(&tree, &[("version", "2.0.0")])?;
    fleet.release("2.0.0", &[("web", &tree)], &[])?;
    fleet.join(1)?;
    fleet.controller()?.stop();
    let stolen = Stolen::from(&fleet)?;
    fleet.start_controller()?;
    let mut root = stolen.newest::<Root>(|r| r.version)?.0.next(unix_now())?;
    root.policy.known_canaries = true;
    let draft = fleet.path("policy.root");
    put(
        &draft,
        statement::sign(&root, &[&stolen.operator_key("root")?], &stolen.fleet)?,
        0o600,
    )?;

    let start = |more: &str| {
        words(&format!(
            "rollout start --product app --version 2.0.0 --waves 100% --soak 0s --yes --canary name=dev3 {more}"
        ))
    };
    let warned = fleet.ensign(start("--dry-run"), [""; 0])?;
    let warned = String::from_utf8_lossy(&warned.stderr).into_owned();
    ensure!(
        warned.contains("new since") && warned.contains("never saw before: dev3"),
        "{warned}"
    );

    fleet.ensign(["key", "root", "publish", "--yes"], [&draft])?;
    let strict = start("");
    let strict: Vec<&str> = strict.iter().map(String::as_str).filter(|w| !w.is_empty()).collect();
    fleet.fails("ensign", &strict, Code::PolicyRefused, &["dev3", "known"])?;
    let preview = fleet.json(["rollout", "plan", "--product", "app", "--version", "2.0.0"])?;
    assert_eq!(preview["changed"]["new"], json!(["dev3"]), "{preview}");
    let again = fleet.json(["rollout", "plan", "--product", "app", "--version", "2.0.0"])?;
    assert_eq!(again["changed"]["new"], json!([]), "{again}");
    fleet.ensign(&strict, ["--wait"])?;
    assert_eq!(fleet.rollout("1.0.0", ALL_AT_ONCE)?, 21, "nobody goes back by that");
    Ok(())
}
