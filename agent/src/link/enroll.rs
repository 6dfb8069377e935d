//! Joining a fleet: find the controller by the token's pin, get the grant behind the token, prove the keys, take the roots.
//!
//! The token's seed never leaves this process; what the controller keeps is a binding that three keys signed.

use std::collections::BTreeMap;
use std::time::Duration;

use ensign_bundle::digest::{DeviceId, Digest};
use ensign_bundle::plan::evidence::Binding;
use ensign_bundle::plan::statements::{Grant, Subject};
use ensign_bundle::plan::token::Token;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::statement::{open_unverified, seal};
use ensign_bundle::trust::roles::FORMAT;
use ensign_bundle::wire::{self, Enroll, EnrollReply, EnrollStep};
use ensign_crypto::{Envelope, PublicKey, SecretKey, Signature, aad};
use quinn::{RecvStream, SendStream};
use serde_bytes::ByteBuf;

use super::session::{self, FrameError, Target};
use crate::clock;

/// Longest time that finding the controller may take.
const FIND: Duration = Duration::from_secs(9);
/// Longest time for the controller's answer: it commits before it answers.
const ANSWER: Duration = Duration::from_secs(30);
/// Only the handshake and two answers: no NAT forgets so fast.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(30);

/// Who wants to join, and how.
#[derive(Debug)]
pub struct Joining<'a> {
    pub token: &'a Token,
    pub key: &'a SecretKey,
    pub receipt_key: PublicKey,
    pub name: &'a str,
    pub claims: BTreeMap<String, String>,
    /// Instead of the token's addresses, where there are any.
    pub addresses: Vec<String>,
}

/// What joining brought.
#[derive(Clone, Debug)]
pub struct Joined {
    pub device: DeviceId,
    pub name: String,
    pub approved: bool,
    /// Root 1 to the newest that was sent.
    pub roots: Vec<ByteBuf>,
    pub grant: ByteBuf,
    pub binding: Vec<u8>,
}

/// Joins. `countersign` signs the binding's payload with the receipt key, which the applier holds.
pub async fn join(
    joining: Joining<'_>,
    countersign: impl FnOnce(&[u8]) -> Result<Signature, Refusal>,
) -> Result<Joined, Refusal> {
    let target = Target {
        addresses: if joining.addresses.is_empty() {
            joining.token.addresses.clone()
        } else {
            joining.addresses.clone()
        },
        pins: vec![joining.token.controller],
        keep_alive: KEEP_ALIVE,
        idle_timeout: IDLE,
    };
    let connected = tokio::time::timeout(FIND, session::connect(&target, joining.key, wire::ALPN_ENROLL))
        .await
        .map_err(|_| {
            Refusal::new(
                Code::ControllerUnreachable,
                format!(
                    "no answer from {} within {} s",
                    target.addresses.join(", "),
                    FIND.as_secs()
                ),
            )
        })?
        .map_err(|e| e.refusal())?;
    let done = tokio::time::timeout(ANSWER, converse(&connected.connection, joining, countersign)).await;
    connected.close().await;
    done.unwrap_or_else(|_| {
        refuse!(
            ControllerUnreachable,
            "the controller did not answer within {} s",
            ANSWER.as_secs()
        )
    })
}

async fn converse(
    connection: &quinn::Connection,
    joining: Joining<'_>,
    countersign: impl FnOnce(&[u8]) -> Result<Signature, Refusal>,
) -> Result<Joined, Refusal> {
    let (mut send, mut recv) = connection.open_bi().await.map_err(|e| lost(&session::closed(&e)))?;
    let token = joining.token.public();
    let (roots, grant) = match ask(&mut send, &mut recv, EnrollStep::Ask { token }).await? {
        EnrollReply::Granted { roots, grant } => (roots, grant),
        other => return unexpected(other),
    };
    let grant_digest = check(&roots, &grant, joining.token)?;
    let device = DeviceId::from(joining.key.public().id());
    let binding = Binding {
        format: FORMAT,
        issued: clock::unix(),
        device,
        key: joining.key.public(),
        receipt_key: joining.receipt_key,
        token,
        grant: grant_digest,
        name: joining.name.to_owned(),
        claims: joining.claims,
    };
    let binding = sign(&binding, joining.key, joining.token, countersign)?.encode();
    let step = EnrollStep::Join {
        binding: ByteBuf::from(binding.clone()),
    };
    match ask(&mut send, &mut recv, step).await? {
        EnrollReply::Joined { name, approved } => Ok(Joined {
            device,
            name,
            approved,
            roots,
            grant,
            binding,
        }),
        other => unexpected(other),
    }
}

/// Whether what came belongs to the token: root 1 by its hash, the grant by the key it names. All the rest the applier verifies.
fn check(roots: &[ByteBuf], grant: &[u8], token: &Token) -> Result<Digest, Refusal> {
    let Some(first) = roots.first() else {
        return refuse!(MetadataMissing, "the controller sent no root");
    };
    let found = Digest::of(first);
    if found != token.root {
        return refuse!(
            WrongFleet,
            "the controller's first root has the hash {found}, the token names {}",
            token.root
        );
    }
    let grant = open_unverified::<Grant>(grant)?;
    match &grant.body.subject {
        Subject::Token { key, .. } if *key == token.public() => Ok(grant.digest()),
        _ => refuse!(TokenUnknown, "the controller sent the grant of another token"),
    }
}

/// The binding under its three signatures: token, TLS key, receipt key.
fn sign(
    binding: &Binding,
    key: &SecretKey,
    token: &Token,
    countersign: impl FnOnce(&[u8]) -> Result<Signature, Refusal>,
) -> Result<Envelope, Refusal> {
    let mut envelope = seal(binding)?;
    let aad = aad(&token.fleet.0);
    envelope.sign(&token.key, &aad);
    envelope.sign(key, &aad);
    let signature = countersign(envelope.payload())?;
    envelope
        .add(signature)
        .map_err(|e| Refusal::new(Code::KeysRefused, e.to_string()))?;
    Ok(envelope)
}

async fn ask(send: &mut SendStream, recv: &mut RecvStream, step: EnrollStep) -> Result<EnrollReply, Refusal> {
    let message = Enroll {
        protocol: wire::PROTOCOL,
        step,
    };
    session::write(send, &message).await.map_err(frame)?;
    session::read(recv).await.map_err(frame)
}

fn unexpected<T>(reply: EnrollReply) -> Result<T, Refusal> {
    match reply {
        EnrollReply::Refused(refusal) => Err(Refusal::new(
            refusal.code,
            ensign_bundle::text::printable(&refusal.text, 300),
        )),
        _ => refuse!(Malformed, "the controller answered something else than was asked"),
    }
}

fn frame(error: FrameError) -> Refusal {
    match error {
        FrameError::Refused(refusal) => refusal,
        other => lost(&other.to_string()),
    }
}

fn lost(text: &str) -> Refusal {
    Refusal::new(
        Code::ControllerUnreachable,
        format!(
            "the controller broke off: {}",
            ensign_bundle::text::printable(text, 300)
        ),
    )
}

#[cfg(test)]
mod tests {
    use ensign_bundle::digest::FleetId;
    use ensign_bundle::ids::Labels;
    use ensign_bundle::statement::{count, sign as signed};

    use super::super::fake::{Fake, Invitation, Script};
    use super::*;

    const FLEET: FleetId = FleetId([7; 32]);

    fn secret(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    /// A token of a controller, and what the controller has behind it. Nobody here looks into the root.
    fn invited(script: impl FnOnce(&mut Invitation)) -> (Fake, Token) {
        let grant = Grant {
            format: FORMAT,
            issued: 1,
            subject: Subject::Token {
                key: secret(3).public(),
                uses: 1,
                expires: 2,
                approve: true,
            },
            labels: Labels::new(),
            label_seq: 0,
        };
        let mut invitation = Invitation {
            roots: vec![b"root 1".to_vec(), b"root 2".to_vec()],
            grant: signed(&grant, &[&secret(4)], &FLEET).unwrap(),
            refused: None,
        };
        script(&mut invitation);
        let fake = Fake::start(
            5,
            Script {
                invitation: Some(invitation),
                ..Script::default()
            },
        );
        let token = Token {
            addresses: vec![fake.address.to_string()],
            fleet: FLEET,
            root: Digest::of(b"root 1"),
            controller: fake.key.public().id(),
            key: secret(3),
        };
        (fake, token)
    }

    async fn try_join(token: &Token) -> Result<Joined, Refusal> {
        let (key, receipt) = (secret(1), secret(2));
        let joining = Joining {
            token,
            key: &key,
            receipt_key: receipt.public(),
            name: "dev1",
            claims: BTreeMap::from([("serial".to_owned(), "4711".to_owned())]),
            addresses: Vec::new(),
        };
        join(joining, |payload| {
            let mut envelope = Envelope::new("binding", payload.to_vec());
            envelope.sign(&receipt, &aad(&FLEET.0));
            Ok(envelope.signatures()[0].clone())
        })
        .await
    }

    #[tokio::test]
    async fn three_keys_sign_what_the_controller_gets() {
        let (fake, token) = invited(|_| {});
        let joined = try_join(&token).await.unwrap();
        assert_eq!(joined.device, DeviceId::from(secret(1).public().id()));
        assert_eq!(joined.roots.len(), 2);
        let sent = fake.script.bindings.lock().unwrap().clone();
        assert_eq!(sent, std::slice::from_ref(&joined.binding));
        let binding = open_unverified::<Binding>(&joined.binding).unwrap();
        let keys = [secret(1), secret(2), secret(3)].map(|k| k.public());
        assert_eq!(count(&binding.envelope, &keys, 3, &FLEET).unwrap().len(), 3);
        assert_eq!(binding.body.claims["serial"], "4711");
        let grant = open_unverified::<Grant>(&joined.grant).unwrap();
        assert_eq!(binding.body.grant, grant.digest());
    }

    #[tokio::test]
    async fn a_root_or_grant_of_others_ends_it_before_anything_is_signed() {
        let (fake, token) = invited(|i| i.roots[0] = b"root of another".to_vec());
        assert_eq!(try_join(&token).await.unwrap_err().code, Code::WrongFleet);
        assert!(fake.script.bindings.lock().unwrap().is_empty());

        let (fake, mut token) = invited(|_| {});
        token.key = secret(9);
        assert_eq!(try_join(&token).await.unwrap_err().code, Code::TokenUnknown);
        assert!(fake.script.bindings.lock().unwrap().is_empty());

        let (_fake, mut token) = invited(|_| {});
        token.controller = secret(9).public().id();
        assert_eq!(try_join(&token).await.unwrap_err().code, Code::WrongControllerKey);
    }

    #[tokio::test]
    async fn refusals_keep_their_code() {
        for code in [Code::TokenExpired, Code::TokenUsedUp, Code::TokenRevoked] {
            let (_fake, token) = invited(|i| i.refused = Some(Refusal::new(code, "no\u{1b}")));
            let refusal = try_join(&token).await.unwrap_err();
            assert_eq!(refusal, Refusal::new(code, "no\\u{1b}"));
        }
    }
}
