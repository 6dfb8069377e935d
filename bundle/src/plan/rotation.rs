//! A device's next TLS key: named by its old one, by itself and by the receipt key. The device's id stays that of its first key.
//!
//! Only the controller follows the changes, to know who connects. Nothing that operators or devices sign or accept names a TLS key but the
//! first one, whose digest is the device's id: plans, gates and receipts are bound to id and receipt key.

use ensign_crypto::PublicKey;
use serde::{Deserialize, Serialize};

use super::statements::{check_format, small_statement};
use crate::digest::{DeviceId, FleetId};
use crate::limits;
use crate::reason::Refusal;
use crate::refuse;
use crate::statement::{self, Document};
use crate::trust::roles::FORMAT;

/// Signatures of a rotation: the old key, the new one, the receipt key.
const KEYS: u32 = 3;

/// From one TLS key of a device to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    pub format: u16,
    pub issued: u64,
    pub device: DeviceId,
    pub old: PublicKey,
    pub new: PublicKey,
    pub receipt_key: PublicKey,
}

small_statement!(Rotation, "rotation");

impl Rotation {
    /// Not signed yet; `issued` is in unix seconds.
    pub fn new(issued: u64, device: DeviceId, old: PublicKey, new: PublicKey, receipt_key: PublicKey) -> Self {
        Self {
            format: FORMAT,
            issued,
            device,
            old,
            new,
            receipt_key,
        }
    }

    /// Refuses a statement that is not about this device with these keys, or that one of its three keys did not sign. A thief of the TLS
    /// key alone has not the receipt key.
    pub fn verify(
        bytes: &[u8],
        fleet: &FleetId,
        device: &DeviceId,
        old: &PublicKey,
        receipt_key: &PublicKey,
    ) -> Result<Self, Refusal> {
        let opened = statement::open_unverified::<Self>(bytes)?;
        let body = opened.body;
        if body.device != *device || body.old != *old || body.receipt_key != *receipt_key {
            return refuse!(
                IdentityChanged,
                "a change of device {} from key {}, this is device {device} with key {}",
                body.device,
                body.old.id(),
                old.id()
            );
        }
        let keys = [body.old, body.new, body.receipt_key];
        statement::count(&opened.envelope, &keys, KEYS, fleet)?;
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use ensign_crypto::SecretKey;

    use super::*;
    use crate::reason::Code;

    const FLEET: FleetId = FleetId([7; 32]);

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    fn signed(old: u8, new: u8, by: &[u8]) -> Vec<u8> {
        let device = DeviceId::from(key(1).public().id());
        let body = Rotation::new(5, device, key(old).public(), key(new).public(), key(9).public());
        let keys: Vec<_> = by.iter().map(|seed| key(*seed)).collect();
        statement::sign(&body, &keys.iter().collect::<Vec<_>>(), &FLEET).unwrap()
    }

    fn verify(statement: &[u8], old: u8) -> Result<PublicKey, Refusal> {
        let device = DeviceId::from(key(1).public().id());
        let rotation = Rotation::verify(statement, &FLEET, &device, &key(old).public(), &key(9).public())?;
        Ok(rotation.new)
    }

    #[test]
    fn a_change_starts_from_the_key_of_now() {
        assert_eq!(verify(&signed(1, 2, &[1, 2, 9]), 1).unwrap(), key(2).public());
        let second = signed(2, 3, &[2, 3, 9]);
        assert_eq!(verify(&second, 2).unwrap(), key(3).public());
        assert_eq!(verify(&second, 1).unwrap_err().code, Code::IdentityChanged);
    }

    #[test]
    fn each_of_the_three_keys_must_sign() {
        for by in [&[1, 2][..], &[1, 9], &[2, 9], &[1, 2, 8]] {
            assert_eq!(
                verify(&signed(1, 2, by), 1).unwrap_err().code,
                Code::ThresholdNotMet,
                "{by:?}"
            );
        }
        assert!(verify(&signed(1, 1, &[1, 9]), 1).is_err(), "the same key is no change");
    }

    /// Everything signed as it says: what is wrong is whom it is about.
    #[test]
    fn a_thief_of_the_tls_key_has_not_the_receipt_key_and_another_device_has_its_own() {
        let device = DeviceId::from(key(1).public().id());
        let verified = |device_named: DeviceId, old: u8, receipt: u8| {
            let body = Rotation::new(
                5,
                device_named,
                key(old).public(),
                key(2).public(),
                key(receipt).public(),
            );
            let by = [key(old), key(2), key(receipt)];
            let bytes = statement::sign(&body, &by.each_ref(), &FLEET).unwrap();
            Rotation::verify(&bytes, &FLEET, &device, &key(1).public(), &key(9).public()).map_err(|r| r.code)
        };
        let changed = Err(Code::IdentityChanged);
        assert!(verified(device, 1, 9).is_ok());
        assert_eq!(verified(device, 1, 8), changed, "the thief's own receipt key");
        assert_eq!(verified(device, 3, 9), changed, "another old key");
        let other = DeviceId::from(key(4).public().id());
        assert_eq!(verified(other, 1, 9), changed, "another device's name");
        // For another fleet, all three keys signed nothing.
        let bytes = signed(1, 2, &[1, 2, 9]);
        let elsewhere = Rotation::verify(&bytes, &FleetId([8; 32]), &device, &key(1).public(), &key(9).public());
        assert_eq!(elsewhere.unwrap_err().code, Code::ThresholdNotMet);
    }
}
