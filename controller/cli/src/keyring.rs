//! Private keys in files: plain PEM in a lab, else encrypted under a passphrase that is asked for once per command. What was opened is
//! kept until the command ends, so a list of a thousand devices costs one derivation.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ensign_bundle::reason::Code;
use ensign_crypto::sealed::{Cost, SealError, SealedKey};
use ensign_crypto::{PublicKey, SecretKey};
use zeroize::Zeroizing;

use crate::durable::{self, SECRET};
use crate::failure::{Failure, Result};
use crate::home;
use crate::passphrase::Passphrase;
use crate::random;

/// What one run of the command knows of secrets.
#[derive(Clone, Default)]
pub struct Keyring(Arc<Known>);

#[derive(Default)]
struct Known {
    passphrase: OnceLock<Passphrase>,
    opened: Mutex<BTreeMap<PublicKey, SecretKey>>,
}

/// A key in a file; its public half needs no passphrase.
pub struct Stored {
    path: PathBuf,
    form: Form,
    keyring: Keyring,
}

enum Form {
    Plain(SecretKey),
    Sealed(SealedKey),
}

impl Keyring {
    /// A key file. Refused when other users could read it.
    pub fn stored(&self, path: &Path) -> Result<Stored> {
        let mode = std::fs::metadata(path)
            .map_err(|e| Failure::io("read", path, &e))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(Failure::new(
                Code::ConfigRefused,
                format!(
                    "the key {} is readable by others (mode {:o})",
                    path.display(),
                    mode & 0o777
                ),
            )
            .hint(format!("chmod 600 {}", path.display())));
        }
        let bytes = Zeroizing::new(home::read(path)?);
        let refused = |e: &dyn fmt::Display| Failure::new(Code::ConfigRefused, format!("{}: {e}", path.display()));
        let pem = std::str::from_utf8(&bytes).map_err(|e| refused(&e))?;
        let form = if SealedKey::is_sealed(pem) {
            Form::Sealed(SealedKey::from_pem(pem).map_err(|e| match e {
                SealError::Version { .. } => Failure::new(Code::VersionUnknown, format!("{}: {e}", path.display())),
                SealError::Cost { .. } => Failure::new(Code::LimitExceeded, format!("{}: {e}", path.display())),
                e => refused(&e),
            })?)
        } else {
            Form::Plain(SecretKey::from_pem(pem).map_err(|e| refused(&e))?)
        };
        Ok(Stored {
            path: path.to_owned(),
            form,
            keyring: self.clone(),
        })
    }

    /// The passphrase of the keys that are there, asked for at the first call.
    pub fn passphrase(&self) -> Result<&Passphrase> {
        if self.0.passphrase.get().is_none() {
            // Two at once would ask twice; a command asks from one place.
            let _ = self.0.passphrase.set(Passphrase::of_keys()?);
        }
        self.0
            .passphrase
            .get()
            .ok_or_else(|| Failure::new(Code::PassphraseMissing, "no passphrase was given"))
    }

    /// The file of a new key of this machine: under the passphrase of those that are there. Only whoever can open these gets one more: two
    /// passphrases in one folder help nobody. Where there are none, under a new passphrase, but in a lab.
    pub fn wrap(&self, key: &SecretKey, there: &[(String, Stored)], lab: bool) -> Result<Zeroizing<String>> {
        let encrypted = there.iter().find(|(_, known)| known.is_encrypted());
        let pem = match encrypted {
            Some((_, known)) => {
                known.secret()?;
                seal(key, self.passphrase()?, Cost::RECOMMENDED)?
            }
            None if lab => return Ok(key.to_pem()),
            None => {
                if self.0.passphrase.get().is_none() {
                    let _ = self.0.passphrase.set(Passphrase::new()?);
                }
                seal(key, self.passphrase()?, Cost::RECOMMENDED)?
            }
        };
        Ok(Zeroizing::new(pem))
    }

    /// Puts every key of `dir` under `new`. Each file is replaced whole, after what is written was opened again: whenever this ends, each
    /// key opens with the passphrase before or with the new one, and calling it again with both goes on. Returns which were changed.
    pub fn rewrap_all(
        &self,
        dir: &Path,
        new: &Passphrase,
        cost: Cost,
        replace: impl Fn(&Path, &[u8]) -> std::io::Result<()>,
    ) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for path in home::key_files(dir)? {
            let stored = self.stored(&path)?;
            let key = match stored.secret() {
                Ok(key) => key,
                // Changed already, by a run that was cut off.
                Err(e) if e.code == Code::PassphraseWrong && stored.opens_with(new) => continue,
                Err(e) => return Err(e),
            };
            files.push((path, seal(&key, new, cost)?));
        }
        let mut done = Vec::new();
        for (path, pem) in files {
            replace(&path, pem.as_bytes()).map_err(|e| Failure::io("write", &path, &e))?;
            done.push(path);
        }
        Ok(done)
    }

    fn opened(&self) -> MutexGuard<'_, BTreeMap<PublicKey, SecretKey>> {
        self.0.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Encrypts every key of `dir` that is still plain. Each file is replaced whole, after what is written was opened again: whenever
    /// this ends, every key is there, and calling it again goes on. Keys that are encrypted already must open with the same
    /// passphrase. Returns which were encrypted.
    pub fn encrypt_all(
        &self,
        dir: &Path,
        cost: Cost,
        replace: impl Fn(&Path, &[u8]) -> std::io::Result<()>,
    ) -> Result<Vec<PathBuf>> {
        let mut plain = Vec::new();
        let mut sealed = Vec::new();
        for path in home::key_files(dir)? {
            let stored = self.stored(&path)?;
            match stored.form {
                Form::Plain(key) => plain.push((path, key)),
                Form::Sealed(_) => sealed.push(stored),
            }
        }
        if plain.is_empty() {
            return Ok(Vec::new());
        }
        if sealed.is_empty() {
            if self.0.passphrase.get().is_none() {
                let _ = self.0.passphrase.set(Passphrase::new()?);
            }
        } else {
            for key in &sealed {
                key.secret()?;
            }
        }
        let passphrase = self.passphrase()?;
        let mut files = Vec::new();
        for (path, key) in plain {
            files.push((path, seal(&key, passphrase, cost)?));
        }
        let mut done = Vec::new();
        for (path, pem) in files {
            replace(&path, pem.as_bytes()).map_err(|e| Failure::io("write", &path, &e))?;
            done.push(path);
        }
        Ok(done)
    }
}

/// The file of an encrypted key, opened once to see that it can be.
pub fn seal(key: &SecretKey, passphrase: &Passphrase, cost: Cost) -> Result<String> {
    let failed = |e: SealError| Failure::new(Code::Failed, format!("a key cannot be encrypted: {e}"));
    let sealed = SealedKey::seal(key, passphrase.bytes(), cost, random::bytes()?, random::bytes()?).map_err(failed)?;
    let pem = sealed.to_pem();
    SealedKey::from_pem(&pem)
        .and_then(|sealed| sealed.open(passphrase.bytes()))
        .map_err(failed)?;
    Ok(pem)
}

/// Replaces a key file.
pub fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    durable::write(path, bytes, SECRET)
}

impl Stored {
    pub fn public(&self) -> PublicKey {
        match &self.form {
            Form::Plain(key) => key.public(),
            Form::Sealed(key) => key.public(),
        }
    }

    pub fn is_encrypted(&self) -> bool {
        matches!(self.form, Form::Sealed(_))
    }

    fn opens_with(&self, passphrase: &Passphrase) -> bool {
        match &self.form {
            Form::Plain(_) => false,
            Form::Sealed(sealed) => sealed.open(passphrase.bytes()).is_ok(),
        }
    }

    /// The private key of a file that came from elsewhere, under a passphrase of its own.
    pub fn secret_with(&self, passphrase: &Passphrase) -> Result<SecretKey> {
        match &self.form {
            Form::Plain(key) => Ok(key.clone()),
            Form::Sealed(sealed) => sealed.open(passphrase.bytes()).map_err(|e| self.refused(&e)),
        }
    }

    fn refused(&self, e: &SealError) -> Failure {
        let code = if *e == SealError::Passphrase {
            Code::PassphraseWrong
        } else {
            Code::Failed
        };
        Failure::new(code, format!("{}: {e}", self.path.display()))
    }

    /// The private key. Asks for the passphrase where there is one and nobody has asked yet.
    pub fn secret(&self) -> Result<SecretKey> {
        let sealed = match &self.form {
            Form::Plain(key) => return Ok(key.clone()),
            Form::Sealed(sealed) => sealed,
        };
        if let Some(key) = self.keyring.opened().get(&sealed.public()) {
            return Ok(key.clone());
        }
        let key = sealed
            .open(self.keyring.passphrase()?.bytes())
            .map_err(|e| self.refused(&e))?;
        self.keyring.opened().insert(sealed.public(), key.clone());
        Ok(key)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io;

    use super::*;
    use crate::home::KeyRole;

    /// Cheap: tests guess nothing.
    const COST: Cost = Cost {
        memory_kib: 64,
        passes: 1,
        lanes: 1,
    };

    fn keyring(passphrase: &str) -> Keyring {
        let keyring = Keyring::default();
        keyring.0.passphrase.set(passphrase.into()).unwrap();
        keyring
    }

    fn key(role: KeyRole) -> SecretKey {
        SecretKey::from_seed([role as u8 + 1; 32])
    }

    fn plain_keys() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for role in KeyRole::ALL {
            replace(&home::key_path(dir.path(), role), key(role).to_pem().as_bytes()).unwrap();
        }
        dir
    }

    fn all_there(dir: &Path, passphrase: &str) -> usize {
        let keyring = keyring(passphrase);
        let stored = KeyRole::ALL.map(|role| (role, keyring.stored(&home::key_path(dir, role)).unwrap()));
        for (role, stored) in &stored {
            assert_eq!(stored.secret().unwrap().seed(), key(*role).seed(), "{}", role.name());
        }
        stored.iter().filter(|(_, stored)| stored.is_encrypted()).count()
    }

    #[test]
    fn encrypting_loses_no_key_wherever_it_ends() {
        for ends_at in 0..=KeyRole::ALL.len() {
            let dir = plain_keys();
            let written = Cell::new(0);
            let result = keyring("correct horse").encrypt_all(dir.path(), COST, |path, bytes| {
                if written.replace(written.get() + 1) == ends_at {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                replace(path, bytes)
            });
            assert_eq!(result.is_ok(), ends_at == KeyRole::ALL.len());
            assert_eq!(all_there(dir.path(), "correct horse"), ends_at);
            if (1..KeyRole::ALL.len()).contains(&ends_at) {
                let other = keyring("another horse")
                    .encrypt_all(dir.path(), COST, replace)
                    .unwrap_err();
                assert_eq!(other.code, Code::PassphraseWrong, "two passphrases in one folder");
            }
            let rest = keyring("correct horse").encrypt_all(dir.path(), COST, replace).unwrap();
            assert_eq!(rest.len(), KeyRole::ALL.len() - ends_at);
            assert_eq!(all_there(dir.path(), "correct horse"), KeyRole::ALL.len());
        }
    }

    #[test]
    fn a_change_of_the_passphrase_loses_no_key_wherever_it_ends() {
        for ends_at in 0..=KeyRole::ALL.len() {
            let dir = plain_keys();
            keyring("correct horse").encrypt_all(dir.path(), COST, replace).unwrap();
            let new = "battery staple".into();
            let written = Cell::new(0);
            let result = keyring("correct horse").rewrap_all(dir.path(), &new, COST, |path, bytes| {
                if written.replace(written.get() + 1) == ends_at {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                replace(path, bytes)
            });
            assert_eq!(result.is_ok(), ends_at == KeyRole::ALL.len());
            let opens = |with: &str| {
                let keyring = keyring(with);
                let opens = |role: &&KeyRole| {
                    let stored = keyring.stored(&home::key_path(dir.path(), **role)).unwrap();
                    stored.secret().is_ok_and(|k| k.seed() == key(**role).seed())
                };
                KeyRole::ALL.iter().filter(opens).count()
            };
            assert_eq!(
                (opens("correct horse"), opens("battery staple")),
                (KeyRole::ALL.len() - ends_at, ends_at)
            );
            if ends_at < KeyRole::ALL.len() {
                let wrong = keyring("a third one")
                    .rewrap_all(dir.path(), &new, COST, replace)
                    .unwrap_err();
                assert_eq!(wrong.code, Code::PassphraseWrong);
            }
            let rest = keyring("correct horse")
                .rewrap_all(dir.path(), &new, COST, replace)
                .unwrap();
            assert_eq!(rest.len(), KeyRole::ALL.len() - ends_at);
            assert_eq!(all_there(dir.path(), "battery staple"), KeyRole::ALL.len());
        }
    }

    #[test]
    fn a_wrong_passphrase_has_a_code_and_the_public_half_needs_none() {
        let dir = plain_keys();
        keyring("correct horse").encrypt_all(dir.path(), COST, replace).unwrap();
        let path = home::key_path(dir.path(), KeyRole::Deploy);
        let stored = keyring("battery staple").stored(&path).unwrap();
        assert_eq!(stored.public(), key(KeyRole::Deploy).public());
        let failure = stored.secret().unwrap_err();
        assert_eq!((failure.code, failure.exit()), (Code::PassphraseWrong, 31));
        assert!(failure.text.contains("deploy.pem"), "{failure}");
    }

    #[test]
    fn a_foreign_file_that_costs_too_much_is_refused_unread() {
        let dir = plain_keys();
        keyring("correct horse").encrypt_all(dir.path(), COST, replace).unwrap();
        let path = home::key_path(dir.path(), KeyRole::Deploy);
        let pem = std::fs::read_to_string(&path).unwrap();
        // Bytes 9 to 12 hold the suite and the first bytes of the memory: the fourth group of three bytes, 4 characters.
        let body = pem.find('\n').unwrap() + 1;
        let costly = format!("{}Af//{}", &pem[..body + 12], &pem[body + 16..]);
        replace(&path, costly.as_bytes()).unwrap();
        let failure = keyring("correct horse").stored(&path).err().unwrap();
        assert_eq!(failure.code, Code::LimitExceeded, "{failure}");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = plain_keys();
        let path = home::key_path(dir.path(), KeyRole::Deploy);
        durable::write(&path, key(KeyRole::Deploy).to_pem().as_bytes(), 0o644).unwrap();
        let refused = Keyring::default().stored(&path).err().unwrap();
        assert_eq!(refused.code, Code::ConfigRefused);
    }
}
