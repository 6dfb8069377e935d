//! Landlock: what a process may still do to which files (landlock(7)).

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
    make_bitflags,
};

/// The rights on files that are asked for: the newest that this was tested with. An older kernel enforces those it knows.
const FILES: ABI = ABI::V5;
/// Likewise for TCP ports, of which nobody gets any.
const PORTS: ABI = ABI::V4;
/// Likewise for abstract sockets and signals: none to processes outside.
const SCOPES: ABI = ABI::V6;

/// What may be done below a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rights(BitFlags<AccessFs>);

impl Rights {
    pub(super) const READ: Self = Self(make_bitflags!(AccessFs::{ReadFile | ReadDir}));
    pub(super) const EXECUTE: Self = Self(make_bitflags!(AccessFs::{Execute}));
    pub(super) const WRITE_FILE: Self = Self(make_bitflags!(AccessFs::{WriteFile}));
    /// Files, folders and symbolic links are made and removed. Nothing comes in from another folder, and nothing goes out.
    pub(super) const FILL: Self = Self(make_bitflags!(AccessFs::{
        ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeDir | MakeSym | RemoveFile | RemoveDir
    }));
    /// Also moved and linked between folders.
    pub(super) const KEEP: Self = Self(make_bitflags!(AccessFs::{
        ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeDir | MakeSym | RemoveFile | RemoveDir | Refer
    }));
    /// A socket is made there, and an old one removed.
    pub(super) const LISTEN: Self = Self(make_bitflags!(AccessFs::{MakeSock | RemoveFile}));
}

/// Everything that is not named is refused.
pub(super) struct Files {
    rules: Vec<(OwnedFd, Rights)>,
    others: Others,
    /// A place could not be opened.
    trouble: Option<String>,
}

/// Who else may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// No TCP port; no abstract socket and no signal to a process that is not this one's child.
    Nobody,
    Anybody,
}

impl Files {
    /// `readable` may be read in whole.
    pub(super) fn new(readable: &[&Path], others: Others) -> Self {
        let mut new = Self {
            rules: Vec::new(),
            others,
            trouble: None,
        };
        for place in readable {
            new.under(place, Rights::READ);
        }
        new
    }

    /// Below `place`; where there is none, there is nothing to allow.
    pub(super) fn under(&mut self, place: &Path, rights: Rights) {
        if let Ok(fd) = PathFd::new(place) {
            self.under_fd(fd.as_fd(), rights);
        }
    }

    pub(super) fn under_fd(&mut self, place: BorrowedFd<'_>, rights: Rights) {
        match place.try_clone_to_owned() {
            Ok(fd) => self.rules.push((fd, rights)),
            Err(error) => self.trouble = Some(error.to_string()),
        }
    }

    /// From here on, for this thread and all that it starts. The version of Landlock that holds it.
    pub(super) fn enforce(self) -> Result<u32, String> {
        if let Some(trouble) = self.trouble {
            return Err(format!("Landlock: {trouble}"));
        }
        let status = restrict(self.rules, self.others).map_err(|e| format!("Landlock: {}", crate::chain::chain(&e)))?;
        match (status.ruleset, status.landlock) {
            (
                RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced,
                LandlockStatus::Available {
                    effective_abi,
                    kernel_abi,
                },
            ) => {
                let known = effective_abi.to_string().parse().unwrap_or(1);
                Ok(kernel_abi.and_then(|abi| u32::try_from(abi).ok()).unwrap_or(known))
            }
            (_, LandlockStatus::NotEnabled) => {
                Err("Landlock is not enabled in `lsm=` of the kernel's command line".to_owned())
            }
            (_, LandlockStatus::NotImplemented) => {
                Err("it is not in this kernel, or a container keeps it away".to_owned())
            }
            (_, LandlockStatus::Available { .. }) => {
                Err("this kernel's Landlock forbids every move between folders (Linux 5.19 is needed)".to_owned())
            }
        }
    }
}

fn restrict(rules: Vec<(OwnedFd, Rights)>, others: Others) -> Result<RestrictionStatus, RulesetError> {
    let mut ruleset = Ruleset::default();
    if rules.iter().any(|(_, rights)| rights.0.contains(AccessFs::Refer)) {
        // The first version of Landlock forbids every move between folders: then rather none of it.
        ruleset = ruleset
            .set_compatibility(CompatLevel::SoftRequirement)
            .handle_access(AccessFs::Refer)?
            .set_compatibility(CompatLevel::BestEffort);
    }
    ruleset = ruleset.handle_access(AccessFs::from_all(FILES))?;
    if others == Others::Nobody {
        ruleset = ruleset
            .handle_access(AccessNet::from_all(PORTS))?
            .scope(Scope::from_all(SCOPES))?;
    }
    let mut ruleset = ruleset.create()?;
    for (place, rights) in rules {
        ruleset = ruleset.add_rule(PathBeneath::new(place, rights.0))?;
    }
    ruleset.restrict_self()
}
