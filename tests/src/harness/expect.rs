//! What tests of faults expect: refusals with their reason, and a device that stands where it stood.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use ensign_bundle::reason::Code;
use serde_json::Value;

use super::{Fleet, difference, write_tree};

/// Waves and soak of a rollout that reaches everybody at once.
pub const ALL_AT_ONCE: &[&str] = &["--waves", "100%", "--soak", "0s"];

/// Where a device stands: its generation, and the tree that its component `web` was made from.
#[derive(Clone, Debug)]
pub struct Standing {
    device: String,
    generation: PathBuf,
    source: PathBuf,
}

impl Fleet {
    /// A fleet whose devices all run `app` 1.0.0 with one component `web`; also the folder it was made from.
    pub fn with_first_release(bin: &Path, devices: usize) -> Result<(Self, PathBuf)> {
        let fleet = Self::start(bin, devices)?;
        let tree = fleet.path("first");
        write_tree(
            &tree,
            &[("version", "1.0.0"), ("bin/run!", "#!/bin/sh\n"), ("same", "same")],
        )?;
        fleet.release("1.0.0", &[("web", &tree)], &[])?;
        let exit = fleet.rollout("1.0.0", ALL_AT_ONCE)?;
        ensure!(exit == 0, "the first rollout ended with {exit}\n{}", fleet.logs());
        Ok((fleet, tree))
    }

    /// Runs `program ARGS -o json`, which must fail with this code: its exit code, a message that names all `values`, and a hint.
    /// Returns the message.
    pub fn fails(&self, program: &str, args: &[&str], code: Code, values: &[&str]) -> Result<String> {
        let out = self.command(program).args(args).args(["-o", "json"]).output()?;
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        let what = format!("{program} {args:?}: {}\n{errors}", out.status);
        ensure!(
            out.status.code() == Some(i32::from(code.exit())),
            "{code} and exit {} were expected of {what}",
            code.exit()
        );
        let error = error_document(&errors).with_context(|| format!("no JSON error from {what}"))?;
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        ensure!(text("code") == code.name(), "{code} was expected of {what}");
        ensure!(!text("hint").is_empty(), "no hint from {what}");
        let message = text("message");
        for value in values {
            ensure!(message.contains(value), "`{value}` is not named by {what}");
        }
        Ok(message)
    }

    /// `ensign-agent status` of a device.
    pub fn status(&self, device: &str) -> Result<Value> {
        let out = self
            .command("ensign-agent")
            .args(["status", "-o", "json", "--root"])
            .arg(self.root(device))
            .output()?;
        serde_json::from_slice(&out.stdout).with_context(|| String::from_utf8_lossy(&out.stderr).into_owned())
    }

    /// Waits until the device itself says that it refuses something for this reason, in words that name all `values`.
    pub fn wait_for_refusal(&self, device: &str, code: Code, values: &[&str]) -> Result<()> {
        let mut seen = String::new();
        let what = format!("{device} refuses with {code} and {values:?}");
        let found = self.wait_for(&what, |fleet| {
            let status = fleet.status(device)?;
            seen = status.to_string();
            Ok(["reason", "last_error"].iter().any(|key| {
                let text = status[key]["text"].as_str().unwrap_or_default();
                status[key]["code"] == code.name() && values.iter().all(|value| text.contains(value))
            }))
        });
        found.with_context(|| format!("its status was {seen}"))
    }

    /// Where a device stands now; it must run exactly `source`.
    pub fn standing(&self, device: &str, source: &Path) -> Result<Standing> {
        let standing = Standing {
            device: device.to_owned(),
            generation: self.pointer(device)?,
            source: source.to_owned(),
        };
        self.unmoved(&standing)?;
        Ok(standing)
    }

    /// Refuses unless the device still runs the very same generation, exactly, and nothing half-made lies about.
    pub fn unmoved(&self, standing: &Standing) -> Result<()> {
        let device = &standing.device;
        let now = self.pointer(device)?;
        ensure!(
            now == standing.generation,
            "{device} went from {} to {}\n{}",
            standing.generation.display(),
            now.display(),
            self.logs()
        );
        self.runs(device, &standing.source)
    }

    /// Refuses unless the component `web` of the device is exactly this folder.
    pub fn runs(&self, device: &str, source: &Path) -> Result<()> {
        let found = difference(source, &self.live(device, "web"))?;
        ensure!(
            found.is_none(),
            "{device}: {}\n{}",
            found.unwrap_or_default(),
            self.logs()
        );
        Ok(())
    }

    /// The next honest release reaches every device exactly. Returns the folder it was made from.
    pub fn goes_on(&self, version: &str) -> Result<PathBuf> {
        let tree = self.path(format!("next-{version}"));
        write_tree(&tree, &[("version", version), ("same", "same")])?;
        self.release(version, &[("web", &tree)], &[])?;
        let exit = self.rollout(version, ALL_AT_ONCE)?;
        ensure!(exit == 0, "{version} ended with {exit}\n{}", self.logs());
        for device in self.device_names() {
            self.runs(&device, &tree)?;
        }
        Ok(tree)
    }

    fn pointer(&self, device: &str) -> Result<PathBuf> {
        let current = self.root(device).join("var/lib/ensign/deploy/current");
        fs::read_link(&current).with_context(|| format!("{} is a symlink", current.display()))
    }
}

/// Writes a file and the folders above it. Tests need no durability.
pub fn put(path: &Path, bytes: impl AsRef<[u8]>, mode: u32) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = File::create(path)?;
    file.write_all(bytes.as_ref())?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// The error among the lines of standard error.
fn error_document(text: &str) -> Option<Value> {
    let starts = text
        .match_indices('{')
        .filter(|(at, _)| *at == 0 || text[..*at].ends_with('\n'));
    starts
        .filter_map(|(at, _)| {
            serde_json::Deserializer::from_str(&text[at..])
                .into_iter::<Value>()
                .next()?
                .ok()
        })
        .find_map(|value| value.get("error").cloned())
}
