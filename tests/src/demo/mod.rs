//! The demo: a controller and twelve devices as real processes; two good releases go out in waves, a bad one stops by itself on
//! its canaries and they come back. Every claim it prints is checked; it fails when one does not hold.

mod story;
mod view;

use std::io::Write as _;

use anyhow::Result;

use crate::harness::{Fleet, Profile, build, now};

pub const HELP: &str = "\
Shows the main job for real on this machine: a controller, 12 devices, two releases in waves, and a bad release that stops
by itself and is rolled back. No root, no network beyond loopback.

Usage: cargo demo [-- --keep]

Options:
  --keep   leave the fleet running and print the commands to play with it";

/// Devices of the demo.
const DEVICES: usize = 12;

/// Runs the whole story. An error says which part of it was not true.
pub fn run(keep: bool) -> Result<()> {
    let began = now();
    say("building the product's binaries (a fresh clone takes some minutes) ...");
    let bin = build(Profile::Dev)?;
    say(&format!("built in {:.1} s\n", began.elapsed().as_secs_f64()));

    let began = now();
    say("the controller starts, and twelve devices join with one token");
    let mut fleet = Fleet::start(&bin, DEVICES)?;
    say(&format!(
        "{DEVICES} devices joined in {:.1} s\n",
        began.elapsed().as_secs_f64()
    ));
    if keep {
        fleet.keep();
    }
    let told = story::tell(&fleet)?;
    story::summary(&fleet, &told, began.elapsed())?;
    if keep {
        story::how_to_play(&fleet);
    }
    Ok(())
}

fn say(text: &str) {
    println!("{text}");
    let _ = std::io::stdout().flush();
}
