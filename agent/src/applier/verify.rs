//! A bundle in a file, judged by what this device trusts: `ensign-agent verify` and `apply`.

use std::fs::File;
use std::io::BufReader;

use ensign_bundle::accept::check_manifest;
use ensign_bundle::container::{self, Contents};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::statement;
use ensign_bundle::trust::Trusted;
use ensign_bundle::trust::roles::{Compatible, Product};
use ensign_crypto::{KeyId, aad, valid_signers};
use serde::{Deserialize, Serialize};

use super::shell::Shell;
use super::trust_store::TrustStore;
use crate::config::{Config, Reader};
use crate::paths::Paths;

/// What `verify` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    pub product: String,
    pub version: String,
    pub counter: u64,
    pub components: Vec<String>,
    /// Plain size.
    pub bytes: u64,
    pub signatures: Vec<SignatureRow>,
    /// `ok`, or the reason code.
    pub verdict: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureRow {
    pub key: String,
    pub role: String,
    pub valid: bool,
}

/// A verdict and what it is about; the first release in the file that is refused decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    pub releases: Vec<Verified>,
    pub refusal: Option<Refusal>,
}

/// Verifies a file against the stored root and targets: every byte, signatures and thresholds, delegation, hardware. Writes nothing,
/// takes no lock.
pub fn verify_file(paths: &Paths, file: &File) -> Result<Judged, Refusal> {
    let (_, found) = TrustStore::open(paths.disk(), &paths.trust())?;
    let Some(trusted) = found.trusted else {
        return refuse!(NeedsReprovision, "this device is in no fleet, it trusts nobody");
    };
    let config =
        Config::load(paths, Reader::Applier).map_err(|e| Refusal::new(Code::ConfigRefused, crate::chain::chain(&e)))?;
    let contents = read(file)?;
    let mut refusal = None;
    let mut releases = Vec::new();
    for contents in &contents {
        let judged =
            judge(&trusted, contents).and_then(|()| fits(&contents.release.compatible, &config.applier.hardware));
        releases.push(row(&trusted, contents, judged.as_ref().err()));
        refusal = refusal.or(judged.err());
    }
    Ok(Judged { releases, refusal })
}

/// Judges a bundle for installing: content, signatures, device, counter, time, plan, in this order.
pub(super) fn apply(shell: &Shell, file: &File) -> Result<String, Refusal> {
    let releases = read(file)?;
    let Some(trusted) = &shell.trusted else {
        return refuse!(NeedsReprovision, "this device is in no fleet, it trusts nobody");
    };
    for contents in &releases {
        judge(trusted, contents)?;
    }
    for contents in &releases {
        fits(&contents.release.compatible, &shell.config.hardware)?;
    }
    for contents in &releases {
        let release = &contents.release;
        let floor = trusted.security_floor(&release.product);
        if release.counter < floor {
            return refuse!(
                BelowFloor,
                "counter {} of {} is below the floor {floor}",
                release.counter,
                release.product
            );
        }
        if let Some(installed) = shell.device.product(&release.product)
            && release.counter < installed.counter
        {
            return refuse!(
                DowngradeRefused,
                "counter {} of {} is offered, {} is installed",
                release.counter,
                release.product,
                installed.counter
            );
        }
    }
    let clock = shell.wall.clock();
    let now = trusted.now(clock);
    for contents in &releases {
        if now >= contents.release.expires {
            return refuse!(
                MetadataExpired,
                "the release document expired at {}, it is {now}",
                contents.release.expires
            );
        }
    }
    refuse!(
        NoOfflinePlan,
        "the file carries no signed plan for offline use on this device"
    )
}

/// Everything but the blocks, after every byte was checked.
fn read(file: &File) -> Result<Vec<Contents>, Refusal> {
    let mut reader = BufReader::new(file);
    let bundle = container::read(&mut reader)?;
    bundle.check_content(&mut reader, &mut |_| {})?;
    Ok(bundle.releases)
}

/// Signatures and delegation.
fn judge(trusted: &Trusted, contents: &Contents) -> Result<(), Refusal> {
    let product = product(trusted, contents)?;
    let role = &product.role;
    statement::count(&contents.document, &role.keys, role.threshold, trusted.fleet())?;
    check_manifest(&contents.release, product, &contents.manifest)
}

fn product<'a>(trusted: &'a Trusted, contents: &Contents) -> Result<&'a Product, Refusal> {
    let name = &contents.release.product;
    let Some(targets) = trusted.targets() else {
        return refuse!(
            MetadataMissing,
            "no targets are stored yet: connect to the controller once"
        );
    };
    targets.product(name).ok_or_else(|| {
        Refusal::new(
            Code::OutsideDelegation,
            format!("no entry of targets covers product {name}"),
        )
    })
}

fn fits(compatible: &Compatible, hardware: &str) -> Result<(), Refusal> {
    let arch = std::env::consts::ARCH;
    if !compatible.arch.is_empty() && !compatible.arch.iter().any(|a| a == arch) {
        return refuse!(
            HardwareMismatch,
            "the release is for {}, this is {arch}",
            compatible.arch.join(", ")
        );
    }
    if !compatible.hardware.is_empty() && !compatible.hardware.iter().any(|h| h == hardware) {
        return refuse!(
            HardwareMismatch,
            "the release is for {}, this is `{hardware}`",
            compatible.hardware.join(", ")
        );
    }
    Ok(())
}

fn row(trusted: &Trusted, contents: &Contents, refusal: Option<&Refusal>) -> Verified {
    let release = &contents.release;
    let keys = product(trusted, contents)
        .map(|p| p.role.keys.clone())
        .unwrap_or_default();
    let valid: Vec<KeyId> = valid_signers(&contents.document, &keys, &aad(&trusted.fleet().0))
        .iter()
        .map(ensign_crypto::PublicKey::id)
        .collect();
    let signatures = contents.document.signatures().iter().map(|signature| SignatureRow {
        key: signature.key.to_string(),
        role: if keys.iter().any(|k| k.id() == signature.key) {
            "release"
        } else {
            "unknown"
        }
        .to_owned(),
        valid: valid.contains(&signature.key),
    });
    Verified {
        product: release.product.to_string(),
        version: release.release.to_string(),
        counter: release.counter,
        components: contents
            .manifest
            .components
            .iter()
            .map(|c| c.name.to_string())
            .collect(),
        bytes: contents.manifest.totals.bytes,
        signatures: signatures.collect(),
        verdict: refusal.map_or("ok", |r| r.code.name()).to_owned(),
    }
}
