//! Cutting a set of devices into waves: cumulative counts or shares, in an order that a random seed fixes.

use std::collections::BTreeSet;

use ensign_crypto::PublicKey;

use super::evidence::Membership;
use super::merkle;
use super::statements::{Bound, Cohort, Evidence};
use crate::digest::{CutSeed, DeviceId, Digest, Hasher};
use crate::limits;
use crate::reason::{Code, Refusal};
use crate::refuse;
use crate::words;

/// What stands before the seed in the hash that orders devices.
const ORDER_START: &[u8] = b"wave-v1";
/// Basis points of a whole.
const WHOLE_BP: u32 = words::WHOLE;

/// Cumulative sizes of waves: `5,10%,100%`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waves(Vec<Bound>);

/// A device that is to be in the rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub device: DeviceId,
    pub receipt_key: PublicKey,
    /// In the first wave, whatever the order says.
    pub canary: bool,
    /// Devices with the same unit (`--unit-of-rollout`) enter the same wave.
    pub unit: Option<String>,
}

/// A wave as the plan signs it, with everybody in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutWave {
    /// From 1.
    pub number: u32,
    /// Sorted by device id.
    pub members: Vec<Listed>,
    pub root: Digest,
}

/// A leaf of the Merkle tree of a listed cohort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    pub device: DeviceId,
    pub receipt_key: PublicKey,
}

impl Waves {
    /// Reads `5,10%,100%`: counts and percentages (two decimals at most), cumulative.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let waves = text
            .split(',')
            .map(str::trim)
            .map(parse_size)
            .collect::<Result<Vec<_>, _>>()?;
        if waves.len() > limits::WAVES {
            return refuse!(Usage, "{} waves, at most {} are allowed", waves.len(), limits::WAVES);
        }
        Ok(Self(waves))
    }

    /// How many of `total` devices are in the first waves together, by wave. A share is rounded up, so 10 % of 3 is 1.
    pub fn sizes(&self, total: u32) -> Result<Vec<u32>, Refusal> {
        if total == 0 {
            return refuse!(NobodyMatches, "no device is selected");
        }
        let mut reached = 0;
        let mut sizes = Vec::with_capacity(self.0.len());
        for (bound, number) in self.0.iter().zip(1u32..) {
            let size = match *bound {
                Bound::Count(count) if count > total => {
                    return refuse!(Usage, "wave {number} asks for {count} devices, {total} are selected");
                }
                Bound::Count(count) => count,
                Bound::BasisPoints(bp) => share(total, bp),
            };
            reached = reached.max(size);
            sizes.push(reached);
        }
        if reached != total {
            return refuse!(
                Usage,
                "the last wave reaches {reached} of {total} devices: end with 100%"
            );
        }
        Ok(sizes)
    }
}

/// Cuts devices into waves. Canaries, if there are any, are a wave of their own in front; the sizes count them in. A wave that
/// adds nobody stays in the plan, empty.
pub fn cut(devices: &[Candidate], waves: &Waves, seed: &CutSeed) -> Result<Vec<CutWave>, Refusal> {
    let distinct: BTreeSet<_> = devices.iter().map(|d| d.device).collect();
    if distinct.len() != devices.len() {
        return refuse!(Conflict, "a device is listed twice");
    }
    let Ok(total) = u32::try_from(devices.len()) else {
        return refuse!(LimitExceeded, "{} devices", devices.len());
    };
    let sizes = waves.sizes(total)?;
    let mut ordered: Vec<&Candidate> = devices.iter().collect();
    ordered.sort_by_cached_key(|d| (!d.canary, unit_order(seed, d), order(seed, &d.device.0)));

    let canaries = ordered.iter().take_while(|d| d.canary).count();
    let mut ends = Vec::new();
    if canaries > 0 {
        ends.push(canaries);
    }
    ends.extend(sizes.iter().map(|size| whole_units(&ordered, *size as usize)));
    if ends.len() > limits::WAVES {
        return refuse!(Usage, "{} waves, at most {} are allowed", ends.len(), limits::WAVES);
    }
    let mut start = 0;
    let mut cut = Vec::with_capacity(ends.len());
    for (end, number) in ends.into_iter().zip(1u32..) {
        let end = end.max(start);
        let members = ordered.get(start..end).unwrap_or_default();
        cut.push(CutWave::new(number, members.iter().map(|d| Listed::from(*d)).collect()));
        start = end;
    }
    Ok(cut)
}

/// Receipts that open a wave by default, from the size of the nearest earlier wave that has a device: half of it, at least 1,
/// at most 3; none where no earlier wave has a device.
pub fn default_evidence(nearest_earlier: Option<u32>) -> u32 {
    nearest_earlier
        .filter(|count| *count > 0)
        .map_or(0, |count| (count / 2).clamp(1, 3))
}

/// The place of a device between 0 and 9999 for selector cohorts: late joiners enter by rule.
pub fn bucket(seed: &CutSeed, device: &DeviceId) -> u32 {
    let [a, b, c, d, ..] = order(seed, &device.0).0;
    u32::from_be_bytes([a, b, c, d]) % WHOLE_BP
}

impl CutWave {
    /// A wave of these devices.
    pub fn new(number: u32, mut members: Vec<Listed>) -> Self {
        members.sort();
        let root = merkle::root(&leaves(number, &members));
        Self { number, members, root }
    }

    /// How the plan names this wave.
    pub fn cohort(&self) -> Cohort {
        Cohort::Listed {
            root: self.root,
            count: self.count(),
        }
    }

    /// Devices of this wave alone.
    pub fn count(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX)
    }

    /// The proof of each member, in the order of ids.
    pub fn proofs(&self) -> impl Iterator<Item = (DeviceId, Membership)> {
        let paths: Vec<_> = merkle::paths(&leaves(self.number, &self.members)).collect();
        self.members
            .iter()
            .zip(paths)
            .zip(0u32..)
            .map(|((member, path), index)| {
                let membership = Membership {
                    wave: self.number,
                    index,
                    receipt_key: member.receipt_key,
                    path,
                };
                (member.device, membership)
            })
    }

    /// The proof of one member.
    pub fn proof(&self, device: &DeviceId) -> Option<Membership> {
        let at = self.members.binary_search_by_key(device, |m| m.device).ok()?;
        let member = self.members.get(at)?;
        Some(Membership {
            wave: self.number,
            index: u32::try_from(at).ok()?,
            receipt_key: member.receipt_key,
            path: merkle::path(&leaves(self.number, &self.members), at)?,
        })
    }
}

/// The default evidence of each wave in turn.
pub fn evidence(waves: &[CutWave]) -> Vec<Evidence> {
    let mut nearest = None;
    let mut evidence = Vec::with_capacity(waves.len());
    for wave in waves {
        evidence.push(Evidence::Receipts(default_evidence(nearest)));
        if wave.count() > 0 {
            nearest = Some(wave.count());
        }
    }
    evidence
}

impl From<&Candidate> for Listed {
    fn from(candidate: &Candidate) -> Self {
        Self {
            device: candidate.device,
            receipt_key: candidate.receipt_key,
        }
    }
}

fn leaves(wave: u32, members: &[Listed]) -> Vec<Digest> {
    members
        .iter()
        .map(|member| merkle::leaf(wave, &member.device, &member.receipt_key))
        .collect()
}

/// The end of the unit in which place `size` lies: a unit is wholly in or out.
fn whole_units(ordered: &[&Candidate], size: usize) -> usize {
    let Some(last) = size.checked_sub(1).and_then(|at| ordered.get(at)) else {
        return 0;
    };
    let same = |d: &&&Candidate| last.unit.is_some() && d.unit == last.unit && d.canary == last.canary;
    size + ordered.iter().skip(size).take_while(same).count()
}

fn order(seed: &CutSeed, what: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(ORDER_START).update(&seed.0).update(what);
    hasher.finish()
}

fn unit_order(seed: &CutSeed, device: &Candidate) -> Digest {
    let unit = device.unit.as_ref();
    order(seed, unit.map_or(&device.device.0[..], |unit| unit.as_bytes()))
}

fn share(total: u32, bp: u32) -> u32 {
    let rounded_up = (u64::from(total) * u64::from(bp)).div_ceil(u64::from(WHOLE_BP));
    u32::try_from(rounded_up).unwrap_or(total)
}

fn parse_size(text: &str) -> Result<Bound, Refusal> {
    words::bound(text).map_err(|e| Refusal::new(Code::Usage, format!("a wave's size: {e}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEED: CutSeed = CutSeed([7; 16]);

    fn device(n: u32) -> Candidate {
        Candidate {
            device: DeviceId(Digest::of(&n.to_be_bytes()).0),
            receipt_key: ensign_crypto::SecretKey::from_seed(Digest::of(&n.to_le_bytes()).0).public(),
            canary: false,
            unit: None,
        }
    }

    fn devices(n: u32) -> Vec<Candidate> {
        (0..n).map(device).collect()
    }

    fn counts(n: u32, waves: &str) -> Result<Vec<u32>, Refusal> {
        let cut = cut(&devices(n), &Waves::parse(waves)?, &SEED)?;
        Ok(cut.iter().map(CutWave::count).collect())
    }

    #[test]
    fn cumulative_and_rounded_up() {
        assert_eq!(counts(3, "10%,50%,100%"), Ok(vec![1, 1, 1]));
        assert_eq!(counts(12, "1,10%,100%"), Ok(vec![1, 1, 10]));
        assert_eq!(counts(20, "5,10%,100%"), Ok(vec![5, 0, 15]));
        assert_eq!(counts(1, "1,10%,100%"), Ok(vec![1, 0, 0]));
        assert_eq!(counts(400, "0.25%, 12.5%, 400"), Ok(vec![1, 49, 350]));
    }

    #[test]
    fn what_is_refused() {
        let code = |n, waves| counts(n, waves).map_err(|r| (r.code, r.text));
        assert_eq!(code(0, "100%").unwrap_err().0, Code::NobodyMatches);
        let (too_many, text) = code(4, "5,100%").unwrap_err();
        assert_eq!(too_many, Code::Usage);
        assert_eq!(text, "wave 1 asks for 5 devices, 4 are selected");
        assert_eq!(code(10, "10%,50%").unwrap_err().0, Code::Usage);
        for bad in [
            "",
            "a",
            "5,",
            "-1",
            "101%",
            "100.01%",
            "1.234%",
            "%",
            "1e3",
            "99999999999",
        ] {
            assert_eq!(Waves::parse(bad).unwrap_err().code, Code::Usage, "{bad}");
        }
        let twice = [device(1), device(1)];
        let refused = cut(&twice, &Waves::parse("100%").unwrap(), &SEED).unwrap_err();
        assert_eq!(refused.code, Code::Conflict);
    }

    #[test]
    fn canaries_come_first_and_count_in() {
        let mut all = devices(10);
        for canary in [2, 5] {
            all[canary].canary = true;
        }
        let cut = cut(&all, &Waves::parse("1,50%,100%").unwrap(), &SEED).unwrap();
        assert_eq!(cut.iter().map(CutWave::count).collect::<Vec<_>>(), [2, 0, 3, 5]);
        let first: BTreeSet<_> = cut[0].members.iter().map(|m| m.device).collect();
        assert_eq!(first, BTreeSet::from([all[2].device, all[5].device]));
    }

    #[test]
    fn a_unit_is_wholly_in_or_out() {
        let mut all = devices(30);
        for (n, device) in all.iter_mut().enumerate() {
            device.unit = Some(format!("store-{}", n / 3));
        }
        let cut = cut(&all, &Waves::parse("1,50%,100%").unwrap(), &SEED).unwrap();
        assert_eq!(cut.iter().map(CutWave::count).collect::<Vec<_>>(), [3, 12, 15]);
        for wave in &cut {
            let stores: Vec<_> = all
                .iter()
                .filter(|d| wave.members.iter().any(|m| m.device == d.device))
                .map(|d| d.unit.clone())
                .collect();
            let distinct: BTreeSet<_> = stores.iter().collect();
            assert_eq!(stores.len(), distinct.len() * 3);
        }
    }

    #[test]
    fn the_order_is_the_hash_of_wave_v1() {
        let all = devices(50);
        let cut = cut(&all, &Waves::parse("10,100%").unwrap(), &SEED).unwrap();
        let mut expected: Vec<_> = all.iter().map(|d| d.device).collect();
        expected.sort_by_key(|d| Digest::of(&[&b"wave-v1"[..], &SEED.0, &d.0].concat()));
        expected.truncate(10);
        expected.sort();
        assert_eq!(cut[0].members.iter().map(|m| m.device).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn evidence_by_default() {
        let values = [None, Some(0), Some(1), Some(2), Some(3), Some(4), Some(6), Some(900)].map(default_evidence);
        assert_eq!(values, [0, 0, 1, 1, 1, 2, 3, 3]);
        let waves = cut(&devices(20), &Waves::parse("5,10%,100%").unwrap(), &SEED).unwrap();
        assert_eq!(evidence(&waves), [0, 2, 2].map(Evidence::Receipts));
    }

    proptest! {
        #[test]
        fn each_device_is_in_exactly_one_wave_and_can_prove_it(n in 1u32..60, first in 1u32..99) {
            let all = devices(n);
            let cut = cut(&all, &Waves::parse(&format!("{first}%,100%")).unwrap(), &SEED).unwrap();
            let mut seen = BTreeSet::new();
            for wave in &cut {
                prop_assert!(crate::trust::roles::strictly_increasing(wave.members.iter().map(|m| m.device)));
                for (device, member) in wave.proofs() {
                    prop_assert!(seen.insert(device));
                    let proof = wave.proof(&device);
                    prop_assert_eq!(proof.as_ref(), Some(&member));
                    let leaf = merkle::leaf(wave.number, &device, &member.receipt_key);
                    prop_assert!(merkle::verify(&wave.root, leaf, member.index, wave.count(), &member.path).is_ok());
                }
            }
            prop_assert_eq!(seen.len(), all.len());
        }
    }
}
