//! What the states ask for: staging, asking again, switching, watching, going back.

use std::time::Duration;

use ensign_apply::{Component, Event, Generation, Prepared, Stage, Target};
use ensign_bundle::accept::{self, check_components, check_manifest};
use ensign_bundle::digest::Digest;
use ensign_bundle::ids::Ident;
use ensign_bundle::limits::MANIFEST_BYTES;
use ensign_bundle::manifest::Manifest;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::trust::ReleaseName;
use ensign_bundle::trust::roles::FileRef;
use ensign_bundle::wire::Transfer;

use super::checks::{self, Check};
use super::course::{Course, Errand, Purpose, Verdict};
use super::runner_client::Heard;
use super::shell::{Shell, ShellError};
use super::staging::{self, Progress, Staging};
use super::{generations, intake, sockets, tree};
use crate::clock;
use crate::durable;
use crate::ipc::ToRunner;
use crate::sandbox;

/// A controller probe counts only where the controller was heard from so recently before the switch: an offline site keeps a good update.
const LATELY: Duration = Duration::from_secs(24 * 3600);

/// Workers of one release that may be lost before it counts as failed: whatever ends so many is not chance.
const WORKERS: u32 = 8;

impl Shell {
    /// Stages the release of the stage, as soon as its manifest is here.
    pub(super) fn begin_staging(&mut self) -> Result<(), ShellError> {
        let Stage::Fetching(fetching) = &self.device.stage else {
            return Ok(());
        };
        let target = fetching.target.clone();
        let digest = target.manifest.digest;
        if self.staging.as_ref().is_some_and(|s| s.manifest == digest) {
            return Ok(());
        }
        self.end_staging();
        self.prepared = None;
        let manifest = match self.read_manifest(&digest) {
            Ok(Some(manifest)) => manifest,
            Ok(None) => return Ok(()),
            Err(reason) => return self.fail_staging(digest, reason),
        };
        match self.prepare(&target, &manifest) {
            Ok(prepared) => self.prepared = Some(prepared),
            Err(reason) => return self.fail_staging(digest, reason),
        }
        if self.transfer.0 != digest {
            self.transfer = (digest, Transfer::default());
        }
        self.transfer.1.plain = manifest.totals.bytes;
        let skip: Vec<Ident> = manifest
            .components
            .iter()
            .filter(|c| tree::is_complete(&self.paths, &c.tree_digest()))
            .map(|c| c.name.clone())
            .collect();
        if skip.len() == manifest.components.len() {
            return self.staged(digest);
        }
        drop(manifest);
        let sources = self.sources(&digest);
        match Staging::start(
            &self.paths,
            (&self.unpacking, self.config.sandbox),
            target.manifest,
            skip,
            sources,
        ) {
            Ok(staging) => self.staging = Some(staging),
            Err(reason) => return self.lose_worker(digest, reason),
        }
        Ok(())
    }

    /// The manifest with this digest, where it is kept. One that is not what it was is as good as none.
    pub(super) fn read_manifest(&self, digest: &Digest) -> Result<Option<Manifest>, Refusal> {
        let path = self.paths.manifests().join(digest.to_string());
        let bytes = durable::read(&path, MANIFEST_BYTES).map_err(|e| durable::refusal(path.display(), &e))?;
        match bytes {
            Some(bytes) if Digest::of(&bytes) == *digest => Manifest::parse(&bytes).map(Some),
            _ => Ok(None),
        }
    }

    /// Everything that can be refused once the manifest is here.
    fn prepare(&self, target: &Target, manifest: &Manifest) -> Result<Prepared, Refusal> {
        let Some(trusted) = &self.trusted else {
            return refuse!(NeedsReprovision, "this device is in no fleet");
        };
        let name = ReleaseName {
            product: target.product.clone(),
            version: target.version.clone(),
        };
        let (release, product) = trusted.listed_release(&name)?;
        if release.manifest != target.manifest {
            return refuse!(PlanMismatch, "the release has another manifest now");
        }
        check_manifest(release, product, manifest)?;
        let running = self.device.running();
        let others = running.into_iter().flat_map(|g| &g.components);
        check_components(manifest, others.map(|c| (&c.name, &c.product)))?;
        checks::supported(manifest)?;
        let components = manifest.components.iter().map(|c| Component {
            product: manifest.product.clone(),
            name: c.name.clone(),
            tree: c.tree_digest(),
            units: c.units.clone(),
        });
        Ok(Prepared {
            components: components.collect(),
            policy: checks::policy(manifest, target.health.as_ref(), product.network),
        })
    }

    /// Manifests of releases that stand here: their files are taken instead of being fetched.
    fn sources(&self, but: &Digest) -> Vec<FileRef> {
        let mut sources: Vec<FileRef> = Vec::new();
        let newest_first = self.device.generations.iter().rev().flat_map(|g| &g.products);
        for digest in newest_first.map(|p| p.manifest).filter(|d| d != but) {
            if sources.iter().any(|s| s.digest == digest) {
                continue;
            }
            let path = self.paths.manifests().join(digest.to_string());
            if let Ok(stat) = std::fs::metadata(path) {
                sources.push(FileRef {
                    digest,
                    length: stat.len(),
                });
            }
        }
        sources
    }

    /// The worker said something.
    pub(super) fn take_worker(&mut self) -> Result<(), ShellError> {
        let Some(staging) = &mut self.staging else {
            return Ok(());
        };
        let digest = staging.manifest;
        let cache = self.offer.as_ref().and_then(|offer| offer.cache);
        match staging.take(&self.paths, self.config.reserve_bytes, cache) {
            Progress::Working | Progress::Lacking => Ok(()),
            Progress::Failed(reason) => self.fail_staging(digest, reason),
            Progress::Lost(reason) => self.lose_worker(digest, reason),
            Progress::Whole(links) => {
                // From here on nobody else has a hand on what is staged.
                self.end_staging();
                let new = self.unfinished_trees();
                tracing::debug!(trees = new.len(), "written");
                let made = links.make(&self.paths, &new);
                let synced = made.and_then(|()| staging::sync(&self.paths));
                tracing::debug!(ok = synced.is_ok(), "synced");
                let kept = synced.and_then(|()| tree::publish(&self.paths, &new));
                match kept {
                    Ok(()) => {
                        self.fresh.extend(new);
                        self.staged(digest)
                    }
                    Err(e) => {
                        let reason = durable::refusal(self.paths.trees().display(), &e);
                        self.fail_staging(digest, reason)
                    }
                }
            }
        }
    }

    fn unfinished_trees(&self) -> Vec<Digest> {
        let components = self.prepared.iter().flat_map(|p| &p.components);
        let mut trees: Vec<Digest> = components
            .map(|c| c.tree)
            .filter(|t| !tree::is_complete(&self.paths, t))
            .collect();
        trees.sort_unstable();
        trees.dedup();
        trees
    }

    /// A worker was killed or fell over. Another one takes up what it left, a few times over.
    pub(super) fn lose_worker(&mut self, manifest: Digest, reason: Refusal) -> Result<(), ShellError> {
        if self.staging.as_mut().is_some_and(Staging::broke_out) {
            // Another one would do the same with the same bytes.
            return self.fail_staging(manifest, sandbox::violation());
        }
        self.workers_lost += 1;
        if self.workers_lost > WORKERS {
            return self.fail_staging(manifest, reason);
        }
        tracing::warn!(%reason, lost = self.workers_lost, "the unpack worker is lost; starting another");
        self.end_staging();
        self.begin_staging()
    }

    /// No worker any more; what it received counts.
    pub(super) fn end_staging(&mut self) {
        if let Some(staging) = self.staging.take()
            && staging.manifest == self.transfer.0
        {
            self.transfer.1.received += staging.received;
        }
    }

    fn staged(&mut self, manifest: Digest) -> Result<(), ShellError> {
        self.end_staging();
        self.workers_lost = 0;
        match self.prepared.take() {
            Some(prepared) => self.step(Event::Staged { manifest, prepared }),
            None => Ok(()),
        }
    }

    pub(super) fn fail_staging(&mut self, manifest: Digest, reason: Refusal) -> Result<(), ShellError> {
        self.end_staging();
        self.workers_lost = 0;
        self.prepared = None;
        self.step(Event::StagingFailed { manifest, reason })
    }

    /// Asks the acceptance function again, right before the switch.
    pub(super) fn ask_again(&mut self) -> Result<(), ShellError> {
        if self.device.stage.prepared().is_none() {
            return Ok(());
        }
        let Some((_, target)) = self.offered_target() else {
            // Nothing is offered since the last start: the link half brings it again.
            return Ok(());
        };
        let target = target.clone();
        let accepted = match intake::judge(self, accept::Stage::Switch) {
            Ok(accepted) => accepted,
            Err(reason) => {
                self.ask_later();
                return self.step(Event::Refused {
                    target: Some(target),
                    reason,
                });
            }
        };
        if let Err(reason) = self.verify_reused() {
            tracing::error!(code = %reason.code, error = %reason.text, "a tree is made anew");
            self.step(Event::Tampered {
                manifest: target.manifest.digest,
            })?;
            sockets::ask_link_again(self);
            return Ok(());
        }
        if let Some(trusted) = &mut self.trusted {
            trusted.started(&accepted.plan, accepted.digest)?;
            if let Err(reason) = self.store.save(trusted) {
                // A start that a restart would forget is none.
                self.ask_later();
                return self.step(Event::Refused {
                    target: Some(target),
                    reason,
                });
            }
        }
        let contact = self
            .contact
            .is_some_and(|at| clock::boot().saturating_sub(at) <= LATELY);
        self.step(Event::Cleared { contact })
    }

    /// Compares trees that stood before this attempt, and that do not run, with what was signed. What differs is removed.
    fn verify_reused(&mut self) -> Result<(), Refusal> {
        let Some(prepared) = self.device.stage.prepared() else {
            return Ok(());
        };
        let next = Generation {
            components: prepared.components.clone(),
            ..Generation::default()
        };
        let old: Vec<Digest> = next
            .differing(self.device.running())
            .map(|c| c.tree)
            .filter(|t| !self.fresh.contains(t))
            .collect();
        if old.is_empty() {
            return Ok(());
        }
        let digest = self.device.stage.target().map(|t| t.manifest.digest);
        let manifest = digest.map(|d| self.read_manifest(&d)).transpose()?.flatten();
        let Some(manifest) = manifest else {
            return refuse!(GenerationTampered, "the manifest of what is staged is gone");
        };
        let mut found = Ok(());
        for component in manifest.components.iter().filter(|c| old.contains(&c.tree_digest())) {
            let tree = component.tree_digest();
            match tree::verify(&self.paths, component) {
                Ok(()) => {
                    self.fresh.insert(tree);
                }
                Err(refusal) => {
                    tree::discard(&self.paths, &tree).map_err(|e| durable::refusal(format_args!("tree {tree}"), &e))?;
                    found = Err(refusal);
                }
            }
        }
        found
    }

    /// Compares the trees of a generation that must run again with what was signed.
    pub(super) fn verify_generation(&self, number: u64, from: u64) -> Result<(), Refusal> {
        let Some(to) = self.device.generation(number) else {
            return Ok(());
        };
        let changed: Vec<Digest> = to.differing(self.device.generation(from)).map(|c| c.tree).collect();
        for product in &to.products {
            if !to
                .components
                .iter()
                .any(|c| c.product == product.product && changed.contains(&c.tree))
            {
                continue;
            }
            let Some(manifest) = self.read_manifest(&product.manifest)? else {
                return refuse!(GenerationTampered, "the manifest of {} is gone", product.product);
            };
            for component in manifest
                .components
                .iter()
                .filter(|c| changed.contains(&c.tree_digest()))
            {
                tree::verify(&self.paths, component)?;
            }
        }
        Ok(())
    }

    pub(super) fn begin_switch(&mut self, from: u64, to: u64) -> Result<(), ShellError> {
        let Some(generation) = self.device.generation(to) else {
            return Ok(());
        };
        if let Some(lacking) = generation
            .components
            .iter()
            .find(|c| !tree::is_complete(&self.paths, &c.tree))
        {
            let reason = Refusal::new(
                Code::GenerationTampered,
                format!("the tree of {} is gone: {}", lacking.name, lacking.tree),
            );
            return self.step(Event::SwitchFailed { reason });
        }
        if let Err(e) = generations::make(&self.paths, generation) {
            let reason = durable::refusal(format_args!("generation {to}"), &e);
            return self.step(Event::SwitchFailed { reason });
        }
        let course = Course::between(
            Purpose::Switch { to },
            self.device.generation(from),
            self.device.generation(to),
            to,
        );
        self.begin(course)
    }

    pub(super) fn begin_switch_back(&mut self, from: u64, to: u64) -> Result<(), ShellError> {
        if let Err(reason) = self.verify_generation(to, from) {
            tracing::error!(code = %reason.code, error = %reason.text, "the way back is blocked");
            generations::point(&self.paths, from).map_err(|e| self.pointer(e))?;
            self.abandon_course();
            return self.step(Event::WayBackBlocked { reason });
        }
        if let Some(generation) = self.device.generation(to) {
            generations::make(&self.paths, generation).map_err(|e| self.pointer(e))?;
        }
        let course = Course::between(
            Purpose::SwitchBack { to },
            self.device.generation(from),
            self.device.generation(to),
            to,
        );
        self.begin(course)
    }

    pub(super) fn begin(&mut self, course: Course) -> Result<(), ShellError> {
        self.abandon_course();
        self.course = Some((course, None));
        self.go_on()
    }

    fn abandon_course(&mut self) {
        self.course = None;
        self.runner.cancel();
    }

    /// Does errands up to the next one that has to be waited for.
    fn go_on(&mut self) -> Result<(), ShellError> {
        while let Some((course, waiting)) = &mut self.course {
            let errand = course.next();
            match &errand {
                None => return self.arrive(),
                Some(Errand::Ask(question) | Errand::Check(Check::Ask(question))) => {
                    self.runner.ask(question.clone());
                    *waiting = errand;
                    return Ok(());
                }
                Some(Errand::Check(Check::Controller { within_s })) => {
                    let within = Duration::from_secs(*within_s);
                    match self.controller_answers(within) {
                        Some(true) => {}
                        Some(false) => {
                            let reason = Refusal::new(Code::Unhealthy, "controller: no connection");
                            return self.stumble(Verdict::Failed(reason));
                        }
                        // Not known yet: this round says nothing.
                        None => {
                            self.course = None;
                            return Ok(());
                        }
                    }
                }
                Some(Errand::Check(Check::Never(reason))) => {
                    let reason = Refusal::new(Code::Unhealthy, reason.as_str());
                    return self.stumble(Verdict::Failed(reason));
                }
                Some(Errand::Point(to)) => {
                    let to = *to;
                    if let Err(e) = generations::point(&self.paths, to) {
                        if matches!(self.device.stage, Stage::Switching(_)) {
                            let reason = durable::refusal("the pointer cannot be moved", &e);
                            return self.stumble(Verdict::Failed(reason));
                        }
                        return Err(self.pointer(e));
                    }
                }
            }
        }
        Ok(())
    }

    /// The course is done.
    fn arrive(&mut self) -> Result<(), ShellError> {
        let Some((course, _)) = self.course.take() else {
            return Ok(());
        };
        match course.purpose {
            Purpose::Switch { .. } => self.step(Event::Switched),
            Purpose::SwitchBack { .. } => self.step(Event::SwitchedBack),
            Purpose::Probe => self.step(Event::Probed { failure: None }),
        }
    }

    /// The course ends early.
    fn stumble(&mut self, verdict: Verdict) -> Result<(), ShellError> {
        let Some((course, _)) = self.course.take() else {
            return Ok(());
        };
        self.runner.cancel();
        match (course.purpose, verdict) {
            (_, Verdict::GoOn) => Ok(()),
            (Purpose::Probe, Verdict::UnitFailed(text)) => self.step(Event::UnitFailed { text }),
            (Purpose::Probe, Verdict::Failed(reason)) => self.step(Event::Probed {
                failure: Some(reason.text),
            }),
            (_, Verdict::Failed(reason)) => self.step(Event::SwitchFailed { reason }),
            (_, Verdict::UnitFailed(text)) => self.step(Event::SwitchFailed {
                reason: Refusal::new(Code::UnitFailed, text),
            }),
        }
    }

    /// The runner said something.
    pub(super) fn take_runner(&mut self) -> Result<(), ShellError> {
        let Some(heard) = self.runner.take() else {
            return Ok(());
        };
        let Some((course, Some(errand))) = &self.course else {
            return Ok(());
        };
        let verdict = match heard {
            Heard::Answer(answer) => Some(course.judge(errand, answer)),
            Heard::Lost(losses) => {
                tracing::warn!(?errand, losses, "the runner was lost");
                course.judge_loss(errand, losses)
            }
        };
        match verdict {
            // It is asked again.
            None => Ok(()),
            Some(Verdict::GoOn) => {
                self.runner.cancel();
                self.go_on()
            }
            Some(verdict) => self.stumble(verdict),
        }
    }

    /// Nobody answers for the runner.
    pub(super) fn take_silence(&mut self) -> Result<(), ShellError> {
        let Some(silent) = self.runner.unreachable_for() else {
            return Ok(());
        };
        let Some((course, _)) = &self.course else {
            // Labels changed and nobody listens: the next change tells.
            self.runner.cancel();
            return Ok(());
        };
        match course.judge_silence(silent) {
            None => Ok(()),
            Some(Verdict::GoOn) => {
                tracing::error!("the runner does not answer; the way back goes on without units");
                self.runner.cancel();
                self.go_on()
            }
            Some(verdict) => self.stumble(verdict),
        }
    }

    /// Tells the application's hook, when the runner has nothing better to do.
    pub(super) fn tell_labels(&mut self) {
        if self.labels_changed && self.course.is_none() && !self.runner.is_asked() {
            self.labels_changed = false;
            self.runner.ask(ToRunner::LabelsChanged);
        }
    }
}
