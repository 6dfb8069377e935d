//! `ensign-agent status`: from the running link half, else from what the processes left on disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::wire::{Held, Phase, Status};
use serde::Serialize;

use super::output::{rooted, time};
use crate::applier::questions;
use crate::chain::chain;
use crate::clock;
use crate::config::{Config, Reader};
use crate::link::identity::Device;
use crate::link::status::{self as link, LinkStatus};
use crate::paths::Paths;

/// How long an applier may take to its first word: it starts within tens of milliseconds, on a busy machine within a second.
const START: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

/// What `ensign-agent status -o json` prints. Keys may be added, never renamed: scripts read them.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    running: bool,
    /// Whether this device is in a fleet.
    joined: bool,
    /// What to do about it where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    id: Option<String>,
    name: Option<String>,
    controller: Controller,
    generation: u64,
    previous: Option<u64>,
    products: BTreeMap<String, Product>,
    status: Phase,
    reason: Option<Reason>,
    trust: Trust,
    last_error: Option<Reason>,
}

#[derive(Debug, Serialize)]
struct Controller {
    connected: bool,
    address: Option<String>,
}

#[derive(Debug, Serialize)]
struct Product {
    version: String,
    counter: u64,
    manifest: String,
    confirmed: bool,
    since: String,
}

#[derive(Debug, Serialize)]
struct Trust {
    root: u64,
    timestamp: u64,
    snapshot: u64,
    targets: u64,
    expires: Option<String>,
}

#[derive(Debug, Serialize)]
struct Reason {
    code: &'static str,
    text: String,
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        Self {
            code: refusal.code.name(),
            text: ensign_bundle::text::printable(&refusal.text, 300),
        }
    }
}

/// The status of the device under these paths; never fails because nothing runs.
pub(super) fn document(paths: &Paths, root: &Path) -> Document {
    let document = match answering(paths) {
        Some(status) if status.applier && status.status.is_some() => running(paths, status),
        Some(status) => half(paths, status),
        None => stopped(paths),
    };
    let joined = document.id.is_some();
    let hint = "in no fleet: `ensign-agent enroll --token-file FILE`";
    Document {
        joined,
        hint: (!joined).then(|| rooted(hint, root)),
        ..document
    }
}

/// The link half's word, waited for while its applier may be starting.
fn answering(paths: &Paths) -> Option<LinkStatus> {
    let deadline = clock::boot() + START;
    loop {
        let status = link::query(paths)?;
        if status.applier || clock::boot() >= deadline {
            return Some(status);
        }
        std::thread::sleep(PAUSE);
    }
}

/// The link half runs, and its applier does not: what the files tell, and why.
fn half(paths: &Paths, link: LinkStatus) -> Document {
    let document = stopped(paths);
    let cause = document.last_error.as_ref().map(|reason| reason.text.clone());
    let cause = cause.or_else(|| {
        let loaded = Config::load(paths, Reader::Applier);
        loaded.err().map(|error| chain(&error))
    });
    let text = cause.unwrap_or_else(|| "its log says why".to_owned());
    let refusal = Refusal::new(Code::AgentNotRunning, format!("the applier does not answer: {text}"));
    Document {
        id: document.id.or(link.id.map(|id| id.to_string())),
        name: document.name.or(link.name),
        controller: Controller {
            connected: link.connected,
            address: link.address.or(document.controller.address),
        },
        last_error: Some(refusal.into()),
        ..document
    }
}

fn running(paths: &Paths, link: LinkStatus) -> Document {
    let expires = link.expires();
    Document {
        running: true,
        controller: Controller {
            connected: link.connected,
            address: link.address,
        },
        ..of(
            paths,
            link.id.map(|id| id.to_string()),
            link.name,
            link.status,
            link.held,
            expires,
            link.last_error,
        )
    }
}

fn stopped(paths: &Paths) -> Document {
    let device = Device::load(paths).ok().flatten();
    let address = device.as_ref().and_then(|d| d.addresses.first().cloned());
    let (id, name) = device.map_or((None, None), |d| (Some(d.id.to_string()), Some(d.name)));
    // What cannot be read, for want of rights or by damage, is not there; why stands beside it.
    let (on_disk, trouble) = match questions::state(paths) {
        Ok(found) => (found, None),
        Err(refusal) => (None, Some(refusal)),
    };
    let (status, held) = on_disk.map_or((None, Held::default()), |s| (Some(s.report.status), s.held));
    Document {
        controller: Controller {
            connected: false,
            address,
        },
        ..of(paths, id, name, status, held, None, trouble)
    }
}

fn of(
    paths: &Paths,
    id: Option<String>,
    name: Option<String>,
    status: Option<Status>,
    held: Held,
    expires: Option<u64>,
    last_error: Option<Refusal>,
) -> Document {
    // Where nobody can say, the pointer does.
    let generation = status.as_ref().map_or_else(|| pointed(paths), |s| s.generation);
    let phase = status.as_ref().map_or(Phase::Idle, |s| s.phase);
    let reason = status.as_ref().and_then(|s| s.reason.clone());
    let installed = status.map(|s| s.installed).unwrap_or_default();
    Document {
        running: false,
        joined: false,
        hint: None,
        id,
        name,
        controller: Controller {
            connected: false,
            address: None,
        },
        generation,
        previous: previous(paths, generation),
        products: installed
            .into_iter()
            .map(|i| {
                let product = Product {
                    version: i.version.to_string(),
                    counter: i.counter,
                    manifest: i.manifest.to_string(),
                    confirmed: i.confirmed,
                    since: time(i.since),
                };
                (i.product.to_string(), product)
            })
            .collect(),
        status: phase,
        reason: reason.map(Reason::from),
        trust: Trust {
            root: held.root,
            timestamp: held.timestamp,
            snapshot: held.snapshot,
            targets: held.targets,
            expires: expires.map(time),
        },
        last_error: last_error.map(Reason::from),
    }
}

/// The generation that the pointer shows; 0 = none.
fn pointed(paths: &Paths) -> u64 {
    let target = std::fs::read_link(paths.current()).ok();
    target
        .and_then(|target| target.file_name()?.to_str()?.parse().ok())
        .unwrap_or(0)
}

/// The newest generation on disk below the current one: where a rollback goes.
fn previous(paths: &Paths, generation: u64) -> Option<u64> {
    std::fs::read_dir(paths.generations())
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok())
        .filter(|n| *n < generation)
        .max()
}
