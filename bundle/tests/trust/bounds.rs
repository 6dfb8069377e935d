//! What a product's signers may put into a release.

use ensign_bundle::accept::{check_components, check_manifest};
use ensign_bundle::manifest::{Handler, Kind, Manifest};
use ensign_bundle::reason::Code;
use ensign_bundle::trust::roles::{Product, Release};

use crate::fleet::*;

/// A manifest of one tree, the document that names it, and the delegation that `fleet init` writes.
fn release() -> (Release, Product, Manifest) {
    let mut manifest = Manifest::parse(include_bytes!("../../testdata/manifest-v1.cbor")).unwrap();
    manifest.components.truncate(1);
    manifest.components[0].name = ident("web");
    manifest.components[0].kind = Kind::Tree;
    manifest.components[0].handler = None;
    manifest.components[0].units = vec!["web.service".into()];
    let mut fleet = Fleet::new();
    let name = fleet.release(manifest.product.as_str(), manifest.version.as_str(), |release| {
        release.counter = manifest.release_counter;
        release.security_floor = manifest.security_floor;
        release.compatible = manifest.compatible.clone();
    });
    (
        fleet.releases[&name].clone(),
        fleet.targets.products[0].clone(),
        manifest,
    )
}

#[track_caller]
fn check(wanted: Option<Code>, change: impl FnOnce(&mut Product, &mut Manifest)) {
    let (release, mut product, mut manifest) = release();
    change(&mut product, &mut manifest);
    let found = check_manifest(&release, &product, &manifest).err();
    assert_eq!(found.map(|r| r.code), wanted);
}

#[test]
fn inside_and_outside_of_the_delegation() {
    let outside = Some(Code::OutsideDelegation);
    check(None, |_, _| {});
    check(outside, |product, _| product.components = vec!["pos-*".into()]);
    check(None, |product, _| {
        product.components = vec!["pos-*".into(), "w*".into()];
    });
    check(outside, |product, _| product.units = vec!["pos-*.service".into()]);
    check(outside, |product, _| product.units.clear());
    for kind in [Kind::Image, Kind::Oci, Kind::Agent] {
        check(outside, |_, manifest| manifest.components[0].kind = kind);
    }
    // No pattern names a kind: `image` and `agent` have to be written out.
    check(outside, |product, _| product.kinds = vec!["*".into()]);
    check(None, |product, manifest| {
        product.kinds = vec!["image".into()];
        manifest.components[0].kind = Kind::Image;
    });
    let handled = |manifest: &mut Manifest| {
        manifest.components[0].kind = Kind::Handler;
        manifest.components[0].handler = Some(Handler {
            id: ident("podman"),
            protocol: 1,
        });
    };
    check(outside, |product, manifest| {
        product.kinds = vec!["handler".into()];
        handled(manifest);
    });
    check(None, |product, manifest| {
        product.kinds = vec!["handler".into()];
        product.handlers = vec![ident("podman")];
        handled(manifest);
    });
}

#[test]
fn only_the_product_ensign_carries_ensign() {
    check(Some(Code::OutsideDelegation), |product, manifest| {
        product.kinds = vec!["agent".into()];
        manifest.components[0].kind = Kind::Agent;
    });
    let (mut release, mut product, mut manifest) = release();
    (release.product, manifest.product) = (ident("ensign"), ident("ensign"));
    product.kinds = vec!["agent".into()];
    manifest.components[0].kind = Kind::Agent;
    check_manifest(&release, &product, &manifest).unwrap();
}

#[test]
fn what_stands_in_both_is_equal() {
    check(Some(Code::ManifestMismatch), |_, manifest| {
        manifest.release_counter += 1;
    });
    check(Some(Code::ManifestMismatch), |_, manifest| {
        manifest.compatible.arch.push("z80".into());
    });
}

#[test]
fn a_component_name_has_one_owner() {
    let (_, _, manifest) = release();
    let (web, other, own) = (ident("web"), ident("kiosk"), manifest.product.clone());
    let none = ident("nothing");
    check_components(&manifest, [(&web, &own), (&none, &other)]).unwrap();
    assert_eq!(code(check_components(&manifest, [(&web, &other)])), Code::Conflict);
}
