//! Engine, session and fetching together against a controller over real QUIC and an applier played here.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ensign_bundle::digest::{DeviceId, Digest, FleetId, Nonce};
use ensign_bundle::plan::evidence::Membership;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::trust::roles::FileRef;
use ensign_bundle::wire::{
    Desired, DesiredRollout, DocKind, DocRef, FromDevice, Held, Phase, Report, Status, ToDevice, Transfer,
};
use ensign_crypto::SecretKey;
use tokio::sync::{mpsc, watch};

use super::applier::Outgoing;
use super::cache::Cache;
use super::controller::Controller;
use super::engine::{Engine, Event};
use super::fake::{Fake, Script};
use super::identity::Device;
use super::status::LinkStatus;
use crate::config::Config;
use crate::ipc::{DESCRIPTORS, FromApplier, Need, State, ToApplier};
use crate::paths::Paths;

/// Longest that anything here may take: far more than it does on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The link half without processes and sockets: its applier is this test.
struct Bench {
    dir: tempfile::TempDir,
    cache: Cache,
    fake: Fake,
    events: mpsc::UnboundedSender<Event>,
    status: watch::Receiver<LinkStatus>,
    _stop: watch::Sender<bool>,
}

impl Bench {
    fn start(script: Script) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let key = super::identity::create_key(&paths).unwrap();
        let fake = Fake::start(5, script);
        let device = Device::new(
            DeviceId([1; 32]),
            "dev1".to_owned(),
            FleetId([2; 32]),
            vec![fake.address.to_string()],
            fake.key.public().id(),
        );
        let (events, happened) = mpsc::unbounded_channel();
        let (state, states) = watch::channel(None);
        let (told, status) = watch::channel(LinkStatus::new(Some(&device)));
        let (stop, stopping) = watch::channel(false);
        let cache = Cache::open(&paths.link_cache()).unwrap();
        let seen = cache.clone();
        let config = Config::default();
        tokio::spawn(Engine::new(config.link.clone(), cache, events.clone(), state, told).run(happened));
        let controller = Controller {
            paths,
            config,
            key,
            device,
            state: states,
            events: events.clone(),
            stop: stopping,
            welcomed: None,
            rotating: false,
        };
        tokio::spawn(controller.keep_connected());
        Self {
            dir,
            cache: seen,
            fake,
            events,
            status,
            _stop: stop,
        }
    }

    /// Connects an applier with this nonce.
    fn applier(&self, nonce: u8, needs: Vec<FileRef>) -> Applier {
        let (to, asked) = mpsc::channel(1);
        self.events.send(Event::ApplierUp(to)).unwrap();
        Applier {
            nonce,
            asked,
            events: self.events.clone(),
            needs,
            got: HashMap::new(),
            spare: None,
            offers: 0,
            time_after: 0,
            refuses: None,
            refuse_once: None,
        }
    }
}

/// Takes whatever it is given, as the real one does.
struct Applier {
    nonce: u8,
    asked: mpsc::Receiver<Outgoing>,
    events: mpsc::UnboundedSender<Event>,
    needs: Vec<FileRef>,
    got: HashMap<Digest, Vec<u8>>,
    /// Room that it says is left for the cache.
    spare: Option<u64>,
    offers: usize,
    /// No time is taken before so many offers: the roots that vouch for it come with them.
    time_after: usize,
    /// Why no offer is taken.
    refuses: Option<Refusal>,
    /// Refused when it first comes, as if the disk had damaged it.
    refuse_once: Option<Digest>,
}

impl Applier {
    async fn next(&mut self) -> ToApplier {
        let outgoing = tokio::time::timeout(PATIENCE, self.asked.recv())
            .await
            .unwrap()
            .unwrap();
        let answer = match &outgoing.message {
            ToApplier::Time { .. } if self.offers < self.time_after => {
                FromApplier::Refused(Refusal::new(Code::Unsigned, "no key of the timestamp role"))
            }
            ToApplier::Hello | ToApplier::Acknowledged { .. } | ToApplier::Time { .. } => {
                FromApplier::State(Box::new(state(self.nonce, 1, Phase::Idle)))
            }
            ToApplier::Offer(_) if self.refuses.is_some() => {
                self.offers += 1;
                FromApplier::Refused(self.refuses.take().unwrap())
            }
            ToApplier::Offer(offer) => {
                self.offers += 1;
                let lengths: u64 = offer.documents.iter().map(|d| d.length).sum();
                assert_eq!(
                    File::from(outgoing.descriptors[0].try_clone().unwrap())
                        .metadata()
                        .unwrap()
                        .len(),
                    lengths
                );
                self.need(offer.rollout.is_some())
            }
            ToApplier::Provide { blobs } => {
                assert_eq!(blobs.len(), outgoing.descriptors.len());
                for (digest, fd) in blobs.iter().zip(&outgoing.descriptors) {
                    if self.refuse_once == Some(*digest) {
                        self.refuse_once = None;
                        continue;
                    }
                    let mut file = File::from(fd.try_clone().unwrap());
                    let mut bytes = Vec::new();
                    file.rewind().unwrap();
                    file.read_to_end(&mut bytes).unwrap();
                    assert_eq!(Digest::of(&bytes), *digest);
                    assert!(
                        self.got.insert(*digest, bytes).is_none(),
                        "nothing is handed over twice"
                    );
                }
                self.need(true)
            }
        };
        self.events.send(Event::Applier(answer)).unwrap();
        outgoing.message
    }

    fn need(&self, wanted: bool) -> FromApplier {
        let blobs: Vec<FileRef> = self
            .needs
            .iter()
            .filter(|f| !self.got.contains_key(&f.digest))
            .copied()
            .collect();
        FromApplier::Need(if blobs.is_empty() || !wanted {
            Need::Nothing
        } else {
            Need::Blobs {
                manifest: Digest([3; 32]),
                blobs,
                spare: self.spare,
            }
        })
    }

    async fn until_complete(&mut self) {
        while self.got.len() < self.needs.len() {
            self.next().await;
        }
    }
}

fn state(nonce: u8, seq: u64, phase: Phase) -> State {
    State {
        device: Some(DeviceId([1; 32])),
        held: Held::default(),
        nonce: Nonce([nonce; 32]),
        report: Report {
            seq,
            status: Status {
                generation: 0,
                installed: Vec::new(),
                phase,
                plan: None,
                reason: None,
                denied: Vec::new(),
                transfer: Transfer::default(),
            },
            receipts: Vec::new(),
            root: 0,
        },
        controller: None,
    }
}

fn reference(bytes: &[u8]) -> FileRef {
    FileRef {
        digest: Digest::of(bytes),
        length: bytes.len() as u64,
    }
}

/// A rollout of `count` blobs of 10 to 30 KiB: its wish, its content, and what is needed.
fn rollout(count: usize) -> (Desired, HashMap<Digest, Vec<u8>>, Vec<FileRef>) {
    let blobs: Vec<Vec<u8>> = (0..count)
        .map(|n| vec![u8::try_from(n % 251).unwrap(); 10_000 + n * 20_000 / count])
        .collect();
    let needs: Vec<FileRef> = blobs.iter().map(|b| reference(b)).collect();
    let mut content: HashMap<Digest, Vec<u8>> = blobs.into_iter().map(|b| (Digest::of(&b), b)).collect();
    let mut document = |kind, text: &str| {
        let bytes = text.as_bytes().to_vec();
        let file = reference(&bytes);
        content.insert(file.digest, bytes);
        DocRef {
            kind,
            digest: file.digest,
            length: file.length,
        }
    };
    let desired = Desired {
        generation: 1,
        documents: vec![
            document(DocKind::Timestamp, "timestamp"),
            document(DocKind::Snapshot, "snapshot"),
        ],
        rollout: Some(DesiredRollout {
            plan: document(DocKind::Plan, "plan"),
            release: document(DocKind::Release, "release"),
            gate: None,
            member: Membership {
                wave: 1,
                index: 0,
                receipt_key: SecretKey::from_seed([6; 32]).public(),
                path: Vec::new(),
            },
            lease: None,
        }),
    };
    (desired, content, needs)
}

fn script(desired: Desired, blobs: HashMap<Digest, Vec<u8>>) -> Script {
    Script {
        blobs,
        greeting: vec![ToDevice::Desired(desired)].into(),
        acknowledge: true,
        ..Script::default()
    }
}

#[tokio::test]
async fn an_update_reaches_the_applier_whole_and_once() {
    let (desired, content, needs) = rollout(100);
    let mut bench = Bench::start(script(desired, content.clone()));
    let mut applier = bench.applier(1, needs);
    applier.until_complete().await;
    assert_eq!(applier.offers, 1);
    for (digest, bytes) in &applier.got {
        assert_eq!(bytes, &content[digest]);
    }
    let total: u64 = content.values().map(|b| b.len() as u64 + 4).sum();
    assert_eq!(bench.fake.script.sent.load(Ordering::SeqCst), total);
    let Some(FromDevice::Hello(hello)) = bench.fake.heard.recv().await else {
        panic!("hello comes first");
    };
    assert_eq!((hello.session, hello.nonce), (1, Nonce([1; 32])));
    assert!(matches!(bench.fake.heard.recv().await, Some(FromDevice::Report(r)) if r.seq == 1));
}

#[tokio::test]
async fn what_was_handed_over_makes_way_where_room_is_short() {
    for (spare, most) in [(None, 100), (Some(0), DESCRIPTORS)] {
        let (desired, content, needs) = rollout(100);
        let bench = Bench::start(script(desired, content));
        let mut applier = bench.applier(1, needs.clone());
        applier.spare = spare;
        applier.until_complete().await;
        let kept = needs.iter().filter(|file| bench.cache.has(file)).count();
        assert!(kept <= most, "{kept} of 100 are kept");
        assert!(
            spare.is_some() || kept == most,
            "all are kept for a resume where there is room"
        );
    }
}

#[tokio::test]
async fn a_connection_that_dies_again_and_again_costs_no_byte_twice() {
    let (desired, content, needs) = rollout(40);
    let mut script = script(desired, content.clone());
    script.cut_after = AtomicU64::new(200_000);
    let bench = Bench::start(script);
    let mut applier = bench.applier(1, needs);
    applier.until_complete().await;
    assert!(bench.fake.script.connections.load(Ordering::SeqCst) >= 4);
    let total: u64 = content.values().map(|b| b.len() as u64 + 4).sum();
    assert_eq!(
        bench.fake.script.sent.load(Ordering::SeqCst),
        total,
        "whole records cross once"
    );
}

#[tokio::test]
async fn a_new_applier_gets_a_new_session_and_what_is_cached() {
    let (desired, content, needs) = rollout(30);
    let mut bench = Bench::start(script(desired, content));
    let mut first = bench.applier(1, needs.clone());
    while first.got.len() < needs.len() / 2 {
        first.next().await;
    }
    bench.events.send(Event::ApplierDown).unwrap();
    drop(first);
    let mut second = bench.applier(2, needs);
    second.until_complete().await;
    assert_eq!(
        second.offers, 1,
        "nothing of the first one's session is offered to the second"
    );
    let mut nonces = Vec::new();
    while let Ok(message) = bench.fake.heard.try_recv() {
        if let FromDevice::Hello(hello) = message {
            nonces.push((hello.session, hello.nonce));
        }
    }
    assert_eq!(nonces, [(1, Nonce([1; 32])), (2, Nonce([2; 32]))]);
}

#[tokio::test]
async fn bytes_that_the_applier_refuses_are_fetched_again() {
    let (desired, content, needs) = rollout(3);
    let bench = Bench::start(script(desired, content));
    let mut applier = bench.applier(1, needs.clone());
    applier.refuse_once = Some(needs[1].digest);
    applier.until_complete().await;
    assert_eq!(applier.refuse_once, None);
}

#[tokio::test]
async fn reports_are_sent_until_acknowledged_and_the_applier_is_told() {
    let (mut desired, content, _) = rollout(1);
    desired.rollout = None;
    let mut bench = Bench::start(script(desired, content));
    let mut applier = bench.applier(1, Vec::new());
    // In any order: the offer, and the acknowledgement of the report.
    let mut acknowledged = None;
    while acknowledged.is_none() || applier.offers == 0 {
        if let ToApplier::Acknowledged { seq } = applier.next().await {
            acknowledged = Some(seq);
        }
    }
    assert_eq!(acknowledged, Some(1));
    bench
        .events
        .send(Event::Applier(FromApplier::Changed(Box::new(state(
            1,
            2,
            Phase::Confirmed,
        )))))
        .unwrap();
    loop {
        if let ToApplier::Acknowledged { seq: 2 } = applier.next().await {
            break;
        }
    }
    let status = bench
        .status
        .wait_for(|s| s.connected && s.applier)
        .await
        .unwrap()
        .clone();
    assert_eq!(status.name.as_deref(), Some("dev1"));
    assert_eq!(status.address, Some(bench.fake.address.to_string()));
}

#[tokio::test]
async fn a_new_root_is_reported_without_anything_else_to_say() {
    let (mut desired, content, _) = rollout(1);
    desired.rollout = None;
    let mut bench = Bench::start(script(desired, content));
    let mut applier = bench.applier(1, Vec::new());
    while !matches!(applier.next().await, ToApplier::Acknowledged { seq: 1 }) {}
    let mut newer = state(1, 1, Phase::Idle);
    newer.report.root = 2;
    let changed = FromApplier::Changed(Box::new(newer));
    bench.events.send(Event::Applier(changed)).unwrap();
    // Long before the interval is over.
    let reported = async {
        loop {
            match bench.fake.heard.recv().await.unwrap() {
                FromDevice::Report(report) if report.root == 2 => return report.seq,
                _ => {}
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, reported).await.unwrap(), 1);
}

#[tokio::test]
async fn the_time_is_shown_with_every_offer_and_again_after_one_that_may_let_it_count() {
    let (desired, content, _) = rollout(1);
    let mut again = desired.clone();
    again.generation += 1;
    let mut script = script(desired, content);
    (script.time, script.acknowledge) = (b"attested".to_vec(), false);
    let bench = Bench::start(script);
    let mut applier = bench.applier(1, Vec::new());
    applier.time_after = 1;
    let mut said = Vec::new();
    while said != ["time", "offer", "time", "offer"] {
        match applier.next().await {
            ToApplier::Time { attestation } => {
                assert_eq!(attestation.as_slice(), b"attested");
                // Before the first offer it may be shown more than once: greeting and wish come apart.
                if said.last() != Some(&"time") {
                    said.push("time");
                }
            }
            ToApplier::Offer(_) => said.push("offer"),
            _ => {}
        }
        assert!(said.len() <= 4, "{said:?}");
    }
    // Another wish in the same session: the applier may need the time by now.
    bench.events.send(Event::Controller(ToDevice::Desired(again))).unwrap();
    loop {
        match applier.next().await {
            ToApplier::Time { .. } => break,
            ToApplier::Offer(_) => panic!("an offer without the time"),
            _ => {}
        }
    }
}

/// Nothing is wanted, and yet a trial may wait for the controller's word; and a connection of the applier that is a new one has not heard it.
#[tokio::test]
async fn the_time_is_shown_to_each_connection_whether_or_not_anything_is_wanted() {
    let bench = Bench::start(Script {
        time: b"attested".to_vec(),
        ..Script::default()
    });
    for _ in 0..2 {
        // The same process both times: its nonce, and with it the session, stays.
        let mut applier = bench.applier(1, Vec::new());
        loop {
            match applier.next().await {
                ToApplier::Time { attestation } => break assert_eq!(attestation.as_slice(), b"attested"),
                ToApplier::Offer(_) => panic!("nothing is wanted"),
                _ => {}
            }
        }
        bench.events.send(Event::ApplierDown).unwrap();
    }
}

/// A controller that welcomes has no device revoked: what it once said is over.
#[tokio::test]
async fn a_welcome_takes_a_revocation_back() {
    let mut bench = Bench::start(Script::default());
    let paths = Paths::new(bench.dir.path());
    super::identity::note_revoked(&paths, true).unwrap();
    let mut applier = bench.applier(1, Vec::new());
    applier.next().await;
    tokio::time::timeout(PATIENCE, bench.status.wait_for(|s| s.connected))
        .await
        .unwrap()
        .unwrap();
    assert!(!super::identity::is_revoked(&paths));
}

#[tokio::test]
async fn a_full_disk_is_reported_until_an_offer_is_stored() {
    let (desired, content, _) = rollout(1);
    let mut again = desired.clone();
    again.generation += 1;
    let mut bench = Bench::start(script(desired, content));
    let mut applier = bench.applier(1, Vec::new());
    applier.refuses = Some(Refusal::new(Code::NoSpace, "trust: No space left on device"));
    while applier.offers == 0 {
        applier.next().await;
    }
    let mut reason = |wanted: Option<Code>| loop {
        let Ok(message) = bench.fake.heard.try_recv() else {
            return false;
        };
        if matches!(&message, FromDevice::Report(r) if r.status.reason.as_ref().map(|r| r.code) == wanted) {
            return true;
        }
    };
    let deadline = crate::clock::boot() + PATIENCE;
    while !reason(Some(Code::NoSpace)) {
        assert!(crate::clock::boot() < deadline, "nobody is told");
        tokio::task::yield_now().await;
    }
    bench.events.send(Event::Controller(ToDevice::Desired(again))).unwrap();
    while applier.offers == 1 {
        applier.next().await;
    }
    while !reason(None) {
        assert!(crate::clock::boot() < deadline, "it is told for ever");
        tokio::task::yield_now().await;
    }
}
