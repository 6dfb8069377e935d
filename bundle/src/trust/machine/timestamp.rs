//! TUF 5.4: the timestamp.

use super::super::format::{At, Candidate, Format, Meta, Profile};
use super::{Held, Machine, Step, check_expiry};
use crate::reason::Refusal;
use crate::refuse;

impl<F: Format, P: Profile<F>> Machine<F, P> {
    /// Takes a newer timestamp. The held version again changes nothing, so a replay extends no life (TUF 5.4.3.1); neither its
    /// version nor the snapshot's that it names may go back, even when the held one has expired.
    pub fn update_timestamp(&mut self, bytes: &[u8], at: &At) -> Result<Step, Refusal> {
        self.check_root_fresh(at)?;
        let new = self.format.open_timestamp(bytes, &self.root.body)?;
        if let Some(held) = &self.timestamp {
            let (had, offered) = (held.body.version(), new.version());
            if offered == had {
                return Ok(Step::Unchanged);
            }
            if offered < had {
                return refuse!(RollbackRefused, "timestamp version {offered} offered, {had} is held");
            }
            let had = F::pin_version(F::snapshot_pin(&held.body));
            let offered = F::pin_version(F::snapshot_pin(&new));
            if offered < had {
                return refuse!(
                    RollbackRefused,
                    "the timestamp names snapshot version {offered}, before it was {had}"
                );
            }
        }
        if at.online {
            check_expiry("timestamp", &new, at.now)?;
        }
        let candidate = Candidate::Timestamp {
            root: &self.root.body,
            new: &new,
        };
        self.profile.check(candidate, at)?;
        self.timestamp = Some(Held {
            bytes: bytes.to_vec(),
            body: new,
        });
        Ok(Step::Updated)
    }
}
