//! How rollouts look.

use std::fmt::Write as _;

use ensign_api::{Frozen, Reason, Rollout, RolloutState, WaveState, WaveStatus};
use ensign_bundle::reason::Code;
use ensign_bundle::text::printable;

use crate::clock;
use crate::output::{Document, Facts, Grid, Mood, Paint, bar, some_of, steps};
use crate::units;

/// Cells of a wave's bar.
const BAR: usize = 16;
/// Characters of an id in a table.
const ID: usize = 12;

fn state_mood(state: RolloutState) -> Mood {
    match state {
        RolloutState::Done => Mood::Good,
        RolloutState::Scheduled | RolloutState::Running | RolloutState::Reverting => Mood::Busy,
        RolloutState::Superseded | RolloutState::Reverted => Mood::Faint,
        RolloutState::Paused | RolloutState::Halted | RolloutState::Aborted | RolloutState::Expired => Mood::Bad,
    }
}

fn wave_mood(state: WaveState) -> Mood {
    match state {
        WaveState::Waiting => Mood::Faint,
        WaveState::Open | WaveState::Soaking => Mood::Busy,
        WaveState::Done => Mood::Good,
        WaveState::Halted => Mood::Bad,
    }
}

fn sum(rollout: &Rollout, count: impl Fn(&WaveStatus) -> u32) -> u64 {
    rollout.waves.iter().map(|w| u64::from(count(w))).sum()
}

/// A number that worries when it is not 0.
fn worry(n: u32) -> (String, Mood) {
    let mood = if n == 0 { Mood::Faint } else { Mood::Bad };
    (n.to_string(), mood)
}

/// Who is waited for and not there, and what becomes of that.
fn absent(rollout: &Rollout, now: u64, paint: Paint) -> String {
    let mut out = String::new();
    for away in &rollout.away {
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{}{} {} (wave {}) is not connected for {} (since {}), counts as {} at {}",
            if out.is_empty() { "\n" } else { "" },
            paint.yellow("away:"),
            printable(&away.name, 63),
            away.wave,
            units::show_seconds(now.saturating_sub(away.since.0)),
            away.since,
            printable(&away.counts_as, 20),
            away.at
        );
    }
    let all = sum(rollout, |w| w.away);
    let more = all.saturating_sub(rollout.away.len() as u64);
    if more > 0 {
        let _ = writeln!(out, "{} {more} more", paint.yellow("away:"));
    }
    if !out.is_empty() {
        out.push_str(
            "      It goes on by itself when they are back; why a device is silent: `ensign device show DEVICE`\n",
        );
    }
    out
}

/// Who was asked and waits for something of its own, one line for all that say the same.
fn waits(rollout: &Rollout, paint: Paint) -> String {
    let mut said: Vec<(String, Vec<String>)> = Vec::new();
    for waiting in &rollout.waiting {
        let why = format!("{} ({})", printable(&waiting.reason.text, 200), waiting.reason.code);
        match said.iter_mut().find(|(known, _)| *known == why) {
            Some((_, names)) => names.push(waiting.name.clone()),
            None => said.push((why, vec![waiting.name.clone()])),
        }
    }
    let mut out = String::new();
    for (why, names) in said {
        let before = if out.is_empty() { "\n" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{before}{} {}: {why}", paint.yellow("waits:"), some_of(&names));
    }
    if !out.is_empty() {
        let _ = writeln!(
            out,
            "       More of one: `ensign rollout why DEVICE --rollout {}`",
            &rollout.id.to_string()[..ID]
        );
    }
    out
}

/// `the fleet is frozen since 2026-12-01T02:00:00Z by bob: storm`.
pub fn said(frozen: &Frozen) -> String {
    let mut said = format!("the fleet is frozen since {}", frozen.since);
    for (before, text) in [(" by ", &frozen.by), (": ", &frozen.reason)] {
        if !text.is_empty() {
            said.push_str(before);
            said.push_str(&printable(text, 200));
        }
    }
    said
}

/// What holds it, with the code where the words do not begin with it.
fn because(reason: &Reason) -> String {
    let Reason { code, text } = reason;
    if text.starts_with(code.name()) {
        text.clone()
    } else {
        format!("{text} ({code})")
    }
}

impl Document for Rollout {
    fn table(&self, paint: Paint) -> String {
        let (ok, target) = (sum(self, |w| w.ok), sum(self, |w| w.target));
        let state = match state_mood(self.state) {
            Mood::Good => paint.green(self.state.name()),
            Mood::Busy => paint.yellow(self.state.name()),
            Mood::Bad => paint.red(self.state.name()),
            Mood::Plain | Mood::Faint => paint.dim(self.state.name()),
        };
        let mut out = format!(
            "{}  {state}  {ok} of {}\n",
            paint.bold(&format!("{}@{}", self.product, self.version)),
            units::show_count(target, "device")
        );
        let mut facts = Facts::new();
        facts.add("id", self.id.to_string());
        if let Some(reason) = &self.reason {
            facts.add("because", because(reason));
        }
        if let Some(frozen) = &self.frozen
            && self.reason.as_ref().is_none_or(|r| r.code != Code::Frozen)
        {
            facts.add("and", said(frozen));
        }
        facts
            .add("started", self.started.to_string())
            .add("valid until", self.expires.to_string())
            .add(
                "bytes",
                format!(
                    "{} sent, {} saved",
                    units::show_bytes(self.bytes.sent),
                    units::show_bytes(self.bytes.saved)
                ),
            );
        out.push_str(&facts.text(paint));
        out.push('\n');
        // What is 0 everywhere and no worry only takes room.
        let any = |count: fn(&WaveStatus) -> u64| self.waves.iter().any(|w| count(w) > 0);
        let (unreached, held) = (any(|w| u64::from(w.unreached)), any(|w| u64::from(w.held)));
        let soaking = any(|w| w.soak_left_s);
        let mut headers = vec!["WAVE", "STATE", "", "OK", "OF", "ACTIVE", "WAITING", "FAILED", "DARK"];
        headers.extend(
            [(unreached, "UNREACHED"), (held, "HELD"), (soaking, "SOAK")]
                .iter()
                .filter(|h| h.0)
                .map(|h| h.1),
        );
        let numbers: Vec<usize> = (3..headers.len()).chain([0]).collect();
        let mut grid = Grid::new(&headers, paint).right(&numbers);
        for w in &self.waves {
            let number = |n: u32, mood| (n.to_string(), mood);
            let mut row = vec![
                number(w.index, Mood::Plain),
                (w.state.name().to_owned(), wave_mood(w.state)),
                (bar(u64::from(w.ok), u64::from(w.target), BAR), wave_mood(w.state)),
                number(w.ok, Mood::Plain),
                number(w.target, Mood::Plain),
                number(w.active, Mood::Plain),
                number(w.pending, Mood::Faint),
                worry(w.failed),
                worry(w.dark),
            ];
            row.extend(unreached.then(|| number(w.unreached, Mood::Faint)));
            row.extend(held.then(|| number(w.held, Mood::Faint)));
            let soak = |left| {
                if left == 0 {
                    String::new()
                } else {
                    units::show_seconds(left)
                }
            };
            row.extend(soaking.then(|| (soak(w.soak_left_s), Mood::Busy)));
            grid.row(row.iter().map(|(text, mood)| (text.as_str(), *mood)));
        }
        out.push_str(&grid.text());
        out.push_str(&waits(self, paint));
        out.push_str(&absent(self, clock::now(), paint));
        out.push_str(&steps(&self.hint, paint));
        out
    }
}

impl Document for [Rollout] {
    fn table(&self, paint: Paint) -> String {
        let headers = [
            "ROLLOUT", "RELEASE", "STATE", "", "OK", "OF", "FAILED", "DARK", "STARTED", "REASON",
        ];
        let mut grid = Grid::new(&headers, paint).right(&[4, 5, 6, 7]);
        for r in self {
            let (ok, target) = (sum(r, |w| w.ok), sum(r, |w| w.target));
            let (failed, dark) = (sum(r, |w| w.failed), sum(r, |w| w.dark));
            let worried = |n| if n == 0 { Mood::Faint } else { Mood::Bad };
            grid.row([
                (&r.id.to_string()[..ID], Mood::Faint),
                (&*format!("{}@{}", r.product, r.version), Mood::Plain),
                (r.state.name(), state_mood(r.state)),
                (&bar(ok, target, BAR / 2), state_mood(r.state)),
                (&ok.to_string(), Mood::Plain),
                (&target.to_string(), Mood::Plain),
                (&failed.to_string(), worried(failed)),
                (&dark.to_string(), worried(dark)),
                (&r.started.to_string(), Mood::Faint),
                (r.reason.as_ref().map_or("", |x| x.code.name()), Mood::Plain),
            ]);
        }
        grid.or("no rollouts: `ensign rollout start --product PRODUCT --version VERSION`")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ensign_api::{Away, Reason, Time, TransferBytes};
    use ensign_bundle::digest::{DeviceId, Digest, PlanId};

    use super::*;

    pub fn rollout(byte: u8, product: &str) -> Rollout {
        let wave = |index, state, target, ok| WaveStatus {
            index,
            state,
            target,
            pending: target - ok,
            active: 0,
            ok,
            failed: 0,
            dark: 0,
            unreached: 0,
            held: 0,
            away: 0,
            soak_left_s: 0,
        };
        Rollout {
            id: PlanId([byte; 16]),
            product: product.parse().unwrap(),
            version: "1.1.0".parse().unwrap(),
            state: RolloutState::Running,
            reason: None,
            waves: vec![
                wave(1, WaveState::Done, 1, 1),
                wave(2, WaveState::Soaking, 4, 3),
                wave(3, WaveState::Waiting, 35, 0),
            ],
            bytes: TransferBytes {
                sent: 1_200_000,
                saved: 55_000_000,
            },
            away: Vec::new(),
            waiting: Vec::new(),
            frozen: None,
            hint: String::new(),
            revision: 1,
            plan: Digest([byte; 32]),
            seq: 1,
            started: Time(1_796_090_400),
            expires: Time(1_796_690_400),
        }
    }

    #[test]
    fn a_rollout_under_way() {
        let mut r = rollout(0x1f, "app");
        r.waves[1].soak_left_s = 432;
        insta::assert_snapshot!(r.table(Paint(false)));
    }

    #[test]
    fn one_that_waits_for_silent_devices_in_a_frozen_fleet() {
        let mut r = rollout(0x1f, "app");
        let now = clock::now();
        let away = |name: &str, counts_as: &str| Away {
            device: DeviceId([1; 32]),
            name: name.to_owned(),
            wave: 2,
            since: Time(now - 125),
            counts_as: counts_as.to_owned(),
            at: Time(now + 1675),
        };
        r.away = vec![away("till7", "dark"), away("till\u{202e}8", "unreached")];
        (r.waves[1].away, r.waves[1].active) = (3, 1);
        let table = absent(&r, now, Paint(false));
        let table = table
            .replace(&Time(now - 125).to_string(), "[then]")
            .replace(&Time(now + 1675).to_string(), "[later]");
        insta::assert_snapshot!(table);
        r.away.clear();
        r.state = RolloutState::Paused;
        r.reason = Some(Reason {
            code: Code::Paused,
            text: "paused since 2026-12-01T02:00:00Z by bob".to_owned(),
        });
        r.hint = "go on: `ensign rollout resume app`; or end it: `ensign rollout abort app --keep`".to_owned();
        r.frozen = Some(Frozen {
            since: Time(1_796_090_400),
            reason: "storm".to_owned(),
            by: "ada".to_owned(),
        });
        insta::assert_snapshot!(r.table(Paint(false)));
    }

    #[test]
    fn a_halted_one_says_why_and_what_to_type() {
        let mut r = rollout(0x1f, "app");
        r.state = RolloutState::Halted;
        r.reason = Some(Reason {
            code: Code::TooManyFailed,
            text: "1 device failed in wave 2, none may: till\u{202e}7".to_owned(),
        });
        r.waves[1].failed = 1;
        r.waves[1].state = WaveState::Halted;
        r.hint = "see why: `ensign rollout why --rollout app`; accept that and go on: `ensign rollout resume app`"
            .to_owned();
        insta::assert_snapshot!(r.table(Paint(false)));
        insta::assert_snapshot!([r, rollout(0x2e, "pos")][..].table(Paint(false)));
    }

    #[test]
    fn devices_that_wait_are_named_with_what_they_wait_for() {
        let mut r = rollout(0x1f, "app");
        assert_eq!(waits(&r, Paint(false)), "");
        let waiting = |name: &str, text: &str| ensign_api::Waiting {
            device: DeviceId([1; 32]),
            name: name.to_owned(),
            wave: 2,
            reason: Reason {
                code: Code::Locked,
                text: text.to_owned(),
            },
        };
        let locked = "the device is locked until 2026-12-01T18:54:00Z, no reason given";
        r.waiting = vec![
            waiting("till7", locked),
            waiting("till9", locked),
            waiting("till8", "till is open"),
        ];
        insta::assert_snapshot!(waits(&r, Paint(false)));
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
        let r = rollout(1, "app");
        assert!(!r.table(Paint(false)).contains('\u{1b}'));
        assert!(r.table(Paint(true)).contains("\u{1b}["));
    }
}
