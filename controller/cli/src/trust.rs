//! This operator's own trust state: the same client that devices run, with the same memory. It is refreshed before each signature
//! and never goes back, so whoever holds the controller cannot make an operator sign on top of old metadata.

use std::fs::File;
use std::path::{Path, PathBuf};

use ensign_api::{Metadata, MetadataKind};
use ensign_bundle::digest::{Digest, FleetId};
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::plan::statements::Plan;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::statement::{self, Document as _, Signed};
use ensign_bundle::trust::roles::{Product, Release, Root, Snapshot, Targets, Timestamp};
use ensign_bundle::trust::{Authority, ReleaseName, Source, TrustState, Trusted, Want};
use ensign_crypto::{Envelope, PublicKey};

use crate::client::Client;
use crate::clock;
use crate::durable;
use crate::failure::{Failure, Result, fail};
use crate::home::{self, Context};

/// What to do where a release is not published.
pub const NOT_PUBLISHED: &str = "`ensign release publish FILE`; `ensign release ls` lists what is published";

/// Trusted metadata and the file it is kept in.
#[derive(Debug)]
pub struct Trust {
    path: PathBuf,
    trusted: Trusted,
    /// The targets that `fleet init` signed: what there is before the controller has answered once.
    first_targets: Targets,
}

/// What `fleet init` stores: trust in root 1 and nothing else.
pub fn first_state(root: &[u8], fleet: &FleetId) -> Result<Vec<u8>> {
    Ok(TrustState::new(root, &Digest::of(root), fleet)?.encode()?)
}

impl Trust {
    pub fn load(context: &Context) -> Result<Self> {
        let path = context.trust_path();
        let trusted = read(&path)?;
        if *trusted.fleet() != context.file.fleet {
            return fail!(WrongFleet, "{} is of the fleet {}", path.display(), trusted.fleet());
        }
        let targets = home::read_up_to(&context.targets_path(), ensign_bundle::limits::TARGETS_BYTES as u64)?;
        let first_targets = statement::open_unverified::<Targets>(&targets)?.body;
        Ok(Self {
            path,
            trusted,
            first_targets,
        })
    }

    /// Follows the controller's metadata; refuses what goes back, is expired or is not signed. What was learnt is stored first.
    pub async fn refresh(&mut self, client: &Client) -> Result<()> {
        let _lock = self.lock()?;
        let documents: Vec<Metadata> = client
            .get(&format!("/v1/metadata?root={}", self.trusted.root().version))
            .await?;
        let next_root = self.trusted.root().version.saturating_add(1);
        let roots: Vec<&Metadata> = documents.iter().filter(|d| d.kind == MetadataKind::Root).collect();
        let newest = |kind| documents.iter().find(|d| d.kind == kind).map(|d| d.bytes.0.clone());
        let mut find = |want: Want<'_>| match want {
            Want::Root(version) => {
                let index = usize::try_from(version.checked_sub(next_root)?).ok()?;
                roots.get(index).map(|d| d.bytes.0.clone())
            }
            Want::Timestamp => newest(MetadataKind::Timestamp),
            Want::Snapshot(_) => newest(MetadataKind::Snapshot),
            Want::Targets(..) => newest(MetadataKind::Targets),
        };
        let refreshed = self.trusted.refresh(&mut find, clock::now(), Source::Online);
        self.store()?;
        refreshed.map_err(|e| {
            Failure::new(e.code, format!("the controller's metadata is refused: {}", e.text))
                .hint("nothing was signed; check the controller: `ensign fleet status`")
        })?;
        Ok(())
    }

    /// Nobody else changes the state until the lock is dropped. Another run of this command may have gone further meanwhile, so the
    /// state is read again; what is fetched before that could be older and would be refused.
    fn lock(&mut self) -> Result<File> {
        let failed = |e| Failure::io("lock", &self.path, &e);
        let lock = File::create(self.path.with_extension("lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        self.trusted = read(&self.path)?;
        Ok(lock)
    }

    /// Steps before a refusal stay taken, so this is done whatever they returned.
    fn store(&self) -> Result<()> {
        durable::write(&self.path, &self.trusted.encode()?, durable::SECRET)
            .map_err(|e| Failure::io("write", &self.path, &e))
    }

    pub fn root(&self) -> &Root {
        self.trusted.root()
    }

    pub fn trusted(&self) -> &Trusted {
        &self.trusted
    }

    pub fn targets(&self) -> &Targets {
        self.trusted.targets().unwrap_or(&self.first_targets)
    }

    /// What evidence and orders are judged by.
    pub fn authority(&self) -> Authority<'_> {
        Authority {
            targets: Some(self.targets()),
            ..self.trusted.authority(clock::now())
        }
    }

    /// Remembers a plan that is signed here, or verified: the next one of its product gets a higher number. Stored before anything is done.
    pub fn saw_plan(&mut self, plan: &Plan, digest: Digest) -> Result<()> {
        let _lock = self.lock()?;
        self.trusted.started(plan, digest)?;
        self.store()
    }

    /// The delegation that covers a product.
    pub fn product(&self, product: &Ident) -> Result<&Product> {
        self.targets().product(product).ok_or_else(|| {
            Failure::new(
                Code::OutsideDelegation,
                format!("no entry of targets covers the product {product}"),
            )
            .hint("`ensign product ls`")
        })
    }

    /// Keys of every deploy scope, and the highest of their thresholds: who may speak for the whole fleet.
    pub fn deploy_role(&self) -> (Vec<PublicKey>, u32) {
        let scopes = &self.root().scopes;
        let keys = scopes.iter().flat_map(|s| s.role.keys.iter().copied()).collect();
        (keys, scopes.iter().map(|s| s.role.threshold).max().unwrap_or(1))
    }

    /// Every root up to the one in force, newest first: what a statement counted by before keys changed. Verified from root 1 on.
    pub async fn roots(&self, client: &Client, first: &Digest) -> Result<Vec<Root>> {
        let documents: Vec<Metadata> = client.get("/v1/metadata?root=0").await?;
        let mut roots = documents.iter().filter(|d| d.kind == MetadataKind::Root);
        let missing = || {
            Failure::new(
                Code::MetadataMissing,
                "the controller does not have every root of the fleet",
            )
        };
        let one = roots.next().ok_or_else(missing)?;
        let state = TrustState::new(&one.bytes.0, first, self.trusted.fleet())?;
        let mut walk = Trusted::decode(&state.encode()?)?;
        let mut all = vec![walk.root().clone()];
        for root in roots {
            if all.last().is_some_and(|last| last.version >= self.root().version) {
                break;
            }
            walk.update_root(&root.bytes.0, clock::now())?;
            all.push(walk.root().clone());
        }
        if walk.root_bytes() != self.trusted.root_bytes() {
            return Err(missing());
        }
        all.reverse();
        Ok(all)
    }

    /// A published release, verified from root down to its document. The document is fetched where it is not held.
    pub async fn release(&mut self, client: &Client, product: &Ident, version: &Version) -> Result<Release> {
        let name = ReleaseName {
            product: product.clone(),
            version: version.clone(),
        };
        let _lock = self.lock()?;
        let listed = self.trusted.snapshot().and_then(|s| s.release(&name));
        let Some(digest) = listed.map(|l| l.document.digest) else {
            return Err(not_published(&name));
        };
        let held = self
            .trusted
            .release_bytes(&name)
            .is_some_and(|b| Digest::of(b) == digest);
        if !held {
            let bytes = client.get_bytes(&format!("/v1/documents/{digest}")).await?;
            self.trusted
                .update_release(&name, &bytes, clock::now(), Source::Online)?;
            self.store()?;
        }
        let (release, _) = self.trusted.fresh_release(&name, clock::now(), Source::Online)?;
        Ok(release.clone())
    }

    /// The document of a published release with its signatures, expired or not: what its next version is made from. Fetched where it is
    /// not held; verified by the snapshot and by the product's keys.
    pub async fn listed_release(&self, client: &Client, name: &ReleaseName) -> Result<Signed<Release>> {
        let listed = self.trusted.snapshot().and_then(|s| s.release(name));
        let digest = listed.ok_or_else(|| not_published(name))?.document.digest;
        let held = self.trusted.release_bytes(name).filter(|b| Digest::of(b) == digest);
        let bytes = match held {
            Some(bytes) => bytes.to_vec(),
            None => client.get_bytes(&format!("/v1/documents/{digest}")).await?.to_vec(),
        };
        if Digest::of(&bytes) != digest {
            return fail!(
                ContentMismatch,
                "the controller sent another document of {name} than the one with digest {digest}"
            );
        }
        let role = &self.product(&name.product)?.role;
        let signed = statement::open::<Release>(&bytes, &role.keys, role.threshold, self.trusted.fleet())?;
        if signed.body.product != name.product || signed.body.release != name.version {
            return fail!(ContentMismatch, "{name} is listed with the document of another release");
        }
        Ok(signed)
    }

    /// Carries the state forward by metadata out of a file, without the controller, as a bundle carries that of a device: timestamp and
    /// snapshot may have expired, and nothing goes back. Returns the release document that the state then names.
    pub fn follow(&mut self, chain: &[Envelope], name: &ReleaseName) -> Result<Release> {
        let _lock = self.lock()?;
        let followed = self.follow_roles(chain).and_then(|()| self.follow_release(chain, name));
        self.store()?;
        followed
    }

    fn follow_roles(&mut self, chain: &[Envelope]) -> Result<()> {
        let of = |kind: &'static str| chain.iter().filter(move |e| e.kind() == kind).map(Envelope::encode);
        let mut find = |want: Want<'_>| match want {
            Want::Root(version) => of(Root::KIND)
                .find(|bytes| statement::open_unverified::<Root>(bytes).is_ok_and(|root| root.body.version == version)),
            Want::Timestamp => of(Timestamp::KIND).next(),
            Want::Snapshot(_) => of(Snapshot::KIND).next(),
            Want::Targets(..) => of(Targets::KIND).next(),
        };
        let carried = find(Want::Timestamp);
        let carried =
            carried.and_then(|bytes| Some(statement::open_unverified::<Timestamp>(&bytes).ok()?.body.version));
        let refused = |e: Refusal| Failure::new(e.code, format!("its metadata is refused: {}", e.text));
        if carried < Some(self.trusted.held().timestamp) {
            // What this machine has seen is newer: only roots could be news.
            return self
                .trusted
                .refresh_root(&mut find, clock::now())
                .map(drop)
                .map_err(refused);
        }
        let refreshed = self.trusted.refresh(&mut find, clock::now(), Source::Bundle);
        refreshed.map(drop).map_err(refused)
    }

    fn follow_release(&mut self, chain: &[Envelope], name: &ReleaseName) -> Result<Release> {
        let listed = self
            .trusted
            .snapshot()
            .and_then(|s| s.release(name))
            .map(|l| l.document);
        let listed = listed.ok_or_else(|| not_published(name))?;
        let held = self
            .trusted
            .release_bytes(name)
            .is_some_and(|b| Digest::of(b) == listed.digest);
        if !held {
            let carried = chain
                .iter()
                .filter(|e| e.kind() == Release::KIND)
                .map(Envelope::encode)
                .next();
            let carried = carried.unwrap_or_default();
            if Digest::of(&carried) != listed.digest {
                return Err(Failure::new(
                    Code::RollbackRefused,
                    format!(
                        "it carries the document {} of {}@{}, this machine has seen that {} is the current one",
                        Digest::of(&carried),
                        name.product,
                        name.version,
                        listed.digest
                    ),
                )
                .hint("make the plan again: `ensign rollout plan --product PRODUCT --version VERSION --out PLAN`"));
            }
            self.trusted
                .update_release(name, &carried, clock::now(), Source::Bundle)?;
        }
        let (release, _) = self.trusted.fresh_release(name, clock::now(), Source::Bundle)?;
        Ok(release.clone())
    }
}

/// A trust state on its way along roots that anybody may bring: nothing but signatures is believed.
#[derive(Debug)]
pub struct Following {
    path: PathBuf,
    trusted: Trusted,
    before: u64,
    /// Where the state is locked, a refresh is under way, of this command or of another: that one stores the roots when it has them.
    lock: Option<File>,
}

impl Following {
    pub fn start(path: &Path) -> Result<Self> {
        let lock = File::create(path.with_extension("lock")).map_err(|e| Failure::io("lock", path, &e))?;
        let lock = lock.try_lock().is_ok().then_some(lock);
        let trusted = read(path)?;
        Ok(Self {
            path: path.to_owned(),
            before: trusted.root().version,
            trusted,
            lock,
        })
    }

    /// Of the newest root so far.
    pub fn held(&self) -> Digest {
        Digest::of(self.trusted.root_bytes())
    }

    /// Takes the roots that follow the held one, in order, as far as they are signed by it and by each other. False = none did.
    pub fn take(&mut self, roots: &[Vec<u8>]) -> Result<bool> {
        let first = self.trusted.root().version.saturating_add(1);
        let mut find = |want: Want<'_>| match want {
            Want::Root(version) => {
                let index = usize::try_from(version.checked_sub(first)?).ok()?;
                roots.get(index).cloned()
            }
            _ => None,
        };
        let followed = self.trusted.refresh_root(&mut find, clock::now());
        let learnt = self.trusted.root().version >= first;
        if learnt && self.lock.is_some() {
            durable::write(&self.path, &self.trusted.encode()?, durable::SECRET)
                .map_err(|e| Failure::io("write", &self.path, &e))?;
        }
        followed?;
        Ok(learnt)
    }

    /// The keys that the newest root names for operators; `None` = nothing was learnt.
    pub fn pins(&self) -> Option<Vec<Digest>> {
        let root = self.trusted.root();
        (root.version > self.before).then(|| root.controller.api.clone())
    }
}

fn not_published(name: &ReleaseName) -> Failure {
    Failure::new(
        Code::NotFound,
        format!("the release {}@{} is not published", name.product, name.version),
    )
    .hint(NOT_PUBLISHED)
}

fn read(path: &Path) -> Result<Trusted> {
    let bytes = home::read_up_to(path, ensign_bundle::limits::TRUST_STATE_BYTES as u64)?;
    Trusted::decode(&bytes).map_err(|e| {
        Failure::new(e.code, format!("{}: {}", path.display(), e.text))
            .hint("restore ENSIGN_HOME from a backup; without trust state nothing is signed")
    })
}
