//! `release ls`, `show`, `verify`: what releases are, and whether they hold.

use std::path::Path;

use ensign_api::{Component, Release, SignatureRow, Time};
use ensign_bundle::accept::check_manifest;
use ensign_bundle::container::Contents;
use ensign_bundle::digest::Digest;
use ensign_bundle::manifest::Entry;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::statement;
use ensign_bundle::text::printable;
use ensign_bundle::trust::ReleaseName;
use ensign_crypto::{aad, valid_signers};

use crate::app::App;
use crate::clock;
use crate::failure::{Failure, Result};
use crate::output::{Document, Facts, Grid, Mood, Paint};
use crate::progress::Progress;
use crate::release;
use crate::signing::Count;
use crate::trust::{NOT_PUBLISHED, Trust};
use crate::units;

/// Verdict of a release that its readers accept.
const OK: &str = "ok";

pub async fn list(app: &App, product: Option<&str>) -> Result<()> {
    let session = app.session()?;
    let mut releases: Vec<Release> = session.client.get("/v1/releases").await?;
    releases.retain(|r| product.is_none_or(|p| r.product.as_str() == p));
    newest_first(&mut releases);
    app.shell.print(&releases[..])
}

/// Over all products, by the day of publication.
fn newest_first(releases: &mut [Release]) {
    releases.sort_by(|a, b| (b.published, b.counter, &a.product).cmp(&(a.published, a.counter, &b.product)));
}

pub async fn show(app: &App, which: &str) -> Result<()> {
    let path = Path::new(which);
    if path.is_file() {
        let context = app.home.current()?;
        let trust = Trust::load(&context)?;
        let (_, bundle) = release::open(path)?;
        let contents = bundle.single().map_err(|e| release::named(path, &e))?;
        return app.shell.print(&describe(contents, &trust).0);
    }
    if !which.contains('@') {
        return Err(Failure::usage(format!(
            "{} is neither a file nor PRODUCT@VERSION",
            printable(which, 200)
        ))
        .hint("`ensign release ls` lists what is published"));
    }
    let ReleaseName { product, version } = release::name(which)?;
    let session = app.session()?;
    let asked = session.client.get(&format!("/v1/releases/{product}/{version}")).await;
    let release: Release = asked.map_err(|e| match e.code {
        Code::NotFound => e.hint(NOT_PUBLISHED),
        _ => e,
    })?;
    app.shell.print(&release)
}

/// Every byte and every signature, against this operator's own trust state. Prints the document whatever the verdict.
pub fn verify(app: &App, path: &Path) -> Result<()> {
    let context = app.home.current()?;
    let trust = Trust::load(&context)?;
    let (mut file, bundle) = release::open(path)?;
    let progress = Progress::bytes(&app.shell, "checking", bundle.len());
    let content = bundle.check_content(&mut file, &mut |done| progress.set(done));
    progress.done();
    let contents = bundle.single().map_err(|e| release::named(path, &e))?;
    let (mut document, refused) = describe(contents, &trust);
    let refused = content.err().or(refused);
    if let Some(refusal) = &refused {
        refusal.code.name().clone_into(&mut document.verdict);
    }
    app.shell.print(&document)?;
    refused.map_or(Ok(()), |e| Err(release::named(path, &e)))
}

/// What a bundle says, and why it would be refused: signatures and threshold, delegation, expiry.
fn describe(contents: &Contents, trust: &Trust) -> (Release, Option<Refusal>) {
    let body = &contents.release;
    let fleet = trust.root().fleet;
    let product = trust.targets().product(&body.product);
    let role = product.map(|p| p.role.clone());
    let keys = role.as_ref().map(|r| r.keys.clone()).unwrap_or_default();
    let valid = valid_signers(&contents.document, &keys, &aad(&fleet.0));
    let signatures = contents.document.signatures().iter().map(|s| SignatureRow {
        key: s.key,
        role: if keys.iter().any(|k| k.id() == s.key) {
            "release"
        } else {
            "unknown"
        }
        .to_owned(),
        valid: valid.iter().any(|k| k.id() == s.key),
    });
    let refused = match &role {
        None => Some(Refusal::new(
            Code::OutsideDelegation,
            format!("no entry of targets covers the product {}", body.product),
        )),
        Some(role) => statement::count(&contents.document, &role.keys, role.threshold, &fleet)
            .err()
            .or_else(|| product.and_then(|p| check_manifest(body, p, &contents.manifest).err()))
            .or_else(|| expired(contents)),
    };
    let components = contents.manifest.components.iter().map(|c| Component {
        name: c.name.clone(),
        kind: c.kind.name().to_owned(),
        files: c.entries().filter(|e| matches!(e, Entry::File { .. })).count() as u64,
        bytes: c.entries().map(|e: Entry| e.size()).sum(),
        units: c.units.clone(),
    });
    let release = Release {
        product: body.product.clone(),
        version: body.release.clone(),
        counter: body.counter,
        components: components.collect(),
        bytes: contents.manifest.totals.bytes,
        signatures: signatures.collect(),
        threshold: role.as_ref().map_or(0, |r| r.threshold),
        verdict: refused.as_ref().map_or(OK, |e| e.code.name()).to_owned(),
        manifest: body.manifest.digest,
        document: Some(Digest::of(&contents.document.encode())),
        expires: (body.issued > 0).then_some(Time(body.expires)),
        published: None,
        failed: 0,
        yanked: body.yanked.clone(),
    };
    (release, refused)
}

fn expired(contents: &Contents) -> Option<Refusal> {
    let (now, expires) = (clock::now(), contents.release.expires);
    (expires <= now).then(|| {
        Refusal::new(
            Code::MetadataExpired,
            format!("the release document expired at {}", Time(expires)),
        )
    })
}

impl Document for [Release] {
    fn table(&self, paint: Paint) -> String {
        let mut grid = Grid::new(
            &[
                "RELEASE",
                "PUBLISHED",
                "COUNTER",
                "SIZE",
                "COMPONENTS",
                "DOCUMENT",
                "FAILED",
            ],
            paint,
        )
        .right(&[3, 6]);
        for r in self {
            let components: Vec<&str> = r.components.iter().map(|c| c.name.as_str()).collect();
            grid.row([
                (&*format!("{}@{}", r.product, r.version), Mood::Plain),
                (&r.published.map_or_else(String::new, |at| at.to_string()), Mood::Plain),
                (&r.counter.to_string(), Mood::Faint),
                (&units::show_bytes(r.bytes), Mood::Plain),
                (&components.join(" "), Mood::Plain),
                (&r.verdict, mood(&r.verdict)),
                (&failed(r.failed), Mood::Bad),
            ]);
        }
        grid.or("no release is published: `ensign release publish FILE`")
    }
}

/// On how many devices; nothing where all went well.
fn failed(devices: u64) -> String {
    match devices {
        0 => String::new(),
        n => format!("on {}", units::show_count(n, "device")),
    }
}

impl Document for Release {
    fn table(&self, paint: Paint) -> String {
        let mut facts = Facts::new();
        facts
            .add(
                "release",
                format!("{}@{} (counter {})", self.product, self.version, self.counter),
            )
            .add("size", units::show_bytes(self.bytes))
            .add("manifest", self.manifest.to_string());
        if let Some(expires) = self.expires {
            facts.add("expires", expires.to_string());
        }
        if let Some(why) = &self.yanked {
            facts.add("withdrawn", why);
        }
        let count = Count {
            signatures: self.signatures.iter().filter(|s| s.valid).count(),
            threshold: self.threshold,
        };
        facts.add("signatures", count.to_string());
        for s in &self.signatures {
            let valid = if s.valid { "valid" } else { "not valid" };
            facts.add("signature", format!("{} {valid}, role {}", s.key, s.role));
        }
        facts.add("verdict", &self.verdict);
        if self.failed > 0 {
            facts.add("failed", failed(self.failed));
        }
        let mut grid = Grid::new(&["COMPONENT", "KIND", "FILES", "SIZE", "UNITS"], paint).right(&[2, 3]);
        for c in &self.components {
            grid.row([
                (c.name.as_str(), Mood::Plain),
                (&*c.kind, Mood::Faint),
                (&c.files.to_string(), Mood::Plain),
                (&units::show_bytes(c.bytes), Mood::Plain),
                (&c.units.join(" "), Mood::Plain),
            ]);
        }
        format!("{}\n{}", facts.text(paint), grid.text())
    }
}

fn mood(verdict: &str) -> Mood {
    if verdict == OK { Mood::Good } else { Mood::Bad }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_all_products_comes_first_with_its_day_and_its_failures() {
        let release = |product: &str, version: &str, day: u64, failed| Release {
            product: product.parse().unwrap(),
            version: version.parse().unwrap(),
            counter: 1,
            components: Vec::new(),
            bytes: 1_200,
            signatures: Vec::new(),
            threshold: 1,
            verdict: OK.to_owned(),
            manifest: Digest([1; 32]),
            document: None,
            expires: None,
            published: Some(Time(1_800_000_000 + day * 86_400)),
            failed,
            yanked: None,
        };
        let mut releases = [
            release("app", "1.0.0", 0, 0),
            release("app", "1.2.0", 2, 3),
            release("shop", "7.0.0", 1, 0),
        ];
        newest_first(&mut releases);
        insta::assert_snapshot!(releases[..].table(Paint(false)));
    }
}
