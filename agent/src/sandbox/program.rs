//! What has to be allowed so that a process can start its own program again.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// This program, whatever has become of its file since.
const SELF: &str = "/proc/self/exe";
/// Program headers that are looked at.
const HEADERS: u16 = 64;
/// Longest path of a loader, bytes.
const PATH_BYTES: usize = 4096;
/// `p_type` of the loader's path (elf(5)).
const PT_INTERP: u32 = 3;

/// This program and, where it is not static, the folder of its loader: an update of the C library brings a new file there while this
/// process runs.
pub(super) fn own() -> Vec<PathBuf> {
    let folder = File::open(SELF)
        .ok()
        .and_then(|file| loader(&file))
        .and_then(|path| fs::canonicalize(path).ok())
        .and_then(|path| path.parent().map(Path::to_owned));
    [Some(SELF.into()), folder].into_iter().flatten().collect()
}

/// The loader that the kernel starts for this program; `None` for a static one. 64 bit, little end first, as all that run here.
fn loader(file: &File) -> Option<PathBuf> {
    let word = |at: u64| bytes(file, at).map(u64::from_le_bytes);
    let half = |at: u64| bytes(file, at).map(u16::from_le_bytes);
    // e_ident: magic, ELFCLASS64, ELFDATA2LSB.
    if bytes::<6>(file, 0)? != *b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) = (word(32)?, half(54)?, half(56)?);
    for number in 0..count.min(HEADERS) {
        let header = table.checked_add(u64::from(size) * u64::from(number))?;
        if bytes(file, header).map(u32::from_le_bytes)? != PT_INTERP {
            continue;
        }
        let (offset, length) = (word(header.checked_add(8)?)?, word(header.checked_add(32)?)?);
        let length = usize::try_from(length).ok().filter(|n| *n <= PATH_BYTES)?;
        let mut path = vec![0; length];
        file.read_exact_at(&mut path, offset).ok()?;
        let path = path.split(|byte| *byte == 0).next()?;
        return Some(OsStr::from_bytes(path).into());
    }
    None
}

fn bytes<const N: usize>(file: &File, at: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test of this crate is linked as the crate's programs are.
    #[test]
    #[cfg(target_env = "gnu")]
    fn the_loader_of_this_program_is_found() {
        let path = loader(&File::open(SELF).unwrap()).unwrap();
        assert!(path.is_file(), "{}", path.display());
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let real = fs::canonicalize(&path).unwrap();
        assert!(maps.contains(real.to_str().unwrap()), "{}", real.display());
        assert_eq!(own().len(), 2);
    }

    #[test]
    fn what_is_no_program_has_no_loader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for text in [&b""[..], b"\x7fELF\x02\x01", b"#!/bin/sh\n"] {
            crate::durable::write_lossy(&path, text, 0o600).unwrap();
            assert_eq!(loader(&File::open(&path).unwrap()), None);
        }
    }
}
