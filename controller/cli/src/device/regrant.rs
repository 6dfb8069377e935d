//! `device regrant`: grants that root's deploy keys do not vouch for any more are signed anew, word for word.
//!
//! What a grant says is what it said: the same payload gets another signature, so nothing changes for devices, and several people may
//! bring theirs one after the other. Only what counted under a root of this fleet is signed for, and what this machine has not verified
//! itself while it counted only where the device is named.

use std::collections::{BTreeMap, BTreeSet};

use ensign_api::{Base64, Device, DeviceEvidence, DeviceState, NewToken};
use ensign_bundle::digest::{DeviceId, Digest};
use ensign_bundle::ids::Labels;
use ensign_bundle::plan::membership::{Invitation, Member};
use ensign_bundle::plan::scope::Scopes;
use ensign_bundle::plan::statements::Grant;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::statement;
use ensign_bundle::trust::Authority;
use ensign_bundle::trust::roles::{Root, Scope};
use ensign_crypto::{Envelope, PublicKey};
use serde::Serialize;

use super::which::{self, Named};
use crate::app::{App, Session};
use crate::args::Devices;
use crate::difference::Difference;
use crate::failure::{Result, fail};
use crate::output::{Document, Facts, Paint, Shell, some_of};
use crate::scopes::{self, ScopeCount};
use crate::seen::Seen;
use crate::signing;
use crate::token::show_labels;
use crate::units::show_count;

/// What was signed.
#[derive(Debug, Serialize)]
struct Regranted {
    /// Names of the devices that are meant and whose grants do not count by themselves.
    devices: Vec<String>,
    /// Grants that this machine's key signed now.
    signed: usize,
    /// Never verified by this machine while they counted, and not named.
    left_out: Vec<String>,
    /// The least signed grant of each scope.
    scopes: Vec<ScopeCount>,
}

/// A device by what operators signed for it, counted by the newest root under which it held.
struct Entitled {
    member: Member,
    /// The token's grant, where it does not count any more: its payload.
    token: Option<Digest>,
    /// The same of the device's own.
    own: Option<Weak>,
}

/// A grant that does not count under the root in force.
struct Weak {
    envelope: Envelope,
    labels: Labels,
    /// The newest root under which it counted.
    until: u64,
}

/// A grant to sign, and what to call it.
struct Statement<'a> {
    what: String,
    weak: &'a Weak,
    scopes: Vec<&'a Scope>,
    /// None: a token's.
    device: Option<DeviceId>,
}

/// What is known of tokens while the rows are walked.
#[derive(Default)]
struct Tokens {
    /// By the digest of the envelope: the grant, and the newest root that it counted under (0 = the one in force).
    found: BTreeMap<Digest, Option<(Invitation, usize)>>,
    /// By payload: those that do not count, and who joined with each.
    weak: BTreeMap<Digest, (Weak, Vec<String>)>,
    joined: BTreeMap<Digest, u32>,
}

pub async fn run(app: &App, words: &Devices) -> Result<()> {
    let session = app.signing_session().await?;
    let rows: Vec<DeviceEvidence> = session.client.get("/v1/evidence").await?;
    let first = session.context.file.root_hash;
    let roots = session.trust.roots(&session.client, &first).await?;
    let mut tokens = Tokens::default();
    let mut all = Vec::new();
    for row in rows.iter().filter(|row| row.state != DeviceState::Revoked) {
        match entitled(&session, &roots, row, &mut tokens)? {
            Ok(entitled) => all.push(entitled),
            Err(refusal) => Shell::warn(&format!(
                "{} is left out: {}",
                ensign_bundle::text::printable(&row.name, 63),
                refusal.text
            )),
        }
    }
    let (chosen, left_out) = choose(&session, &all, words)?;
    let statements = statements(&session, &chosen, &tokens)?;
    let mut difference = Difference::default();
    let mut mine = Vec::new();
    for statement in &statements {
        let signer = scopes::signer(&session, None, &statement.scopes, "grants")?;
        let envelope = &statement.weak.envelope;
        if signing::has_signed(envelope, &signer.public(), &session.fleet()) {
            continue;
        }
        statement.describe(&session, &signer.public(), &mut difference);
        mine.push((statement, signer));
    }
    if app.shell.dry_run {
        let would = mine.iter().map(|(s, _)| format!("sign anew: {}", s.what)).collect();
        return app.shell.would_change_all(would, &difference);
    }
    app.shell.block(&difference.text(Paint::of_diagnostics()));
    let mut least: BTreeMap<String, ScopeCount> = BTreeMap::new();
    let mut envelopes: Vec<Envelope> = statements.iter().map(|s| s.weak.envelope.clone()).collect();
    for (statement, signer) in &mine {
        let mut envelope = statement.weak.envelope.clone();
        signing::sign(&mut envelope, &signer.secret()?, &session.fleet());
        send(&session, statement, &envelope).await?;
        let payload = envelope.payload_digest();
        if let Some(held) = envelopes.iter_mut().find(|e| e.payload_digest() == payload) {
            *held = envelope;
        }
    }
    for (statement, envelope) in statements.iter().zip(&envelopes) {
        for count in scopes::counts(&session, &statement.scopes, envelope) {
            let entry = least.entry(count.scope.clone()).or_insert_with(|| count.clone());
            if count.count.signatures < entry.count.signatures {
                *entry = count;
            }
        }
    }
    app.shell.print(&Regranted {
        devices: chosen.iter().map(|e| e.member.name.clone()).collect(),
        signed: mine.len(),
        left_out,
        scopes: least.into_values().collect(),
    })
}

async fn send(session: &Session, statement: &Statement<'_>, envelope: &Envelope) -> Result<()> {
    if let Some(device) = statement.device {
        let path = format!("/v1/devices/{device}/grant");
        let _: Device = session.client.post_bytes(&path, envelope.encode()).await?;
    } else {
        let body = NewToken {
            grant: Base64(envelope.encode()),
        };
        let _: ensign_api::Token = session.client.post("/v1/tokens", &body).await?;
    }
    Ok(())
}

/// Who the words mean and needs it; and who is left out, because this machine has never verified them and nobody names them.
fn choose<'a>(session: &Session, all: &'a [Entitled], words: &Devices) -> Result<(Vec<&'a Entitled>, Vec<String>)> {
    let seen = Seen::load(session)?;
    let mut chosen = which::several(all, words)?;
    chosen.retain(|e| e.token.is_some() || e.own.is_some());
    let named: BTreeSet<DeviceId> = if words.devices.is_empty() {
        BTreeSet::new()
    } else {
        let by_name = Devices {
            devices: words.devices.clone(),
            select: None,
        };
        which::several(all, &by_name)?.iter().map(|e| e.member.device).collect()
    };
    for entitled in &chosen {
        let member = &entitled.member;
        if let Err(refusal) = seen.check(member) {
            return fail!(RollbackRefused, "{}: {}", member.name, refusal.text);
        }
    }
    let (chosen, strangers): (Vec<_>, Vec<_>) = chosen
        .into_iter()
        .partition(|e| seen.labels(&e.member.device).is_some() || named.contains(&e.member.device));
    let strangers: Vec<String> = strangers.iter().map(|e| e.member.name.clone()).collect();
    if !strangers.is_empty() {
        Shell::warn(&format!(
            "{} left out: this machine never verified {} while the grants counted. A dropped key may have made them: look at them, then name them: `ensign device regrant DEVICE`",
            some_of(&strangers),
            if strangers.len() == 1 { "it" } else { "them" }
        ));
    }
    Ok((chosen, strangers))
}

/// Each grant once: that of a token stands for everybody who joined with it.
fn statements<'a>(session: &'a Session, chosen: &[&'a Entitled], tokens: &'a Tokens) -> Result<Vec<Statement<'a>>> {
    let root = session.trust.root();
    let mut all = Vec::new();
    let needed: BTreeSet<Digest> = chosen.iter().filter_map(|e| e.token).collect();
    for (payload, (weak, joined)) in &tokens.weak {
        if needed.contains(payload) {
            let devices = show_count(joined.len() as u64, "device");
            all.push(Statement {
                what: format!("join token of {devices} ({})", some_of(joined)),
                weak,
                scopes: Invitation::scopes(root, &weak.labels)?.iter().collect(),
                device: None,
            });
        }
    }
    for entitled in chosen {
        if let Some(weak) = &entitled.own {
            all.push(Statement {
                what: format!("labels of {}", entitled.member.name),
                weak,
                scopes: Scopes::of_change(root, entitled.member.subject(), &weak.labels)?
                    .iter()
                    .collect(),
                device: Some(entitled.member.device),
            });
        }
    }
    Ok(all)
}

/// What a device rests on. A row without evidence that ever counted is refused by itself; more devices than uses, altogether.
fn entitled(
    session: &Session,
    roots: &[Root],
    row: &DeviceEvidence,
    tokens: &mut Tokens,
) -> Result<Result<Entitled, Refusal>> {
    // Each root of the past, with what is known besides it now.
    let under = |root| Authority {
        root,
        ..session.trust.authority()
    };
    let found = tokens.found.entry(Digest::of(&row.token_grant.0)).or_insert_with(|| {
        let mut counted = roots.iter().enumerate();
        counted.find_map(|(at, root)| Some((Invitation::verify(&under(root), &row.token_grant.0).ok()?, at)))
    });
    let Some((invitation, at)) = found else {
        return Ok(Err(never()));
    };
    let Some(root) = roots.get(*at) else {
        return Ok(Err(never()));
    };
    let mut member = match Member::join(&under(root), &row.binding.0, invitation) {
        Ok(member) if member.device == row.device => member,
        Ok(member) => {
            let text = format!("the evidence of {} is that of {}", row.device, member.device);
            return Ok(Err(Refusal::new(Code::WrongDevice, text)));
        }
        Err(refusal) => return Ok(Err(refusal)),
    };
    let joined = tokens.joined.entry(member.grant).or_default();
    *joined = joined.saturating_add(1);
    if *joined > invitation.uses {
        return fail!(
            KeysRefused,
            "more than {} joined with one token: the controller's registry is not to be trusted",
            show_count(u64::from(invitation.uses), "device")
        );
    }
    let token = (*at > 0).then_some(member.grant);
    if *at > 0 {
        let (_, names) = tokens.weak.entry(member.grant).or_insert_with(|| {
            let weak = Weak {
                envelope: invitation.signed.envelope.clone(),
                labels: invitation.signed.body.labels.clone(),
                until: root.version,
            };
            (weak, Vec::new())
        });
        names.push(member.name.clone());
    }
    let own = match &row.grant {
        None => None,
        Some(grant) => {
            let counted = roots.iter().enumerate().find_map(|(at, root)| {
                let mut labelled = member.clone();
                labelled.relabel(&under(root), &grant.0).ok()?;
                Some((at, root.version, labelled))
            });
            let Some((at, until, labelled)) = counted else {
                return Ok(Err(never()));
            };
            let envelope = match statement::open_unverified::<Grant>(&grant.0) {
                Ok(signed) => signed.envelope,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let weak = Weak {
                envelope,
                labels: labelled.labels.clone(),
                until,
            };
            member = labelled;
            (at > 0).then_some(weak)
        }
    };
    Ok(Ok(Entitled { member, token, own }))
}

fn never() -> Refusal {
    Refusal::new(
        Code::RoleNotAuthorised,
        "its grants counted under no root of this fleet: it joins anew",
    )
}

impl Statement<'_> {
    /// The words stay; the signatures are what changes.
    fn describe(&self, session: &Session, key: &PublicKey, all: &mut Difference) {
        all.say(
            &self.what,
            &format!(
                "{}, counted until root {}",
                show_labels(&self.weak.labels),
                self.weak.until
            ),
        );
        let before = scopes::counts(session, &self.scopes, &self.weak.envelope);
        for (scope, before, after) in scopes::with_key(&self.scopes, &before, key) {
            all.changed(format!("{}, signatures in scope {scope}", self.what), &before, &after);
        }
    }
}

impl Named for Entitled {
    fn id(&self) -> &DeviceId {
        &self.member.device
    }

    fn name(&self) -> &str {
        &self.member.name
    }

    fn labels(&self) -> &Labels {
        &self.member.labels
    }

    fn is_living(&self) -> bool {
        true
    }
}

impl Document for Regranted {
    fn table(&self, paint: Paint) -> String {
        let mut facts = Facts::new();
        let names = if self.devices.is_empty() {
            "none of them needs it".to_owned()
        } else {
            some_of(&self.devices)
        };
        facts
            .add("devices", names)
            .add("signed", show_count(self.signed as u64, "grant"));
        for scope in &self.scopes {
            facts.add(&format!("scope {}", scope.scope), format!("{} signatures", scope.count));
        }
        if !self.left_out.is_empty() {
            facts.add("left out", some_of(&self.left_out));
        }
        let text = facts.text(paint);
        if self.scopes.iter().all(|s| s.count.is_enough()) {
            return text;
        }
        let next = paint.bold("ensign device regrant --select all");
        format!("{text}Next, another key holder: {next}\n")
    }
}
