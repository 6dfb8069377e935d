//! Where everything lies on a device, relative to its root.

use std::path::{Path, PathBuf};

use crate::disk::Disk;

/// The paths of one device, and the disk that they are on. `/` in production, any directory under `--root`.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
    disk: Disk,
}

macro_rules! places {
    ($($(#[$doc:meta])* $name:ident = $path:literal;)*) => {
        $($(#[$doc])* pub fn $name(&self) -> PathBuf { self.root.join($path) })*
    };
}

impl Paths {
    /// The paths under `root`. It should be absolute where processes with other working directories use it.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::on(Disk::default(), root)
    }

    /// The same, on a disk that tells what is done to it.
    pub fn on(disk: Disk, root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { root, disk }
    }

    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// True for the machine's own root: systemd manages units, users are separate.
    pub fn is_system(&self) -> bool {
        self.root == Path::new("/")
    }

    places! {
        /// Shipped configuration.
        lib = "usr/lib/ensign";
        /// The administrator's configuration: `agent.toml`, `agent.d`, `handlers`, `hooks`.
        etc = "etc/ensign";
        /// Runs as `unit start|stop|is-active NAME` under a root other than `/`; a restart is a stop and a start.
        unit_hook = "etc/ensign/hooks/unit";
        /// Runs when `labels.json` changed.
        labels_hook = "etc/ensign/hooks/labels";
        /// Sockets.
        run = "run/ensign";
        /// TLS key, session counter, download cache: the link half's.
        link = "var/lib/ensign/link";
        link_key = "var/lib/ensign/link/tls.pem";
        /// The key that is to take the place of `link_key`, and the statement that announces it.
        link_next_key = "var/lib/ensign/link/tls-next.pem";
        link_rotation = "var/lib/ensign/link/rotation.cbor";
        link_cache = "var/lib/ensign/link/cache";
        /// What `enroll` left behind for `run`: id, name, fleet.
        link_device = "var/lib/ensign/link/device.json";
        /// The keys that `enroll` is joining with, until it is done.
        link_joining = "var/lib/ensign/link/joining.json";
        link_session = "var/lib/ensign/link/session";
        /// What lasts: the folders below, and `labels.json`.
        var = "var/lib/ensign";
        /// Receipt key, trust state, journal: the applier's.
        applier = "var/lib/ensign/applier";
        applier_lock = "var/lib/ensign/applier/lock";
        receipt_key = "var/lib/ensign/applier/receipt.pem";
        trust = "var/lib/ensign/applier/trust";
        journal = "var/lib/ensign/applier/journal";
        /// The binding this device joined with: its id and name.
        binding = "var/lib/ensign/applier/binding.cbor";
        /// Manifests and block tables of what runs, what ran before and what is being staged.
        manifests = "var/lib/ensign/applier/manifests";
        deploy = "var/lib/ensign/deploy";
        /// Component contents by digest, immutable.
        trees = "var/lib/ensign/deploy/trees";
        /// Trees being written, on the same mount as `trees`.
        staging = "var/lib/ensign/deploy/trees/.staging";
        generations = "var/lib/ensign/deploy/generations";
        /// The one pointer.
        current = "var/lib/ensign/deploy/current";
        /// What applications write; survives updates.
        data = "var/lib/ensign/data";
        /// Newest signed labels, id and name, for applications (0644).
        labels = "var/lib/ensign/labels.json";
    }

    /// The live tree of a component.
    pub fn live(&self, component: &str) -> PathBuf {
        self.current().join(component)
    }
}

/// Names of the sockets in [`Paths::run`].
pub mod sockets {
    /// The applier listens for the link half.
    pub const APPLIER: &str = "applier.sock";
    /// The applier listens for root's commands.
    pub const ADMIN: &str = "admin.sock";
    /// The runner listens for the applier.
    pub const RUNNER: &str = "runner.sock";
    /// The link half listens for `ensign-agent status`.
    pub const AGENT: &str = "agent.sock";
}
