//! Where there is no seccomp filter: architectures that the filters are not written for.

const WHY: &str = "seccomp: no filter for this architecture";

pub(super) enum Programs {
    Own,
    None,
}

pub(super) const LOCAL: [i32; 0] = [];
pub(super) const INTERNET: [i32; 0] = [];

pub(super) fn only_unpacking() -> Result<(), String> {
    Err(WHY.to_owned())
}

pub(super) fn refuse(_families: &[i32], _programs: Programs) -> Result<(), String> {
    Err(WHY.to_owned())
}
