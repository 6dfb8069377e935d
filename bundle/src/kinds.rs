//! The one list of the kinds of signed documents.

/// Hands the types of all signed documents to a macro: `each_document!(wanted)` is `wanted! { Root, Targets, ... }`, with their paths. What
/// must hold for each kind (golden bytes, fuzzing, the reader in another language) is made from it. A kind that is missing here does not
/// compile.
#[macro_export]
macro_rules! each_document {
    ($wanted:ident) => {
        $wanted! {
            $crate::trust::roles::Root,
            $crate::trust::roles::Targets,
            $crate::trust::roles::Release,
            $crate::trust::roles::Snapshot,
            $crate::trust::roles::Timestamp,
            $crate::plan::statements::Plan,
            $crate::plan::statements::Cancel,
            $crate::plan::statements::Grant,
            $crate::plan::statements::Hold,
            $crate::plan::statements::Promote,
            $crate::plan::evidence::Binding,
            $crate::plan::evidence::Receipt,
            $crate::plan::evidence::Lease,
            $crate::plan::evidence::TimeAttestation,
            $crate::plan::rotation::Rotation,
        }
    };
}

/// Only what stands in the list can be a [`crate::statement::Document`].
pub trait Known {}

macro_rules! known {
    ($($document:ty),* $(,)?) => { $(impl Known for $document {})* };
}
each_document!(known);
