//! Events and moments for the tests of this crate.

use ensign_bundle::digest::Digest;
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::trust::roles::FileRef;

use crate::device::{Device, Lock};
use crate::event::Event;
use crate::generation::Component;
use crate::journal;
use crate::record::Record;
use crate::stage::{Policy, Prepared, Stage, Target, Trial};
use crate::step::Step;
use crate::trial::Watch;
use crate::uptime::Now;

pub(crate) fn now(second: u64) -> Now {
    Now {
        unix_s: 1_800_000_000 + second,
        boot: "boot-1".to_owned(),
        boot_ms: second * 1000,
    }
}

pub(crate) fn ident(text: &str) -> Ident {
    Ident::parse(text).unwrap()
}

pub(crate) fn target(n: u8) -> Target {
    Target {
        plan: Digest([n; 32]),
        product: ident("app"),
        version: Version::parse(&format!("{n}.0.0")).unwrap(),
        counter: u64::from(n),
        manifest: FileRef {
            digest: Digest([100 + n; 32]),
            length: 10,
        },
        min_soak_s: 30,
        health: None,
    }
}

pub(crate) fn prepared(n: u8, probed: bool) -> Prepared {
    Prepared {
        components: vec![Component {
            product: ident("app"),
            name: ident("web"),
            tree: Digest([200 + n; 32]),
            units: vec!["web.service".to_owned()],
        }],
        policy: Policy {
            window_ms: 3000,
            deadline_ms: 20_000,
            probed,
        },
    }
}

pub(crate) fn staged(n: u8, probed: bool) -> Event {
    Event::Staged {
        manifest: target(n).manifest.digest,
        prepared: prepared(n, probed),
    }
}

pub(crate) fn refusal(code: Code) -> Refusal {
    Refusal::new(code, code.name())
}

/// One of each, for releases 1 and 2.
pub(crate) fn events() -> Vec<Event> {
    let mut events = vec![
        Event::Withdrawn,
        Event::Left,
        Event::Cleared { contact: true },
        Event::Switched,
        Event::SwitchFailed {
            reason: refusal(Code::UnitFailed),
        },
        Event::Probed { failure: None },
        Event::Probed {
            failure: Some("exit 1".to_owned()),
        },
        Event::Overdue {
            pending: "web/check".to_owned(),
        },
        Event::UnitFailed {
            text: "web.service failed".to_owned(),
        },
        Event::SwitchedBack,
        Event::WayBackBlocked {
            reason: refusal(Code::GenerationTampered),
        },
        Event::RollbackAsked {
            reason: "by hand".to_owned(),
        },
        Event::Acknowledged { report: 4 },
        Event::DenialsCleared { manifest: None },
        Event::Locked(Lock {
            reason: "at work".to_owned(),
            until: 1_800_000_100,
        }),
        Event::Unlocked,
        Event::Forgotten { generations: vec![1] },
        Event::Tick,
        Event::Met { plan: Digest([7; 32]) },
        Event::Refused {
            target: None,
            reason: refusal(Code::Unsigned),
        },
    ];
    for n in [1, 2] {
        events.extend([
            Event::Offered(target(n)),
            Event::Refused {
                target: Some(target(n)),
                reason: refusal(Code::LeaseMissing),
            },
            Event::Refused {
                target: Some(target(n)),
                reason: refusal(Code::DowngradeRefused),
            },
            staged(n, n == 1),
            Event::Tampered {
                manifest: target(n).manifest.digest,
            },
            Event::StagingFailed {
                manifest: target(n).manifest.digest,
                reason: refusal(Code::NoSpace),
            },
            Event::StagingFailed {
                manifest: target(n).manifest.digest,
                reason: refusal(Code::Malformed),
            },
        ]);
    }
    events
}

/// A device and the journal that it came from.
#[derive(Debug, Default)]
pub(crate) struct Bed {
    pub device: Device,
    pub records: Vec<Record>,
    pub journal: Vec<u8>,
    /// Where each append began.
    pub appends: Vec<usize>,
}

impl Bed {
    pub(crate) fn take(&mut self, step: Step) -> Step {
        if !step.records.is_empty() {
            self.appends.push(self.journal.len());
            self.records.extend_from_slice(&step.records);
            let sequence = self.appends.len() as u64;
            let frame = journal::frame(sequence, step.device.attempt, &step.records).unwrap();
            self.journal.extend_from_slice(&frame);
        }
        self.device = step.device.clone();
        step
    }

    pub(crate) fn step(&mut self, event: Event, second: u64) -> Step {
        let step = self.device.clone().step(event, &now(second));
        self.take(step)
    }

    /// Brings release `n` up, confirmed.
    pub(crate) fn install(&mut self, n: u8, second: u64) {
        self.step(Event::Offered(target(n)), second);
        self.step(staged(n, false), second);
        self.step(Event::Cleared { contact: true }, second);
        self.step(Event::Switched, second);
        assert!(
            matches!(self.device.stage, Stage::Confirmed(_)),
            "{:?}",
            self.device.stage
        );
    }
}

/// What survives a restart.
pub(crate) fn durable(mut device: Device) -> Device {
    if let Stage::Trial(Trial { watch, .. }) = &mut device.stage {
        *watch = Watch::default();
    }
    device
}
