//! The system's random source: read here and nowhere else.

use ensign_bundle::reason::Code;
use ensign_crypto::SecretKey;

use crate::failure::{Failure, Result};

/// `N` random bytes.
pub fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|e| Failure::new(Code::Failed, format!("the system gives no random numbers: {e}")))?;
    Ok(bytes)
}

/// A new Ed25519 key.
pub fn key() -> Result<SecretKey> {
    Ok(SecretKey::from_seed(bytes()?))
}
