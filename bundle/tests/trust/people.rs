//! Who a device is, from signed evidence, and who may say so.

use ensign_bundle::digest::Digest;
use ensign_bundle::ids::Label;
use ensign_bundle::plan::membership::{Invitation, Member};
use ensign_bundle::plan::statements::Grant;
use ensign_bundle::reason::Code;
use ensign_bundle::selector::Selector;
use ensign_bundle::statement;
use ensign_bundle::trust::Authority;
use ensign_bundle::trust::roles::{Root, Targets};

use crate::fleet::*;

const TOKEN: u8 = 60;

struct Joined {
    root: Root,
    targets: Option<Targets>,
    latest_issue: Option<u64>,
    device: Device,
    grant: Vec<u8>,
    binding: Vec<u8>,
}

fn digest_of(grant: &[u8]) -> Digest {
    statement::open_unverified::<Grant>(grant).unwrap().digest()
}

fn joined() -> Joined {
    let grant = sign(&token_grant(TOKEN, &[("site", "lyon")]), &[5]);
    let device = Device::new(1);
    Joined {
        root: Fleet::new().root,
        targets: Some(Fleet::new().targets),
        latest_issue: None,
        binding: device.binding(TOKEN, digest_of(&grant)),
        device,
        grant,
    }
}

impl Joined {
    fn authority(&self) -> Authority<'_> {
        Authority {
            root: &self.root,
            targets: self.targets.as_ref(),
            fleet: &FLEET,
            latest_issue: self.latest_issue,
        }
    }

    fn verify(&self, grants: &[&[u8]]) -> Result<Member, Code> {
        Member::verify(&self.authority(), &self.binding, &self.grant, grants).map_err(|r| r.code)
    }
}

#[test]
fn a_device_is_what_its_evidence_says() {
    let joined = joined();
    let member = joined.verify(&[]).unwrap();
    assert_eq!(
        (member.device, member.receipt_key),
        (joined.device.id(), joined.device.receipt.public())
    );
    assert!(member.matches(&Selector::parse("site = lyon and name = dev1").unwrap()));
    assert_eq!(member.scopes(&joined.root).unwrap().iter().count(), 1);
    // The newest grant counts, in whatever order they come.
    let grant = |seq, site| sign(&device_grant(joined.device.id(), seq, &[("site", site)]), &[5]);
    let (one, two) = (grant(1, "paris"), grant(2, "nice"));
    for order in [[&one[..], &two], [&two, &one]] {
        let member = joined.verify(&order).unwrap();
        assert_eq!((member.label_seq, member.labels), (2, labels(&[("site", "nice")])));
    }
}

#[test]
fn what_is_no_evidence() {
    let good = joined();
    let with_binding = |binding: Vec<u8>| {
        let joined = Joined { binding, ..joined() };
        joined.verify(&[]).unwrap_err()
    };
    let digest = digest_of(&good.grant);
    // All three keys must sign.
    let body = good.device.binding_body(TOKEN, digest);
    let (tls, receipt) = (&good.device.tls, &good.device.receipt);
    for signers in [vec![tls, receipt], vec![tls, &key(TOKEN)], vec![receipt, &key(TOKEN)]] {
        let binding = statement::sign(&body, &signers, &FLEET).unwrap();
        assert_eq!(with_binding(binding), Code::ThresholdNotMet);
    }
    assert_eq!(with_binding(good.device.binding(61, digest)), Code::NotAuthorised);
    assert_eq!(
        with_binding(good.device.binding(TOKEN, Digest([1; 32]))),
        Code::NotAuthorised
    );
    // A key of a role, or the controller's, is no device's.
    let thief = Device {
        tls: key(7),
        receipt: good.device.receipt.clone(),
    };
    assert_eq!(with_binding(thief.binding(TOKEN, digest)), Code::KeysRefused);
    let foreign = Joined {
        grant: sign(&token_grant(TOKEN, &[("site", "lyon")]), &[7]),
        ..joined()
    };
    assert_eq!(foreign.verify(&[]), Err(Code::RoleNotAuthorised));
    let other = Device::new(2).id();
    let of_other = sign(&device_grant(other, 1, &[]), &[5]);
    assert_eq!(good.verify(&[&of_other]), Err(Code::WrongDevice));
    let unsigned = sign(&device_grant(good.device.id(), 1, &[]), &[]);
    assert_eq!(good.verify(&[&unsigned]), Err(Code::Unsigned));
    let same = sign(&device_grant(good.device.id(), 1, &[]), &[5]);
    assert_eq!(good.verify(&[&same, &same]), Err(Code::RollbackRefused));
}

/// Seed 4 signs releases: nobody else's key may be that one, whoever reads the evidence.
#[test]
fn a_release_key_is_no_token_and_no_device() {
    let good = joined();
    let release = good.targets.as_ref().unwrap().products[0].role.keys[0];
    assert_eq!(release, public(4));
    let digest = digest_of(&good.grant);
    let of_release = |device: Device| Joined {
        binding: device.binding(TOKEN, digest),
        ..joined()
    };
    let (tls, receipt) = (good.device.tls.clone(), good.device.receipt.clone());
    for device in [Device { tls: key(4), receipt }, Device { tls, receipt: key(4) }] {
        assert_eq!(of_release(device).verify(&[]), Err(Code::KeysRefused));
    }
    let grant = sign(&token_grant(4, &[("site", "lyon")]), &[5]);
    let mut joined = Joined {
        binding: good.device.binding(4, digest_of(&grant)),
        grant,
        ..joined()
    };
    assert_eq!(joined.verify(&[]), Err(Code::KeysRefused));
    // A device that joins has seen no targets yet.
    joined.targets = None;
    assert!(joined.verify(&[]).is_ok());
}

/// A grant of the day after tomorrow is of a clock that is wrong, here or there.
#[test]
fn evidence_of_the_future_is_none() {
    let mut joined = joined();
    joined.latest_issue = Some(START);
    joined.verify(&[]).unwrap();
    let late = |seq| Grant {
        issued: START + 1,
        ..device_grant(joined.device.id(), seq, &[])
    };
    assert_eq!(joined.verify(&[&sign(&late(1), &[5])]), Err(Code::LifetimeRefused));
    joined.latest_issue = Some(START - 1);
    assert_eq!(joined.verify(&[]), Err(Code::LifetimeRefused));
}

#[test]
fn a_token_is_good_for_its_uses_and_its_time() {
    let joined = joined();
    let invitation = Invitation::verify(&joined.authority(), &joined.grant).unwrap();
    assert!(invitation.approve);
    assert_eq!(invitation.check_open(2, START + 3599), Ok(()));
    assert_eq!(invitation.check_open(3, START).unwrap_err().code, Code::TokenUsedUp);
    assert_eq!(
        invitation.check_open(0, START + 3600).unwrap_err().code,
        Code::TokenExpired
    );
    let of_device = sign(&device_grant(joined.device.id(), 1, &[]), &[5]);
    let refused = Invitation::verify(&joined.authority(), &of_device).unwrap_err();
    assert_eq!(refused.code, Code::Malformed);
}

#[test]
fn protected_labels_need_the_scopes_that_ask_about_them() {
    let mut joined = joined();
    let mut production = joined.root.scopes[0].clone();
    production.name = ident("production");
    production.select = "env = production".into();
    production.role.keys = vec![public(50), public(51)];
    production.role.threshold = 2;
    joined.root.scopes.push(production);
    joined.root.protected = vec![Label::parse("env").unwrap()];
    let id = joined.device.id();
    let to = |seq, env: &[(&str, &str)], signers: &[u8]| sign(&device_grant(id, seq, env), signers);
    let production = [("env", "production")];
    // Into production, and out of it again.
    assert_eq!(
        joined.verify(&[&to(1, &production, &[5])]),
        Err(Code::RoleNotAuthorised)
    );
    assert_eq!(
        joined.verify(&[&to(1, &production, &[5, 50])]),
        Err(Code::ThresholdNotMet)
    );
    let inside = to(1, &production, &[5, 50, 51]);
    joined.verify(&[&inside]).unwrap();
    let out = [("env", "lab")];
    assert_eq!(
        joined.verify(&[&inside, &to(2, &out, &[5])]),
        Err(Code::RoleNotAuthorised)
    );
    joined.verify(&[&inside, &to(2, &out, &[5, 50, 51])]).unwrap();
    // What touches no protected label outside of production needs the scope of that device alone.
    joined.verify(&[&to(1, &[("site", "nice")], &[5])]).unwrap();
    // A token that gives no label at all would make devices that count as protected.
    joined.grant = sign(&token_grant(TOKEN, &[]), &[5]);
    joined.binding = joined.device.binding(TOKEN, digest_of(&joined.grant));
    assert_eq!(joined.verify(&[]), Err(Code::RoleNotAuthorised));
}

#[test]
fn a_device_remembers_its_newest_labels() {
    let joined = joined();
    let mut trusted = Fleet::new().fresh();
    let id = joined.device.id();
    let mut take = |bytes: &[u8]| trusted.take_grant(bytes, &id, "dev1", START).map_err(|r| r.code);
    assert_eq!(take(&joined.grant), Ok(labels(&[("site", "lyon")])));
    assert_eq!(take(&joined.grant), Ok(labels(&[("site", "lyon")])), "the same again");
    let newer = sign(&device_grant(id, 4, &[("site", "nice")]), &[5]);
    assert_eq!(take(&newer), Ok(labels(&[("site", "nice")])));
    let older = sign(&device_grant(id, 3, &[("site", "paris")]), &[5]);
    assert_eq!(take(&older), Err(Code::RollbackRefused));
    assert_eq!(take(&joined.grant), Err(Code::RollbackRefused));
    let anew = sign(&device_grant(id, 4, &[("site", "nice")]), &[5, 51]);
    assert_eq!(
        take(&anew),
        Ok(labels(&[("site", "nice")])),
        "others have signed it too"
    );
    let same_number = sign(&device_grant(id, 4, &[("site", "paris")]), &[5]);
    assert_eq!(take(&same_number), Err(Code::RollbackRefused));
    let other = sign(&device_grant(Device::new(2).id(), 9, &[]), &[5]);
    assert_eq!(take(&other), Err(Code::WrongDevice));
    assert_eq!(
        (trusted.labels(&id), trusted.label_seq(&id)),
        (labels(&[("site", "nice")]), Some(4))
    );
}
