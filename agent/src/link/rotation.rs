//! A new TLS key for this device, without a moment in which the controller would not know it.
//!
//! ```text
//! tls-next.pem, then rotation.cbor          asked for
//! session with the old key: announced       the controller accepts both
//! session with the new key: welcomed        the controller refuses the old one
//! tls.pem is the key that was welcomed       done
//! ```
//!
//! What is in the files decides what is done next, so a crash anywhere is a repetition of the step it cut. The old key is given up only
//! after the controller has welcomed the new one.

use std::fs::{File, TryLockError};

use ensign_bundle::digest::DeviceId;
use ensign_bundle::plan::rotation::Rotation;
use ensign_bundle::statement;
use ensign_crypto::{PublicKey, SecretKey};

use super::identity::{self, IdentityError};
use crate::durable;
use crate::paths::Paths;

/// A change that is under way.
#[derive(Clone, Debug)]
pub struct Pending {
    pub new: SecretKey,
    /// Signed by old key, new key and receipt key.
    pub statement: Vec<u8>,
}

impl Pending {
    /// The change under way from `current`, if there is one. What does not fit together is none.
    pub fn load(paths: &Paths, current: &PublicKey) -> Result<Option<Self>, IdentityError> {
        let (Some(statement), Some(new)) = (
            identity::read(paths.link_rotation())?,
            identity::key_in(paths.link_next_key())?,
        ) else {
            return Ok(None);
        };
        let fits = statement::open_unverified::<Rotation>(&statement)
            .is_ok_and(|signed| signed.body.old == *current && signed.body.new == new.public());
        Ok(fits.then_some(Self { new, statement }))
    }

    /// The controller has welcomed the new key: it takes the place of the old one.
    pub fn done(&self, paths: &Paths) -> Result<(), IdentityError> {
        self.take_place(paths)?;
        self.drop_next(paths)?;
        self.drop_statement(paths)
    }

    /// The key that was welcomed, whatever lies in `tls-next.pem` by now.
    fn take_place(&self, paths: &Paths) -> Result<(), IdentityError> {
        identity::write(paths.link_key(), self.new.to_pem().as_bytes(), 0o600)
    }

    fn drop_next(&self, paths: &Paths) -> Result<(), IdentityError> {
        let path = paths.link_next_key();
        match identity::key_in(path.clone())? {
            Some(next) if next.public() == self.new.public() => {
                durable::remove(&path).map_err(|source| IdentityError::Io { path, source })
            }
            _ => Ok(()),
        }
    }

    /// The controller does not want it: the old key stays.
    pub fn drop_statement(&self, paths: &Paths) -> Result<(), IdentityError> {
        let path = paths.link_rotation();
        durable::remove(&path).map_err(|source| IdentityError::Io { path, source })
    }
}

/// Held by whoever prepares a change: two at once would announce one key and keep the other.
#[derive(Debug)]
pub struct Preparing {
    _held: File,
}

impl Preparing {
    /// None while another process prepares one. It ends with the process that holds it.
    pub fn begin(paths: &Paths) -> Result<Option<Self>, IdentityError> {
        let path = paths.link();
        let io = |source| IdentityError::Io {
            path: path.clone(),
            source,
        };
        let folder = File::open(&path).map_err(io)?;
        match folder.try_lock() {
            Ok(()) => Ok(Some(Self { _held: folder })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }
}

/// The key that is to come next; made where there is none but the one of today. One that was made before is used, whatever became of its
/// announcement: the controller may have it.
pub fn next_key(paths: &Paths, current: &PublicKey) -> Result<SecretKey, IdentityError> {
    if let Some(key) = identity::key_in(paths.link_next_key())?
        && key.public() != *current
    {
        return Ok(key);
    }
    let mut seed = [0; ensign_crypto::KEY_BYTES];
    getrandom::fill(&mut seed)?;
    let key = SecretKey::from_seed(seed);
    identity::write(paths.link_next_key(), key.to_pem().as_bytes(), 0o600)?;
    Ok(key)
}

/// What has to be signed for the change.
pub fn body(now: u64, device: DeviceId, old: &SecretKey, new: &SecretKey, receipt_key: PublicKey) -> Rotation {
    Rotation::new(now, device, old.public(), new.public(), receipt_key)
}

/// From here on the change is under way.
pub fn begin(paths: &Paths, statement: &[u8]) -> Result<(), IdentityError> {
    identity::write(paths.link_rotation(), statement, 0o600)
}

#[cfg(test)]
mod tests {
    use ensign_bundle::digest::FleetId;

    use super::*;

    const FLEET: FleetId = FleetId([7; 32]);

    /// What a controller keeps of the device, on disk: the same rules as the real one.
    struct Controller {
        key: PublicKey,
        next: Option<PublicKey>,
    }

    impl Controller {
        fn welcomes(&mut self, key: &PublicKey) -> bool {
            if self.next == Some(*key) {
                (self.key, self.next) = (*key, None);
            }
            self.key == *key
        }
    }

    /// One start of the device: does what the files say, and is killed after `steps` steps. True = nothing is left to do.
    fn run(paths: &Paths, controller: &mut Controller, receipt: &SecretKey, device: DeviceId, steps: usize) -> bool {
        let mut left = steps;
        let mut step = || {
            left = left.checked_sub(1)?;
            Some(())
        };
        let mut go = || -> Option<()> {
            let old = identity::key(paths).unwrap().unwrap();
            if !paths.link_rotation().exists() && controller.key != old.public() {
                unreachable!("locked out");
            }
            let under_way = Pending::load(paths, &old.public()).unwrap();
            let pending = if let Some(pending) = under_way {
                pending
            } else {
                step()?;
                let new = next_key(paths, &old.public()).unwrap();
                step()?;
                let body = body(1, device, &old, &new, receipt.public());
                begin(paths, &statement::sign(&body, &[&old, &new, receipt], &FLEET).unwrap()).unwrap();
                Pending::load(paths, &old.public()).unwrap().unwrap()
            };
            step()?;
            if !controller.welcomes(&pending.new.public()) {
                step()?;
                assert!(controller.welcomes(&old.public()), "locked out");
                let rotation =
                    Rotation::verify(&pending.statement, &FLEET, &device, &controller.key, &receipt.public());
                controller.next = Some(rotation.unwrap().new);
                // Its answer may be lost.
                step()?;
                assert!(controller.welcomes(&pending.new.public()));
            }
            step()?;
            pending.take_place(paths).unwrap();
            step()?;
            pending.drop_next(paths).unwrap();
            step()?;
            pending.drop_statement(paths).unwrap();
            Some(())
        };
        go().is_some()
    }

    #[test]
    fn e71_a_rotation_cut_at_any_step_converges_and_locks_nobody_out() {
        // Two crashes at any two places, then a run to the end.
        for first in 0..10 {
            for second in 0..10 {
                let dir = tempfile::tempdir().unwrap();
                let paths = Paths::new(dir.path());
                let old = identity::create_key(&paths).unwrap();
                let device = DeviceId::from(old.public().id());
                let receipt = SecretKey::from_seed([9; 32]);
                let mut controller = Controller {
                    key: old.public(),
                    next: None,
                };
                let mut done = false;
                for steps in [first, second, usize::MAX] {
                    done = done || run(&paths, &mut controller, &receipt, device, steps);
                    let mine = identity::key(&paths).unwrap().unwrap().public();
                    let next = identity::key_in(paths.link_next_key()).unwrap().map(|k| k.public());
                    let accepted = [Some(controller.key), controller.next];
                    assert!(
                        accepted.contains(&Some(mine)) || (next.is_some() && accepted.contains(&next)),
                        "locked out after {first} and {second}"
                    );
                }
                let now = identity::key(&paths).unwrap().unwrap().public();
                assert!(done && now == controller.key, "{first} {second}");
                assert_ne!(now, old.public(), "{first} {second}");
                // What the crash after the rename left behind is no change of the new key.
                assert!(Pending::load(&paths, &now).unwrap().is_none());
            }
        }
    }

    /// Somebody else's next key came to lie there after this one was announced.
    #[test]
    fn the_key_that_was_welcomed_is_the_one_that_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let old = identity::create_key(&paths).unwrap();
        let pending = Pending {
            new: next_key(&paths, &old.public()).unwrap(),
            statement: Vec::new(),
        };
        let other = SecretKey::from_seed([8; 32]);
        identity::write(paths.link_next_key(), other.to_pem().as_bytes(), 0o600).unwrap();
        pending.done(&paths).unwrap();
        let kept = identity::key(&paths).unwrap().unwrap().public();
        assert_eq!(kept, pending.new.public());
        assert_eq!(next_key(&paths, &kept).unwrap().public(), other.public());
        // What a crash leaves of a change that is done is no next key.
        identity::write(paths.link_next_key(), pending.new.to_pem().as_bytes(), 0o600).unwrap();
        assert_ne!(next_key(&paths, &kept).unwrap().public(), kept);
    }

    #[test]
    fn one_change_is_prepared_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        identity::create_key(&paths).unwrap();
        let first = Preparing::begin(&paths).unwrap().unwrap();
        assert!(Preparing::begin(&paths).unwrap().is_none());
        drop(first);
        assert!(Preparing::begin(&paths).unwrap().is_some());
    }
}
