//! Every disk that a power cut can leave, and what a device makes of it.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use ensign_agent::clock;
use ensign_agent::paths::Paths;
use ensign_bundle::digest::Digest;
use ensign_tests::random::Random;

use crate::checks::{self, History, JOURNAL};
use crate::device::Device;
use crate::image::{Fate, Image};
use crate::scenario::{self, Scenario};
use crate::tape::{Op, Recording, Tape};

/// So many changes that are not synced are lost and kept in every combination; of more, each alone and some at random.
const EVERY: usize = 4;
/// Random combinations at each point.
const RANDOM: usize = 6;

/// A cut: so many steps were taken, and these had another fate than to last.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    pub(crate) count: usize,
    pub(crate) fates: Vec<(usize, Fate)>,
}

/// How much came of a recording.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Disks that were looked at.
    pub(crate) looked: usize,
    /// Journals whose last step was torn, at each byte.
    pub(crate) torn: usize,
    /// Of the disks, different ones on which a device was started and driven to the end.
    pub(crate) driven: usize,
    /// Different ones beyond the bound.
    pub(crate) left: usize,
}

impl Cut {
    /// `whole` is the disk after each step, had all of it lasted.
    pub(crate) fn image(&self, recording: &Recording, whole: &[Image]) -> Image {
        let from = self.fates.iter().map(|(at, _)| *at).min().unwrap_or(self.count);
        let mut image = whole[from].clone();
        for at in from..self.count {
            let fate = self
                .fates
                .iter()
                .find(|(a, _)| *a == at)
                .map_or(Fate::Kept, |(_, fate)| *fate);
            if !recording.dropped.contains(&at) {
                image.take(&recording.steps[at].op, fate);
            }
        }
        image
    }

    /// For people.
    pub(crate) fn words(&self, recording: &Recording) -> String {
        let say = |at: usize| {
            let step = &recording.steps[at];
            let op = format!("{:?}", step.op);
            let op = op.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
            format!("{op} {} ({})", step.path, step.site)
        };
        let last = self.count.checked_sub(1).map_or_else(|| "the start".to_owned(), say);
        let fates: Vec<String> = self
            .fates
            .iter()
            .map(|(at, fate)| format!("{fate:?} {}", say(*at)))
            .collect();
        format!("cut after step {}, {last}; {}", self.count, fates.join(", "))
    }
}

/// All cuts after this many steps: everything lasted, only what was synced, and combinations between.
pub(crate) fn cuts(recording: &Recording, count: usize, random: &mut Random) -> Vec<Cut> {
    let pending = recording.pending(count);
    let cut = |fates: Vec<(usize, Fate)>| Cut { count, fates };
    let mut cuts = vec![cut(Vec::new())];
    if let Some(last) = count.checked_sub(1)
        && let Op::Write { bytes, .. } = &recording.steps[last].op
        && recording.steps[last].path == JOURNAL
    {
        // All others are looked at without a disk around them: see `checks::torn`.
        let some = [1, 30, bytes.len() / 2, bytes.len() - 1];
        cuts.extend(
            some.into_iter()
                .filter(|n| *n < bytes.len())
                .map(|n| cut(vec![(last, Fate::Torn(n))])),
        );
    }
    let is_write = |at: usize| matches!(recording.steps[at].op, Op::Write { .. });
    if pending.len() <= EVERY {
        for mask in 1_u32..1 << pending.len() {
            let lost = pending.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0);
            cuts.push(cut(lost.map(|(_, at)| (*at, Fate::Lost)).collect()));
        }
    } else {
        cuts.push(cut(pending.iter().map(|at| (*at, Fate::Lost)).collect()));
        for one in &pending {
            cuts.push(cut(vec![(*one, Fate::Lost)]));
            let others = pending.iter().filter(|at| *at != one);
            cuts.push(cut(others.map(|at| (*at, Fate::Lost)).collect()));
        }
        for _ in 0..RANDOM {
            let mut fates = Vec::new();
            for at in &pending {
                match random.below(3) {
                    0 => fates.push((*at, Fate::Lost)),
                    1 if is_write(*at) => fates.push((*at, Fate::Zeros)),
                    _ => {}
                }
            }
            cuts.push(cut(fates));
        }
    }
    for one in pending.iter().filter(|at| is_write(**at)) {
        cuts.push(cut(vec![(*one, Fate::Zeros)]));
    }
    cuts
}

/// The recording of a scenario that nothing disturbs.
pub(crate) fn record(scenario: &Scenario) -> Result<Recording> {
    let dir = scenario::place();
    scenario.base.make(dir.path());
    let tape = Tape::begin(dir.path());
    clock::restart();
    let mut device = Device::start(Paths::on(tape.disk(), dir.path()))?;
    device.tape = Some(Arc::clone(&tape));
    let last = (scenario.script)(&mut device)?;
    drop(device);
    let recording = tape.recording();
    checks::at_end(scenario, &told_in(&recording), &last, &Image::load(dir.path()).0)?;
    Ok(recording)
}

/// Starts a device on what the cut left and drives it to the end. What it did is recorded.
fn drive(scenario: &Scenario, before: &Before<'_>, count: usize, image: &Image) -> Result<Recording> {
    let dir = scenario::place();
    image.make(dir.path());
    let tape = Tape::begin(dir.path());
    clock::restart();
    let mut device = Device::start(Paths::on(tape.disk(), dir.path())).context("the start")?;
    device.tape = Some(Arc::clone(&tape));
    let state = device.link()?.state;
    checks::after_start(scenario, before.history, count, &state).context("after the start")?;
    let last = (scenario.script)(&mut device).context("going on")?;
    drop(device);
    let mut handed_out = before.history.receipts(count);
    handed_out.extend(before.handed_out.iter().cloned());
    let recording = tape.recording();
    handed_out.extend(told_in(&recording));
    checks::at_end(scenario, &handed_out, &last, &Image::load(dir.path()).0).context("in the end")?;
    Ok(recording)
}

/// Receipts that were handed out.
fn told_in(recording: &Recording) -> BTreeSet<Vec<u8>> {
    History::of(recording).receipts(recording.steps.len())
}

/// What is known of the time before a cut.
struct Before<'a> {
    history: &'a History,
    handed_out: BTreeSet<Vec<u8>>,
}

/// Looks at every cut of a recording, drives devices from at most `bound` different ones, and cuts again while they start from some of
/// those. The first thing that does not hold is the error.
pub(crate) fn enumerate(
    scenario: &Scenario,
    recording: &Recording,
    bound: usize,
    again: usize,
    seed: u64,
) -> Result<Counts> {
    let seen = Mutex::new(HashSet::new());
    let history = History::of(recording);
    let before = Before {
        history: &history,
        handed_out: BTreeSet::new(),
    };
    let (mut counts, second) = level(scenario, recording, &before, bound, again, seed, &seen, "")?;
    for (recording, first, handed_out) in second {
        let history = History::of(&recording);
        let before = Before {
            history: &history,
            handed_out,
        };
        let each = (bound / again.max(1)).max(8);
        let (more, _) = level(scenario, &recording, &before, each, 0, seed, &seen, &first)?;
        counts.looked += more.looked;
        counts.torn += more.torn;
        counts.driven += more.driven;
        counts.left += more.left;
    }
    Ok(counts)
}

type Second = Vec<(Recording, String, BTreeSet<Vec<u8>>)>;

#[expect(clippy::too_many_arguments, reason = "two levels of one thing")]
fn level(
    scenario: &Scenario,
    recording: &Recording,
    before: &Before<'_>,
    bound: usize,
    again: usize,
    seed: u64,
    seen: &Mutex<HashSet<Digest>>,
    first: &str,
) -> Result<(Counts, Second)> {
    let mut random = Random::new(seed);
    let mut counts = Counts::default();
    let mut todo: Vec<Cut> = Vec::new();
    let whole = recording.whole();
    for count in 0..=recording.steps.len() {
        if let Some(last) = count.checked_sub(1)
            && let Op::Write { at, bytes, .. } = &recording.steps[last].op
            && recording.steps[last].path == JOURNAL
            && recording.dropped.is_empty()
        {
            checks::torn(&whole[last], *at, bytes)
                .with_context(|| format!("{}: {first}step {count}", scenario.name))?;
            counts.torn += bytes.len() - 1;
        }
        for cut in cuts(recording, count, &mut random) {
            counts.looked += 1;
            let image = cut.image(recording, &whole);
            checks::after_cut(scenario, before.history, count, &image)
                .with_context(|| format!("{}: {first}{}", scenario.name, cut.words(recording)))?;
            if seen.lock().unwrap().insert(image.digest(None)) {
                todo.push(cut);
            }
        }
    }
    shuffle(&mut todo, &mut random);
    counts.left = todo.len().saturating_sub(bound);
    todo.truncate(bound);
    counts.driven = todo.len();
    let (next, second, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(cut) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if failed.lock().unwrap().is_some() {
                        return;
                    }
                    let words = format!("{first}{}", cut.words(recording));
                    match drive(scenario, before, cut.count, &cut.image(recording, &whole)) {
                        Ok(recovery) => {
                            let mut second = second.lock().unwrap();
                            if second.len() < again {
                                let mut handed_out = before.history.receipts(cut.count);
                                handed_out.extend(before.handed_out.iter().cloned());
                                second.push((recovery, format!("{words}; then "), handed_out));
                            }
                        }
                        Err(error) => {
                            *failed.lock().unwrap() = Some(error.context(format!("{}: {words}", scenario.name)));
                        }
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap() {
        Some(error) => Err(error),
        None => Ok((counts, second.into_inner().unwrap())),
    }
}

fn shuffle(cuts: &mut [Cut], random: &mut Random) {
    for at in (1..cuts.len()).rev() {
        cuts.swap(at, random.below(at + 1));
    }
}
