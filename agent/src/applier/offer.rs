//! What the link half hands over: documents into the trust state, and what it asks this device to do.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use ensign_bundle::digest::{DeviceId, Digest, Nonce};
use ensign_bundle::limits;
use ensign_bundle::plan::evidence::{Lease, Membership};
use ensign_bundle::plan::scope;
use ensign_bundle::plan::statements::Plan;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::statement::{self, Signed};
use ensign_bundle::trust::roles::Root;
use ensign_bundle::trust::{Clock, ReleaseName, Source, Trusted, Want};
use ensign_bundle::wire::DocKind;
use rustix::fs::FileType;

use crate::ipc::{CacheSize, Offer, Piece};

/// All documents of one offer together, bytes: the largest roles, a chain of roots, a few statements.
const OFFER_BYTES: u64 = 16 << 20;

/// Documents as handed over, in memory of our own.
pub(super) struct Documents(Vec<(DocKind, Vec<u8>)>);

/// A rollout that the link half offers, not judged.
#[derive(Debug)]
pub(super) struct HeldOffer {
    pub plan: Vec<u8>,
    /// Of the plan's payload.
    pub digest: Digest,
    pub gate: Option<Vec<u8>>,
    pub member: Membership,
    /// With the boot-clock time at which exactly these bytes were first seen.
    pub lease: Option<(Vec<u8>, Duration)>,
    /// The plan that a prepared revert takes back.
    pub forward: Option<Vec<u8>>,
    pub cache: Option<CacheSize>,
}

impl Documents {
    /// Reads the pieces that lie back to back in `file`: once, by offset, into memory.
    pub(super) fn read(file: OwnedFd, pieces: &[Piece]) -> Result<Self, Refusal> {
        let file = File::from(file);
        let kind = rustix::fs::fstat(&file).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if kind != Ok(FileType::RegularFile) {
            return refuse!(Malformed, "documents are handed over in a file");
        }
        let total = pieces.iter().try_fold(0_u64, |sum, p| sum.checked_add(p.length));
        if total.is_none_or(|total| total > OFFER_BYTES) {
            return refuse!(
                LimitExceeded,
                "the documents of an offer have at most {OFFER_BYTES} bytes"
            );
        }
        let mut documents = Vec::new();
        let mut at = 0;
        for piece in pieces {
            let limit = match piece.kind {
                DocKind::Root => limits::ROOT_BYTES,
                DocKind::Timestamp => limits::TIMESTAMP_BYTES,
                DocKind::Snapshot => limits::SNAPSHOT_BYTES,
                DocKind::Targets => limits::TARGETS_BYTES,
                DocKind::Release => limits::RELEASE_BYTES,
                DocKind::Plan => limits::PLAN_BYTES,
                DocKind::Gate => limits::GATE_BYTES,
                DocKind::Cancel | DocKind::Hold | DocKind::Grant => limits::STATEMENT_BYTES,
            };
            let Some(length) = usize::try_from(piece.length).ok().filter(|length| *length <= limit) else {
                return refuse!(
                    LimitExceeded,
                    "a {:?} of {} bytes, at most {limit} are allowed",
                    piece.kind,
                    piece.length
                );
            };
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, at)
                .map_err(|e| Refusal::new(Code::Malformed, format!("the documents end early: {e}")))?;
            at += piece.length;
            documents.push((piece.kind, bytes));
        }
        Ok(Self(documents))
    }

    pub(super) fn of(&self, kind: DocKind) -> impl Iterator<Item = &[u8]> {
        self.0
            .iter()
            .filter(move |(k, _)| *k == kind)
            .map(|(_, bytes)| bytes.as_slice())
    }

    /// What the trust state asks for, found by version or digest.
    pub(super) fn find(&self, want: &Want<'_>) -> Option<Vec<u8>> {
        let found = match want {
            Want::Root(version) => self.of(DocKind::Root).find(|bytes| {
                statement::open_unverified::<Root>(bytes).is_ok_and(|root| root.body.version == *version)
            }),
            Want::Timestamp => self.of(DocKind::Timestamp).next(),
            Want::Snapshot(pin) => self.of(DocKind::Snapshot).find(|bytes| Digest::of(bytes) == pin.digest),
            Want::Targets(_, pin) => self
                .of(DocKind::Targets)
                .chain(self.of(DocKind::Release))
                .find(|bytes| Digest::of(bytes) == pin.digest),
        };
        found.map(<[u8]>::to_vec)
    }

    /// Brings the roles up to date. Steps before a refusal stay taken.
    pub(super) fn refresh(&self, trusted: &mut Trusted, clock: Clock, source: Source) -> Result<(), Refusal> {
        if self.of(DocKind::Timestamp).next().is_none() {
            // Roots may come alone: a new root must never wait for anything else.
            trusted.refresh_root(&mut |want| self.find(&want), clock)?;
            return Ok(());
        }
        trusted.refresh(&mut |want| self.find(&want), clock, source)?;
        Ok(())
    }

    /// Takes statements about this device. Old ones again are no news; the first other refusal is returned, the rest is taken.
    pub(super) fn take_statements(
        &self,
        trusted: &mut Trusted,
        device: &DeviceId,
        name: &str,
        clock: Clock,
    ) -> Result<(), Refusal> {
        let mut first = Ok(());
        for (kind, bytes) in &self.0 {
            let taken = match kind {
                DocKind::Cancel => trusted.take_cancel(bytes, device, name, clock).map(drop),
                DocKind::Hold => trusted.take_hold(bytes, device, name, clock).map(drop),
                DocKind::Grant => trusted.take_grant(bytes, device, name, clock).map(drop),
                _ => Ok(()),
            };
            match taken {
                Err(refusal) if refusal.code != Code::RollbackRefused => first = first.and(Err(refusal)),
                _ => {}
            }
        }
        first
    }

    /// The rollout among the documents, as it is offered.
    pub(super) fn rollout(
        &self,
        offer: &Offer,
        trusted: &Trusted,
        leases: &mut Leases,
        device: &DeviceId,
        now: Duration,
    ) -> Result<Option<HeldOffer>, Refusal> {
        let Some(rollout) = &offer.rollout else {
            return Ok(None);
        };
        let mut plans = self.of(DocKind::Plan);
        let Some(plan) = plans.next() else {
            return refuse!(MetadataMissing, "a rollout without its plan");
        };
        let digest = statement::open_unverified::<Plan>(plan)?.digest();
        let lease = rollout.lease.as_ref().and_then(|bytes| {
            let seen = leases.seen(bytes, trusted, device, now)?;
            Some((bytes.to_vec(), seen))
        });
        Ok(Some(HeldOffer {
            plan: plan.to_vec(),
            digest,
            gate: self.of(DocKind::Gate).next().map(<[u8]>::to_vec),
            member: rollout.member.clone(),
            lease,
            forward: plans.next().map(<[u8]>::to_vec),
            cache: offer.cache,
        }))
    }
}

/// The applier's nonce, and which lease that answers it counts.
///
/// A lease counts from its first sight, on the boot clock, for at most its `ttl_s`. Leases of one nonce are taken in the order of
/// `issued`, so that showing one again, or an older one, gains nothing. `issued` is compared with other leases only, never with a
/// clock. One that lies behind the newest is a replay, or the controller's clock was set back; which of them cannot be told, and
/// need not be: the nonce is drawn anew. Replays are worth nothing then, and a controller that is asked again answers the new one.
#[derive(Debug)]
pub(super) struct Leases {
    nonce: Nonce,
    /// `issued` and the boot-clock time of the first sight.
    newest: Option<(u64, Duration)>,
    /// The time attestation shown last, and the boot-clock time of its first sight.
    attestation: Option<(Digest, Duration)>,
}

impl Leases {
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        let mut nonce = Nonce([0; Nonce::BYTES]);
        getrandom::fill(&mut nonce.0)?;
        Ok(Self {
            nonce,
            newest: None,
            attestation: None,
        })
    }

    pub(super) fn nonce(&self) -> Nonce {
        self.nonce
    }

    /// A new nonce, where there is randomness: what answered the old one counts no more.
    pub(super) fn draw(&mut self) {
        match Self::new() {
            Ok(anew) => *self = anew,
            Err(error) => tracing::warn!(%error, "no new nonce"),
        }
    }

    /// When this attestation of the time, which counts, was first seen: shown again later, it is the time of then.
    pub(super) fn attested(&mut self, bytes: &[u8], now: Duration) -> Duration {
        let digest = Digest::of(bytes);
        match self.attestation {
            Some((known, seen)) if known == digest => seen,
            _ => {
                self.attestation = Some((digest, now));
                now
            }
        }
    }

    /// When this lease was first seen; `None` where it does not count.
    fn seen(&mut self, bytes: &[u8], trusted: &Trusted, device: &DeviceId, now: Duration) -> Option<Duration> {
        let role = &trusted.root().roles.timestamp;
        let lease = statement::open::<Lease>(bytes, &role.keys, role.threshold, trusted.fleet()).ok()?;
        self.count(&lease.body, device, now)
    }

    fn count(&mut self, lease: &Lease, device: &DeviceId, now: Duration) -> Option<Duration> {
        // Of another nonce: it never counts, and says nothing about the order of those that do.
        if lease.nonce != self.nonce || lease.device != *device {
            return None;
        }
        match self.newest {
            Some((newest, _)) if lease.issued < newest => {
                self.draw();
                tracing::warn!("a lease is older than one before it; the controller is asked for a new one");
                None
            }
            Some((newest, seen)) if lease.issued == newest => Some(seen),
            _ => {
                self.newest = Some((lease.issued, now));
                Some(now)
            }
        }
    }
}

/// The plan of an offer, its signatures counted, and what is wrong with the release document it asks for, if anything is: that is
/// brought into the trust state here.
pub(super) fn open_plan(
    held: &HeldOffer,
    documents: &Documents,
    trusted: &mut Trusted,
    device: (&DeviceId, &str),
    clock: Clock,
    source: Source,
) -> Result<(Signed<Plan>, Option<Refusal>), Refusal> {
    let plan = {
        let scopes = trusted.scopes(device.0, device.1)?;
        scope::open::<Plan>(&held.plan, &scopes, trusted.fleet())?
    };
    let release = ReleaseName {
        product: plan.body.product.clone(),
        version: plan.body.release.version.clone(),
    };
    let found = trusted.find_release(&release, &mut |want| documents.find(&want), clock, source);
    let wrong = found.err();
    Ok((plan, wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId([1; 32]);

    fn lease(leases: &Leases, issued: u64) -> Lease {
        Lease {
            format: 1,
            issued,
            plan: Digest([2; 32]),
            device: DEVICE,
            nonce: leases.nonce(),
            ttl_s: 900,
        }
    }

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn a_lease_counts_once_from_its_first_sight() {
        let mut leases = Leases::new().unwrap();
        let first = lease(&leases, 100);
        assert_eq!(leases.count(&first, &DEVICE, at(1)), Some(at(1)));
        assert_eq!(leases.count(&first, &DEVICE, at(800)), Some(at(1)));
        let second = lease(&leases, 101);
        assert_eq!(leases.count(&second, &DEVICE, at(801)), Some(at(801)));
        // The first again is worth nothing, now and ever after.
        assert_eq!(leases.count(&first, &DEVICE, at(802)), None);
        assert_eq!(leases.count(&first, &DEVICE, at(803)), None);
        assert_eq!(leases.count(&second, &DEVICE, at(804)), None);
    }

    #[test]
    fn a_lease_from_the_far_future_stops_no_honest_one() {
        let mut leases = Leases::new().unwrap();
        let future = lease(&leases, u64::MAX);
        assert!(leases.count(&future, &DEVICE, at(1)).is_some());
        let nonce = leases.nonce();
        let honest = lease(&leases, 100);
        assert_eq!(leases.count(&honest, &DEVICE, at(2)), None);
        assert_ne!(leases.nonce(), nonce, "the controller is not asked anew");
        let answered = lease(&leases, 101);
        assert_eq!(leases.count(&answered, &DEVICE, at(3)), Some(at(3)));
        assert_eq!(leases.count(&future, &DEVICE, at(4)), None);
    }

    /// Shown again later it says the time of then: whoever repeats it sets nothing forward.
    #[test]
    fn an_attested_time_counts_from_its_first_sight() {
        let mut leases = Leases::new().unwrap();
        assert_eq!(leases.attested(b"ten", at(1)), at(1));
        assert_eq!(leases.attested(b"ten", at(800)), at(1));
        assert_eq!(leases.attested(b"eleven", at(801)), at(801));
        assert_eq!(leases.attested(b"eleven", at(802)), at(801));
    }

    #[test]
    fn what_answers_another_nonce_or_device_changes_nothing() {
        let mut leases = Leases::new().unwrap();
        let nonce = leases.nonce();
        let foreign = Lease {
            nonce: Nonce([9; Nonce::BYTES]),
            ..lease(&leases, u64::MAX)
        };
        assert_eq!(leases.count(&foreign, &DEVICE, at(1)), None);
        let other = lease(&leases, u64::MAX);
        assert_eq!(leases.count(&other, &DeviceId([3; 32]), at(1)), None);
        let own = lease(&leases, 5);
        assert_eq!(leases.count(&own, &DEVICE, at(2)), Some(at(2)));
        assert_eq!(leases.count(&foreign, &DEVICE, at(3)), None);
        assert_eq!(leases.nonce(), nonce);
    }
}
