//! A manifest against the release document and the bounds of its product's delegation.

use crate::ids::Ident;
use crate::manifest::{Kind, Manifest};
use crate::reason::Refusal;
use crate::refuse;
use crate::trust::roles::{Product, Release};

/// The one product that may carry Ensign itself.
pub const ENSIGN_PRODUCT: &str = "ensign";

/// Refuses a manifest that is not what the release document says (`manifest-mismatch`), or has a component, kind, handler or unit
/// that the product's signers may not touch (`outside-delegation`).
pub fn check_manifest(release: &Release, product: &Product, manifest: &Manifest) -> Result<(), Refusal> {
    manifest.check_release(release)?;
    for component in &manifest.components {
        let name = component.name.as_str();
        if !any_matches(&product.components, name) {
            return outside(release, &format!("component {name}"));
        }
        let kind = component.kind.name();
        if !product.kinds.iter().any(|k| k == kind) {
            return outside(release, &format!("kind {kind} of component {name}"));
        }
        if component.kind == Kind::Agent && release.product.as_str() != ENSIGN_PRODUCT {
            return outside(release, &format!("kind {kind}: only product {ENSIGN_PRODUCT} has it"));
        }
        if let Some(handler) = &component.handler
            && !product.handlers.contains(&handler.id)
        {
            return outside(release, &format!("handler {}", handler.id));
        }
        if let Some(unit) = component.units.iter().find(|unit| !any_matches(&product.units, unit)) {
            return outside(release, &format!("unit {unit}"));
        }
    }
    Ok(())
}

/// Refuses a component name that another product of the device has: one name, one owner.
pub fn check_components<'a>(
    manifest: &Manifest,
    others: impl IntoIterator<Item = (&'a Ident, &'a Ident)>,
) -> Result<(), Refusal> {
    for (component, owner) in others {
        if *owner != manifest.product && manifest.component(component.as_str()).is_some() {
            return refuse!(
                Conflict,
                "component {component} belongs to product {owner} on this device"
            );
        }
    }
    Ok(())
}

fn outside(release: &Release, what: &str) -> Result<(), Refusal> {
    refuse!(
        OutsideDelegation,
        "{}/{} has {what}, outside of what its product may carry",
        release.product,
        release.release
    )
}

fn any_matches(patterns: &[String], text: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, text))
}

/// `*` stands for any run of characters. Linear in text times stars: a failed match goes back to the last star only.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "anything"),
            ("pos", "pos"),
            ("pos-*.service", "pos-ui.service"),
            ("*-*-*", "a-b-c"),
            ("a*a", "aa"),
            ("a*b*c", "axxbyybc"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("pos", "pos2"),
            ("pos-*.service", "pos-ui.socket"),
            ("a*a", "a"),
            ("a*b*c", "acb"),
            ("pos-*", "xpos-"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
