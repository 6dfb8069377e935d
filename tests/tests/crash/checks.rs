//! What must hold of a disk after a power cut, and of the device that starts on it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use ensign_agent::ipc::{FromAdmin, FromApplier, State};
use ensign_apply::journal::{self, Replay};
use ensign_bundle::codec;
use ensign_bundle::digest::Digest;
use ensign_bundle::plan::evidence::{Receipt, ReceiptState};
use ensign_bundle::statement;
use ensign_bundle::wire::Phase;

use crate::image::{Fate, Image};
use crate::scenario::{Scenario, Set, directories};
use crate::tape::{Op, Recording};

const STATE: &str = "var/lib/ensign/applier";
const DEPLOY: &str = "var/lib/ensign/deploy";
pub(crate) const JOURNAL: &str = "var/lib/ensign/applier/journal";
/// What somebody was told of by an answer is in these: each is as it was then, or as it became later.
const PROMISED: [&str; 6] = [
    "var/lib/ensign/applier/trust/a.cbor",
    "var/lib/ensign/applier/trust/b.cbor",
    "var/lib/ensign/applier/receipt.pem",
    "var/lib/ensign/applier/binding.cbor",
    "var/lib/ensign/labels.json",
    "var/lib/ensign/deploy/current",
];
/// CBOR items of a message.
const ITEMS: usize = 16_384;

/// What the disk held after each step, had all of it lasted, and what was told.
pub(crate) struct History {
    promised: Vec<[Option<Digest>; PROMISED.len()]>,
    /// Number of the journal's last step.
    sequence: Vec<u64>,
    /// By step: the state that somebody was told.
    told: Vec<(usize, Option<State>)>,
    acknowledged: Vec<usize>,
}

impl History {
    pub(crate) fn of(recording: &Recording) -> Self {
        let (mut promised, mut sequence) = (Vec::new(), Vec::new());
        let mut image = recording.base.clone();
        for count in 0..=recording.steps.len() {
            if let Some(at) = count.checked_sub(1) {
                image.take(&recording.steps[at].op, Fate::Kept);
            }
            promised.push(PROMISED.map(|path| image.digest_of(path)));
            // A record is one write: between two, the journal is what it was.
            let same = count > 0 && recording.steps[count - 1].path != JOURNAL;
            let before = sequence.last().copied().filter(|_| same);
            sequence.push(before.unwrap_or_else(|| replay(&image).map_or(0, |replay| replay.sequence)));
        }
        let (mut told, mut acknowledged) = (Vec::new(), Vec::new());
        for (at, step) in recording.steps.iter().enumerate() {
            match &step.op {
                Op::Told(bytes) => told.push((at + 1, state_in(bytes))),
                Op::Acknowledged => acknowledged.push(at + 1),
                _ => {}
            }
        }
        Self {
            promised,
            sequence,
            told,
            acknowledged,
        }
    }

    /// The last step by which somebody was told something, of the first `count`.
    fn last_told(&self, count: usize) -> usize {
        self.told
            .iter()
            .rev()
            .find(|(at, _)| *at <= count)
            .map_or(0, |(at, _)| *at)
    }

    /// The last whole state that was told.
    pub(crate) fn told(&self, count: usize) -> Option<&State> {
        let mut told = self.told.iter().rev().filter(|(at, _)| *at <= count);
        told.find_map(|(_, state)| state.as_ref())
    }

    /// Receipts that were handed out, each once.
    pub(crate) fn receipts(&self, count: usize) -> BTreeSet<Vec<u8>> {
        let told = self.told.iter().filter(|(at, _)| *at <= count);
        let states = told.filter_map(|(_, state)| state.as_ref());
        states
            .flat_map(|s| s.report.receipts.iter().map(|r| r.to_vec()))
            .collect()
    }

    /// Whether the controller may have said that it has them.
    fn may_be_acknowledged(&self, count: usize) -> bool {
        self.acknowledged.iter().any(|at| *at <= count)
    }
}

fn state_in(bytes: &[u8]) -> Option<State> {
    match codec::decode(bytes, ITEMS) {
        Ok(FromApplier::State(state) | FromApplier::Changed(state)) => Some(*state),
        Ok(_) => None,
        Err(_) => match codec::decode(bytes, ITEMS) {
            Ok(FromAdmin::State(state)) => Some(*state),
            _ => None,
        },
    }
}

fn replay(image: &Image) -> Result<Replay> {
    Ok(journal::replay(
        image.file(JOURNAL).map_or(&[][..], |file| &file.bytes),
    )?)
}

/// What holds of the disk as the cut left it, before anybody mends it.
pub(crate) fn after_cut(scenario: &Scenario, history: &History, count: usize, image: &Image) -> Result<()> {
    let shown = shown(scenario, image)?;
    ensure!(
        scenario.sets.contains(&shown),
        "current shows neither the old set nor the new one: {shown:?}"
    );
    let told = history.last_told(count);
    for (at, path) in PROMISED.iter().enumerate() {
        let found = image.digest_of(path);
        let since = &history.promised[told..=count];
        ensure!(
            since.iter().any(|then| then[at] == found),
            "{path} is not what it was when something was last told, nor what it became since"
        );
    }
    let replay = replay(image).context("the journal")?;
    ensure!(
        replay.sequence >= history.sequence[told],
        "the journal ends with step {}, but what followed from step {} was told",
        replay.sequence,
        history.sequence[told]
    );
    let device = &replay.device;
    for generation in device.generations.iter().filter(|g| device.needs(g.number)) {
        let number = generation.number;
        for component in &generation.components {
            let tree = component.tree.to_string();
            if scenario.spoiled.as_ref() == Some(&tree) {
                continue;
            }
            is_exact(scenario, image, &tree).with_context(|| format!("generation {number} needs a tree"))?;
            let marker = format!("{DEPLOY}/trees/{tree}.complete");
            ensure!(
                image.find(&marker).is_some(),
                "{tree} has no marker, generation {number} needs it"
            );
        }
        for product in &generation.products {
            let found = image.file(&format!("{STATE}/manifests/{}", product.manifest));
            let whole = found.is_some_and(|file| file.digest == product.manifest);
            ensure!(whole, "the manifest of generation {number} is gone");
        }
    }
    Ok(())
}

/// A journal of which so many bytes of the last step arrived, each number of them: it is what it was before that step.
pub(crate) fn torn(before: &Image, at: usize, step: &[u8]) -> Result<()> {
    let old = replay(before)?;
    let mut bytes = before.file(JOURNAL).map(|file| file.bytes.clone()).unwrap_or_default();
    for n in 1..step.len() {
        if bytes.len() < at + n {
            bytes.resize(at + n, 0);
        }
        bytes[at + n - 1] = step[n - 1];
        let rest = bytes.get(at + n..at + step.len()).unwrap_or_default();
        if rest == &step[n..] {
            // What is missing stands there: the step is whole.
            break;
        }
        let new = journal::replay(&bytes).with_context(|| format!("torn after {n} bytes"))?;
        let same = new.sequence == old.sequence && new.end == old.end && new.device == old.device;
        ensure!(same, "torn after {n} bytes, the journal says something else");
    }
    Ok(())
}

/// What holds of the state that the device shows after its restart.
pub(crate) fn after_start(scenario: &Scenario, history: &History, count: usize, now: &State) -> Result<()> {
    if let Some(reason) = &now.report.status.reason {
        use ensign_bundle::reason::Code;
        let lost = matches!(reason.code, Code::JournalLost | Code::TrustDegraded);
        let gone = reason.code == Code::NeedsReprovision && !scenario.changes_identity;
        ensure!(!lost && !gone, "the device lost something: {reason}");
    }
    let Some(told) = history.told(count) else { return Ok(()) };
    if scenario.changes_identity {
        return Ok(());
    }
    ensure!(
        now.report.seq >= told.report.seq,
        "report {} after {}",
        now.report.seq,
        told.report.seq
    );
    let (held, held_then) = (&now.held, &told.held);
    let newer = held.root >= held_then.root
        && held.timestamp >= held_then.timestamp
        && held.snapshot >= held_then.snapshot
        && held.targets >= held_then.targets;
    ensure!(newer, "the trust state is {held:?} after {held_then:?}");
    ensure!(
        told.device.is_none() || now.device == told.device,
        "the device is {:?} now",
        now.device
    );
    let kept = told.report.receipts.iter().all(|r| now.report.receipts.contains(r));
    ensure!(
        kept || history.may_be_acknowledged(count),
        "a receipt that was handed out is gone"
    );
    let settled = matches!(
        told.report.status.phase,
        Phase::Confirmed | Phase::RolledBack | Phase::Rejected
    );
    if settled && told.report.status.plan == scenario.end.map(|(plan, _)| plan) {
        let (then, now) = (told.report.status.phase, now.report.status.phase);
        ensure!(then == now, "{now:?} after {then:?} was told");
    }
    Ok(())
}

/// What holds when it is over: the wanted set runs, nothing is left behind, and the attempt was reported once.
pub(crate) fn at_end(scenario: &Scenario, handed_out: &BTreeSet<Vec<u8>>, last: &State, image: &Image) -> Result<()> {
    let shown = shown(scenario, image)?;
    let wanted = scenario.sets.last().unwrap();
    ensure!(shown == *wanted, "current shows {shown:?} in the end");
    let device = replay(image)?.device;
    let generations: BTreeSet<String> = device.generations.iter().map(|g| g.number.to_string()).collect();
    let trees = device
        .generations
        .iter()
        .flat_map(|g| &g.components)
        .map(|c| c.tree.to_string());
    let trees: BTreeSet<String> = trees
        .flat_map(|t| [format!("{t}.complete"), t])
        .chain([".staging".to_owned()])
        .collect();
    let manifests = device.generations.iter().flat_map(|g| &g.products).map(|p| p.manifest);
    let target = device.stage.target().map(|t| t.manifest.digest);
    let manifests: BTreeSet<String> = manifests.chain(target).map(|d| d.to_string()).collect();
    for (path, kept) in [
        (format!("{DEPLOY}/generations"), generations),
        (format!("{DEPLOY}/trees"), trees),
        (format!("{DEPLOY}/trees/.staging"), BTreeSet::new()),
        (format!("{STATE}/manifests"), manifests),
    ] {
        let left: Vec<String> = image.list(&path).difference(&kept).cloned().collect();
        ensure!(left.is_empty(), "{path} keeps {left:?}");
    }
    let Some((plan, phase)) = scenario.end else {
        return Ok(());
    };
    ensure!(last.report.status.phase == phase, "it ends as {:?}", last.report.status);
    let mut all = handed_out.clone();
    all.extend(last.report.receipts.iter().map(|r| r.to_vec()));
    let mut said = Vec::new();
    for receipt in &all {
        let receipt = statement::open_unverified::<Receipt>(receipt)?.body;
        if receipt.plan == plan {
            said.push(receipt.state);
        }
    }
    match (said.as_slice(), phase) {
        ([ReceiptState::Confirmed], Phase::Confirmed) | ([ReceiptState::RolledBack { .. }], Phase::RolledBack) => {
            Ok(())
        }
        _ => bail!("the attempt was reported as {said:?}"),
    }
}

/// What `current` shows, every file of it compared.
fn shown(scenario: &Scenario, image: &Image) -> Result<Option<Set>> {
    let Some(target) = image.target(&format!("{DEPLOY}/current")) else {
        return Ok(None);
    };
    let mut set = Set::new();
    for name in image.list(&format!("{DEPLOY}/{target}")) {
        let link = image
            .target(&format!("{DEPLOY}/{target}/{name}"))
            .context("a component is no link")?;
        let tree = link
            .strip_prefix("../../trees/")
            .context("a component leads elsewhere")?;
        is_exact(scenario, image, tree).with_context(|| format!("{name} of {target}"))?;
        set.insert(name, tree.to_owned());
    }
    Ok(Some(set))
}

fn is_exact(scenario: &Scenario, image: &Image, tree: &str) -> Result<()> {
    let wanted = scenario.trees.get(tree).context("no release has this tree")?;
    let found = image
        .digest_of(&format!("{DEPLOY}/trees/{tree}"))
        .context("the tree is not there")?;
    if scenario.exact.lock().unwrap().contains(&(tree.to_owned(), found)) {
        return Ok(());
    }
    let (files, dirs) = image
        .files(&format!("{DEPLOY}/trees/{tree}"))
        .context("the tree is not there")?;
    let same = files == *wanted && dirs == directories(wanted);
    let differs = wanted
        .keys()
        .chain(files.keys())
        .find(|path| files.get(*path) != wanted.get(*path));
    ensure!(same, "tree {tree} is not what was signed: {differs:?}");
    scenario.exact.lock().unwrap().insert((tree.to_owned(), found));
    Ok(())
}
