//! Every kind of signed document has one spelling: what is written is read as the same, and what is read is what would be written,
//! whatever somebody changed in between.

mod drawn;
mod items;

use ensign_bundle::codec;
use ensign_bundle::each_document;
use ensign_bundle::plan::evidence::Gate;
use ensign_bundle::statement::Document;
use proptest::prelude::*;

use drawn::{Draw, Drawn};

/// Optional fields of all kinds: what stands there may be left out, so it may not stand there and say nothing.
const OPTIONAL: &[&str] = &[
    "claims",
    "downgrade",
    "exclude",
    "ext",
    "health",
    "offline",
    "patch_index",
    "promote",
    "protected",
    "reason",
    "reverts",
    "time_reset",
    "windows",
    "yanked",
];

/// Changes tried of each document.
const TRIED: usize = 40;

fn one_spelling<T>(what: &str, items: usize, seed: u64) -> Result<(), TestCaseError>
where
    T: Drawn + PartialEq + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let mut draw = Draw::new(seed);
    let body: T = draw.draw();
    let bytes = codec::encode(&body).unwrap();
    let read = codec::decode::<T>(&bytes, items);
    prop_assert_eq!(read.as_ref(), Ok(&body), "{}", what);
    let again = codec::encode(&read.unwrap());
    prop_assert_eq!(again.as_ref(), Ok(&bytes), "{}", what);
    prop_assert!(codec::decode_exact::<T>(&bytes, items).is_ok(), "{}", what);
    let others = items::others(&bytes, OPTIONAL, &mut draw);
    for other in others.iter().step_by(1 + others.len() / TRIED) {
        if let Ok(read) = codec::decode_exact::<T>(other, items) {
            let written = codec::encode(&read).unwrap();
            prop_assert_eq!(&written, other, "{}: {:?}", what, read);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_document_has_one_spelling(seed in any::<u64>()) {
        macro_rules! all {
            ($($document:ty),* $(,)?) => {
                $(one_spelling::<$document>(<$document>::KIND, <$document>::MAX_ITEMS, seed)?;)*
            };
        }
        each_document!(all);
        one_spelling::<Gate>("gate", 100_000, seed)?;
    }
}
