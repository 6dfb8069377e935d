//! The last verified inventory: who was in the fleet, by which key, with which labels, and the highest numbers that were seen of each.
//!
//! Like the trust state it never goes back: whoever holds the controller can hide what is new, but not show again what was before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;

use ensign_api::Time;
use ensign_bundle::codec;
use ensign_bundle::digest::{DeviceId, Digest, FleetId};
use ensign_bundle::ids::Labels;
use ensign_bundle::plan::cohort::CutWave;
use ensign_bundle::plan::membership::Member;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::text::printable;
use ensign_bundle::trust::roles::Root;
use ensign_crypto::PublicKey;
use serde::{Deserialize, Serialize};

use crate::app::Session;
use crate::clock;
use crate::durable;
use crate::evidence::{Inventory, Known};
use crate::failure::{Failure, Result, fail};
use crate::home;
use crate::output::{Shell, some_of};
use crate::token::show_labels;

/// The format number of `seen.cbor`.
const FORMAT: u16 = 1;
/// Largest file, bytes: a million devices with a few labels each.
const BYTES: u64 = 256 << 20;

/// Devices with other labels that a person is shown.
const RELABELLED: usize = 8;

/// `seen.cbor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u16,
    fleet: FleetId,
    /// Of the root that the numbers of holds were seen under: a reset frees them.
    reset_epoch: u64,
    /// When the whole inventory was looked at last, unix seconds; 0 = never.
    at: u64,
    devices: BTreeMap<DeviceId, Row>,
    /// Deploy scopes under which every device's grants counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sound: Option<Digest>,
}

/// What was seen of a device. Rows stay when the device is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    receipt_key: PublicKey,
    /// The newest that were verified.
    labels: Labels,
    label_seq: u64,
    hold_seq: u64,
    /// The labels when its owner was last shown it; none: verified, never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shown: Option<Labels>,
    /// It was there when the whole inventory was looked at last.
    present: bool,
}

/// What this machine has seen of the fleet's devices.
#[derive(Clone, Debug)]
pub struct Seen(Stored);

/// What is not as it was when this machine last looked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// When that was; none: never.
    pub since: Option<Time>,
    /// Names, foreign text; of gone ones the last known.
    pub new: Vec<String>,
    pub gone: Vec<String>,
    /// `NAME: FROM → TO`.
    pub relabelled: Vec<String>,
    /// Devices that this machine never saw before.
    #[serde(skip)]
    strangers: BTreeSet<DeviceId>,
}

impl Seen {
    /// Nothing, on a machine that never looked.
    pub fn load(session: &Session) -> Result<Self> {
        let path = session.context.seen_path();
        let fleet = session.fleet();
        let epoch = session.trust.root().floors.reset_epoch;
        let mut stored = match home::read_up_to(&path, BYTES) {
            Ok(bytes) => codec::decode::<Stored>(&bytes, bytes.len())
                .map_err(|e| Failure::new(Code::Malformed, format!("{}: {e}", path.display())).hint(BACKUP))?,
            Err(e) if e.code == Code::NotFound => Stored {
                format: FORMAT,
                fleet,
                reset_epoch: epoch,
                at: 0,
                devices: BTreeMap::new(),
                sound: None,
            },
            Err(e) => return Err(e),
        };
        if stored.format != FORMAT {
            return fail!(
                VersionUnknown,
                "{} has format {}, this program knows {FORMAT}",
                path.display(),
                stored.format
            );
        }
        if stored.fleet != fleet {
            return fail!(WrongFleet, "{} is of the fleet {}", path.display(), stored.fleet);
        }
        if stored.reset_epoch < epoch {
            stored.reset_epoch = epoch;
            stored.devices.values_mut().for_each(|row| row.hold_seq = 0);
        }
        Ok(Self(stored))
    }

    /// Refuses evidence of before: labels that were replaced since, or another receipt key than the one that was seen.
    pub fn check(&self, member: &Member) -> Result<(), Refusal> {
        let Some(row) = self.0.devices.get(&member.device) else {
            return Ok(());
        };
        if member.label_seq < row.label_seq {
            return refuse!(
                RollbackRefused,
                "its labels have number {}, this machine has seen number {}",
                member.label_seq,
                row.label_seq
            );
        }
        if member.receipt_key != row.receipt_key {
            return refuse!(
                IdentityChanged,
                "its receipt key is {}, this machine has seen {}",
                member.receipt_key.id(),
                row.receipt_key.id()
            );
        }
        Ok(())
    }

    /// The device with the newest labels that were seen: what a change of labels starts from where older ones are shown.
    pub fn newest(&self, member: &Member) -> Member {
        let mut newest = member.clone();
        if let Some(row) = self.0.devices.get(&member.device) {
            newest.labels.clone_from(&row.labels);
            newest.label_seq = row.label_seq;
        }
        newest
    }

    /// The number of the device's newest labels; none where its evidence was never verified here.
    pub fn labels(&self, device: &DeviceId) -> Option<u64> {
        self.0.devices.get(device).map(|row| row.label_seq)
    }

    /// True where everybody's grants counted under these scopes, when they were looked at last.
    pub fn is_sound(&self, scopes: &Digest) -> bool {
        self.0.sound.as_ref() == Some(scopes)
    }

    /// The highest number of a hold that was seen; 0 = none.
    pub fn hold_seq(&self, device: &DeviceId) -> u64 {
        self.0.devices.get(device).map_or(0, |row| row.hold_seq)
    }

    /// The whole inventory against what this machine has seen.
    pub fn compare(&self, known: &[Known]) -> Changed {
        let Stored { at, devices, .. } = &self.0;
        let mut changed = Changed {
            since: (*at > 0).then_some(Time(*at)),
            ..Changed::default()
        };
        let mut here = BTreeSet::new();
        for member in known.iter().map(|k| &k.member) {
            here.insert(member.device);
            match devices.get(&member.device).and_then(|row| row.shown.as_ref()) {
                None => {
                    changed.strangers.insert(member.device);
                    changed.new.push(member.name.clone());
                }
                Some(shown) if *shown != member.labels => changed.relabelled.push(format!(
                    "{}: {} → {}",
                    member.name,
                    show_labels(shown),
                    show_labels(&member.labels)
                )),
                Some(_) => {}
            }
        }
        let gone = devices.iter().filter(|(id, row)| row.present && !here.contains(*id));
        changed.gone = gone.map(|(_, row)| row.name.clone()).collect();
        if changed.since.is_none() {
            // Nothing is news to who never looked.
            changed.new.clear();
        }
        changed
    }

    fn take(&mut self, known: &[Known], how: How) {
        if how == How::Shown {
            self.0.at = clock::now();
            self.0.devices.values_mut().for_each(|row| row.present = false);
        }
        for Known { member, hold_seq, .. } in known {
            let before = self.0.devices.get(&member.device);
            let shown = match how {
                How::Verified => before.and_then(|row| row.shown.clone()),
                How::Shown | How::Named => Some(member.labels.clone()),
            };
            let row = Row {
                shown,
                name: member.name.clone(),
                receipt_key: member.receipt_key,
                labels: member.labels.clone(),
                label_seq: member.label_seq.max(before.map_or(0, |row| row.label_seq)),
                hold_seq: (*hold_seq).max(before.map_or(0, |row| row.hold_seq)),
                present: how != How::Verified || before.is_some_and(|row| row.present),
            };
            self.0.devices.insert(member.device, row);
        }
    }
}

const BACKUP: &str = "restore ENSIGN_HOME from a backup; without what was seen before nothing is signed";

/// How well an operator knows devices that are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Their evidence was verified, nobody looked at them.
    Verified,
    /// These were looked at, or signed for; there are others.
    Named,
    /// The whole fleet was looked at.
    Shown,
}

/// Remembers devices. Numbers only rise.
pub fn remember(session: &Session, known: &[Known], how: How) -> Result<()> {
    change(session, |seen| seen.take(known, how))
}

/// Remembers that everybody's grants count under these scopes.
pub fn remember_sound(session: &Session, scopes: Digest) -> Result<()> {
    change(session, |seen| seen.0.sound = Some(scopes))
}

/// What decides whether a grant counts: the deploy scopes and the protected labels of root.
pub fn scopes(session: &Session) -> Result<Digest> {
    let root = session.trust.root();
    let bytes = codec::encode(&(&root.scopes, &root.protected))
        .map_err(|e| Failure::new(Code::Failed, format!("the scopes of root: {e}")))?;
    Ok(Digest::of(&bytes))
}

/// Reads, changes and stores under a lock: another run of this command may have seen more meanwhile.
fn change(session: &Session, change: impl FnOnce(&mut Seen)) -> Result<()> {
    let path = session.context.seen_path();
    let _lock = lock(&path)?;
    let seen = Seen::load(session)?;
    let mut next = seen.clone();
    change(&mut next);
    if next.0 == seen.0 {
        return Ok(());
    }
    let bytes =
        codec::encode(&next.0).map_err(|e| Failure::new(Code::Malformed, format!("{}: {e}", path.display())))?;
    durable::write(&path, &bytes, durable::SECRET).map_err(|e| Failure::io("write", &path, &e))
}

fn lock(path: &std::path::Path) -> Result<File> {
    let lock: PathBuf = path.with_extension("lock");
    let failed = |e| Failure::io("lock", &lock, &e);
    let file = File::create(&lock).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

impl Changed {
    /// What a person is shown, line by line.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        for (what, names) in [("new", &self.new), ("gone", &self.gone)] {
            if !names.is_empty() {
                lines.push((what, some_of(names)));
            }
        }
        lines.extend(
            self.relabelled
                .iter()
                .take(RELABELLED)
                .map(|line| ("labels", printable(line, 200))),
        );
        if let more @ 1.. = self.relabelled.len().saturating_sub(RELABELLED) {
            lines.push(("labels", format!("{more} more")));
        }
        lines
    }

    /// Whoever opens the next wave by their receipts should be known: a warning, or a refusal where root's policy says so.
    pub fn check_canaries(&self, root: &Root, cut: &[CutWave], inventory: &Inventory) -> Result<()> {
        let Some(text) = self.strange_canaries(cut, inventory) else {
            return Ok(());
        };
        if root.policy.known_canaries {
            return Err(Failure::new(
                Code::PolicyRefused,
                format!("{text}; root's policy allows known ones only"),
            )
            .hint("look at them: `ensign device show DEVICE`; once `ensign rollout plan --product PRODUCT --version VERSION` has shown them on this machine they are known"));
        }
        if self.since.is_some() {
            Shell::warn(&text);
        }
        Ok(())
    }

    /// The devices of the first wave that this machine never saw before, in words.
    pub fn strange_canaries(&self, cut: &[CutWave], inventory: &Inventory) -> Option<String> {
        let first = cut.iter().find(|wave| wave.count() > 0)?;
        let names: Vec<String> = inventory
            .known
            .iter()
            .map(|k| &k.member)
            .filter(|m| self.strangers.contains(&m.device) && first.members.iter().any(|c| c.device == m.device))
            .map(|m| m.name.clone())
            .collect();
        (!names.is_empty()).then(|| {
            format!(
                "the first wave has devices that this machine never saw before: {}",
                some_of(&names)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use ensign_api::DeviceState;
    use ensign_bundle::ids::Label;
    use ensign_crypto::SecretKey;

    use super::*;

    fn known(n: u8, site: &str, label_seq: u64) -> Known {
        Known {
            member: Member {
                device: DeviceId([n; 32]),
                receipt_key: SecretKey::from_seed([n; 32]).public(),
                name: format!("dev{n}"),
                labels: Labels::from([(Label::parse("site").unwrap(), Label::parse(site).unwrap())]),
                label_seq,
                grant: Digest([0; 32]),
                claims: BTreeMap::new(),
            },
            state: DeviceState::Approved,
            hold_seq: 0,
        }
    }

    fn nothing() -> Seen {
        Seen(Stored {
            format: FORMAT,
            fleet: FleetId([1; 32]),
            reset_epoch: 0,
            at: 0,
            devices: BTreeMap::new(),
            sound: None,
        })
    }

    #[test]
    fn what_changed_is_said_and_nothing_is_news_at_first() {
        let mut seen = nothing();
        let first = [known(1, "lyon", 0), known(2, "lyon", 0)];
        let changed = seen.compare(&first);
        assert!(changed.lines().is_empty());
        assert_eq!(changed.strangers.len(), 2, "nobody was seen before");
        seen.take(&first, How::Shown);
        assert!(seen.compare(&first).strangers.is_empty());
        let changed = seen.compare(&[known(1, "paris", 1), known(3, "lyon", 0)]);
        assert_eq!(
            (changed.new, changed.gone, changed.relabelled),
            (
                vec!["dev3".to_owned()],
                vec!["dev2".to_owned()],
                vec!["dev1: site=lyon → site=paris".to_owned()]
            )
        );
    }

    /// Verified by some verb is not shown: whoever was never shown is a stranger, with labels that never go back all the same.
    #[test]
    fn who_was_verified_and_never_shown_is_a_stranger() {
        let mut seen = nothing();
        seen.take(&[known(1, "lyon", 3)], How::Verified);
        assert_eq!(seen.compare(&[known(1, "lyon", 3)]).strangers.len(), 1);
        assert_eq!(seen.labels(&DeviceId([1; 32])), Some(3));
        assert!(seen.check(&known(1, "lyon", 2).member).is_err());
        seen.take(&[known(1, "lyon", 3)], How::Named);
        seen.take(&[known(1, "paris", 4)], How::Verified);
        let changed = seen.compare(&[known(1, "paris", 4)]);
        assert_eq!(
            (changed.strangers.len(), changed.relabelled.len()),
            (0, 1),
            "the change was not shown yet"
        );
    }

    #[test]
    fn neither_labels_nor_keys_go_back() {
        let mut seen = nothing();
        seen.take(&[known(1, "lyon", 7)], How::Shown);
        let code = |seen: &Seen, known: &Known| seen.check(&known.member).err().map(|r| r.code);
        assert_eq!(code(&seen, &known(1, "lyon", 7)), None);
        assert_eq!(code(&seen, &known(1, "paris", 8)), None);
        assert_eq!(code(&seen, &known(1, "paris", 6)), Some(Code::RollbackRefused));
        let mut other = known(1, "lyon", 7);
        other.member.receipt_key = SecretKey::from_seed([9; 32]).public();
        assert_eq!(code(&seen, &other), Some(Code::IdentityChanged));
        // A plan's devices alone are no whole inventory: nobody is gone. Nor is what was seen forgotten when somebody is.
        seen.take(&[known(2, "lyon", 0)], How::Named);
        assert!(
            seen.compare(&[known(1, "lyon", 7), known(2, "lyon", 0)])
                .lines()
                .is_empty()
        );
        seen.take(&[known(2, "lyon", 0)], How::Shown);
        assert_eq!(code(&seen, &known(1, "paris", 6)), Some(Code::RollbackRefused));
    }
}
