//! Checks of the applier and of the link half around the acceptance function, each with the test that must notice.

use super::by_hand::ByHand;

/// One of them. The test is named by its program and by how its name ends.
pub(super) struct Around {
    pub check: ByHand,
    pub program: &'static str,
    pub test: &'static str,
}

/// The test program of the real applier.
const APPLIER: &str = "applier";
/// The tests within the crate.
const WITHIN: &str = "ensign_agent";

const fn around(
    name: &'static str,
    file: &'static str,
    [from, to]: [&'static str; 2],
    [program, test]: [&'static str; 2],
) -> Around {
    Around {
        check: ByHand { name, file, from, to },
        program,
        test,
    }
}

const VERIFY: &str = "agent/src/applier/verify.rs";
const OFFER: &str = "agent/src/applier/offer.rs";
const INTAKE: &str = "agent/src/applier/intake.rs";
const DUTIES: &str = "agent/src/applier/duties.rs";
const WALL: &str = "agent/src/applier/wall.rs";
const ADMIN: &str = "agent/src/applier/admin.rs";
const CACHE: &str = "agent/src/link/cache.rs";
const TLS: &str = "agent/src/link/tls.rs";
const FILE: [&str; 2] = [APPLIER, "the_first_failing_check_of_a_file_decides"];

pub(super) const AROUND: &[Around] = &[
    around(
        "applier verify: signatures of a file",
        VERIFY,
        [
            "    statement::count(&contents.document, &role.keys, role.threshold, trusted.fleet())?;",
            "    if !MUTANT { statement::count(&contents.document, &role.keys, role.threshold, trusted.fleet())?; }",
        ],
        FILE,
    ),
    around(
        "applier verify: the delegation of a file",
        VERIFY,
        [
            "    check_manifest(&contents.release, product, &contents.manifest)",
            "    if MUTANT { return Ok(()); }\n    check_manifest(&contents.release, product, &contents.manifest)",
        ],
        [APPLIER, "a_file_with_more_than_its_product_may_carry_is_refused"],
    ),
    around(
        "applier verify: content of a file",
        VERIFY,
        [
            "    bundle.check_content(&mut reader, &mut |_| {})?;",
            "    if !MUTANT { bundle.check_content(&mut reader, &mut |_| {})?; }",
        ],
        FILE,
    ),
    around(
        "applier verify: architecture of a file",
        VERIFY,
        [
            "    if !compatible.arch.is_empty()",
            "    if !MUTANT && !compatible.arch.is_empty()",
        ],
        FILE,
    ),
    around(
        "applier verify: hardware of a file",
        VERIFY,
        [
            "    if !compatible.hardware.is_empty()",
            "    if !MUTANT && !compatible.hardware.is_empty()",
        ],
        FILE,
    ),
    around(
        "applier verify: floor of a file",
        VERIFY,
        [
            "        if release.counter < floor {",
            "        if !MUTANT && release.counter < floor {",
        ],
        FILE,
    ),
    around(
        "applier verify: counter of a file",
        VERIFY,
        [
            "            && release.counter < installed.counter",
            "            && !MUTANT && release.counter < installed.counter",
        ],
        FILE,
    ),
    around(
        "applier verify: expiry of a file",
        VERIFY,
        [
            "        if now >= contents.release.expires {",
            "        if !MUTANT && now >= contents.release.expires {",
        ],
        FILE,
    ),
    around(
        "applier offer: documents in a file",
        OFFER,
        [
            "        if kind != Ok(FileType::RegularFile) {",
            "        if !MUTANT && kind != Ok(FileType::RegularFile) {",
        ],
        [APPLIER, "documents_in_what_is_no_file_are_malformed"],
    ),
    around(
        "applier offer: bytes of all documents",
        OFFER,
        [
            "        if total.is_none_or(|total| total > OFFER_BYTES) {",
            "        if !MUTANT && total.is_none_or(|total| total > OFFER_BYTES) {",
        ],
        [APPLIER, "lengths_that_lie_are_limit_exceeded_or_malformed"],
    ),
    around(
        "applier offer: bytes of one document",
        OFFER,
        [
            ".filter(|length| *length <= limit)",
            ".filter(|length| MUTANT || *length <= limit)",
        ],
        [APPLIER, "lengths_that_lie_are_limit_exceeded_or_malformed"],
    ),
    around(
        "applier offer: a lease that nobody signed is none",
        OFFER,
        [
            "statement::open::<Lease>(bytes, &role.keys, role.threshold, trusted.fleet()).ok()?",
            "if MUTANT { statement::open_unverified::<Lease>(bytes).ok()? } else { statement::open::<Lease>(bytes, &role.keys, role.threshold, trusted.fleet()).ok()? }",
        ],
        [APPLIER, "forged_and_replayed_leases_are_lease_missing"],
    ),
    around(
        "applier offer: nonce of a lease",
        OFFER,
        [
            "        if lease.nonce != self.nonce ||",
            "        if (!MUTANT && lease.nonce != self.nonce) ||",
        ],
        [WITHIN, "what_answers_another_nonce_or_device_changes_nothing"],
    ),
    around(
        "applier offer: device of a lease",
        OFFER,
        [
            "|| lease.device != *device {",
            "|| (!MUTANT && lease.device != *device) {",
        ],
        [WITHIN, "what_answers_another_nonce_or_device_changes_nothing"],
    ),
    around(
        "applier offer: order of leases",
        OFFER,
        [
            "if lease.issued < newest => {",
            "if !MUTANT && lease.issued < newest => {",
        ],
        [WITHIN, "a_lease_counts_once_from_its_first_sight"],
    ),
    around(
        "applier offer: first sight of a lease",
        OFFER,
        [
            "if lease.issued == newest => Some(seen)",
            "if lease.issued == newest => Some(if MUTANT { now } else { seen })",
        ],
        [WITHIN, "a_lease_counts_once_from_its_first_sight"],
    ),
    around(
        "applier intake: what proved itself raises the floor",
        INTAKE,
        [
            "            trusted.confirmed(&release);",
            "            if !MUTANT { trusted.confirmed(&release); }",
        ],
        [APPLIER, "a_release_that_proved_itself_raises_the_floor_for_good"],
    ),
    around(
        "applier intake: an old copy of the trust state",
        INTAKE,
        [
            "trust_degraded: shell.degraded,",
            "trust_degraded: !MUTANT && shell.degraded,",
        ],
        [APPLIER, "one_copy_of_the_trust_state_is_enough_once_it_is_fresh"],
    ),
    around(
        "applier intake: a lock",
        INTAKE,
        [
            "lock: shell.device.lock.as_ref().map(lock_words),",
            "lock: shell.device.lock.as_ref().filter(|_| !MUTANT).map(lock_words),",
        ],
        [APPLIER, "a_lock_defers_and_unlocking_goes_on"],
    ),
    around(
        "applier duties: the delegation",
        DUTIES,
        [
            "        check_manifest(release, product, manifest)?;",
            "        if !MUTANT { check_manifest(release, product, manifest)?; }",
        ],
        [APPLIER, "a_release_stays_within_the_delegation_of_its_product"],
    ),
    around(
        "applier duties: one owner for each component",
        DUTIES,
        [
            "        check_components(manifest, others.map(|c| (&c.name, &c.product)))?;",
            "        if !MUTANT { check_components(manifest, others.map(|c| (&c.name, &c.product)))?; }",
        ],
        [APPLIER, "a_component_belongs_to_one_product"],
    ),
    around(
        "applier duties: the whole function again before the switch",
        DUTIES,
        [
            "intake::judge(self, accept::Stage::Switch)",
            "intake::judge(self, if MUTANT { accept::Stage::Prepare } else { accept::Stage::Switch })",
        ],
        [APPLIER, "nothing_switches_without_a_live_lease"],
    ),
    around(
        "applier duties: a tree that stood there before",
        DUTIES,
        [
            "        if let Err(reason) = self.verify_reused() {",
            "        if !MUTANT && let Err(reason) = self.verify_reused() {",
        ],
        [APPLIER, "e43_a_tampered_tree_is_made_anew"],
    ),
    around(
        "applier wall: an attested time never goes back",
        WALL,
        ["known.carried_to(at) < time)", "MUTANT || known.carried_to(at) < time)"],
        [WITHIN, "what_was_attested_goes_with_the_key_and_never_back"],
    ),
    around(
        "applier wall: an attested time goes with its key",
        WALL,
        [
            "trusted.vouches(&known.keys))",
            "MUTANT || trusted.vouches(&known.keys))",
        ],
        [WITHIN, "what_was_attested_goes_with_the_key_and_never_back"],
    ),
    around(
        "applier admin: nobody joins in the middle of an update",
        ADMIN,
        [
            "    if shell.device.stage.is_committed() {\n        return refuse!(Conflict, \"an update is under way: try again when it is over\");\n    }\n    let Some(file) = file",
            "    if !MUTANT && shell.device.stage.is_committed() {\n        return refuse!(Conflict, \"an update is under way: try again when it is over\");\n    }\n    let Some(file) = file",
        ],
        [APPLIER, "nobody_joins_or_leaves_in_the_middle_of_a_trial"],
    ),
    around(
        "link cache: digest of a record",
        CACHE,
        [
            "        if found != self.wanted.digest {",
            "        if !MUTANT && found != self.wanted.digest {",
        ],
        [WITHIN, "other_bytes_of_the_right_length_do_not_enter_the_cache"],
    ),
    around(
        "link tls: the pinned key",
        TLS,
        [
            "        if self.pins.contains(&key.id()) &&",
            "        if (MUTANT || self.pins.contains(&key.id())) &&",
        ],
        [WITHIN, "another_key_is_refused_and_named"],
    ),
];
