//! The next targets as a ceremony: drafted, signed by targets keys, published.

use std::path::{Path, PathBuf};

use ensign_bundle::reason::Code;
use ensign_bundle::trust::roles::Targets;
use ensign_crypto::{Envelope, PublicKey};

use crate::app::Session;
use crate::ceremony::{Ceremony, Progress, ShownRole};
use crate::clock;
use crate::difference::{Difference, of_targets};
use crate::failure::{Failure, Result};
use crate::home::Context;
use crate::signing::Count;

impl Ceremony for Targets {
    const BEGIN: &'static str = "product set PRODUCT";
    const SIGN: &'static str = "product";

    fn own_path(context: &Context) -> PathBuf {
        context.targets_draft_path()
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn expires(&self) -> u64 {
        self.expires
    }

    fn check_follows(&self, session: &Session, path: &Path) -> Result<()> {
        let held = session.trust.targets().version;
        if self.version != held.saturating_add(1) {
            return Err(Failure::new(
                Code::Conflict,
                format!("{} is targets {}, in force is {held}", path.display(), self.version),
            )
            .hint("`ensign product set PRODUCT --anew` begins the next one"));
        }
        Ok(session.trust.trusted().check_next_targets(self, clock::now())?)
    }

    fn signers(&self, session: &Session) -> Vec<PublicKey> {
        session.trust.root().roles.targets.keys.clone()
    }

    fn difference(&self, session: &Session) -> Difference {
        of_targets(session.trust.targets(), self)
    }

    fn roles(&self) -> Vec<ShownRole> {
        let role = |product: &ensign_bundle::trust::roles::Product| ShownRole {
            role: format!("release of {}", product.name),
            threshold: product.role.threshold,
            keys: product.role.keys.iter().map(PublicKey::id).collect(),
        };
        self.products.iter().map(role).collect()
    }

    fn progress(&self, envelope: &Envelope, session: &Session, _: bool) -> Vec<Progress> {
        let role = &session.trust.root().roles.targets;
        vec![Progress {
            by: "targets",
            count: Count::of(envelope, &role.keys, role.threshold, &session.fleet()),
        }]
    }
}
