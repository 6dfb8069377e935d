//! Speed and size of the whole product, measured from outside: real processes, release builds, ratios in one run.

pub mod handshakes;
mod memory;
mod stages;
mod tls_alone;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::harness::{Fleet, Profile, build, now, pause, write_tree};
use crate::random::Random;

const DEVICES: usize = 12;
/// Long enough for a periodic wake-up to show as processor time.
const IDLE: Duration = Duration::from_secs(60);

/// Prints one line per figure. `pair` is an old and a new tree; without one, trees of 56 MB are made.
pub fn run(pair: Option<(PathBuf, PathBuf)>) -> Result<()> {
    let mut fleet = Fleet::start(&build(Profile::Release)?, 0)?;
    fleet.verbose();
    fleet.join(DEVICES)?;
    let (old, new) = match pair {
        Some(pair) => pair,
        None => made(&fleet)?,
    };
    fleet.release("1.0.0", &[("tree", &old)], &[])?;
    first_install(&mut fleet)?;
    update(&fleet, &new)?;
    idle(&mut fleet)
}

/// All at once, everything fetched; the memory of one device is watched meanwhile.
fn first_install(fleet: &mut Fleet) -> Result<()> {
    let watched = fleet.device("dev1")?.id();
    let (peak, exit) = memory::peak(watched, || fleet.rollout("1.0.0", &["--waves", "100%", "--soak", "0s"]));
    ensure!(exit? == 0, "the first rollout did not complete\n{}", fleet.logs());
    println!("applying a whole tree: {peak} KiB PSS at most, all processes of a device");
    Ok(())
}

/// Publish to last device confirmed, against copying the same bytes to as many folders with one syncfs each.
fn update(fleet: &Fleet, new: &Path) -> Result<()> {
    let out = fleet.path("new.bundle");
    let tree = format!("tree={}", new.display());
    let build = [
        "release",
        "build",
        "--product",
        "app",
        "--version",
        "1.1.0",
        "--tree",
        &tree,
        "--out",
    ];
    let began = now();
    fleet.ensign(build, [&out])?;
    println!("release build: {:.2} s", began.elapsed().as_secs_f64());
    fleet.ensign(["release", "sign"], [&out])?;

    let began = now();
    let mut clock = stages::Clock::start();
    fleet.ensign(["release", "publish"], [&out])?;
    let published = began.elapsed();
    clock.published();
    let exit = fleet.rollout("1.1.0", &["--waves", "100%", "--soak", "0s"])?;
    let ours = began.elapsed();
    clock.ended();
    ensure!(exit == 0, "the second rollout did not complete\n{}", fleet.logs());

    let began = now();
    for number in 0..DEVICES {
        let to = fleet.path(format!("copy{number}"));
        run_command(Command::new("cp").arg("-a").arg(new).arg(&to))?;
        run_command(Command::new("sync").arg("-f").arg(&to))?;
    }
    let copy = began.elapsed();
    println!(
        "publish to last of {DEVICES} devices confirmed: {:.2} s (publish {:.2} s), copying {:.2} s: {:.2} times",
        ours.as_secs_f64(),
        published.as_secs_f64(),
        copy.as_secs_f64(),
        ours.as_secs_f64() / copy.as_secs_f64()
    );
    print!("{}", stages::table(fleet, "1.1.0", clock)?);
    Ok(())
}

fn idle(fleet: &mut Fleet) -> Result<()> {
    let (device, controller) = (fleet.device("dev1")?.id(), fleet.controller()?.id());
    pause(Duration::from_secs(3));
    let before = (memory::ticks(device), memory::ticks(controller));
    pause(IDLE);
    let after = (memory::ticks(device), memory::ticks(controller));
    let percent = |from: u64, to: u64| {
        f64::from(u32::try_from(to - from).unwrap_or(u32::MAX)) / memory::TICKS_PER_SECOND / IDLE.as_secs_f64() * 100.0
    };
    println!(
        "idle: device {} KiB PSS, {:.2} % of a core",
        memory::pss(device),
        percent(before.0, after.0)
    );
    println!(
        "idle: controller {} KiB PSS, {:.2} % of a core",
        memory::pss(controller),
        percent(before.1, after.1)
    );
    Ok(())
}

/// Two trees of about 56 MB: a large file of which a tenth changes, and a thousand small ones of which 27 change.
fn made(fleet: &Fleet) -> Result<(PathBuf, PathBuf)> {
    let (old, new) = (fleet.path("old"), fleet.path("new"));
    let mut noise = Random::new(7);
    // Half noise, half text: about as compressible as a tree of programs.
    let mut body: Vec<u8> = (0..46)
        .flat_map(|_| [noise.bytes(1 << 19), b"line of text\n".repeat(40_000)].concat())
        .collect();
    for (root, change) in [(&old, false), (&new, true)] {
        write_tree(root, &[("bin/run!", "#!/bin/sh\n")])?;
        if change {
            let tenth = body.len() / 10;
            body[..tenth].copy_from_slice(&noise.bytes(tenth));
        }
        std::io::Write::write_all(&mut std::fs::File::create(root.join("library.so"))?, &body)?;
        for number in 0..1000 {
            let version = if change && number % 37 == 0 { "new" } else { "old" };
            let (name, text) = (
                format!("lib/{:02}/{number}.py", number % 50),
                format!("# {version} {number}\n").repeat(500),
            );
            write_tree(root, &[(&name, &text)])?;
        }
    }
    Ok((old, new))
}

fn run_command(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
