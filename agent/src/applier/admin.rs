//! Root's commands: joining a fleet, going back, locking, applying a file.

use std::fs::File;
use std::os::fd::OwnedFd;

use ensign_apply::{Event, Lock, Stage};
use ensign_bundle::digest::{Digest, FleetId};
use ensign_bundle::limits::{CLAMP_S, ROOT_BYTES, STATEMENT_BYTES};
use ensign_bundle::plan::membership::{Invitation, Member};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::trust::{TrustState, Trusted};
use ensign_bundle::wire::DocKind;
use serde_bytes::ByteBuf;

use super::offer::Documents;
use super::shell::{Shell, ShellError};
use super::{identity, intake, labels, report, sockets, verify};
use crate::durable;
use crate::ipc::{FromAdmin, Piece, ToAdmin};

/// Longest lock, seconds: it defers, it does not refuse for ever.
const LOCK_S: u64 = 30 * CLAMP_S;
/// Roots of one enrolment.
const ROOTS: usize = 256;
/// Longest reason that is kept, characters.
const REASON: usize = 200;

/// Answers one command.
pub(super) fn take(
    shell: &mut Shell,
    command: ToAdmin,
    mut descriptors: Vec<OwnedFd>,
) -> Result<FromAdmin, ShellError> {
    tracing::debug!(?command, "asked by root");
    if let (Err(loss), true) = (&shell.journal, !matches!(command, ToAdmin::Status)) {
        return Ok(FromAdmin::Refused(loss.clone()));
    }
    let file = descriptors.pop();
    let answer = match command {
        ToAdmin::Status => Ok(FromAdmin::State(Box::new(report::state(shell)))),
        ToAdmin::BeginEnroll { fleet, fresh } => begin_enroll(shell, fleet, fresh),
        ToAdmin::SignBinding { payload } => sign_binding(shell, &payload),
        ToAdmin::SignRotation { payload } => sign_rotation(shell, &payload),
        ToAdmin::FinishEnroll {
            root_hash,
            fleet,
            roots,
            grant,
            binding,
        } => match check_enrolment(shell, file, &root_hash, &fleet, &roots, (grant, binding)) {
            Ok(enrolment) => {
                // What an earlier fleet was to be told is not for this one, and must be gone before there is anybody to tell.
                shell.step(Event::Left)?;
                finish_enroll(shell, enrolment)
            }
            Err(refusal) => Err(refusal),
        },
        ToAdmin::Rollback { reason } => match may_roll_back(shell) {
            Ok(to) => {
                shell.step(Event::RollbackAsked { reason: clean(&reason) })?;
                Ok(done(format!("going back to generation {to}")))
            }
            Err(refusal) => Err(refusal),
        },
        ToAdmin::Lock { reason, ttl_s } => {
            let until = shell.wall.unix().saturating_add(ttl_s.min(LOCK_S));
            shell.step(Event::Locked(Lock {
                reason: clean(&reason),
                until,
            }))?;
            Ok(done(format!("locked for {} s", ttl_s.min(LOCK_S))))
        }
        ToAdmin::Unlock => {
            shell.step(Event::Unlocked)?;
            shell.ask_again()?;
            Ok(done("unlocked".to_owned()))
        }
        ToAdmin::ClearDenied { manifest } => {
            let before = shell.device.denied.len();
            shell.step(Event::DenialsCleared { manifest })?;
            let cleared = before - shell.device.denied.len();
            if cleared == 0 && manifest.is_some() {
                refuse!(NotFound, "no such release is on the deny list")
            } else {
                // What is wanted is offered again, and tried.
                sockets::ask_link_again(shell);
                Ok(done(format!("{cleared} releases may be tried again")))
            }
        }
        ToAdmin::Apply => match file {
            Some(file) => verify::apply(shell, &File::from(file)).map(|text| FromAdmin::Done { text }),
            None => refuse!(Malformed, "apply without its file"),
        },
        ToAdmin::Leave => leave(shell)?,
    };
    Ok(answer.unwrap_or_else(FromAdmin::Refused))
}

fn done(text: String) -> FromAdmin {
    FromAdmin::Done { text }
}

fn clean(reason: &str) -> String {
    ensign_bundle::text::printable(reason, REASON)
}

/// Where a rollback goes, if it may: back from a trial, or to the previous generation, if its trees are what they were.
fn may_roll_back(shell: &mut Shell) -> Result<u64, Refusal> {
    match &shell.device.stage {
        Stage::Switching(s) => return Ok(s.from),
        Stage::Trial(s) => return Ok(s.from),
        Stage::RollingBack(_) => return refuse!(InProgress, "the device is going back already"),
        _ => {}
    }
    if let Some(trusted) = &mut shell.trusted {
        // What runs is left: from then on nothing else says how far it raised the floor.
        intake::remember_floors(trusted, &shell.device);
        if let Err(refusal) = shell.store.save(trusted) {
            // Going back needs no free space.
            tracing::error!(code = %refusal.code, error = %refusal.text, "the security floor is not stored");
        }
    }
    let device = &shell.device;
    let to = device.previous();
    let Some(generation) = device.generation(to) else {
        return refuse!(NotFound, "there is no previous generation");
    };
    if let Some(trusted) = &shell.trusted {
        for product in &generation.products {
            let floor = trusted.security_floor(&product.product);
            if product.counter < floor {
                return refuse!(
                    BelowFloor,
                    "counter {} of {} is below the floor {floor}",
                    product.counter,
                    product.product
                );
            }
        }
    }
    shell.verify_generation(to, device.current)?;
    Ok(to)
}

/// The key of an enrolment that was interrupted is shown again: with the other key of the pair it is the same device.
fn begin_enroll(shell: &mut Shell, fleet: FleetId, fresh: bool) -> Result<FromAdmin, Refusal> {
    shell.joining = Some(fleet);
    let known = if fresh {
        None
    } else {
        // One that cannot be read is as good as none.
        identity::receipt_key(&shell.paths).ok().flatten()
    };
    let key = known.map_or_else(|| identity::new_receipt_key(&shell.paths), Ok)?;
    Ok(FromAdmin::ReceiptKey { key: key.public() })
}

fn sign_binding(shell: &Shell, payload: &[u8]) -> Result<FromAdmin, Refusal> {
    let Some(key) = identity::receipt_key(&shell.paths)? else {
        return refuse!(NotFound, "there is no receipt key yet");
    };
    // The fleet is part of what is signed, and stands in nothing that the binding says: it is the one being joined.
    let Some(fleet) = shell.joining.or(shell.trusted.as_ref().map(|t| *t.fleet())) else {
        return refuse!(Usage, "no fleet is being joined");
    };
    let bytes = identity::sign_binding(payload, &key, &fleet)?;
    Ok(FromAdmin::Signature {
        key: key.public(),
        bytes: ByteBuf::from(bytes),
    })
}

fn sign_rotation(shell: &Shell, payload: &[u8]) -> Result<FromAdmin, Refusal> {
    let (Some(identity), Some(trusted)) = (&shell.identity, &shell.trusted) else {
        return refuse!(NeedsReprovision, "this device is in no fleet");
    };
    let bytes = identity::sign_rotation(payload, identity, trusted.fleet())?;
    Ok(FromAdmin::Signature {
        key: identity.receipt_key.public(),
        bytes: ByteBuf::from(bytes),
    })
}

/// What joining brought, verified.
struct Enrolment {
    trusted: Trusted,
    member: Member,
    binding: Vec<u8>,
}

fn check_enrolment(
    shell: &Shell,
    file: Option<OwnedFd>,
    root_hash: &Digest,
    fleet: &FleetId,
    roots: &[u64],
    (grant, binding): (u64, u64),
) -> Result<Enrolment, Refusal> {
    if shell.device.stage.is_committed() {
        return refuse!(Conflict, "an update is under way: try again when it is over");
    }
    let Some(file) = file else {
        return refuse!(Malformed, "enrolment without its documents");
    };
    if roots.is_empty() || roots.len() > ROOTS || roots.iter().any(|length| *length > ROOT_BYTES as u64) {
        return refuse!(LimitExceeded, "{} roots, 1 to {ROOTS} are possible", roots.len());
    }
    if grant > STATEMENT_BYTES as u64 || binding > STATEMENT_BYTES as u64 {
        return refuse!(LimitExceeded, "grant or binding of more than {STATEMENT_BYTES} bytes");
    }
    let piece = |kind, length| Piece { kind, length };
    let mut pieces: Vec<Piece> = roots.iter().map(|length| piece(DocKind::Root, *length)).collect();
    // A binding has the limits of every other statement.
    pieces.extend([piece(DocKind::Grant, grant), piece(DocKind::Hold, binding)]);
    let documents = Documents::read(file, &pieces)?;
    let missing = || Refusal::new(Code::Malformed, "enrolment without one of its documents");
    let mut chain = documents.of(DocKind::Root);
    let mut trusted = TrustState::new(chain.next().ok_or_else(missing)?, root_hash, fleet)?;
    for root in chain {
        trusted.update_root(root, shell.wall.clock())?;
    }
    check_lab(shell, &trusted)?;
    let key = identity::receipt_key(&shell.paths)?.ok_or_else(missing)?;
    let bytes = documents.of(DocKind::Hold).next().ok_or_else(missing)?;
    let grant = documents.of(DocKind::Grant).next().ok_or_else(missing)?;
    let authority = trusted.authority(shell.wall.clock());
    let invitation = Invitation::verify(&authority, grant)?;
    let member = Member::join(&authority, bytes, &invitation)?;
    if member.receipt_key != key.public() {
        return refuse!(IdentityChanged, "the binding names another receipt key");
    }
    trusted.take_grant(grant, &member.device, &member.name, shell.wall.clock())?;
    let binding = bytes.to_vec();
    Ok(Enrolment {
        trusted,
        member,
        binding,
    })
}

fn finish_enroll(shell: &mut Shell, enrolment: Enrolment) -> Result<FromAdmin, Refusal> {
    let Enrolment {
        trusted,
        member,
        binding,
    } = enrolment;
    // Trust first, then the binding that says who this is: a crash in between leaves a device that has not joined, or whose old binding
    // fits nothing. Either joins again.
    let disk = shell.paths.disk();
    disk.remove_lossy(&shell.paths.binding())
        .map_err(|e| io(&shell.paths.binding(), &e))?;
    shell.store.forget()?;
    shell.store.save(&trusted)?;
    let disk = shell.paths.disk();
    disk.write(&shell.paths.binding(), &binding, 0o600)
        .map_err(|e| io(&shell.paths.binding(), &e))?;
    shell.identity = identity::load(&shell.paths, Some(trusted.fleet()))?;
    let fleet = *trusted.fleet();
    shell.wall.follow(Some(&trusted));
    shell.trusted = Some(trusted);
    (shell.lost, shell.degraded, shell.joining) = (None, false, None);
    shell.offer = None;
    labels::write(shell);
    tracing::info!(device = %member.device, name = member.name, fleet = %fleet, "joined");
    sockets::tell_link(shell);
    Ok(done(format!("joined as {}", member.device)))
}

/// Keys without a passphrase are for trying things out: the machine's own root takes part only where its administrator says so.
fn check_lab(shell: &Shell, trusted: &Trusted) -> Result<(), Refusal> {
    if trusted.root().policy.lab && shell.paths.is_system() && !shell.config.allow_lab {
        return refuse!(
            PolicyRefused,
            "the fleet is a lab (its keys have no passphrase), and agent.toml does not say applier.allow_lab"
        );
    }
    Ok(())
}

/// What runs goes on running; nothing of the fleet is kept.
fn leave(shell: &mut Shell) -> Result<Result<FromAdmin, Refusal>, ShellError> {
    if shell.device.stage.is_committed() {
        return Ok(refuse!(Conflict, "an update is under way: try again when it is over"));
    }
    if let Err(refusal) = forget(shell) {
        return Ok(Err(refusal));
    }
    shell.end_staging();
    shell.step(Event::Left)?;
    tracing::info!("left the fleet");
    sockets::tell_link(shell);
    Ok(Ok(done("left the fleet".to_owned())))
}

fn forget(shell: &mut Shell) -> Result<(), Refusal> {
    for path in [shell.paths.binding(), shell.paths.receipt_key()] {
        shell.paths.disk().remove(&path).map_err(|e| io(&path, &e))?;
    }
    shell.store.forget()?;
    (shell.identity, shell.trusted, shell.offer, shell.lost) = (None, None, None, None);
    shell.wall.follow(None);
    Ok(())
}

fn io(path: &std::path::Path, error: &std::io::Error) -> Refusal {
    durable::refusal(path.display(), error)
}
