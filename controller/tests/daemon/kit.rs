//! The first start, the next ones, and what a start refuses.

use ensign_bundle::digest::Digest;
use ensign_bundle::reason::Code;
use ensign_controller::serve::Running;

use crate::fleet::{Client, Device, FLEET, Fleet, known, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kit_is_imported_once_and_keeps_no_private_key() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    for name in ["timestamp", "snapshot", "controller", "https"] {
        assert!(!fleet.kit().join(format!("keys/{name}.pem")).exists(), "{name}");
        assert!(fleet.data().join(format!("keys/{name}.pem")).exists(), "{name}");
    }
    assert!(fleet.kit().join("kit.json").exists());
    running.stop().await.unwrap();
    // The same kit again, now without its keys, is ignored.
    fleet.serve().await.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kit_that_has_served_says_where_its_keys_are() {
    let fleet = Fleet::new();
    fleet.serve().await.stop().await.unwrap();
    std::fs::remove_dir_all(fleet.data()).unwrap();
    let refusal = fleet.try_serve(&fleet.kit()).await.unwrap_err();
    assert_eq!((refusal.code, refusal.code.exit()), (Code::KitUsed, 33));
    let data = fleet.data();
    assert!(
        refusal
            .text
            .contains(&format!("start with `--data {}`", data.display())),
        "{refusal}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kit_of_another_fleet_is_a_conflict() {
    let fleet = Fleet::new();
    fleet.serve().await.stop().await.unwrap();
    let kit = fleet.kit().join("kit.json");
    let text = std::fs::read_to_string(&kit).unwrap();
    let other = text.replace(&FLEET.to_string(), &"08".repeat(32));
    assert_ne!(other, text);
    ensign_controller::durable::write(&kit, other.as_bytes()).unwrap();
    let refusal = fleet.try_serve(&fleet.kit()).await.unwrap_err();
    assert_eq!((refusal.code, refusal.code.exit()), (Code::Conflict, 33));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_controller_is_kept_out() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let refusal = fleet.try_serve(&fleet.kit()).await.unwrap_err();
    assert_eq!(refusal.code, Code::InUse);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_everything() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 50, 2).await;
    let device = Device::new(60);
    device.join(running.address, &controller, &token).await.unwrap();
    let package = fleet.package("1.0.0", b"hello");
    fleet.publish(&Client::new(running.address, &fleet), &package).await;
    let before = running.core.read(|s| s.roles.timestamp.version).await.unwrap();
    running.stop().await.unwrap();

    let running = fleet.serve().await;
    assert_eq!(known(&running, device.id()).await.unwrap().name, "dev60");
    let public = token.public();
    let (used, releases, after, starts) = running
        .core
        .read(move |s| {
            (
                s.tokens[&public].used,
                s.releases.len(),
                s.roles.timestamp.version,
                s.fleet.starts,
            )
        })
        .await
        .unwrap();
    assert_eq!((used, releases, starts), (1, 1, 2));
    assert!(after >= before, "{after} {before}");
    // A token that was used up before is used up after.
    Device::new(61)
        .join(running.address, &controller, &token)
        .await
        .unwrap();
    let refusal = Device::new(62)
        .join(running.address, &controller, &token)
        .await
        .unwrap_err();
    assert_eq!(refusal.code, Code::TokenUsedUp);
    running.stop().await.unwrap();
}

/// Its keys are with the first controller: the words say so, and not that a file is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kit_is_for_one_folder() {
    let fleet = Fleet::new();
    fleet.serve().await.stop().await.unwrap();
    let other = fleet.dir.path().join("other");
    let refusal = ensign_controller::serve::start(ensign_controller::serve::Options {
        data: other.clone(),
        kit: Some(fleet.kit()),
        config: ensign_controller::config::Config::default(),
    })
    .await
    .unwrap_err();
    assert_eq!(refusal.code, Code::KitUsed);
    for path in [fleet.kit(), other] {
        assert!(refusal.text.contains(&path.display().to_string()), "{refusal}");
    }
}

/// Whoever can open a lock can hold it; folders of an earlier version, or of an installer, are closed as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_gets_into_the_folders() {
    use std::os::unix::fs::PermissionsExt as _;
    let fleet = Fleet::new();
    let places = [
        ("", 0o700),
        ("ledger", 0o700),
        ("blobs", 0o700),
        ("metadata", 0o700),
        ("ledger/acknowledged", 0o600),
    ];
    for _ in 0..2 {
        fleet.serve().await.stop().await.unwrap();
        for (name, wanted) in places {
            let path = fleet.data().join(name);
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, wanted, "{name}");
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
}

async fn online(running: &Running) -> [(u64, Digest); 2] {
    let read =
        |s: &ensign_controller::core::State| [&s.roles.timestamp, &s.roles.snapshot].map(|r| (r.version, r.digest));
    running.core.read(read).await.unwrap()
}

/// The controller signs them by itself: damaged ones are signed anew, with the next version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_timestamps_and_snapshots_are_signed_anew() {
    let fleet = Fleet::new();
    let mut running = fleet.serve().await;
    let client = Client::new(running.address, &fleet);
    fleet.publish(&client, &fleet.package("1.0.0", b"hello")).await;
    for damaged in [&[0][..], &[1], &[0, 1]] {
        let before = online(&running).await;
        running.stop().await.unwrap();
        for role in damaged {
            fleet.damage(&before[*role].1);
        }
        running = fleet.serve().await;
        let whole = async {
            while !running
                .core
                .read(|s| {
                    s.roles
                        .machine
                        .check_fresh(&ensign_bundle::trust::format::At::plain(s.now))
                        .is_ok()
                })
                .await
                .unwrap()
            {
                tokio::task::yield_now().await;
            }
        };
        within(whole).await;
        let after = online(&running).await;
        assert!(after[0].0 > before[0].0, "{damaged:?}");
        assert!(fleet.document(&after[0].1).exists() && fleet.document(&after[1].1).exists());
        let releases = running.core.read(|s| s.roles.machine.delegated().len()).await.unwrap();
        assert_eq!(releases, 1, "{damaged:?}");
    }
    running.stop().await.unwrap();
}
