//! The real program on a real disk: the order of its system calls is the one that was recorded.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use ensign_agent::paths::Paths;

use crate::device::Device;
use crate::image::Thing;
use crate::scenario::{self, Scenario};
use crate::tape::{Op, Recording};

const CALLS: &str = "fsync,fdatasync,syncfs,rename,renameat,renameat2,symlink,symlinkat,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,sendmsg";

/// What the machine asked for, one line a call.
pub(crate) fn asked(recording: &Recording) -> Vec<String> {
    let mut known = scenario_nodes(recording);
    let mut lines = Vec::new();
    for step in &recording.steps {
        let call = match &step.op {
            Op::Enter { node, .. } => match &recording.base.0[*node] {
                Thing::Link { .. } => "symlink",
                Thing::Dir { .. } => "mkdir",
                Thing::File { .. } if known.insert(*node) => continue,
                Thing::File { .. } => "link",
            },
            Op::Leave { .. } => "unlink",
            Op::Move { .. } => "rename",
            Op::Sync(_) => "fsync",
            Op::SyncData(_) => "fdatasync",
            Op::SyncAll => "syncfs",
            Op::Told(bytes) => {
                lines.push(format!("told {} bytes", bytes.len()));
                continue;
            }
            Op::Write { .. } | Op::Whole { .. } | Op::Resize { .. } | Op::Mode { .. } | Op::Acknowledged => continue,
        };
        lines.push(format!("{call} {}", step.path));
    }
    lines
}

/// Files that were there at the beginning: a name that one gets is a second one.
fn scenario_nodes(recording: &Recording) -> std::collections::HashSet<usize> {
    let names = recording.base.0.iter().filter_map(|thing| match thing {
        Thing::Dir { names, .. } => Some(names.values().copied()),
        _ => None,
    });
    names.flatten().collect()
}

/// What the real program did; `without` is a call that the kernel only pretends to carry out.
pub(crate) fn done(scenario: &Scenario, program: &Path, without: Option<&str>) -> Result<Vec<String>> {
    let (dir, out) = (scenario::place(), tempfile::NamedTempFile::new()?);
    scenario.base.make(dir.path());
    let root = dir.path().canonicalize()?;
    let mut command = Command::new("strace");
    command
        .args(["-f", "-yy", "-qq", "-s", "0", "-e", &format!("trace={CALLS}"), "-o"])
        .arg(out.path());
    if let Some(call) = without {
        command.args(["-e", &format!("inject={call}:retval=0")]);
    }
    command.arg(program).arg("--root").arg(&root).env("ENSIGN_LOG", "error");
    let mut device = Device::spawn(Paths::new(&root), &mut command)?;
    (scenario.script)(&mut device)?;
    device.end()?;
    read(
        &std::fs::read_to_string(out.path())?,
        root.to_str().context("a plain path")?,
    )
}

/// The calls that succeeded, in the order in which they ended.
fn read(trace: &str, root: &str) -> Result<Vec<String>> {
    let mut begun: HashMap<&str, String> = HashMap::new();
    let mut lines = Vec::new();
    for line in trace.lines() {
        let (pid, rest) = line.split_once(' ').context("a line begins with a process")?;
        let rest = rest.trim_start();
        let whole = if let Some(half) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(pid, half.to_owned());
            continue;
        } else if rest.starts_with("<... ") {
            let (_, end) = rest.split_once("resumed>").context("a call goes on")?;
            begun.remove(pid).unwrap_or_default() + end
        } else {
            rest.to_owned()
        };
        lines.extend(call(&whole, root));
    }
    Ok(lines)
}

/// One call; `None` where it failed, was pretended, or is about sockets that are no news to anybody outside.
fn call(line: &str, root: &str) -> Option<String> {
    let (name, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    if result.starts_with('-') || result.contains("INJECTED") {
        return None;
    }
    let between = |open: char, close: char| -> Vec<String> {
        let pieces = arguments.split(open).skip(1);
        pieces
            .filter_map(|piece| Some(piece.split_once(close)?.0.to_owned()))
            .collect()
    };
    let dirs = between('<', '>');
    let names: Vec<String> = arguments.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    if name == "sendmsg" {
        let outside = arguments.contains("/applier.sock\"") || arguments.contains("/admin.sock\"");
        return outside.then(|| format!("told {} bytes", result.trim()));
    }
    let (word, path) = match name {
        "fsync" | "fdatasync" | "syncfs" => (name, dirs.first()?.clone()),
        "mkdirat" => ("mkdir", format!("{}/{}", dirs.first()?, names.first()?)),
        "unlinkat" => ("unlink", format!("{}/{}", dirs.first()?, names.first()?)),
        "symlinkat" => ("symlink", format!("{}/{}", dirs.first()?, names.get(1)?)),
        "renameat2" => ("rename", format!("{}/{}", dirs.get(1)?, names.get(1)?)),
        "linkat" => ("link", format!("{}/{}", dirs.get(1)?, names.get(1)?)),
        // Nobody asks for these: they would be changes past the interface.
        other => (other, names.last()?.clone()),
    };
    let below = path.strip_prefix(root)?.trim_start_matches('/').to_owned();
    (!below.starts_with("run/")).then(|| format!("{word} {below}"))
}
