//! A controller and devices as real processes in a temporary folder, driven through their public commands only.

mod binaries;
mod expect;
mod process;
pub mod relay;
mod trees;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

pub use binaries::{Profile, build};
pub use expect::{ALL_AT_ONCE, Standing, put};
pub use process::{Process, tree_of};
pub use trees::{difference, nasty_tree, write_tree};

/// Longest wait for a process to become ready, or for a condition that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// One controller and its devices. Dropping it ends every process and removes the folder.
#[derive(Debug)]
pub struct Fleet {
    dir: tempfile::TempDir,
    bin: PathBuf,
    address: String,
    controller: Option<Process>,
    devices: BTreeMap<String, Process>,
    keep: bool,
    /// Devices log every step, for whoever measures them.
    verbose: bool,
}

impl Fleet {
    /// The everyday flow: a fleet, its controller, and `devices` enrolled devices named `dev1`, `dev2`, ...
    pub fn start(bin: &Path, devices: usize) -> Result<Self> {
        let mut fleet = Self::empty(bin)?;
        fleet.start_controller()?;
        if devices > 0 {
            fleet.join(devices)?;
        }
        Ok(fleet)
    }

    /// A fleet that was initialised; nothing runs.
    pub fn empty(bin: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("ensign-").tempdir()?;
        let fleet = Self {
            dir,
            bin: bin.to_owned(),
            address: format!("127.0.0.1:{}", free_port()?),
            controller: None,
            devices: BTreeMap::new(),
            keep: false,
            verbose: false,
        };
        let kit = fleet.path("kit");
        let address = fleet.address.clone();
        fleet.ensign(
            ["fleet", "init", "--name", "acme", "--controller", &address, "--kit"],
            [&kit, Path::new("--no-passphrase")],
        )?;
        Ok(fleet)
    }

    /// Devices that are started from now on log every step.
    pub fn verbose(&mut self) {
        self.verbose = true;
    }

    /// Leaves folder and processes when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Root of a device.
    pub fn root(&self, device: &str) -> PathBuf {
        self.path(device)
    }

    /// Where a component of a device lives.
    pub fn live(&self, device: &str, component: &str) -> PathBuf {
        self.root(device).join("var/lib/ensign/deploy/current").join(component)
    }

    /// A command of the product with this fleet's environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .current_dir(self.dir.path())
            .env("ENSIGN_HOME", self.path("home"))
            .env("NO_COLOR", "1")
            .env_remove("ENSIGN_CONTROLLER")
            .env_remove("ENSIGN_JOIN_TOKEN");
        command
    }

    /// Runs `ensign` and demands exit 0.
    pub fn ensign<A: AsRef<OsStr>, B: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        more: impl IntoIterator<Item = B>,
    ) -> Result<Output> {
        succeed(self.command("ensign").args(args).args(more))
    }

    /// Runs `ensign ... -o json` and returns the document.
    pub fn json<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Value> {
        let out = self.ensign(args, ["-o", "json"])?;
        serde_json::from_slice(&out.stdout).context("one JSON document on standard output")
    }

    /// Runs a command of the product and returns its exit code and standard error.
    pub fn exit<A: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = A>) -> Result<(i32, String)> {
        let out = self.command(program).args(args).output()?;
        Ok((
            out.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        ))
    }

    /// Starts (or restarts) the controller and waits until it is ready.
    pub fn start_controller(&mut self) -> Result<()> {
        let mut command = self.command("ensign-controller");
        command
            .arg("serve")
            .arg("--data")
            .arg(self.path("controller"))
            .arg("--kit")
            .arg(self.path("kit"));
        self.controller = Some(Process::start(
            command,
            &self.path("controller.ready"),
            &self.path("controller.log"),
        )?);
        Ok(())
    }

    /// The controller's process.
    pub fn controller(&mut self) -> Result<&mut Process> {
        self.controller.as_mut().context("the controller was started")
    }

    /// Enrols and starts `count` more devices.
    pub fn join(&mut self, count: usize) -> Result<()> {
        let uses = count.to_string();
        let token = self.json([
            "token",
            "create",
            "--uses",
            &uses,
            "--ttl",
            "1h",
            "--label",
            "site=lyon",
        ])?;
        let token = token["token"].as_str().context("a token")?.to_owned();
        let first = self.devices.len() + 1;
        for number in first..first + count {
            let name = format!("dev{number}");
            let mut command = self.command("ensign-agent");
            command
                .arg("enroll")
                .arg("--root")
                .arg(self.root(&name))
                .args(["--name", &name])
                .env("ENSIGN_JOIN_TOKEN", &token);
            succeed(&mut command)?;
            self.start_device(&name)?;
        }
        Ok(())
    }

    /// Starts (or restarts) a device that has joined.
    pub fn start_device(&mut self, name: &str) -> Result<()> {
        let mut command = self.command("ensign-agent");
        command.arg("run").arg("--root").arg(self.root(name));
        if self.verbose {
            command.env("ENSIGN_LOG", "debug,quinn=warn,quinn_proto=warn,rustls=warn");
        }
        let process = Process::start(
            command,
            &self.path(format!("{name}.ready")),
            &self.path(format!("{name}.log")),
        )?;
        self.devices.insert(name.to_owned(), process);
        Ok(())
    }

    pub fn device(&mut self, name: &str) -> Result<&mut Process> {
        self.devices.get_mut(name).context("the device was started")
    }

    pub fn device_names(&self) -> Vec<String> {
        self.devices.keys().cloned().collect()
    }

    /// Builds a release from `NAME=DIR` trees; nobody has signed it.
    pub fn bundle(&self, product: &str, version: &str, trees: &[(&str, &Path)], more: &[&str]) -> Result<PathBuf> {
        let out = self.path(format!("{product}-{version}.bundle"));
        let mut args = ["release", "build", "--product", product, "--version", version]
            .map(str::to_owned)
            .to_vec();
        for (name, tree) in trees {
            args.push("--tree".into());
            args.push(format!("{name}={}", tree.display()));
        }
        args.extend(more.iter().map(|m| (*m).to_owned()));
        self.ensign(&args, [OsStr::new("--out"), out.as_os_str()])?;
        Ok(out)
    }

    /// Builds, signs and publishes a release of product `app` from `NAME=DIR` trees.
    pub fn release(&self, version: &str, trees: &[(&str, &Path)], more: &[&str]) -> Result<PathBuf> {
        let out = self.bundle("app", version, trees, more)?;
        self.ensign(["release", "sign"], [&out])?;
        self.ensign(["release", "publish"], [&out])?;
        Ok(out)
    }

    /// `rollout start --wait`; its exit code.
    pub fn rollout(&self, version: &str, more: &[&str]) -> Result<i32> {
        let args = [
            "rollout",
            "start",
            "--product",
            "app",
            "--version",
            version,
            "--yes",
            "--wait",
            "--timeout",
            "120s",
        ];
        let out = self.command("ensign").args(args).args(more).output()?;
        Ok(out.status.code().unwrap_or(-1))
    }

    /// Version of product `app` on each device, by name.
    pub fn versions(&self) -> Result<BTreeMap<String, Option<String>>> {
        let list = self.json(["device", "ls"])?;
        let text = |v: &Value| v.as_str().map(str::to_owned);
        Ok(list
            .as_array()
            .context("a list")?
            .iter()
            .map(|d| {
                (
                    text(&d["name"]).unwrap_or_default(),
                    text(&d["products"]["app"]["version"]),
                )
            })
            .collect())
    }

    /// Polls `condition` until it holds; fails after [`PATIENCE`] with `what`.
    pub fn wait_for(&self, what: &str, mut condition: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let end = now() + PATIENCE;
        while !condition(self)? {
            if now() > end {
                bail!("gave up waiting: {what}\n{}", self.logs());
            }
            pause(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The last lines of every log, for failures.
    pub fn logs(&self) -> String {
        let tail = |name: &str| {
            let text = std::fs::read_to_string(self.path(format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(15)..].join("\n"))
        };
        self.devices
            .keys()
            .map(String::as_str)
            .chain(["controller"])
            .map(tail)
            .collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if self.keep {
            self.dir.disable_cleanup(true);
            self.devices
                .values_mut()
                .chain(self.controller.as_mut())
                .for_each(Process::leave);
        } else {
            self.devices
                .values_mut()
                .chain(self.controller.as_mut())
                .for_each(Process::terminate);
            self.devices.clear();
            self.controller = None;
            trees::make_writable(self.dir.path());
        }
    }
}

/// Runs a command to its end and demands exit 0.
fn succeed(command: &mut Command) -> Result<Output> {
    let out = command.output().with_context(|| format!("{command:?}"))?;
    if !out.status.success() {
        bail!("{command:?}: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    }
    Ok(out)
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The monotonic clock: a harness of real processes waits in real time.
#[expect(clippy::disallowed_methods, reason = "real processes run in real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// One step of polling something that only the outside can show.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
