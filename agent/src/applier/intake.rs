//! What the link half brings: documents, offers, blobs, acknowledgements. None of it is believed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::OwnedFd;

use ensign_apply::{Device, Event, Lock, Stage, Target};
use ensign_bundle::accept::{self, Accepted, Denial, DeviceFacts, HeldLease, Installed, Window, accept};
use ensign_bundle::effect::Effect;
use ensign_bundle::ids::Version;
use ensign_bundle::limits::MANIFEST_BYTES;
use ensign_bundle::plan::statements::Plan;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::statement::Signed;
use ensign_bundle::text::utc;
use ensign_bundle::trust::roles::FileRef;
use ensign_bundle::trust::{ReleaseName, Source, Trusted};
use ensign_bundle::wire::DocKind;

use super::offer::{Documents, open_plan};
use super::shell::{Shell, ShellError};
use super::staging::Staging;
use super::{labels, sockets, tree, unpack};
use crate::clock;
use crate::durable;
use crate::ipc::{Need, Offer, ToApplier};

/// Takes one message. The inner error is for the link half; the outer one ends the process.
pub(super) fn take(
    shell: &mut Shell,
    message: ToApplier,
    mut descriptors: Vec<OwnedFd>,
) -> Result<Result<(), Refusal>, ShellError> {
    if let (Err(loss), ToApplier::Offer(_) | ToApplier::Provide { .. }) = (&shell.journal, &message) {
        return Ok(Err(loss.clone()));
    }
    match message {
        ToApplier::Hello => Ok(Ok(())),
        ToApplier::Offer(offer) => {
            let count = descriptors.len();
            let (Some(file), 1) = (descriptors.pop(), count) else {
                return Ok(refuse!(
                    Malformed,
                    "an offer with {count} descriptors, its documents are in one"
                ));
            };
            take_offer(shell, &offer, file)
        }
        ToApplier::Provide { blobs } => {
            if blobs.len() != descriptors.len() {
                return Ok(refuse!(
                    Malformed,
                    "{} blobs with {} descriptors",
                    blobs.len(),
                    descriptors.len()
                ));
            }
            take_blobs(shell, blobs, &descriptors)?;
            Ok(Ok(()))
        }
        ToApplier::Acknowledged { seq } => {
            shell.step(Event::Acknowledged { report: seq })?;
            Ok(Ok(()))
        }
        ToApplier::Time { attestation } => {
            let (Some(trusted), Some(identity)) = (&mut shell.trusted, &shell.identity) else {
                return Ok(Ok(()));
            };
            let clock = shell.wall.clock();
            let taken = trusted.attest_time(&attestation, &identity.id, &shell.leases.nonce(), clock);
            let seen = taken
                .is_ok()
                .then(|| shell.leases.attested(&attestation, clock::boot()));
            shell.contact = shell.contact.max(seen);
            let taken = taken.and_then(|time| {
                // The floor that it raised is stored like any other.
                shell.store.save(trusted)?;
                Ok(time)
            });
            if let (Ok(Some(time)), Some(seen)) = (&taken, seen)
                && shell.wall.attest(*time, seen, trusted)
            {
                tracing::info!(
                    time = %utc(*time),
                    "the controller's time is used until this machine's clock is known to be synchronised"
                );
            }
            Ok(taken.map(drop))
        }
    }
}

/// What is lacking; `None` while that is not known yet.
pub(super) fn need(shell: &Shell) -> Option<Need> {
    let Stage::Fetching(fetching) = &shell.device.stage else {
        return Some(Need::Nothing);
    };
    let manifest = fetching.target.manifest;
    let (blobs, spare) = match &shell.staging {
        Some(staging) => (staging.need()?.to_vec(), spare(shell, staging)),
        None if shell.prepared.is_none() => (vec![manifest], None),
        None => return Some(Need::Nothing),
    };
    Some(Need::Blobs {
        manifest: manifest.digest,
        blobs,
        spare,
    })
}

/// Room that the cache may take, where it is on the file system of the trees.
fn spare(shell: &Shell, staging: &Staging) -> Option<u64> {
    let cache = shell.offer.as_ref()?.cache?;
    let room = tree::room(&shell.paths).ok()?;
    (cache.device == room.device).then(|| staging.spare(room, shell.config.reserve_bytes))
}

fn take_offer(shell: &mut Shell, offer: &Offer, file: OwnedFd) -> Result<Result<(), Refusal>, ShellError> {
    if shell.trusted.is_none() || shell.identity.is_none() {
        let refusal = shell
            .lost
            .clone()
            .unwrap_or_else(|| Refusal::new(Code::NeedsReprovision, "this device is in no fleet"));
        return Ok(Err(refusal));
    }
    let documents = match Documents::read(file, &offer.documents) {
        Ok(documents) => documents,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let known = |shell: &Shell| (shell.leases.nonce(), shell.trusted.as_ref().map(|t| t.root().version));
    let before = known(shell);
    let judged = judge_offer(shell, offer, &documents);
    if known(shell) != before {
        // The link half opens a session that answers the new nonce, and pins the keys of the new root.
        sockets::tell_link(shell);
    }
    let event = match judged {
        Ok(event) => event,
        Err(refusal) => return Ok(Err(refusal)),
    };
    for event in event {
        shell.step(event)?;
    }
    // A renewed lease may be what a staged release waited for.
    if shell.device.stage.prepared().is_some() {
        shell.ask_again()?;
    }
    Ok(Ok(()))
}

/// Brings the trust state up to date, stores it, and only then judges the rollout.
fn judge_offer(shell: &mut Shell, offer: &Offer, documents: &Documents) -> Result<Vec<Event>, Refusal> {
    let (Some(trusted), Some(identity)) = (&mut shell.trusted, &shell.identity) else {
        return Ok(Vec::new());
    };
    let clock = shell.wall.clock();
    let refreshed = documents.refresh(trusted, clock, Source::Online);
    // A new root may have taken back the word of whoever vouched for the time.
    if shell.wall.follow(Some(trusted)) {
        // Whoever vouches now is asked: the session that answers a new nonce begins with the time.
        shell.leases.draw();
    }
    let clock = shell.wall.clock();
    remember_floors(trusted, &shell.device);
    let stated = documents.take_statements(trusted, &identity.id, &identity.name, clock);
    let held = documents.rollout(offer, trusted, &mut shell.leases, &identity.id, clock::boot())?;
    let opened = held.as_ref().map(|held| {
        open_plan(
            held,
            documents,
            trusted,
            (&identity.id, &identity.name),
            clock,
            Source::Online,
        )
    });
    let asked = opened.iter().flatten().map(|(plan, _)| release_name(&plan.body));
    let kept: BTreeSet<ReleaseName> = asked.chain(needed_releases(&shell.device)).collect();
    trusted.retain_releases(|name| kept.contains(name));
    if let Err(refusal) = shell.store.save(trusted) {
        // Nothing is installed on a state that a restart would forget; going back needs none of it.
        shell.offer = None;
        tracing::error!(code = %refusal.code, error = %refusal.text, "the trust state cannot be stored");
        return match (opened, held) {
            // The journal has room set aside: whoever waits for the plan's end hears why there is none.
            (Some(Ok((plan, _))), Some(held)) => Ok(vec![Event::Refused {
                target: Some(target(&plan, held.member.wave)),
                reason: refusal,
            }]),
            _ => Err(refusal),
        };
    }
    // Without a timestamp nothing was refreshed: what an old copy holds may still be in date.
    let brought = documents.of(DocKind::Timestamp).next().is_some();
    if refreshed.is_ok() && brought && shell.degraded && trusted.check_fresh(clock).is_ok() {
        shell.degraded = false;
    }
    // Shown again, a lease is as old as it was at first sight.
    let seen = held.as_ref().and_then(|h| h.lease.as_ref()).map(|(_, seen)| *seen);
    shell.contact = shell.contact.max(seen);
    shell.offer = held;
    labels::write(shell);
    if let Err(refusal) = &stated {
        tracing::warn!(code = %refusal.code, error = %refusal.text, "a statement was refused");
    }
    // Expired or missing metadata blocks an update; judged below in its order. Anything worse is said at once.
    if let Err(refusal) = refreshed {
        if opened.is_none() {
            return Err(refusal);
        }
        tracing::warn!(code = %refusal.code, error = %refusal.text, "the metadata was refused");
    }
    let Some(opened) = opened else {
        return Ok(vec![Event::Withdrawn]);
    };
    let (plan, document) = match opened {
        Ok(opened) => opened,
        Err(reason) => return Ok(vec![Event::Refused { target: None, reason }]),
    };
    let target = target(&plan, shell.offer.as_ref().map_or(0, |o| o.member.wave));
    let met = Event::Met { plan: target.plan };
    let verdict = judge(shell, accept::Stage::Prepare).map_err(|refusal| match document {
        Some(better) if matches!(refusal.code, Code::NotFound | Code::MetadataMissing) => {
            if better.code.effect() == Effect::Waits {
                better
            } else {
                // Made up by whoever holds the snapshot key: the one that was signed is missing.
                Refusal::new(
                    Code::MetadataMissing,
                    format!("the release document is refused: {better}"),
                )
            }
        }
        _ => refusal,
    });
    let event = match verdict {
        Ok(_) => Event::Offered(target),
        // What runs already is offered to the machine as well: it signs for the new plan.
        Err(refusal) if refusal.code == Code::UpToDate => Event::Offered(target),
        Err(reason) => Event::Refused {
            target: Some(target),
            reason,
        },
    };
    Ok(vec![met, event])
}

/// Release documents that are kept: what runs, what ran before, what is being worked on. All others can be fetched again, so the trust state
/// does not grow with the number of releases that a device has seen.
fn needed_releases(device: &Device) -> impl Iterator<Item = ReleaseName> {
    let products = device.generations.iter().flat_map(|g| &g.products);
    let target = device.stage.target().map(|t| (&t.product, &t.version));
    products
        .map(|p| (&p.product, &p.version))
        .chain(target)
        .map(|(product, version)| ReleaseName {
            product: product.clone(),
            version: version.clone(),
        })
}

/// What has proven itself here raises the floor. Asked before every judgement and every way back, so that no crash in between loses it.
pub(super) fn remember_floors(trusted: &mut Trusted, device: &Device) {
    let confirmed = device
        .running()
        .into_iter()
        .flat_map(|g| &g.products)
        .filter(|p| p.confirmed);
    for product in confirmed {
        let name = ReleaseName {
            product: product.product.clone(),
            version: product.version.clone(),
        };
        let release = trusted.release(&name).filter(|r| r.manifest.digest == product.manifest);
        if let Some(release) = release.cloned() {
            trusted.confirmed(&release);
        }
    }
}

fn release_name(plan: &Plan) -> ReleaseName {
    ReleaseName {
        product: plan.product.clone(),
        version: plan.release.version.clone(),
    }
}

/// The acceptance function on the held offer.
pub(super) fn judge(shell: &Shell, stage: accept::Stage) -> Result<Accepted, Refusal> {
    let (Some(trusted), Some(held)) = (&shell.trusted, &shell.offer) else {
        return refuse!(LeaseMissing, "nothing is offered");
    };
    let facts = facts(shell, held)?;
    let now = clock::boot();
    let offer = accept::Offer {
        plan: &held.plan,
        member: &held.member,
        gate: held.gate.as_deref(),
        lease: held.lease.as_ref().map(|(envelope, seen)| HeldLease {
            envelope,
            age_s: now.saturating_sub(*seen).as_secs(),
        }),
        forward: held.forward.as_deref(),
        dwell_s: shell.device.dwell_s(&held.digest, &shell.wall.now()),
        source: Source::Online,
    };
    accept(trusted, &facts, &offer, shell.wall.clock(), stage)
}

fn facts(shell: &Shell, held: &super::offer::HeldOffer) -> Result<DeviceFacts, Refusal> {
    let Some(identity) = &shell.identity else {
        return refuse!(NeedsReprovision, "this device is in no fleet");
    };
    let now = shell.wall.now();
    let installed: BTreeMap<_, _> = shell
        .device
        .running()
        .into_iter()
        .flat_map(|g| &g.products)
        .map(|p| {
            let installed = Installed {
                version: p.version.clone(),
                counter: p.counter,
                manifest: p.manifest,
                plan: p.plan,
                switched_for_s: shell.device.healthy_for_s(&p.product, &now),
            };
            (p.product.clone(), installed)
        })
        .collect();
    let denied = shell
        .device
        .denied
        .iter()
        .map(|d| {
            let denial = Denial {
                code: d.code,
                count: d.count,
            };
            (d.manifest, denial)
        })
        .collect();
    let plan = ensign_bundle::statement::open_unverified::<Plan>(&held.plan)?.body;
    let agent = Version::parse(env!("CARGO_PKG_VERSION"))
        .map_err(|e| Refusal::new(Code::Failed, format!("own version: {e}")))?;
    Ok(DeviceFacts {
        id: identity.id,
        name: identity.name.clone(),
        receipt_key: identity.receipt_key.public(),
        nonce: shell.leases.nonce(),
        arch: std::env::consts::ARCH.to_owned(),
        hardware: shell.config.hardware.clone(),
        agent,
        installed,
        denied,
        attempt: shell.device.stage.target().map(|t| t.plan),
        trust_degraded: shell.degraded,
        // There is no grammar of windows yet: a plan that has one is not carried out.
        window: plan
            .windows
            .first()
            .map_or(Window::Open, |w| Window::Unknown(w.clone())),
        lock: shell.device.lock.as_ref().map(lock_words),
    })
}

/// `until 2026-12-01T18:54:00Z: till is open`.
fn lock_words(lock: &Lock) -> String {
    match lock.reason.trim() {
        "" => format!("until {}, no reason given", utc(lock.until)),
        reason => format!("until {}: {reason}", utc(lock.until)),
    }
}

fn target(plan: &Signed<Plan>, wave: u32) -> Target {
    let body = &plan.body;
    let place = usize::try_from(wave).ok().and_then(|n| n.checked_sub(1));
    let min_soak_s = place.and_then(|at| body.waves.get(at)).map_or(0, |w| w.min_soak_s);
    Target {
        plan: plan.digest(),
        product: body.product.clone(),
        version: body.release.version.clone(),
        counter: body.release.counter,
        manifest: FileRef {
            digest: body.release.manifest,
            length: body.release.length,
        },
        min_soak_s,
        health: body.health,
    }
}

fn take_blobs(
    shell: &mut Shell,
    blobs: Vec<ensign_bundle::digest::Digest>,
    descriptors: &[OwnedFd],
) -> Result<(), ShellError> {
    let Stage::Fetching(fetching) = &shell.device.stage else {
        return Ok(());
    };
    let target = fetching.target.clone();
    if let Some(staging) = &mut shell.staging {
        if let Err(reason) = staging.give(blobs, descriptors)
            && reason.code != Code::InProgress
        {
            shell.lose_worker(target.manifest.digest, reason)?;
        }
        return Ok(());
    }
    let manifest = blobs
        .iter()
        .zip(descriptors)
        .find(|(d, _)| **d == target.manifest.digest);
    let Some((_, descriptor)) = manifest else {
        return Ok(());
    };
    let file = match descriptor.try_clone() {
        Ok(descriptor) => File::from(descriptor),
        Err(error) => {
            tracing::warn!(%error, "the manifest was not taken");
            return Ok(());
        }
    };
    match unpack::read(&file, &target.manifest, MANIFEST_BYTES) {
        Ok(bytes) => {
            let path = shell.paths.manifests().join(target.manifest.digest.to_string());
            match shell.paths.disk().write(&path, &bytes, 0o600) {
                Ok(()) => shell.begin_staging(),
                Err(e) => {
                    let reason = durable::refusal(path.display(), &e);
                    shell.fail_staging(target.manifest.digest, reason)
                }
            }
        }
        Err(refusal) => {
            // Needed still: the answer says so.
            tracing::warn!(code = %refusal.code, error = %refusal.text, "the manifest was refused");
            Ok(())
        }
    }
}
