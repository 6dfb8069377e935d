//! Encrypted key files: the golden bytes, and everything that is refused.
#![cfg(feature = "sealed")]
#![expect(clippy::unwrap_used, reason = "constants of the tests")]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ensign_crypto::sealed::{Cost, LANES_MAX, MEMORY_KIB_MAX, PASSES_MAX, SealError, SealedKey};
use ensign_crypto::{KeyError, SecretKey};

/// Cheap: tests guess nothing.
const COST: Cost = Cost {
    memory_kib: 64,
    passes: 2,
    lanes: 2,
};
const PASSPHRASE: &[u8] = "correct horse ☂".as_bytes();
const GOLDEN: &str = include_str!("../testdata/sealed-key-v1.pem");

fn key() -> SecretKey {
    SecretKey::from_seed([7; 32])
}

fn sealed() -> SealedKey {
    SealedKey::seal(&key(), PASSPHRASE, COST, [1; 16], [2; 24]).unwrap()
}

/// The bytes inside, changed and wrapped again.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let pem = sealed().to_pem();
    let body: String = pem.lines().filter(|line| !line.starts_with("--")).collect();
    let mut bytes = STANDARD.decode(body).unwrap();
    change(&mut bytes);
    let (begin, end) = (pem.lines().next().unwrap(), pem.lines().last().unwrap());
    format!("{begin}\n{}\n{end}\n", STANDARD.encode(bytes))
}

#[test]
fn the_golden_file_opens_and_is_written_again() {
    assert_eq!(sealed().to_pem(), GOLDEN);
    let read = SealedKey::from_pem(GOLDEN).unwrap();
    assert_eq!((read.public(), read.cost()), (key().public(), COST));
    assert_eq!(read.open(PASSPHRASE).unwrap().seed(), key().seed());
}

#[test]
fn another_passphrase_opens_nothing() {
    for wrong in ["", "correct horse", "Correct horse ☂", "correct horse ☂ "] {
        assert_eq!(
            sealed().open(wrong.as_bytes()).unwrap_err(),
            SealError::Passphrase,
            "{wrong}"
        );
    }
}

#[test]
fn each_byte_counts() {
    let length = STANDARD
        .decode(GOLDEN.lines().filter(|l| !l.starts_with("--")).collect::<String>())
        .unwrap()
        .len();
    for at in 0..length {
        let pem = changed(|bytes| bytes[at] ^= 1);
        let opened = SealedKey::from_pem(&pem).and_then(|sealed| sealed.open(PASSPHRASE));
        assert!(opened.is_err(), "byte {at}");
    }
}

#[test]
fn a_file_does_not_choose_what_reading_it_costs() {
    let with = |at: usize, value: u32| changed(|bytes| bytes[at..at + 4].copy_from_slice(&value.to_be_bytes()));
    for (at, most) in [(10, MEMORY_KIB_MAX), (14, PASSES_MAX), (18, LANES_MAX)] {
        for found in [most + 1, u32::MAX, 0] {
            let error = SealedKey::from_pem(&with(at, found)).unwrap_err();
            assert!(
                matches!(error, SealError::Cost { found: f, most: m, .. } if f == found && m == most),
                "{error}"
            );
        }
    }
    let costly = Cost {
        passes: PASSES_MAX + 1,
        ..COST
    };
    assert!(
        SealedKey::seal(&key(), PASSPHRASE, costly, [1; 16], [2; 24]).is_err(),
        "nor is such a file made"
    );
}

#[test]
fn what_is_not_of_the_format_is_refused() {
    let version = SealedKey::from_pem(&changed(|bytes| bytes[8] = 2)).unwrap_err();
    assert_eq!(version, SealError::Version { format: 2, suite: 1 });
    let suite = SealedKey::from_pem(&changed(|bytes| bytes[9] = 9)).unwrap_err();
    assert_eq!(suite, SealError::Version { format: 1, suite: 9 });
    let weak = SealedKey::from_pem(&changed(|bytes| {
        bytes[62..94].fill(0);
        bytes[62] = 1;
    }));
    assert_eq!(weak.unwrap_err(), SealError::Public(KeyError::Weak));
    for pem in [
        String::new(),
        key().to_pem().to_string(),
        GOLDEN.replace("END", "ENDS"),
        changed(|bytes| bytes.truncate(100)),
        changed(|bytes| bytes.push(0)),
        changed(|bytes| bytes[0] = b'x'),
        GOLDEN.replacen('A', "!", 1),
    ] {
        assert_eq!(SealedKey::from_pem(&pem).unwrap_err(), SealError::Pem, "{pem}");
    }
    assert!(SealedKey::is_sealed(GOLDEN) && !SealedKey::is_sealed(&key().to_pem()));
}

#[test]
fn nothing_secret_is_shown() {
    let shown = format!("{:?}", sealed());
    let seed = hex::encode(key().seed().as_slice());
    assert!(
        shown.contains("public") && !shown.contains(&seed) && !shown.contains("boxed"),
        "{shown}"
    );
    assert!(!GOLDEN.contains(&STANDARD.encode(key().seed().as_slice())[..40]));
}
