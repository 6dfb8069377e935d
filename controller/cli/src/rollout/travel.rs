//! Plan files: a plan with everything that another machine needs to judge it. What is read from one is verified like what a controller
//! says: metadata by this machine's own trust state, devices by their signed evidence, the plan against both.

use std::collections::BTreeMap;
use std::path::Path;

use ensign_api::{Base64, DeviceEvidence, DeviceState, Member, Metadata, MetadataKind, StartRollout};
use ensign_bundle::digest::Digest;
use ensign_bundle::limits::PLAN_FILE_BYTES;
use ensign_bundle::plan::cohort::CutWave;
use ensign_bundle::plan::file::{PlanDevice, PlanFile};
use ensign_bundle::plan::statements::{OnBreach, Plan};
use ensign_bundle::reason::Code;
use ensign_bundle::selector::Selector;
use ensign_bundle::statement::{self, Document as _};
use ensign_bundle::text::printable;
use ensign_bundle::trust::ReleaseName;
use ensign_bundle::trust::roles::{Release, Root, Scope};
use ensign_crypto::Envelope;
use serde_bytes::ByteBuf;

use crate::app::Session;
use crate::clock;
use crate::durable;
use crate::evidence::{Inventory, Known};
use crate::failure::{Failure, Result, fail};
use crate::home;
use crate::output::{Shell, some_of};
use crate::rollout::draft::{self, Draft};

/// A plan file that this machine has verified, but for its signatures.
#[derive(Debug)]
pub struct Verified {
    pub file: PlanFile,
    /// In the order of the file's devices.
    pub inventory: Inventory,
    pub cut: Vec<CutWave>,
    /// Judged by what the controller says now, not by what the file carries.
    pub online: bool,
}

impl Verified {
    pub fn plan(&self) -> &Plan {
        &self.file.plan.body
    }

    /// The plan as `rollout plan` would have drafted it.
    pub fn draft(&self) -> Draft<'_> {
        Draft {
            plan: self.plan().clone(),
            cut: self.cut.clone(),
            chosen: self.inventory.known.iter().collect(),
            left_out: Vec::new(),
            open: Vec::new(),
        }
    }

    pub fn names(&self) -> Vec<String> {
        self.inventory.known.iter().map(|k| k.member.name.clone()).collect()
    }

    /// Every scope that a device of the plan is in: each must reach its threshold.
    pub fn scopes<'a>(&self, root: &'a Root) -> Result<Vec<&'a Scope>> {
        scopes(root, self.inventory.known.iter())
    }

    /// Whoever opens the next wave should be known to this machine.
    pub fn check_canaries(&self, root: &Root) -> Result<()> {
        self.inventory.changed.check_canaries(root, &self.cut, &self.inventory)
    }

    /// What `POST /v1/rollouts` takes.
    pub fn body(&self) -> StartRollout {
        StartRollout {
            plan: Base64(self.file.plan.envelope.encode()),
            waves: self.cut.iter().map(members).collect(),
        }
    }
}

/// Every scope that one of the devices is in, by name.
pub fn scopes<'a, 'b>(root: &'a Root, known: impl Iterator<Item = &'b Known>) -> Result<Vec<&'a Scope>> {
    let mut found: Vec<&Scope> = Vec::new();
    for known in known {
        for scope in known.member.scopes(root)?.iter() {
            if !found.iter().any(|f| f.name == scope.name) {
                found.push(scope);
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

pub fn members(wave: &CutWave) -> Vec<Member> {
    let members = wave.members.iter();
    members
        .map(|m| Member {
            device: m.device,
            receipt_key: m.receipt_key,
        })
        .collect()
}

/// The file of a draft: evidence and metadata as the controller gave them, read back as its signers will read them.
pub async fn pack(session: &Session, draft: &Draft<'_>) -> Result<Verified> {
    let plan = &draft.plan;
    let rows: Vec<DeviceEvidence> = session.client.get("/v1/evidence").await?;
    let rows: BTreeMap<_, _> = rows.iter().map(|row| (row.device, row)).collect();
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    let mut indices: BTreeMap<&[u8], u32> = BTreeMap::new();
    let mut devices = Vec::new();
    for wave in &draft.cut {
        for member in &wave.members {
            let Some(row) = rows.get(&member.device) else {
                return fail!(Conflict, "device {} left the fleet meanwhile", member.device);
            };
            let grant = &row.token_grant.0;
            let next = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
            let token = *indices.entry(grant).or_insert_with(|| {
                tokens.push(grant.clone());
                next
            });
            devices.push(PlanDevice {
                wave: wave.number,
                token,
                binding: ByteBuf::from(row.binding.0.clone()),
                grant: row.grant.as_ref().map(|g| ByteBuf::from(g.0.clone())),
            });
        }
    }
    let mut chain = chain(session).await?;
    let (name, trusted) = (name(plan), session.trust.trusted());
    let held = trusted.release_bytes(&name).zip(trusted.release(&name));
    let Some((document, release)) = held else {
        return fail!(MetadataMissing, "the document of {name} is not held");
    };
    chain.push(parse(document)?);
    let signed = statement::Signed {
        body: plan.clone(),
        envelope: statement::seal(plan)?,
    };
    let file = PlanFile {
        plan: signed,
        chain,
        tokens,
        devices,
    };
    verify(session, PlanFile::parse(&file.encode()?)?, release, true)
}

/// Every root after the first, then timestamp, snapshot and targets.
async fn chain(session: &Session) -> Result<Vec<Envelope>> {
    let documents: Vec<Metadata> = session.client.get("/v1/metadata?root=1").await?;
    let mut chain = Vec::new();
    for kind in [
        MetadataKind::Root,
        MetadataKind::Timestamp,
        MetadataKind::Snapshot,
        MetadataKind::Targets,
    ] {
        for document in documents.iter().filter(|d| d.kind == kind) {
            chain.push(parse(&document.bytes.0)?);
        }
    }
    Ok(chain)
}

fn parse(bytes: &[u8]) -> Result<Envelope> {
    Envelope::parse(bytes, bytes.len()).map_err(|e| Failure::new(Code::Malformed, format!("metadata: {e}")))
}

/// Writes the file whole or not at all.
pub fn write(path: &Path, file: &PlanFile) -> Result<()> {
    let bytes = file.encode()?;
    durable::write(path, &bytes, durable::PUBLIC).map_err(|e| Failure::io("write", path, &e))
}

/// Reads a plan file and verifies everything in it but the signatures of the plan.
///
/// The controller is asked for what is newer. Where it cannot be reached, the metadata in the file may carry this machine's own state
/// forward, as a bundle does a device's; never back.
pub async fn open(session: &mut Session, path: &Path) -> Result<Verified> {
    let bytes = home::read_up_to(path, PLAN_FILE_BYTES as u64)?;
    let file = PlanFile::parse(&bytes).map_err(|e| {
        let failure = Failure::new(e.code, format!("{}: {}", path.display(), e.text));
        if e.code == Code::Malformed {
            failure.hint(
                "give the whole file that `ensign rollout plan --product PRODUCT --version VERSION --out PLAN` wrote",
            )
        } else {
            failure
        }
    })?;
    let (release, online) = match session.trust.refresh(&session.client).await {
        Ok(()) => {
            let plan = &file.plan.body;
            let (product, version) = (&plan.product, &plan.release.version);
            (session.trust.release(&session.client, product, version).await, true)
        }
        Err(e) if e.code == Code::ControllerUnreachable => {
            Shell::warn(&format!(
                "{e}; judged by what this machine has verified and the file carries"
            ));
            (session.trust.follow(&file.chain, &name(&file.plan.body)), false)
        }
        Err(e) => return Err(e),
    };
    let about = |e: Failure| e.about(path);
    verify(session, file, &release.map_err(about)?, online).map_err(about)
}

fn verify(session: &Session, file: PlanFile, release: &Release, online: bool) -> Result<Verified> {
    let plan = &file.plan.body;
    check_fields(plan)?;
    check_release(plan, release)?;
    check_time(session, plan, file.plan.digest())?;
    let inventory = inventory(session, &file)?;
    let members: Vec<_> = inventory.known.iter().map(|known| &known.member).collect();
    let cut = file.cut(&members)?;
    draft::check_first_wave(&cut, session.trust.root())?;
    check_selection(plan, &inventory)?;
    Ok(Verified {
        file,
        inventory,
        cut,
        online,
    })
}

/// Nobody signs what is not shown: a plan holds only what this program would have written itself.
fn check_fields(plan: &Plan) -> Result<()> {
    let pace = &plan.pace;
    let unknown = [
        ("windows", !plan.windows.is_empty()),
        ("health", plan.health.is_some()),
        ("offline", plan.offline.is_some()),
        ("reverts", plan.reverts.is_some()),
        ("ext", !plan.ext.is_empty()),
        ("pace.one_per", pace.one_per.is_some()),
        ("pace.rate_per_h", pace.rate_per_h.is_some()),
        ("pace.prefetch", pace.prefetch),
        ("pace.priority", pace.priority > 0),
        ("pace.stop.on_breach", pace.stop.on_breach != OnBreach::Halt),
    ];
    let named: Vec<&str> = unknown
        .iter()
        .filter(|(_, there)| *there)
        .map(|(name, _)| *name)
        .collect();
    if named.is_empty() {
        return Ok(());
    }
    fail!(
        VersionUnknown,
        "the plan has {}: no flag of this version writes that, so what it means cannot be shown",
        named.join(", ")
    )
}

/// The plan brings exactly the release that this machine has verified.
fn check_release(plan: &Plan, release: &Release) -> Result<()> {
    let again = "make the plan again: `ensign rollout plan --product PRODUCT --version VERSION --out PLAN`";
    let (asked, known) = (&plan.release, &release.manifest);
    if (asked.counter, asked.manifest, asked.length) != (release.counter, known.digest, known.length) {
        return Err(Failure::new(
            Code::PlanMismatch,
            format!(
                "the plan brings {}@{} with manifest {} and counter {}, this machine has verified manifest {} and counter {}",
                plan.product, asked.version, asked.manifest, asked.counter, known.digest, release.counter
            ),
        )
        .hint(again));
    }
    match &release.yanked {
        Some(why) => Err(draft::withdrawn(&plan.product, &asked.version, why)),
        None => Ok(()),
    }
}

fn check_time(session: &Session, plan: &Plan, digest: Digest) -> Result<()> {
    let again = "make the plan again: `ensign rollout plan --product PRODUCT --version VERSION --out PLAN`";
    let now = clock::now();
    let time = |t| ensign_api::Time(t).to_string();
    if plan.expires <= now {
        let text = format!("the plan expired at {}, it is {}", time(plan.expires), time(now));
        return Err(Failure::new(Code::PlanExpired, text).hint(again));
    }
    session.trust.authority().check_issued(plan)?;
    plan.check_lifetime()?;
    let trusted = session.trust.trusted();
    let floor = match trusted.last_started(&plan.product) {
        // The same plan again, as when somebody starts it a second time.
        Some(last) if last.plan == digest => session.trust.root().floor(&plan.product).plan_seq,
        _ => trusted.plan_seq_floor(&plan.product),
    };
    if plan.seq <= floor {
        let text = format!(
            "plan number {} of {}, numbers up to {floor} are retired",
            plan.seq, plan.product
        );
        return Err(Failure::new(Code::PlanReplayed, text).hint(again));
    }
    Ok(())
}

/// Each device by its own evidence; one that does not hold spoils the file.
fn inventory(session: &Session, file: &PlanFile) -> Result<Inventory> {
    let mut rows = Vec::with_capacity(file.devices.len());
    for device in &file.devices {
        let binding = statement::open_unverified::<ensign_bundle::plan::evidence::Binding>(&device.binding)?.body;
        let token = file.tokens.get(device.token as usize).cloned().unwrap_or_default();
        rows.push(DeviceEvidence {
            device: binding.device,
            name: binding.name,
            state: DeviceState::Approved,
            binding: Base64(device.binding.to_vec()),
            token_grant: Base64(token),
            grant: device.grant.as_ref().map(|g| Base64(g.to_vec())),
            hold: None,
        });
    }
    let mut inventory = Inventory::verify(session, &rows)?;
    // They are some of the fleet: who is not among them is not gone.
    inventory.changed.gone.clear();
    match inventory.refused.first() {
        Some((name, refusal)) => Err(Failure::new(
            refusal.code,
            format!(
                "the evidence of {} does not hold: {}",
                printable(name, 63),
                refusal.text
            ),
        )
        .hint("make the plan again where the controller answers: it leaves out who has no evidence")),
        None => Ok(inventory),
    }
}

/// The plan says in words whom it means; a device that these words do not mean was smuggled in.
fn check_selection(plan: &Plan, inventory: &Inventory) -> Result<()> {
    let select = Selector::parse(&plan.select)?;
    let exclude: Vec<Selector> = plan
        .exclude
        .iter()
        .map(|e| Selector::parse(e))
        .collect::<Result<_, _>>()?;
    let strangers: Vec<String> = inventory
        .known
        .iter()
        .filter(|k| !k.member.matches(&select) || exclude.iter().any(|e| k.member.matches(e)))
        .map(|k| k.member.name.clone())
        .collect();
    if strangers.is_empty() {
        return Ok(());
    }
    let without = match &plan.exclude[..] {
        [] => String::new(),
        exclude => format!(" without `{}`", printable(&exclude.join("`, `"), 200)),
    };
    Err(Failure::new(
        Code::PlanMismatch,
        format!(
            "the plan says that it selects `{}`{without}, and lists {}",
            printable(&plan.select, 200),
            some_of(&strangers)
        ),
    )
    .hint("sign nothing; ask who made the plan"))
}

pub fn name(plan: &Plan) -> ReleaseName {
    ReleaseName {
        product: plan.product.clone(),
        version: plan.release.version.clone(),
    }
}

#[cfg(test)]
mod tests {
    use ensign_bundle::plan::statements::{HealthBounds, PlanRelease};

    use super::*;

    type Change<'a> = &'a dyn Fn(&mut Plan);

    /// Whoever drafts a plan for others to sign hides nothing in it that they are not shown.
    #[test]
    fn fields_that_no_flag_writes_are_not_signed() {
        let release = PlanRelease {
            version: "1.0.0".parse().unwrap(),
            counter: 1,
            manifest: Digest([1; 32]),
            length: 1,
        };
        let plain = ensign_testkit::plan(1, 1, release, Vec::new());
        assert_eq!(check_fields(&plain), Ok(()));
        let bounds = HealthBounds {
            window_s: 1,
            deadline_s: 1,
        };
        let changes: [(&str, Change<'_>); 7] = [
            ("windows", &|p| p.windows.push("Sun 02:00-04:00".to_owned())),
            ("health", &|p| p.health = Some(bounds)),
            ("offline", &|p| p.offline = Some(Digest([2; 32]))),
            ("pace.rate_per_h", &|p| p.pace.rate_per_h = Some(1)),
            ("pace.prefetch", &|p| p.pace.prefetch = true),
            ("pace.priority", &|p| p.pace.priority = 1),
            ("pace.stop.on_breach", &|p| p.pace.stop.on_breach = OnBreach::Revert),
        ];
        for (name, change) in changes {
            let mut plan = plain.clone();
            change(&mut plan);
            let failure = check_fields(&plan).unwrap_err();
            assert_eq!(failure.code, Code::VersionUnknown);
            assert!(failure.text.contains(name), "{failure}");
        }
    }
}
