//! `ensign-agent enroll`: joins a fleet with a token, once; running it again changes nothing.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ensign_bundle::limits::DEVICE_NAME_BYTES;
use ensign_bundle::plan::token::{TOKEN_CHARS, Token};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::words::{device_name, device_name_of_host};
use ensign_crypto::{PublicKey, SecretKey, Signature};
use serde::Serialize;
use serde_bytes::ByteBuf;

use super::admin::{self, Admin};
use super::output::Failure;
use crate::chain::chain;
use crate::durable;
use crate::ipc::{FromAdmin, ToAdmin};
use crate::link::enroll::{Joined, Joining, join};
use crate::link::identity::{self, Device, Pair};
use crate::link::run::lock;
use crate::paths::Paths;

/// Longest wait for the applier to verify and store what it joins with.
const FINISH: Duration = Duration::from_secs(60);
/// Most claims of one device.
const CLAIMS: usize = 16;
/// Longest key or value of a claim, bytes.
const CLAIM_BYTES: usize = 128;

/// Words of the command.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The join token. Other users of this machine can see it: prefer --token-file [default: that of --token-file].
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file", hide_env_values = true)]
    token: Option<String>,
    /// A file with the join token; `-` is standard input. [default: ENSIGN_JOIN_TOKEN].
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// What people call this device: at most 63 letters, digits, `.`, `_`, `-` [default: the host's name].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where the controller is; may be repeated [default: the token's addresses].
    #[arg(long, value_name = "HOST:PORT")]
    controller: Vec<String>,
    /// Something the device says of itself, shown and never believed; may be repeated [default: none].
    #[arg(long = "claim", value_name = "KEY=VALUE", value_parser = claim)]
    claims: Vec<(String, String)>,
}

/// What the command shows.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    id: String,
    name: String,
    fleet: String,
    approved: bool,
    /// False where the device had already joined.
    joined: bool,
    /// The name that was asked for.
    #[serde(skip)]
    asked: String,
    /// What to type next.
    #[serde(skip)]
    next: String,
}

impl Document {
    pub(super) fn sentence(&self) -> String {
        match (self.joined, self.approved) {
            (false, _) => format!("{} is already in this fleet (device {})", self.name, self.id),
            (true, true) => format!(
                "{} has joined (device {}){}{}",
                self.name,
                self.id,
                self.renamed(),
                self.next
            ),
            (true, false) => format!(
                "{} waits for an operator: `ensign device accept {}`{}{}",
                self.name,
                self.id,
                self.renamed(),
                self.next
            ),
        }
    }
}

impl Document {
    /// Two living devices have no name in common: the controller gave another one.
    fn renamed(&self) -> String {
        if self.name == self.asked {
            return String::new();
        }
        format!(
            "; another device is called {}, so this one is {}",
            self.asked, self.name
        )
    }
}

/// The command that goes on from here.
fn next(paths: &Paths) -> String {
    let root = paths.root();
    if root == Path::new("/") {
        return "\nNext: `systemctl start ensign-agent`, or `ensign-agent run`".to_owned();
    }
    let root = ensign_bundle::text::printable(&root.to_string_lossy(), 300);
    format!("\nNext: `ensign-agent run --root {root}`")
}

pub(super) fn run(paths: &Paths, arguments: &Arguments) -> Result<Document, Failure> {
    let token = token(arguments)?;
    let name = name(arguments)?;
    if arguments.claims.len() > CLAIMS {
        return Err(Failure::new(
            Code::Usage,
            format!("{} claims, at most {CLAIMS} are allowed", arguments.claims.len()),
        ));
    }
    if let Some(device) = Device::load(paths).map_err(|e| io(&e))? {
        if device.fleet != token.fleet {
            return Err(Failure::new(
                Code::Conflict,
                format!(
                    "this device is in fleet {}, the token is of fleet {}",
                    device.fleet, token.fleet
                ),
            )
            .hint("`ensign-agent leave` forgets the fleet that it is in"));
        }
        if is_complete(paths, &device)? {
            return Ok(Document {
                id: device.id.to_string(),
                name: device.name,
                fleet: device.fleet.to_string(),
                approved: true,
                joined: false,
                asked: String::new(),
                next: String::new(),
            });
        }
    }
    join_anew(paths, arguments, &token, &name)
}

/// Whether TLS key, receipt key and trust state are all there, and are those of this device.
fn is_complete(paths: &Paths, device: &Device) -> Result<bool, Failure> {
    // The id is that of the first key: it stays when the key is changed.
    let own_key = identity::key(paths).map_err(|e| io(&e))?.is_some();
    // A device that is revoked stays so: joining again takes new keys, as where some are lost.
    if !own_key || !paths.receipt_key().exists() || identity::is_revoked(paths) {
        return Ok(false);
    }
    let state = Admin::connect(paths)?.state()?;
    Ok(state.device == Some(device.id) && state.held.root > 0)
}

fn join_anew(paths: &Paths, arguments: &Arguments, token: &Token, name: &str) -> Result<Document, Failure> {
    durable::closed_dir(&paths.link(), identity::DIRECTORY_MODE)
        .map_err(|e| Failure::new(Code::Io, format!("{}: {e}", paths.link().display())))?;
    let _lock = lock(paths).map_err(|refusal| Failure::from(refusal).hint("stop `ensign-agent run` first"))?;
    let admin = Admin::connect(paths)?;
    let addresses = if arguments.controller.is_empty() {
        token.addresses.clone()
    } else {
        arguments.controller.clone()
    };
    let attempt = Attempt {
        paths,
        admin: &admin,
        token,
        name,
        claims: arguments.claims.iter().cloned().collect(),
        addresses,
    };
    if let Some((key, receipt_key)) = attempt.begun()? {
        match attempt.join(&key, receipt_key) {
            // The controller will never take this pair: another one begins anew.
            Err(failure)
                if matches!(
                    failure.refusal.code,
                    Code::Revoked | Code::IdentityChanged | Code::KeysRefused
                ) =>
            {
                tracing::info!(code = %failure.refusal.code, "joining with new keys");
            }
            joined => return joined,
        }
    }
    let (key, receipt_key) = attempt.new_keys()?;
    attempt.join(&key, receipt_key)
}

/// One joining, from the keys to the files.
struct Attempt<'a> {
    paths: &'a Paths,
    admin: &'a Admin,
    token: &'a Token,
    name: &'a str,
    claims: BTreeMap<String, String>,
    addresses: Vec<String>,
}

impl Attempt<'_> {
    /// The keys of an enrolment that did not come to its end: the controller may know them.
    fn begun(&self) -> Result<Option<(SecretKey, PublicKey)>, Failure> {
        let pair = Pair::load(self.paths).map_err(|e| io(&e))?;
        let Some(pair) = pair.filter(|pair| pair.fleet == self.token.fleet && !identity::is_revoked(self.paths)) else {
            return Ok(None);
        };
        let key = identity::key(self.paths).map_err(|e| io(&e))?;
        let Some(key) = key.filter(|key| key.public().id() == pair.key) else {
            return Ok(None);
        };
        let receipt_key = self.receipt_key(false)?;
        Ok((receipt_key.id() == pair.receipt_key).then_some((key, receipt_key)))
    }

    /// Both new, and noted before anybody hears of them.
    fn new_keys(&self) -> Result<(SecretKey, PublicKey), Failure> {
        identity::forget(self.paths).map_err(|e| io(&e))?;
        let receipt_key = self.receipt_key(true)?;
        let key = identity::create_key(self.paths).map_err(|e| io(&e))?;
        Pair::new(self.token.fleet, key.public().id(), receipt_key.id())
            .store(self.paths)
            .map_err(|e| io(&e))?;
        Ok((key, receipt_key))
    }

    fn receipt_key(&self, fresh: bool) -> Result<PublicKey, Failure> {
        let begin = ToAdmin::BeginEnroll {
            fleet: self.token.fleet,
            fresh,
        };
        match self.admin.ask(&begin)? {
            FromAdmin::ReceiptKey { key } => Ok(key),
            other => Err(admin::unexpected(&other)),
        }
    }

    fn join(&self, key: &SecretKey, receipt_key: PublicKey) -> Result<Document, Failure> {
        let joining = Joining {
            token: self.token,
            key,
            receipt_key,
            name: self.name,
            claims: self.claims.clone(),
            addresses: self.addresses.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| io(&e))?;
        let joined = runtime.block_on(join(joining, |payload| countersign(self.admin, payload)));
        runtime.shutdown_background();
        self.finish(&joined?)
    }

    /// Hands the roots to the applier, then notes the enrolment: from then on the device belongs to the fleet.
    fn finish(&self, joined: &Joined) -> Result<Document, Failure> {
        let (paths, token) = (self.paths, self.token);
        let mut file = tempfile::tempfile().map_err(|e| io(&e))?;
        let pieces = joined.roots.iter().map(|root| root.as_slice());
        for piece in pieces.chain([joined.grant.as_slice(), joined.binding.as_slice()]) {
            file.write_all(piece).map_err(|e| io(&e))?;
        }
        let request = ToAdmin::FinishEnroll {
            root_hash: token.root,
            fleet: token.fleet,
            roots: joined.roots.iter().map(|r| r.len() as u64).collect(),
            grant: joined.grant.len() as u64,
            binding: joined.binding.len() as u64,
        };
        admin::done(self.admin.ask_with(&request, Some(&file), Some(FINISH))?)?;
        let name = ensign_bundle::text::printable(&joined.name, DEVICE_NAME_BYTES);
        Device::new(
            joined.device,
            name.clone(),
            token.fleet,
            self.addresses.clone(),
            token.controller,
        )
        .store(paths)
        .and_then(|()| Pair::forget(paths))
        .map_err(|e| io(&e))?;
        Ok(Document {
            id: joined.device.to_string(),
            name,
            fleet: token.fleet.to_string(),
            approved: joined.approved,
            joined: true,
            asked: self.name.to_owned(),
            next: next(paths),
        })
    }
}

/// The applier's signature over the binding.
fn countersign(admin: &Admin, payload: &[u8]) -> Result<Signature, Refusal> {
    let request = ToAdmin::SignBinding {
        payload: ByteBuf::from(payload),
    };
    match admin.ask(&request).map_err(|failure| failure.refusal)? {
        FromAdmin::Signature { key, bytes } => Ok(Signature {
            key: key.id(),
            bytes: bytes
                .as_slice()
                .try_into()
                .map_err(|_| Refusal::new(Code::Malformed, "the applier's signature has a wrong length"))?,
        }),
        other => Err(admin::unexpected(&other).refusal),
    }
}

/// The token from its one source.
fn token(arguments: &Arguments) -> Result<Token, Failure> {
    let text = match (&arguments.token, &arguments.token_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => read_token(path)?,
        (None, None) => std::env::var("ENSIGN_JOIN_TOKEN").map_err(|_| {
            Failure::new(
                Code::Usage,
                "no join token: --token-file FILE, --token or ENSIGN_JOIN_TOKEN",
            )
            .hint("the operator makes one: `ensign token create`")
        })?,
    };
    let token: Token = text.parse()?;
    let local = |address: &String| {
        address.starts_with("127.") || address.starts_with("[::1]") || address.starts_with("localhost:")
    };
    if arguments.token.is_some() && !token.addresses.iter().all(local) {
        tracing::warn!("other users of this machine can see --token; use --token-file or ENSIGN_JOIN_TOKEN");
    }
    Ok(token)
}

fn read_token(path: &Path) -> Result<String, Failure> {
    let fail = |e: std::io::Error| Failure::new(Code::Io, format!("{}: {e}", path.display()));
    let mut text = String::new();
    // White space around it is allowed; more than that is no token.
    let limit = TOKEN_CHARS as u64 + 64;
    if path == Path::new("-") {
        std::io::stdin().take(limit).read_to_string(&mut text).map_err(fail)?;
    } else {
        let file = std::fs::File::open(path).map_err(fail)?;
        file.take(limit).read_to_string(&mut text).map_err(fail)?;
    }
    Ok(text)
}

fn name(arguments: &Arguments) -> Result<String, Failure> {
    let Some(name) = &arguments.name else {
        let host = nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned());
        return Ok(device_name_of_host(&host.unwrap_or_default()));
    };
    match device_name(name) {
        Ok(()) => Ok(name.clone()),
        Err(why) => Err(Failure::new(Code::Usage, why).hint("--name NAME")),
    }
}

fn claim(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && key.len() <= CLAIM_BYTES && value.len() <= CLAIM_BYTES => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err(format!("expected KEY=VALUE of at most {CLAIM_BYTES} bytes each")),
    }
}

fn io(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(Code::Io, chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a device that asked to be `till` is told.
    fn said(name: &str, joined: bool, approved: bool) -> String {
        let document = Document {
            id: "07ab".to_owned(),
            name: name.to_owned(),
            fleet: String::new(),
            approved,
            joined,
            asked: "till".to_owned(),
            next: next(&Paths::new("/tmp/till")),
        };
        document.sentence()
    }

    #[test]
    fn who_joined_is_told_what_it_is_called_and_what_to_type() {
        let next = "Next: `ensign-agent run --root /tmp/till`";
        assert_eq!(
            said("till", true, true),
            format!("till has joined (device 07ab)\n{next}")
        );
        assert_eq!(
            said("till-2", true, false),
            format!(
                "till-2 waits for an operator: `ensign device accept 07ab`; another device is called till, so this one is till-2\n{next}"
            )
        );
        assert_eq!(
            said("till", false, true),
            "till is already in this fleet (device 07ab)",
            "asked again, nothing is to be done"
        );
        assert!(super::next(&Paths::new("/")).contains("systemctl start ensign-agent"));
    }

    #[test]
    fn a_name_that_means_something_else_is_a_wrong_word() {
        let named = |name: Option<&str>| {
            let arguments = Arguments {
                token: None,
                token_file: None,
                name: name.map(str::to_owned),
                controller: Vec::new(),
                claims: Vec::new(),
            };
            super::name(&arguments).map_err(|failure| failure.refusal.code)
        };
        assert_eq!(named(Some("till7")), Ok("till7".to_owned()));
        assert_eq!(named(Some("deadbeef")), Err(Code::Usage));
        assert_eq!(
            named(None).map(|name| device_name(&name)),
            Ok(Ok(())),
            "that of the host"
        );
    }
}
