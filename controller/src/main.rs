//! `ensign-controller`: registry, ledger, blobs, sessions, operators' API — one process, one folder.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{self, ExitCode};

use clap::{Args, Parser, Subcommand};
use ensign_bundle::reason::{Code, Refusal};
use ensign_controller::config::Config;
use ensign_controller::{logs, serve};

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
}

#[derive(Debug, Args)]
struct Serve {
    /// Folder with everything this controller keeps.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Kit of `ensign fleet init`: imported at the first start, then its private keys are removed.
    #[arg(long, value_name = "DIR")]
    kit: Option<PathBuf>,
    /// Address of devices and operators; port 0 takes a free one.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Address of operators alone.
    #[arg(long, value_name = "ADDR")]
    operator_listen: Option<SocketAddr>,
    /// Address of /metrics and /healthz, plain HTTP.
    #[arg(long, value_name = "ADDR")]
    metrics_listen: Option<SocketAddr>,
    /// Written when everything listens: {"listen":"HOST:PORT","pid":N}.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Configuration; default /etc/ensign/controller.toml, if there.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// glibc raises its thresholds with what it frees, and then keeps tens of megabytes after a publication; fixed ones give memory back.
const MALLOC: &str = "glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072:glibc.malloc.arena_max=2";
/// Read by glibc when a program starts, and only then.
const TUNABLES: &str = "GLIBC_TUNABLES";

fn main() -> ExitCode {
    let Command::Serve(args) = Cli::parse().command;
    give_memory_back();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            eprintln!("error: {} ({})\n hint: {}", refusal.text, refusal.code, refusal.hint());
            ExitCode::from(refusal.code.exit().max(1))
        }
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

fn run(args: Serve) -> Result<(), Refusal> {
    let refused = |e: &dyn std::error::Error| {
        let cause = e.source().map(|s| format!(": {s}")).unwrap_or_default();
        Refusal::new(Code::ConfigRefused, format!("{e}{cause}"))
    };
    let mut config = Config::load(args.config.as_deref()).map_err(|e| refused(&e))?;
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
