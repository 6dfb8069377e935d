//! A private key in a file, encrypted under a passphrase: Argon2id (RFC 9106) makes a key of it, XChaCha20-Poly1305
//! (draft-irtf-cfrg-xchacha-03 §2) encrypts the seed. `docs/formats.md` has the bytes.
//!
//! Pure: salt and nonce are arguments and must come from the system's random source, new for each file.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305};
use zeroize::Zeroizing;

use crate::key::{KEY_BYTES, KeyError, PublicKey, SecretKey};

/// Bytes of a salt (RFC 9106 §3.1 recommends 16).
pub const SALT_BYTES: usize = 16;
/// Bytes of a nonce of XChaCha20-Poly1305.
pub const NONCE_BYTES: usize = 24;
/// Most memory that reading a file may ask for, KiB: 1 GiB. A foreign file does not choose what this machine spends.
pub const MEMORY_KIB_MAX: u32 = 1 << 20;
/// Most passes that reading a file may ask for.
pub const PASSES_MAX: u32 = 16;
/// Most lanes that reading a file may ask for.
pub const LANES_MAX: u32 = 16;

const MAGIC: &[u8; 8] = b"ENSIGNSK";
/// The format that is written and the only one that is read.
const FORMAT: u8 = 1;
/// Argon2id, version 0x13, and XChaCha20-Poly1305.
const SUITE: u8 = 1;
/// Bytes before the ciphertext: magic, format, suite, three costs, salt, nonce, public key.
const HEADER_BYTES: usize = 8 + 1 + 1 + 3 * 4 + SALT_BYTES + NONCE_BYTES + KEY_BYTES;
/// The seed and a tag of 16 bytes.
const BOXED_BYTES: usize = KEY_BYTES + 16;
const BEGIN: &str = "-----BEGIN ENSIGN ENCRYPTED PRIVATE KEY-----";
const END: &str = "-----END ENSIGN ENCRYPTED PRIVATE KEY-----";
/// Longest line of base64 (RFC 7468 §2).
const LINE: usize = 64;

/// What each guess of the passphrase costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// KiB, at least 8 for each lane, at most [`MEMORY_KIB_MAX`].
    pub memory_kib: u32,
    /// 1 to [`PASSES_MAX`].
    pub passes: u32,
    /// 1 to [`LANES_MAX`].
    pub lanes: u32,
}

impl Cost {
    /// The second recommended option of RFC 9106 §4: 64 MiB, 3 passes, 4 lanes.
    pub const RECOMMENDED: Self = Self {
        memory_kib: 64 << 10,
        passes: 3,
        lanes: 4,
    };

    fn check(self) -> Result<Self, SealError> {
        for (what, found, least, most) in [
            ("passes", self.passes, 1, PASSES_MAX),
            ("lanes", self.lanes, 1, LANES_MAX),
        ] {
            if !(least..=most).contains(&found) {
                return Err(SealError::Cost { what, found, most });
            }
        }
        let least = self.lanes * 8;
        if !(least..=MEMORY_KIB_MAX).contains(&self.memory_kib) {
            return Err(SealError::Cost {
                what: "KiB of memory",
                found: self.memory_kib,
                most: MEMORY_KIB_MAX,
            });
        }
        Ok(self)
    }
}

/// An encrypted private key. Its public half can be read by everyone, and is authenticated when the key is opened.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedKey {
    cost: Cost,
    salt: [u8; SALT_BYTES],
    nonce: [u8; NONCE_BYTES],
    public: PublicKey,
    boxed: [u8; BOXED_BYTES],
}

/// Why an encrypted key is not made, not read or not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not the PEM that [`SealedKey::to_pem`] writes.
    #[error("not an encrypted Ensign key in PEM form")]
    Pem,
    /// Of a format or suite that this version does not know.
    #[error("the encrypted key has format {format} and suite {suite}, this program knows {FORMAT} and {SUITE}")]
    Version {
        /// Of the layout.
        format: u8,
        /// Of the algorithms.
        suite: u8,
    },
    /// Asks for more, or less, than what reading a file may cost.
    #[error("the encrypted key asks for {found} {what}, at most {most} are allowed")]
    Cost {
        /// Passes, lanes or KiB of memory.
        what: &'static str,
        /// What the file says.
        found: u32,
        /// The limit.
        most: u32,
    },
    /// The public half in the header is no key.
    #[error("the public half of the encrypted key: {0}")]
    Public(KeyError),
    /// Another passphrase than the one it was encrypted under, or a file that was changed: nobody can tell the two apart.
    #[error("the passphrase is wrong, or the file was changed")]
    Passphrase,
    /// The algorithms refuse what was given to them.
    #[error("the key cannot be derived from the passphrase: {0}")]
    Derive(String),
}

impl SealedKey {
    /// Encrypts `key`. `salt` and `nonce` are random and used once.
    pub fn seal(
        key: &SecretKey,
        passphrase: &[u8],
        cost: Cost,
        salt: [u8; SALT_BYTES],
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Self, SealError> {
        let mut sealed = Self {
            cost: cost.check()?,
            salt,
            nonce,
            public: key.public(),
            boxed: [0; BOXED_BYTES],
        };
        let cipher = sealed.cipher(passphrase)?;
        let seed = key.seed();
        let payload = Payload {
            msg: seed.as_slice(),
            aad: &sealed.header(),
        };
        let boxed = cipher
            .encrypt(&nonce.into(), payload)
            .map_err(|e| SealError::Derive(e.to_string()))?;
        sealed.boxed = boxed
            .try_into()
            .map_err(|_| SealError::Derive("a ciphertext of another length".to_owned()))?;
        Ok(sealed)
    }

    /// Decrypts it. Costs what the header says: [`Cost`].
    pub fn open(&self, passphrase: &[u8]) -> Result<SecretKey, SealError> {
        let cipher = self.cipher(passphrase)?;
        let payload = Payload {
            msg: &self.boxed,
            aad: &self.header(),
        };
        let seed = cipher
            .decrypt(&self.nonce.into(), payload)
            .map(Zeroizing::new)
            .map_err(|_| SealError::Passphrase)?;
        let seed: Zeroizing<[u8; KEY_BYTES]> =
            Zeroizing::new(seed.as_slice().try_into().map_err(|_| SealError::Passphrase)?);
        let key = SecretKey::from_seed(*seed);
        // Whoever knows the passphrase could write a header with another key's public half.
        if key.public() != self.public {
            return Err(SealError::Passphrase);
        }
        Ok(key)
    }

    /// The public half, as the header has it.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// What each guess costs.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Whether a text claims to be an encrypted key.
    pub fn is_sealed(pem: &str) -> bool {
        pem.trim_start().starts_with(BEGIN)
    }

    /// The file: PEM (RFC 7468) with a label of its own and a final newline.
    pub fn to_pem(&self) -> String {
        let body = STANDARD.encode([&self.header()[..], &self.boxed[..]].concat());
        let mut out = format!("{BEGIN}\n");
        for line in body.as_bytes().chunks(LINE) {
            out.extend(line.iter().map(|b| char::from(*b)));
            out.push('\n');
        }
        out + END + "\n"
    }

    /// Reads what [`Self::to_pem`] writes; white space around lines is allowed.
    pub fn from_pem(pem: &str) -> Result<Self, SealError> {
        let body = pem.trim().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
        let body: String = body.ok_or(SealError::Pem)?.split_whitespace().collect();
        let bytes = STANDARD.decode(body).map_err(|_| SealError::Pem)?;
        let rest = bytes.strip_prefix(MAGIC).ok_or(SealError::Pem)?;
        let (&[format, suite], rest) = rest.split_first_chunk::<2>().ok_or(SealError::Pem)?;
        if (format, suite) != (FORMAT, SUITE) {
            return Err(SealError::Version { format, suite });
        }
        if bytes.len() != HEADER_BYTES + BOXED_BYTES {
            return Err(SealError::Pem);
        }
        let (memory_kib, rest) = number(rest)?;
        let (passes, rest) = number(rest)?;
        let (lanes, rest) = number(rest)?;
        let cost = Cost {
            memory_kib,
            passes,
            lanes,
        };
        let (salt, rest) = rest.split_first_chunk().ok_or(SealError::Pem)?;
        let (nonce, rest) = rest.split_first_chunk().ok_or(SealError::Pem)?;
        let (public, rest) = rest.split_first_chunk::<KEY_BYTES>().ok_or(SealError::Pem)?;
        Ok(Self {
            cost: cost.check()?,
            salt: *salt,
            nonce: *nonce,
            public: PublicKey::from_bytes(public).map_err(SealError::Public)?,
            boxed: rest.try_into().map_err(|_| SealError::Pem)?,
        })
    }

    /// Everything before the ciphertext: authenticated with it.
    fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let parts = [
            &MAGIC[..],
            &[FORMAT, SUITE],
            &self.cost.memory_kib.to_be_bytes(),
            &self.cost.passes.to_be_bytes(),
            &self.cost.lanes.to_be_bytes(),
            &self.salt,
            &self.nonce,
            self.public.as_bytes(),
        ];
        let bytes = parts.into_iter().flatten();
        header.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        header
    }

    fn cipher(&self, passphrase: &[u8]) -> Result<XChaCha20Poly1305, SealError> {
        let derive = |e: argon2::Error| SealError::Derive(e.to_string());
        let Cost {
            memory_kib,
            passes,
            lanes,
        } = self.cost;
        let params = Params::new(memory_kib, passes, lanes, Some(KEY_BYTES)).map_err(derive)?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase, &self.salt, key.as_mut_slice())
            .map_err(derive)?;
        XChaCha20Poly1305::new_from_slice(key.as_slice()).map_err(|e| SealError::Derive(e.to_string()))
    }
}

fn number(bytes: &[u8]) -> Result<(u32, &[u8]), SealError> {
    let (number, rest) = bytes.split_first_chunk().ok_or(SealError::Pem)?;
    Ok((u32::from_be_bytes(*number), rest))
}

impl fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedKey")
            .field("public", &self.public)
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}
