//! What an operator's login may do: deny by default.

use serde::{Deserialize, Serialize};

/// The roles of operators' logins (docs/operating.md, "Roles of logins").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Viewer,
    Enroller,
    Deployer,
    Approver,
    Auditor,
    Admin,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Reads anything.
    Read,
    /// Tokens, accepting and rejecting devices, their labels.
    Enroll,
    /// Blobs and releases; starting, resuming and promoting rollouts, slots of dark devices.
    Deploy,
    /// Stops: pause, cancel, freeze, suspend, revoke, hold. Also what lifts a freeze, a suspension or a hold; resuming a rollout is
    /// [`Self::Deploy`].
    Brake,
    /// Root and targets; they carry their own signatures.
    Administer,
}

impl Role {
    /// Whether this role may do it.
    pub const fn may(self, permission: Permission) -> bool {
        match permission {
            Permission::Read => true,
            Permission::Enroll => matches!(self, Self::Enroller | Self::Admin),
            Permission::Deploy => matches!(self, Self::Deployer | Self::Admin),
            Permission::Brake => matches!(self, Self::Enroller | Self::Deployer | Self::Approver | Self::Admin),
            Permission::Administer => matches!(self, Self::Admin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_deny_by_default() {
        assert!(Role::Viewer.may(Permission::Read));
        for permission in [
            Permission::Enroll,
            Permission::Deploy,
            Permission::Brake,
            Permission::Administer,
        ] {
            assert!(!Role::Viewer.may(permission), "{permission:?}");
            assert!(!Role::Auditor.may(permission), "{permission:?}");
            assert!(Role::Admin.may(permission), "{permission:?}");
        }
        assert!(!Role::Deployer.may(Permission::Enroll));
        assert!(!Role::Enroller.may(Permission::Deploy));
        assert!(Role::Approver.may(Permission::Brake));
    }
}
