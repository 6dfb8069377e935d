//! Trees as they are in the world, through build, sign, publish and rollout: what arrives is what was built, or it is refused before
//! anybody signs it. And a large file over a bad line, with processes that die in the middle of it.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ensign_bundle::reason::Code;
use ensign_tests::harness::relay::{Line, Relay};
use ensign_tests::harness::{ALL_AT_ONCE, Fleet, Profile, build, now, put};
use ensign_tests::random::Random;

/// Bytes of the large file; half of it compresses.
const LARGE: usize = 200 << 20;
const PIECE: usize = 1 << 20;

/// Everything that a release may carry.
fn odd(root: &Path) -> Result<()> {
    for number in 0..3000 {
        let folder = format!("many/{:02}/{}", number % 50, number % 7);
        put(
            &root.join(folder).join(format!("{number}.txt")),
            format!("{number}\n"),
            0o644,
        )?;
    }
    let mut deep = root.to_owned();
    for level in 0..32 {
        deep.push(format!("d{level}"));
    }
    put(&deep.join("bottom"), "deep", 0o644)?;
    put(&root.join("empty"), "", 0o644)?;
    put(&root.join("empty and executable"), "", 0o755)?;
    fs::create_dir_all(root.join("nothing/in/here"))?;
    for name in [
        "-rf",
        "--help",
        " leading and trailing ",
        "a\u{301} \u{e1} ☂ 漢字 👩‍🚀",
        "%s$HOME`id`\\n'\"*?[",
        "...",
        "con:",
        "~",
    ] {
        put(&root.join("names").join(name), name, 0o644)?;
    }
    put(&root.join("names").join("n".repeat(255)), "longest", 0o644)?;
    put(&root.join("names").join("é".repeat(127)), "254 bytes", 0o644)?;
    put(&root.join("bin/tool"), "#!/bin/sh\n", 0o755)?;
    put(&root.join("bin/odd mode"), "x", 0o700)?;
    put(&root.join("bin/read only"), "x", 0o444)?;
    symlink("bin/tool", root.join("link"))?;
    symlink("../bin/tool", root.join("names/up"))?;
    symlink("nowhere/at all", root.join("dangling"))?;
    symlink("bin", root.join("folder link"))?;
    symlink("link", root.join("link to a link"))?;
    Ok(())
}

/// `diff -r` without following links, and a listing of every name with kind, target and executable bit.
fn same(left: &Path, right: &Path) -> Result<()> {
    // What is live is reached through links; the trees themselves are compared without following any.
    let right = &fs::canonicalize(right)?;
    let diff = Command::new("diff")
        .args(["-r", "--no-dereference", "--"])
        .arg(left)
        .arg(right)
        .output()?;
    let said = [diff.stdout, diff.stderr].concat();
    ensure!(
        diff.status.success(),
        "{}: {}",
        diff.status,
        String::from_utf8_lossy(&said)
    );
    let list = |root: &Path| -> Result<Vec<Vec<u8>>> {
        // %y kind, %l target; an executable is shown as such, whoever may execute it.
        let out = Command::new("find")
            .args([
                ".",
                "-mindepth",
                "1",
                "(",
                "-type",
                "f",
                "-perm",
                "/111",
                "-printf",
                "%P x\\0",
                "-o",
                "-printf",
                "%P %y %l\\0",
                ")",
            ])
            .current_dir(root)
            .output()?;
        let mut lines: Vec<Vec<u8>> = out.stdout.split(|b| *b == 0).map(<[u8]>::to_vec).collect();
        lines.sort();
        Ok(lines)
    };
    let (a, b) = (list(left)?, list(right)?);
    let differs = a.iter().zip(&b).find(|(a, b)| a != b);
    ensure!(
        a.len() == b.len() && differs.is_none(),
        "{} and {} entries, first difference {:?}",
        a.len(),
        b.len(),
        differs.map(|(a, b)| (String::from_utf8_lossy(a), String::from_utf8_lossy(b)))
    );
    Ok(())
}

#[test]
fn whatever_a_release_may_carry_arrives_exactly() -> Result<()> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 2)?;
    let tree = fleet.path("odd");
    odd(&tree)?;
    fleet.release("1.0.0", &[("web", &tree)], &[])?;
    assert_eq!(fleet.rollout("1.0.0", ALL_AT_ONCE)?, 0, "{}", fleet.logs());
    for device in fleet.device_names() {
        same(&tree, &fleet.live(&device, "web")).with_context(|| device.clone())?;
    }
    // Kinds change places: a file becomes a folder, a folder a link, a link a file.
    fs::remove_file(tree.join("empty"))?;
    put(&tree.join("empty/now a folder"), "x", 0o644)?;
    fs::remove_dir_all(tree.join("nothing"))?;
    symlink("names", tree.join("nothing"))?;
    fs::remove_file(tree.join("link"))?;
    put(&tree.join("link"), "now a file", 0o755)?;
    fs::set_permissions(tree.join("bin/tool"), fs::Permissions::from_mode(0o644))?;
    fleet.release("1.1.0", &[("web", &tree)], &[])?;
    assert_eq!(fleet.rollout("1.1.0", ALL_AT_ONCE)?, 0, "{}", fleet.logs());
    for device in fleet.device_names() {
        same(&tree, &fleet.live(&device, "web")).with_context(|| device.clone())?;
    }
    Ok(())
}

/// Building a release of this tree must fail, and leave no file behind.
fn refused(fleet: &Fleet, tree: &Path, code: Code, values: &[&str]) -> Result<()> {
    let (tree, out) = (format!("web={}", tree.display()), fleet.path("refused.bundle"));
    let file = out.display().to_string();
    let args = [
        "release",
        "build",
        "--product",
        "app",
        "--version",
        "1.0.0",
        "--tree",
        &tree,
        "--out",
        &file,
    ];
    fleet.fails("ensign", &args, code, values)?;
    assert!(!out.exists(), "a refused release left its file");
    Ok(())
}

#[test]
fn what_a_release_may_not_carry_is_refused_when_it_is_built() -> Result<()> {
    let fleet = Fleet::empty(&build(Profile::Dev)?)?;
    let bytes = |name: &'static [u8]| Path::new(OsStr::from_bytes(name));
    // Names are UTF-8 without control characters: what people, logs and signatures show is what is meant.
    let names: [(&str, &Path, &[&str]); 4] = [
        ("newline", Path::new("two\nlines"), &["two", "control character"]),
        ("escape", Path::new("\u{1b}[2J"), &["control character"]),
        ("latin-1", bytes(b"caf\xe9"), &["caf", "UTF-8"]),
        ("overlong", bytes(b"\xc0\xaf"), &["UTF-8"]),
    ];
    for (folder, name, values) in names {
        let tree = fleet.path(folder);
        put(&tree.join(name), "x", 0o644)?;
        refused(&fleet, &tree, Code::PathRefused, values)?;
    }
    let links: [(&str, &[u8], &[&str]); 4] = [
        ("absolute", b"/etc/passwd", &["/etc/passwd", "absolute"]),
        ("climbing", b"../../etc", &["../../etc", "leaves the component"]),
        ("hidden climb", b"a/../../b", &["a/../../b"]),
        ("foreign", b"caf\xe9", &["UTF-8"]),
    ];
    for (folder, target, values) in links {
        let tree = fleet.path(folder);
        fs::create_dir_all(&tree)?;
        symlink(OsStr::from_bytes(target), tree.join("link"))?;
        refused(&fleet, &tree, Code::PathRefused, values)?;
    }
    let mut deep = fleet.path("deep");
    for level in 0..33 {
        deep.push(format!("d{level}"));
    }
    put(&deep.join("bottom"), "x", 0o644)?;
    refused(&fleet, &fleet.path("deep"), Code::PathRefused, &["33", "32"])?;
    // Neither files, folders nor links.
    let pipes = fleet.path("pipes");
    fs::create_dir_all(&pipes)?;
    nix::unistd::mkfifo(&pipes.join("pipe"), nix::sys::stat::Mode::S_IRWXU)?;
    refused(&fleet, &pipes, Code::PathRefused, &["pipe"])
}

/// Half noise, half text, in turns; the same seed gives the same file.
fn large(path: &Path, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let text = b"a line of text that compresses well\n".repeat(PIECE / 36 + 1);
    let mut all = Vec::with_capacity(LARGE);
    while all.len() < LARGE {
        all.extend_from_slice(&random.bytes(PIECE));
        all.extend_from_slice(&text[..PIECE]);
    }
    put(path, &all, 0o644)
}

#[test]
fn a_large_file_crosses_a_bad_line_although_processes_die() -> Result<()> {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(31);
    eprintln!("SEED={seed}");
    let mut fleet = Fleet::start(&build(Profile::Dev)?, 0)?;
    let controller: SocketAddr = fleet.address().parse()?;
    let line = Line {
        loss: 2,
        twice: 5,
        delay: Duration::from_millis(1),
    };
    let relay = Relay::start(controller, line, seed)?;
    let config = format!("[controller]\naddresses = [\"{}\"]\n", relay.address());
    put(&fleet.root("dev1").join("etc/ensign/agent.toml"), config, 0o644)?;
    fleet.join(1)?;
    let began = now();
    let tree = fleet.path("large");
    large(&tree.join("large"), seed)?;
    put(&tree.join("bin/run"), "#!/bin/sh\n", 0o755)?;
    fleet.release("1.0.0", &[("web", &tree)], &["--level", "1"])?;
    eprintln!("built, signed and published: {:.1} s", began.elapsed().as_secs_f64());

    let began = now();
    let start = ["rollout", "start", "--product", "app", "--version", "1.0.0", "--yes"];
    fleet.ensign(start.iter().chain(ALL_AT_ONCE), [""; 0])?;
    // A quarter of it, the link dies; a half of it, the applier with its worker; three quarters, everything.
    let compressed = LARGE as u64 / 2;
    for quarter in 1..=3_u64 {
        let far = compressed * quarter / 4;
        fleet.wait_for(&format!("{quarter} quarters have come"), |_| Ok(relay.back() >= far))?;
        ensure!(
            fleet.versions()?["dev1"].is_none(),
            "it was over before anything was killed"
        );
        let tree = fleet.device("dev1")?.tree();
        match quarter {
            1 => drop(fleet.device("dev1")?.kill_one(tree[0])),
            2 => {
                let applier = tree
                    .iter()
                    .find(|id| named(**id, "ensign-applier"))
                    .context("an applier")?;
                fleet.device("dev1")?.kill_one(*applier);
                continue;
            }
            _ => fleet.device("dev1")?.kill_all(),
        }
        fleet.start_device("dev1")?;
    }
    fleet.wait_for("the device has it all", |f| {
        Ok(f.versions()?["dev1"].as_deref() == Some("1.0.0"))
    })?;
    eprintln!(
        "{} MiB over a bad line with three deaths: {:.1} s",
        LARGE >> 20,
        began.elapsed().as_secs_f64()
    );
    same(&tree, &fleet.live("dev1", "web"))?;
    assert_eq!(relay.trouble(), None);
    // What had come before a death did not come again: losses and repeats of packets cost little.
    let spent = relay.back();
    ensure!(spent < compressed * 3 / 2, "{spent} bytes came for {compressed}");
    Ok(())
}

fn named(id: u32, program: &str) -> bool {
    let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    line.split(|b| *b == 0)
        .next()
        .is_some_and(|word| word.ends_with(program.as_bytes()))
}
