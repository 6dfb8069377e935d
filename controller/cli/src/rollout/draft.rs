//! From words and verified evidence to the plan that will be signed: who is in which wave.

use ensign_api::DeviceState;
use ensign_bundle::codec::Ext;
use ensign_bundle::digest::{CutSeed, PlanId};
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::plan::cohort::{self, Candidate, CutWave};
use ensign_bundle::plan::statements::{Evidence, GateKind, Plan, PlanRelease, Wave};
use ensign_bundle::reason::Code;
use ensign_bundle::text::printable;
use ensign_bundle::trust::roles::{FORMAT, Release, Root};

use crate::evidence::{Inventory, Known};
use crate::failure::{Failure, Result, fail};
use crate::rollout::words::Words;
use crate::units::show_count;

/// Without `--select` nobody means more devices than this.
const SELECT_REQUIRED_ABOVE: usize = 50;

/// What the shell knows: time, randomness, what came before.
#[derive(Clone, Debug)]
pub struct Moment {
    pub now: u64,
    pub seed: CutSeed,
    /// Greater than every plan of the product before.
    pub seq: u64,
    pub reason: String,
}

/// A plan, and the devices under its Merkle roots.
#[derive(Debug)]
pub struct Draft<'a> {
    pub plan: Plan,
    pub cut: Vec<CutWave>,
    pub chosen: Vec<&'a Known>,
    /// Devices that the selector matches and that take no part all the same.
    pub left_out: Vec<LeftOut>,
    /// Rollouts of the product that are not finished: this one takes their place on the devices that both list.
    pub open: Vec<Open>,
}

/// A rollout that is not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    pub id: PlanId,
    /// For people.
    pub what: String,
}

/// A device that matches and is not in the plan: suspended, pending, or not-in-plan where it is excluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Foreign text.
    pub name: String,
    pub why: Code,
}

pub fn draft<'a>(
    words: &Words,
    inventory: &'a Inventory,
    release: &Release,
    root: &Root,
    moment: &Moment,
) -> Result<Draft<'a>> {
    let (chosen, left_out) = choose(words, inventory)?;
    let candidates: Vec<Candidate> = chosen
        .iter()
        .map(|known| Candidate {
            device: known.member.device,
            receipt_key: known.member.receipt_key,
            canary: words.canary.as_ref().is_some_and(|canary| known.member.matches(canary)),
            unit: None,
        })
        .collect();
    if words.canary.is_some() && !candidates.iter().any(|c| c.canary) {
        return fail!(NobodyMatches, "no selected device is a canary");
    }
    let cut = cohort::cut(&candidates, &words.waves, &moment.seed)?;
    check_first_wave(&cut, root)?;
    let evidence = evidence(words, &cut)?;
    let downgrade = downgrade(words, &moment.reason)?;
    let mut first = true;
    let waves = cut.iter().zip(evidence).map(|(wave, evidence)| {
        // What starts the rollout needs no second word, nor does a wave that adds nobody.
        let gate = if first || wave.count() == 0 {
            GateKind::Auto
        } else {
            words.gate
        };
        first &= wave.count() == 0;
        Wave {
            cohort: wave.cohort(),
            min_soak_s: words.soak_s,
            gate,
            evidence,
        }
    });
    let plan = Plan {
        format: FORMAT,
        issued: moment.now,
        product: words.product.clone(),
        seq: moment.seq,
        cut_seed: moment.seed,
        release: PlanRelease {
            version: release.release.clone(),
            counter: release.counter,
            manifest: release.manifest.digest,
            length: release.manifest.length,
        },
        waves: waves.collect(),
        // No time at all means at once, however the clocks of devices and controller differ from this one.
        not_before: words.start_at.map_or(0, |t| t.0),
        expires: moment.now.saturating_add(words.expires_s),
        windows: Vec::new(),
        health: None,
        reverts: None,
        downgrade,
        offline: None,
        emergency: words.emergency,
        pace: words.pace.clone(),
        select: words
            .select
            .as_ref()
            .map_or_else(|| "all".to_owned(), ToString::to_string),
        exclude: words.exclude.iter().map(ToString::to_string).collect(),
        reason: moment.reason.clone(),
        ext: Ext::default(),
    };
    if plan.not_before >= plan.expires {
        return Err(Failure::usage("--start-at lies behind the end of the plan").hint("a longer --expires"));
    }
    Ok(Draft {
        plan,
        cut,
        chosen,
        left_out,
        open: Vec::new(),
    })
}

/// The approved devices that are meant, by their signed labels, and who else matches but takes no part.
fn choose<'a>(words: &Words, inventory: &'a Inventory) -> Result<(Vec<&'a Known>, Vec<LeftOut>)> {
    let approved = || inventory.known.iter().filter(|k| k.state == DeviceState::Approved);
    if words.select.is_none() && approved().count() > SELECT_REQUIRED_ABOVE {
        return Err(Failure::usage(format!(
            "{} approved: say which are meant",
            show_count(approved().count() as u64, "device")
        ))
        .hint("--select EXPR; --select all means all of them"));
    }
    let (mut chosen, mut left_out) = (Vec::new(), Vec::new());
    let selected = |k: &&Known| words.select.as_ref().is_none_or(|s| k.member.matches(s));
    for known in inventory.known.iter().filter(selected) {
        let excluded = words.exclude.iter().any(|e| known.member.matches(e));
        let why = match known.state {
            // Gone for ever: nobody expects it.
            DeviceState::Revoked => continue,
            DeviceState::Suspended => Code::Suspended,
            DeviceState::Pending => Code::Pending,
            DeviceState::Approved if excluded => Code::NotInPlan,
            DeviceState::Approved => {
                chosen.push(known);
                continue;
            }
        };
        left_out.push(LeftOut {
            name: known.member.name.clone(),
            why,
        });
    }
    if chosen.is_empty() {
        let count = |code| left_out.iter().filter(|l| l.why == code).count();
        let others = [
            (Code::Suspended, "suspended", "`ensign device unsuspend DEVICE`"),
            (Code::Pending, "waiting for approval", "`ensign device accept DEVICE`"),
            (Code::NotInPlan, "left out by --exclude", "a narrower --exclude"),
        ];
        let others: Vec<_> = others.into_iter().filter(|(code, ..)| count(*code) > 0).collect();
        let said = others
            .iter()
            .map(|(code, words, _)| format!(", {} {words}", count(*code)));
        let failure = Failure::new(
            Code::NobodyMatches,
            format!(
                "none of {} is selected{}",
                show_count(approved().count() as u64, "approved device"),
                said.collect::<String>()
            ),
        );
        return Err(match others.first() {
            Some((.., hint)) => failure.hint(*hint),
            None => failure,
        });
    }
    Ok((chosen, left_out))
}

/// What its signers took back is not rolled out.
pub fn withdrawn(product: &Ident, version: &Version, why: &str) -> Failure {
    Failure::new(
        Code::Yanked,
        format!("{product}@{version} was withdrawn: {}", printable(why, 200)),
    )
}

/// `policy.first_wave_max` is a promise of the fleet's root.
pub fn check_first_wave(cut: &[CutWave], root: &Root) -> Result<()> {
    let first = cut.iter().map(CutWave::count).find(|count| *count > 0).unwrap_or(0);
    match root.policy.first_wave_max {
        Some(most) if first > most => Err(Failure::new(
            Code::PlanMismatch,
            format!(
                "the first wave has {}, the fleet's policy allows {most}",
                show_count(u64::from(first), "device")
            ),
        )
        .hint("a smaller first wave: --waves")),
        _ => Ok(()),
    }
}

fn evidence(words: &Words, cut: &[CutWave]) -> Result<Vec<Evidence>> {
    let mut evidence = cohort::evidence(cut);
    let Some(wanted) = words.evidence else {
        return Ok(evidence);
    };
    let mut nearest = 0;
    for (wave, needed) in cut.iter().zip(&mut evidence) {
        if nearest > 0 {
            if wanted > nearest {
                return Err(Failure::usage(format!(
                    "--evidence {wanted}: the wave before wave {} has {}",
                    wave.number,
                    show_count(u64::from(nearest), "device")
                )));
            }
            *needed = Evidence::Receipts(wanted);
        }
        if wave.count() > 0 {
            nearest = wave.count();
        }
    }
    Ok(evidence)
}

fn downgrade(words: &Words, reason: &str) -> Result<Option<String>> {
    match (words.allow_downgrade, reason) {
        (false, _) => Ok(None),
        (true, "") => Err(Failure::usage("--allow-downgrade needs --reason TEXT")),
        (true, reason) => Ok(Some(reason.to_owned())),
    }
}

#[cfg(test)]
pub mod tests {
    use ensign_bundle::digest::{DeviceId, Digest, FleetId};
    use ensign_bundle::ids::{Label, Labels};
    use ensign_bundle::plan::membership::Member;
    use ensign_bundle::statement;
    use ensign_bundle::trust::roles::{Compatible, Controller, FileRef, Floors, Policy, Role, RootRoles, Scope};
    use ensign_crypto::SecretKey;

    use super::*;
    use crate::args::Start;

    pub fn known(n: u8, labels: &[(&str, &str)]) -> Known {
        let pairs = labels
            .iter()
            .map(|(k, v)| (Label::parse(k).unwrap(), Label::parse(v).unwrap()));
        Known {
            member: Member {
                device: DeviceId(Digest::of(&[n]).0),
                receipt_key: SecretKey::from_seed([n; 32]).public(),
                name: format!("dev{n}"),
                labels: pairs.collect::<Labels>(),
                label_seq: 0,
                grant: Digest([0; 32]),
                claims: std::collections::BTreeMap::new(),
            },
            state: DeviceState::Approved,
            hold_seq: 0,
        }
    }

    pub fn inventory(n: u8) -> Inventory {
        let labels = |i| {
            if i < 2 {
                vec![("site", "lyon"), ("pilot", "yes")]
            } else {
                vec![("site", "paris")]
            }
        };
        Inventory {
            known: (0..n).map(|i| known(i, &labels(i))).collect(),
            ..Inventory::default()
        }
    }

    pub fn release() -> Release {
        Release {
            format: FORMAT,
            version: 1,
            issued: 1,
            expires: 2,
            product: "app".parse().unwrap(),
            release: "1.1.0".parse().unwrap(),
            counter: 1_000_001_000_000,
            security_floor: 0,
            manifest: FileRef {
                digest: Digest([3; 32]),
                length: 999,
            },
            compatible: Compatible::default(),
            yanked: None,
            patch_index: None,
            ext: Ext::default(),
        }
    }

    pub fn root(first_wave_max: Option<u32>) -> Root {
        let role = |n| Role {
            keys: vec![SecretKey::from_seed([n; 32]).public()],
            threshold: 1,
        };
        Root {
            format: FORMAT,
            version: 1,
            issued: 1,
            expires: 2,
            fleet: FleetId([1; 32]),
            name: "acme".to_owned(),
            roles: RootRoles {
                root: role(201),
                targets: role(202),
                snapshot: role(203),
                timestamp: role(204),
            },
            scopes: vec![Scope {
                name: "all".parse().unwrap(),
                select: String::new(),
                role: role(205),
            }],
            protected: Vec::new(),
            policy: Policy {
                first_wave_max,
                ..Policy::default()
            },
            controller: Controller {
                keys: Vec::new(),
                api: Vec::new(),
                addresses: Vec::new(),
            },
            floors: Floors::default(),
            time_reset: None,
            min_protocol: 1,
            ext: Ext::default(),
        }
    }

    pub fn moment() -> Moment {
        Moment {
            now: 1_800_000_000,
            seed: CutSeed([7; 16]),
            seq: 5,
            reason: String::new(),
        }
    }

    pub fn words(change: impl FnOnce(&mut Start)) -> Words {
        let mut flags = Start {
            product: Some("app".to_owned()),
            version: Some("1.1.0".to_owned()),
            ..Start::default()
        };
        change(&mut flags);
        Words::of(&flags).unwrap()
    }

    fn counts(change: impl FnOnce(&mut Start), devices: u8) -> Result<Vec<u32>, u8> {
        let inventory = inventory(devices);
        let drafted = draft(&words(change), &inventory, &release(), &root(None), &moment()).map_err(|e| e.exit())?;
        statement::seal(&drafted.plan).unwrap();
        Ok(drafted.cut.iter().map(CutWave::count).collect())
    }

    #[test]
    fn documented_waves() {
        assert_eq!(counts(|_| {}, 20), Ok(vec![1, 1, 18]));
        assert_eq!(
            counts(|s| s.waves = Some("10%,50%,100%".to_owned()), 3),
            Ok(vec![1, 1, 1])
        );
        assert_eq!(
            counts(|s| s.canary = Some("pilot = yes".to_owned()), 20),
            Ok(vec![2, 0, 0, 18])
        );
        assert_eq!(
            counts(|s| s.select = Some("site = lyon".to_owned()), 20),
            Ok(vec![1, 0, 1])
        );
        assert_eq!(
            counts(|s| s.exclude = vec!["site = lyon".to_owned()], 4),
            Ok(vec![1, 0, 1])
        );
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(counts(|_| {}, 51), Err(2), "more than 50 without --select");
        assert!(counts(|s| s.select = Some("all".to_owned()), 51).is_ok());
        assert_eq!(counts(|s| s.select = Some("site = oslo".to_owned()), 5), Err(32));
        assert_eq!(counts(|_| {}, 0), Err(32));
        assert_eq!(counts(|s| s.waves = Some("9,100%".to_owned()), 5), Err(2));
        assert_eq!(counts(|s| s.waves = Some("50%".to_owned()), 5), Err(2));
        assert_eq!(
            counts(|s| s.evidence = Some(2), 5),
            Err(2),
            "the canary wave has one device"
        );
        assert_eq!(counts(|s| s.canary = Some("pilot = no".to_owned()), 5), Err(32));
        assert_eq!(
            counts(|s| s.allow_downgrade = true, 5),
            Err(2),
            "a downgrade needs its reason"
        );
    }

    #[test]
    fn starts_at_once_unless_told_otherwise() {
        let inventory = inventory(3);
        let start = |change: fn(&mut Start)| {
            draft(&words(change), &inventory, &release(), &root(None), &moment())
                .map(|d| d.plan.not_before)
                .map_err(|e| e.exit())
        };
        assert_eq!(start(|_| {}), Ok(0));
        assert_eq!(
            start(|s| s.not_before = Some(ensign_api::Time(1_800_000_500))),
            Ok(1_800_000_500)
        );
        assert_eq!(
            start(|s| s.not_before = Some(ensign_api::Time(1_900_000_000))),
            Err(2),
            "after its own end"
        );
    }

    #[test]
    fn a_manual_gate_stands_between_waves_that_have_devices() {
        let inventory = inventory(3);
        let manual = words(|s| {
            s.gate = Some("manual".to_owned());
            s.waves = Some("1,10%,100%".to_owned());
        });
        let drafted = draft(&manual, &inventory, &release(), &root(None), &moment()).unwrap();
        let gates: Vec<_> = drafted
            .plan
            .waves
            .iter()
            .zip(&drafted.cut)
            .map(|(w, cut)| (cut.count(), w.gate))
            .collect();
        assert_eq!(gates, [(1, GateKind::Auto), (0, GateKind::Auto), (2, GateKind::Manual)]);
    }

    #[test]
    fn only_approved_devices_and_within_policy() {
        let mut three = inventory(3);
        three.known[0].state = DeviceState::Suspended;
        let drafted = draft(&words(|_| {}), &three, &release(), &root(None), &moment()).unwrap();
        assert_eq!(drafted.chosen.len(), 2);
        assert_eq!(
            drafted.left_out,
            [LeftOut {
                name: "dev0".to_owned(),
                why: Code::Suspended
            }]
        );
        for known in &mut three.known {
            known.state = DeviceState::Suspended;
        }
        let nobody = draft(&words(|_| {}), &three, &release(), &root(None), &moment()).unwrap_err();
        assert_eq!(nobody.text, "none of 0 approved devices is selected, 3 suspended");
        assert_eq!(
            (nobody.exit(), nobody.hint_text()),
            (32, "`ensign device unsuspend DEVICE`")
        );
        let all = words(|s| s.waves = Some("100%".to_owned()));
        let refused = draft(&all, &inventory(3), &release(), &root(Some(2)), &moment()).unwrap_err();
        assert_eq!(refused.exit(), 25);
    }
}
