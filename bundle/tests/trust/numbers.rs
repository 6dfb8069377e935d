//! Numbers that only rise, and times of issue: neither may run ahead of the clock.

use ensign_bundle::codec;
use ensign_bundle::digest::DeviceId;
use ensign_bundle::plan::statements::{Cancel, Grant, Hold, Plan};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::statement::{self, Document};
use ensign_bundle::trust::roles::FORMAT;
use ensign_bundle::trust::{Clock, Trusted};
use ensign_crypto::{Envelope, aad};

use crate::bench::bench;
use crate::fleet::*;

fn hold(device: DeviceId, seq: u64, issued: u64) -> Hold {
    Hold {
        format: FORMAT,
        issued,
        device,
        seq,
        held: true,
        reason: "repair".into(),
    }
}

/// Signed without asking whether anybody should.
fn forced<T: Document>(body: &T) -> Vec<u8> {
    let mut envelope = Envelope::new(T::KIND, codec::encode(body).unwrap());
    envelope.sign(&key(5), &aad(&FLEET.0));
    envelope.encode()
}

/// Neither made nor read: a number near the end would be the last one.
#[test]
fn no_number_runs_ahead_of_the_clock() {
    fn judged<T: Document>(body: &T) -> [Option<Code>; 2] {
        let read = statement::open::<T>(&forced(body), &[public(5)], 1, &FLEET);
        [statement::seal(body).err().map(|r| r.code), read.err().map(|r| r.code)]
    }
    let device = Device::new(1).id();
    for (number, refused) in [
        (START + DAY, None),
        (START + DAY + 1, Some(Code::NumberAhead)),
        (u64::MAX, Some(Code::NumberAhead)),
    ] {
        let plan = Plan {
            seq: number,
            issued: START,
            ..bench().plan
        };
        assert_eq!(judged::<Plan>(&plan), [refused; 2], "plan {number}");
        assert_eq!(
            judged::<Hold>(&hold(device, number, START)),
            [refused; 2],
            "hold {number}"
        );
        let grant = Grant {
            issued: START,
            ..device_grant(device, number, &[])
        };
        assert_eq!(judged::<Grant>(&grant), [refused; 2], "grant {number}");
    }
}

/// Whoever keeps the clock right knows that they are none; who has no clock cannot say.
#[test]
fn orders_of_the_future_are_none() {
    let bench = bench();
    let id = bench.facts.id;
    let late = START + DAY + 1;
    let cancel = Cancel {
        format: FORMAT,
        issued: late,
        plan: bench.digest(),
        product: ident("app"),
        reason: "wrong".into(),
    };
    let grant = Grant {
        issued: late,
        ..device_grant(id, 1, &[("site", "lyon")])
    };
    let (cancel, hold, grant) = (sign(&cancel, &[5]), sign(&hold(id, 1, late), &[5]), sign(&grant, &[5]));
    let taken = |clock: Clock| {
        let mut trusted = bench.trusted.clone();
        let code = |refused: Option<Refusal>| refused.map(|r| r.code);
        let codes = [
            code(trusted.take_cancel(&cancel, &id, "dev1", clock).err()),
            code(trusted.take_hold(&hold, &id, "dev1", clock).err()),
            code(trusted.take_grant(&grant, &id, "dev1", clock).err()),
        ];
        (codes, trusted.encode().unwrap() == bench.trusted.encode().unwrap())
    };
    assert_eq!(taken(START.into()), ([Some(Code::LifetimeRefused); 3], true));
    assert_eq!(taken((START + 1).into()), ([None; 3], false));
    assert_eq!(taken(Clock::untrusted(START)), ([None; 3], false));
}

/// A hold whose number nobody could pass is let go of after a reset by root; who was held stays so until then.
#[test]
fn a_reset_frees_the_numbers_of_holds() {
    let mut fleet = Fleet::new();
    fleet.publish();
    let mut trusted = fleet.fresh();
    let id = Device::new(1).id();
    let take = |trusted: &mut Trusted, hold: &Hold| {
        let taken = trusted.take_hold(&sign(hold, &[5]), &id, "dev1", START);
        taken.err().map(|r| r.code)
    };
    assert_eq!(take(&mut trusted, &hold(id, 900, START)), None);
    let go = Hold {
        held: false,
        ..hold(id, 5, START)
    };
    assert_eq!(take(&mut trusted, &go), Some(Code::RollbackRefused));
    fleet.next_root(|root| root.floors.reset_epoch = 1, &[]);
    fleet.publish();
    fleet.refresh(&mut trusted).unwrap();
    assert_eq!(trusted.hold(&id), Some("repair"));
    assert_eq!(take(&mut trusted, &go), None);
    assert_eq!(trusted.hold(&id), None);
}
