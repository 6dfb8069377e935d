//! State as the API shows it.

use std::collections::BTreeMap;

use ensign_api::{
    Component, Device, DeviceDetail, DeviceState, Fleet, Frozen, InstalledProduct, Reason, Release, RoleState,
    SignatureRow, Time, Token, Unheard,
};
use ensign_bundle::digest::DeviceId;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::text::printable;
use ensign_bundle::trust::ensign::{DocName, ReleaseName};
use ensign_bundle::trust::roles::Role;
use ensign_bundle::words::{DEVICE_PREFIX, Fits, by_prefix};
use ensign_bundle::{codec, limits, statement, wire};

use super::rows::{ComponentRow, DeviceRow, ReleaseRow, RoleRow, TokenRow};
use super::state::State;

impl State {
    /// The fleet at a glance.
    pub fn view_fleet(&self) -> Fleet {
        let mut devices = BTreeMap::new();
        for row in self.devices.values() {
            *devices.entry(row.state).or_insert(0) += 1;
        }
        let root = self.roles.root();
        Fleet {
            id: self.fleet.fleet,
            name: self.fleet.name.clone(),
            address: self.fleet.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            lab: root.policy.lab,
            frozen: self.frozen(),
            devices,
            connected: self.sessions.count() as u64,
            dark: self.devices.keys().filter(|id| self.is_dark(id)).count() as u64,
            releases: self.releases.len() as u64,
            rollouts: self.live_rollouts(),
            halted: self.halted(),
            unwell: ensign_rollout::unwell(&self.rollouts.model),
            root: RoleState {
                version: root.version,
                expires: Time(root.expires),
            },
            targets: role(&self.roles.targets),
            snapshot: role(&self.roles.snapshot),
            timestamp: role(&self.roles.timestamp),
            clock: self.view_clock(),
            unheard: self.view_unheard(),
        }
    }

    /// The newest key of the devices' side, and how many would not take it.
    fn view_unheard(&self) -> Option<Unheard> {
        let keys = &self.roles.root().controller.keys;
        let (first, newest) = (keys.first()?, keys.last()?);
        let root = self.roles.controller_since;
        let approved = self.devices.values().filter(|row| row.state == DeviceState::Approved);
        let devices = approved.filter(|row| row.root < root).count() as u64;
        // Root 1 is what devices join with.
        (root > 1 && devices > 0).then_some(Unheard {
            key: *newest,
            root,
            shown: first == newest,
            devices,
        })
    }

    /// The brake on the whole fleet.
    pub fn frozen(&self) -> Option<Frozen> {
        self.rollouts.model.freeze().map(|order| Frozen {
            since: Time(order.at),
            reason: order.reason.clone(),
            by: order.by.clone(),
        })
    }

    /// A row of `device ls`.
    pub fn view_device(&self, row: &DeviceRow) -> Device {
        let connected = self.sessions.is_connected(&row.id);
        let status = row.status.as_ref();
        let seen = if connected {
            Some(crate::clock::unix_now())
        } else {
            row.last_seen
        };
        Device {
            id: row.id,
            name: row.name.clone(),
            state: row.state,
            labels: row.labels.clone(),
            products: status.map(products).unwrap_or_default(),
            status: status.map(|s| s.phase).unwrap_or_default().into(),
            status_of: self.status_of(row),
            reason: Self::device_reason(row),
            last_seen: seen.map(Time),
            connected,
            dark: self.is_dark(&row.id),
            facts: row.facts.clone(),
            held: row.held,
            denied: status.map(|s| s.denied.clone()).unwrap_or_default(),
            rollouts: self.open_rollouts_of(&row.id),
            root: row.root,
        }
    }

    /// `device show`.
    pub fn view_detail(&self, row: &DeviceRow) -> DeviceDetail {
        DeviceDetail {
            device: self.view_device(row),
            receipt_key: row.receipt_key,
            joined: Time(row.joined),
            claims: row.claims.clone(),
            rollout: self.newest_rollout_of(&row.id),
            agent: (!row.agent.is_empty()).then(|| row.agent.clone()),
        }
    }

    pub fn view_token(row: &TokenRow) -> Token {
        Token {
            key: row.key,
            uses: row.uses,
            used: row.used,
            expires: Time(row.expires),
            labels: row.labels.clone(),
            approve: row.approve,
            revoked: row.revoked,
        }
    }

    /// `release show`: signatures are counted anew, under the targets of now.
    pub fn view_release(&self, row: &ReleaseRow) -> Result<Release, Refusal> {
        let document = self.document(&row.document.digest)?;
        let name = DocName::Release(ReleaseName {
            product: row.product.clone(),
            version: row.version.clone(),
        });
        let held = self.roles.machine.delegated().contains_key(&name);
        let verdict = if row.yanked.is_some() {
            Code::Yanked.name()
        } else if row.document.expires <= self.now {
            Code::MetadataExpired.name()
        } else if !held {
            Code::ThresholdNotMet.name()
        } else {
            "ok"
        };
        Ok(Release {
            product: row.product.clone(),
            version: row.version.clone(),
            counter: row.counter,
            components: self.components(row)?,
            bytes: row.bytes,
            signatures: self.signatures(row, &document),
            threshold: self.release_role(row).map_or(0, |role| role.threshold),
            verdict: verdict.to_owned(),
            manifest: row.manifest,
            document: Some(row.document.digest),
            expires: Some(Time(row.document.expires)),
            published: Some(Time(row.published)),
            failed: self.failed_attempts(&row.product, &row.version),
            yanked: row.yanked.clone(),
        })
    }

    fn components(&self, row: &ReleaseRow) -> Result<Vec<Component>, Refusal> {
        let bytes = self.document(&row.components)?;
        let rows: Vec<ComponentRow> =
            codec::decode(&bytes, bytes.len()).map_err(|e| Refusal::new(Code::Malformed, e.to_string()))?;
        let component = |c: ComponentRow| Component {
            name: c.name,
            kind: c.kind,
            files: c.files,
            bytes: c.bytes,
            units: c.units,
        };
        Ok(rows.into_iter().map(component).collect())
    }

    fn signatures(&self, row: &ReleaseRow, document: &[u8]) -> Vec<SignatureRow> {
        let Ok(envelope) = ensign_crypto::Envelope::parse(document, limits::RELEASE_BYTES) else {
            return Vec::new();
        };
        let keys = self.release_role(row).map(|role| role.keys.clone()).unwrap_or_default();
        let one = |signature: &ensign_crypto::Signature| {
            let key = keys.iter().find(|k| k.id() == signature.key);
            SignatureRow {
                key: signature.key,
                role: key.map_or("unknown", |_| "release").to_owned(),
                valid: key.is_some_and(|k| statement::count(&envelope, &[*k], 1, &self.fleet.fleet).is_ok()),
            }
        };
        envelope.signatures().iter().map(one).collect()
    }

    fn release_role(&self, row: &ReleaseRow) -> Option<&Role> {
        let targets = self.roles.targets().ok()?;
        targets.product(&row.product).map(|product| &product.role)
    }

    fn device_reason(row: &DeviceRow) -> Option<Reason> {
        let own = match row.state {
            DeviceState::Pending => Some((Code::Pending, "waits for approval")),
            DeviceState::Revoked => Some((Code::Revoked, "revoked")),
            _ if row.is_cloned() => Some((
                Code::CloneDetected,
                "another copy connected: nothing is installed on either",
            )),
            DeviceState::Suspended => Some((Code::Suspended, "suspended by an operator")),
            DeviceState::Approved if row.held => Some((Code::Held, "held by an operator")),
            DeviceState::Approved => None,
        };
        match own {
            Some((code, text)) => Some(Reason {
                code,
                text: text.to_owned(),
            }),
            // A device whose update is confirmed gives one only for what troubles it now.
            None => row
                .status
                .as_ref()
                .and_then(|status| status.reason.as_ref())
                .map(|refusal| Reason {
                    code: refusal.code,
                    text: printable(&ensign_rollout::told(refusal).text, 500),
                }),
        }
    }

    /// The device that `text` means: an id, a unique prefix of at least 8 digits, or a name. A name that is also the beginning of
    /// another's id means neither: ledgers may hold such names from before they were refused.
    pub fn find_device(&self, text: &str) -> Result<DeviceId, Refusal> {
        if let Ok(id) = text.parse::<DeviceId>()
            && self.devices.contains_key(&id)
        {
            return Ok(id);
        }
        let named = self.names.get(text);
        let starts = by_prefix(self.devices.keys(), ToString::to_string, text, DEVICE_PREFIX);
        if let Some(named) = named {
            return match starts {
                Fits::One(other) if other != named => Err(self.is_ambiguous(text, named, Some(other))),
                Fits::Several(_) => Err(self.is_ambiguous(text, named, None)),
                _ => Ok(*named),
            };
        }
        match starts {
            Fits::One(id) => Ok(*id),
            Fits::Several(n) => Err(Refusal::new(
                Code::Conflict,
                format!("{} fits {n} devices", printable(text, 64)),
            )),
            Fits::Nothing => Err(Refusal::new(
                Code::NotFound,
                format!("there is no device {}", printable(text, 64)),
            )),
        }
    }

    fn is_ambiguous(&self, text: &str, named: &DeviceId, other: Option<&DeviceId>) -> Refusal {
        let other = match other.and_then(|id| self.devices.get(id)) {
            Some(row) => format!("that of {} (id {})", printable(&row.name, 64), row.id),
            None => "those of several devices".to_owned(),
        };
        let text = printable(text, 64);
        Refusal::new(
            Code::Conflict,
            format!("`{text}` is the name of device {named}, and ids start with it: {other}; write a whole id"),
        )
    }
}

fn products(status: &wire::Status) -> BTreeMap<ensign_bundle::ids::Ident, InstalledProduct> {
    let one = |installed: &wire::Installed| {
        let product = InstalledProduct {
            version: installed.version.clone(),
            generation: status.generation,
            since: Time(installed.since),
            confirmed: installed.confirmed,
        };
        (installed.product.clone(), product)
    };
    status.installed.iter().map(one).collect()
}

fn role(row: &RoleRow) -> RoleState {
    RoleState {
        version: row.version,
        expires: Time(row.expires),
    }
}
