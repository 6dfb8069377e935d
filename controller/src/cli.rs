//! `ensign-controller`: registry, ledger, blobs, sessions, operators' API — one process, one folder.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{self, ExitCode};

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::text::{chain, printable};

use crate::config::Config;
use crate::paths::Paths;
use crate::{durable, https, keys, logs, serve};

/// Threads that carry connections; disks have threads of their own.
const WORKERS: usize = 2;
/// Threads that wait for disks.
const DISK_THREADS: usize = 16;

/// The controller of an Ensign fleet.
#[derive(Debug, Parser)]
#[command(name = "ensign-controller", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves devices (QUIC on UDP) and operators (HTTPS on TCP) until it gets SIGTERM.
    #[command(after_help = "Example:\n  ensign-controller serve --data /var/lib/ensign-controller --kit ./kit")]
    Serve(Serve),
    /// The controller's own keys: what a new root needs to name.
    #[command(subcommand)]
    Keys(KeysVerb),
}

#[derive(Debug, Subcommand)]
enum KeysVerb {
    /// Lists the keys of a folder, with their public halves.
    #[command(after_help = "Example:\n  ensign-controller keys ls --data /var/lib/ensign-controller")]
    Ls(KeysArgs),
    /// Makes the keys that the next root may name, beside those in use; the controller may run meanwhile.
    ///
    /// Their public halves are written to NAME-next.pub in --out, that of https as a certificate to https-next.crt. Nothing changes before
    /// root names them: `ensign key root rotate --role NAME --add FILE --remove OLD`. For --role controller, add first, wait until
    /// `ensign fleet status` counts no device that has not heard of it, then remove.
    #[command(after_help = "Example:\n  ensign-controller keys new --data /var/lib/ensign-controller --out .")]
    New(KeysArgs),
}

#[derive(Debug, Args)]
struct KeysArgs {
    /// Folder of the controller.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Only this key: timestamp, snapshot, controller or https; repeatable [default: all four].
    #[arg(long, value_name = "NAME", value_parser = keys::ROLES)]
    role: Vec<String>,
    /// Write the public halves there, one file each [default: only print them].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Serve {
    /// Folder with everything this controller keeps; made where it is not there.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Kit of `ensign fleet init`: imported at the first start, then its private keys are removed [default: none, for later starts].
    #[arg(long, value_name = "DIR")]
    kit: Option<PathBuf>,
    /// Address of devices and operators, IP:PORT; port 0 takes a free one [default: the kit's port, on its host if that is loopback, else on every address].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Address of operators alone, IP:PORT [default: that of the devices].
    #[arg(long, value_name = "ADDR")]
    operator_listen: Option<SocketAddr>,
    /// Address of /metrics and /healthz, IP:PORT, plain HTTP [default: not served].
    #[arg(long, value_name = "ADDR")]
    metrics_listen: Option<SocketAddr>,
    /// Written when everything listens: {"listen":"HOST:PORT","pid":N} [default: none].
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Configuration (TOML) [default: /etc/ensign/controller.toml, if there].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// glibc raises its thresholds with what it frees, and then keeps tens of megabytes after a publication; fixed ones give memory back.
const MALLOC: &str = "glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072:glibc.malloc.arena_max=2";
/// Read by glibc when a program starts, and only then.
const TUNABLES: &str = "GLIBC_TUNABLES";

/// The whole program.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    // What this program writes is its own; what others are to read has its mode set.
    nix::sys::stat::umask(nix::sys::stat::Mode::S_IRWXG | nix::sys::stat::Mode::S_IRWXO);
    let (done, has_kit) = match command {
        Command::Serve(args) => {
            give_memory_back();
            let has_kit = args.kit.is_some();
            (run(args), has_kit)
        }
        Command::Keys(KeysVerb::Ls(args)) => (show_keys(&args), false),
        Command::Keys(KeysVerb::New(args)) => (new_keys(&args), false),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            let text = printable(&refusal.text, 1000);
            eprintln!("error: {text} ({})\nhint: {}", refusal.code, hint(&refusal, has_kit));
            ExitCode::from(refusal.code.exit().max(1))
        }
    }
}

/// Every verb and flag, for whoever checks words against them.
pub fn command() -> clap::Command {
    Cli::command()
}

/// What to type next: the code's own hint speaks to operators, and this is the controller.
fn hint(refusal: &Refusal, has_kit: bool) -> &'static str {
    match (refusal.code, has_kit) {
        (Code::NotFound, false) => {
            "the first start imports the kit that `fleet init` makes: `ensign-controller serve --data DIR --kit DIR`"
        }
        (Code::NotFound, true) => "--kit is the folder that `fleet init` made",
        (Code::ContentMismatch, _) => "put back metadata/ from a backup, then start again",
        (Code::Conflict, true) => "leave --kit out to serve the fleet that --data holds, or give another --data",
        (Code::NoSpace, _) => {
            "free space there, or move --data to a larger disk, then start again: nothing that was acknowledged is lost"
        }
        _ => refusal.hint(),
    }
}

/// Starts this program again in the same process, with thresholds for malloc, unless somebody has chosen some.
fn give_memory_back() {
    if std::env::var_os(TUNABLES).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        // Returns only if it failed: then the program runs as it is, with more memory.
        let _ = process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(TUNABLES, MALLOC)
            .exec();
    }
}

fn new_keys(args: &KeysArgs) -> Result<(), Refusal> {
    let wanted = args.role.iter().map(String::as_str).collect::<Vec<_>>();
    let names = if wanted.is_empty() {
        &keys::ROLES
    } else {
        wanted.as_slice()
    };
    keys::make_next(&Paths::new(&args.data), names)?;
    show_keys(args)
}

/// JSON: `[{"name", "key", "public"}]`.
fn show_keys(args: &KeysArgs) -> Result<(), Refusal> {
    let of = |name: &str| args.role.iter().any(|role| name.trim_end_matches("-next") == role);
    let mut listed = keys::list(&Paths::new(&args.data))?;
    listed.retain(|key| args.role.is_empty() || of(&key.name));
    if let Some(out) = &args.out {
        for key in &listed {
            let kind = if key.name.starts_with(https::NAME) {
                "crt"
            } else {
                "pub"
            };
            let path = out.join(format!("{}.{kind}", key.name));
            durable::write(&path, key.public.as_bytes())
                .map_err(|e| Refusal::new(Code::Io, format!("{}: {e}", path.display())))?;
        }
    }
    let text = serde_json::to_string_pretty(&listed).map_err(|e| Refusal::new(Code::Failed, e.to_string()))?;
    println!("{text}");
    Ok(())
}

fn run(args: Serve) -> Result<(), Refusal> {
    let mut config = Config::load(args.config.as_deref()).map_err(|e| Refusal::new(Code::ConfigRefused, chain(&e)))?;
    config.listen = args.listen.or(config.listen);
    config.operator_listen = args.operator_listen.or(config.operator_listen);
    config.metrics_listen = args.metrics_listen.or(config.metrics_listen);
    logs::start(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(DISK_THREADS)
        .thread_name("serve")
        .enable_all()
        .build()
        .map_err(|e| Refusal::new(Code::Io, format!("no runtime: {e}")))?;
    runtime.block_on(async {
        let running = serve::start(serve::Options {
            data: args.data,
            kit: args.kit,
            config,
        })
        .await?;
        running.announce(args.ready_file.as_deref())?;
        running.until_stopped().await
    })
}
