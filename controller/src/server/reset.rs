//! What lets a controller that was killed tell its devices so: stateless resets (RFC 9000 §10.3) that a new process can still make.
//!
//! A device that talks to a controller which no longer knows its connection gets a reset and connects again at once, instead of
//! waiting for its idle timeout. The token must be the one that the old process announced, so its key comes from the controller's own.

use std::sync::Arc;

use ensign_bundle::digest::Digest;
use ensign_crypto::SecretKey;
use quinn::EndpointConfig;
use quinn_proto::HashedConnectionIdGenerator;
use quinn_proto::crypto::{CryptoError, HmacKey};

/// Block of SHA-256, bytes (RFC 2104 §2).
const BLOCK: usize = 64;
const INNER: u8 = 0x36;
const OUTER: u8 = 0x5c;
/// Keys for one purpose each, from one seed.
const RESET: &[u8] = b"ensign/v1 stateless reset";
const CONNECTION_ID: &[u8] = b"ensign/v1 connection id";

/// Connection ids and reset tokens that are the same after a restart with the same key.
pub(super) fn endpoint_config(key: &SecretKey) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(ResetKey(derive(key, RESET))));
    let ids = derive(key, CONNECTION_ID)
        .0
        .first_chunk()
        .map_or(0, |first| u64::from_be_bytes(*first));
    // A reset is only sent for an id that this controller could have made.
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config
}

fn derive(key: &SecretKey, purpose: &[u8]) -> Digest {
    ResetKey(Digest(*key.seed())).hmac(purpose)
}

/// HMAC-SHA-256 (RFC 2104) under a 32-byte key.
struct ResetKey(Digest);

impl ResetKey {
    fn hmac(&self, data: &[u8]) -> Digest {
        let pad = |byte: u8| {
            let mut block = [byte; BLOCK];
            block.iter_mut().zip(self.0.0).for_each(|(b, k)| *b ^= k);
            block
        };
        let inner = Digest::of(&[&pad(INNER), data].concat());
        Digest::of(&[&pad(OUTER)[..], &inner.0].concat())
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let tag = self.hmac(data);
        signature_out.iter_mut().zip(tag.0).for_each(|(out, byte)| *out = byte);
    }

    fn signature_len(&self) -> usize {
        Digest::BYTES
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let tag = self.hmac(data);
        let differ = signature.iter().zip(tag.0).fold(0, |acc, (a, b)| acc | (a ^ b));
        if signature.len() == Digest::BYTES && differ == 0 {
            Ok(())
        } else {
            Err(CryptoError)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231 §4.3, its key filled up to 32 bytes with the zeros that HMAC pads it with.
    #[test]
    fn hmac_is_that_of_the_rfc() {
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let key = ResetKey(Digest(key));
        let tag = key.hmac(b"what do ya want for nothing?");
        assert_eq!(
            tag.to_string(),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let mut signature = [0; 32];
        key.sign(b"x", &mut signature);
        assert!(key.verify(b"x", &signature).is_ok());
        assert!(key.verify(b"y", &signature).is_err());
        assert!(key.verify(b"x", &signature[..16]).is_err());
    }

    #[test]
    fn each_purpose_and_each_controller_has_its_own_key() {
        let (one, two) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
        assert_eq!(derive(&one, RESET), derive(&one, RESET));
        assert_ne!(derive(&one, RESET), derive(&two, RESET));
        assert_ne!(derive(&one, RESET), derive(&one, CONNECTION_ID));
    }
}
