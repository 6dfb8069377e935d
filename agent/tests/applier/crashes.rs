//! Killed anywhere: what was begun is finished or taken back.

use std::os::unix::fs::symlink;

use ensign_agent::ipc::FromRunner;
use ensign_bundle::wire::Phase;

use crate::kit::bed::Bed;
use crate::kit::device::Device;
use crate::kit::{self, Fleet, Recipe, files, probed, web};

#[test]
fn a_killed_worker_is_replaced() {
    let Bed {
        fleet,
        device,
        release,
        rollout,
        ..
    } = Bed::of(web("one"));
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    for _ in 0..3 {
        link.provide_some(&release.blobs, 3);
        let worker = device.children().remove(0).parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    link.provide_all(&release.blobs);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
    assert_eq!(device.live("web"), web("one"));
}

#[test]
fn kill_nine_anywhere_in_the_download_is_resumed() {
    let Bed {
        fleet,
        mut device,
        release,
        rollout,
        ..
    } = Bed::of(web("one"));
    for blobs in [1, 2, 3, 4, 5, 6] {
        let mut link = device.link();
        link.offer(&device, &fleet, Some(&rollout));
        link.provide_some(&release.blobs, blobs);
        device.restart();
    }
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&release.blobs);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
    assert_eq!(device.live("web"), web("one"));
    assert_eq!(std::fs::read_dir(device.paths.staging()).unwrap().count(), 0);
}

/// Killed while units are switched and while the trial runs: the pointer is always old or new, the end always the new release.
#[test]
fn e62_kill_nine_in_the_switch_and_in_the_trial_goes_on() {
    let mut fleet = Fleet::new();
    let mut device = Device::enrolled(&fleet);
    device.update(&mut fleet, &probed("1.0.0", "one"));
    let release = probed("2.0.0", "two");
    fleet.publish(&release);
    let rollout = device.rollout(&mut fleet, &release);
    device.kill();
    for killed_at in [
        "Stop web.service",
        "Start web.service",
        "Stop web.service",
        "exec check",
        "exec check",
    ] {
        let (say, hear) = std::sync::mpsc::channel();
        let (killed, wait) = std::sync::mpsc::channel::<()>();
        device.runner.answer(move |question| {
            let name = kit::runner::name(question);
            if name == killed_at {
                // The test kills now; the answer goes nowhere.
                let _ = say.send(());
                let _ = wait.recv();
            }
            FromRunner::Ok
        });
        // Started only now: it must not get past the point before the runner knows.
        device.start();
        let mut link = device.link();
        if !matches!(link.state.report.status.phase, Phase::Switching | Phase::Trial) {
            link.offer(&device, &fleet, Some(&rollout));
            link.provide_all(&release.blobs);
        }
        hear.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
        device.kill();
        drop(killed);
        let live = device.live("web");
        assert!(live == files(&[("*check", b"one")]) || live == files(&[("*check", b"two")]));
    }
    device.runner.answer(|_| FromRunner::Ok);
    device.start();
    let mut link = device.link();
    let state = link.until_settled();
    assert_eq!(
        state.report.status.phase,
        Phase::Confirmed,
        "{:?}",
        state.report.status.reason
    );
    assert_eq!(device.live("web"), files(&[("*check", b"two")]));
}

#[test]
fn a_moved_pointer_is_mended_at_start() {
    let mut fleet = Fleet::new();
    let mut device = Device::enrolled(&fleet);
    device.update(&mut fleet, &Recipe::new("1.0.0", files(&[("page", b"one")])).build());
    device.kill();
    std::fs::remove_file(device.paths.current()).unwrap();
    symlink("generations/9", device.paths.current()).unwrap();
    device.start();
    device.link();
    assert_eq!(device.live("web"), files(&[("page", b"one")]));
}
