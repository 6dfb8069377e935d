//! The thief's server: real QUIC with the real TLS key, and answers of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use ensign_bundle::digest::{DeviceId, Digest};
use ensign_bundle::ids::Labels;
use ensign_bundle::plan::evidence::{Lease, Membership, TimeAttestation};
use ensign_bundle::plan::statements::Plan;
use ensign_bundle::statement;
use ensign_bundle::trust::roles::{FORMAT, Snapshot, Targets, Timestamp};
use ensign_bundle::wire::frame::{self, ABSENT, LENGTH_BYTES};
use ensign_bundle::wire::{
    self, Desired, DesiredRollout, DocKind, DocRef, FromDevice, Hello, Request, ToDevice, Welcome,
};
use ensign_controller::server::tls;
use ensign_crypto::PublicKey;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use rustls::pki_types::CertificateDer;
use serde_bytes::ByteBuf;
use tokio::runtime::Runtime;

use super::stolen::{Stolen, unix_now};

/// What the thief wants of every device that connects.
#[derive(Clone, Debug)]
pub struct Wish {
    pub documents: Vec<(DocKind, Vec<u8>)>,
    pub rollout: Option<Offer>,
    /// Bytes given for a digest in place of the right ones.
    pub lies: BTreeMap<Digest, Vec<u8>>,
    pub manner: Manner,
    /// Seconds by which the attested time is ahead of the true one.
    pub ahead_s: u64,
}

/// How the thief keeps up a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    #[default]
    Prompt,
    /// Takes every stream and never says a word.
    Silent,
    /// Greets, and then a frame that says it has 4 GiB.
    Babbling,
    /// Files of the right length that never end.
    Endless,
    /// A byte a second of every file.
    Dripping,
}

/// A rollout as the thief offers it.
#[derive(Clone, Debug)]
pub struct Offer {
    pub plan: Vec<u8>,
    pub release: Vec<u8>,
    pub gate: Option<Vec<u8>>,
    pub member: Membership,
    /// Changes the right lease before it is signed; none = no lease at all.
    pub lease: Option<fn(&mut Lease)>,
}

impl Wish {
    /// The roles as they were stolen, and this rollout.
    pub fn new(stolen: &Stolen, rollout: Option<Offer>) -> Result<Self> {
        let timestamp = stolen.newest::<Timestamp>(|t| t.version)?.1;
        let snapshot = stolen.newest::<Snapshot>(|s| s.version)?.1;
        let targets = stolen.newest::<Targets>(|t| t.version)?.1;
        Ok(Self::with_roles(timestamp, snapshot, targets, rollout))
    }

    pub fn with_roles(timestamp: Vec<u8>, snapshot: Vec<u8>, targets: Vec<u8>, rollout: Option<Offer>) -> Self {
        Self {
            documents: vec![
                (DocKind::Timestamp, timestamp),
                (DocKind::Snapshot, snapshot),
                (DocKind::Targets, targets),
            ],
            rollout,
            lies: BTreeMap::new(),
            manner: Manner::Prompt,
            ahead_s: 0,
        }
    }
}

/// The thief at work, on the address where devices look for their controller. Ends when dropped.
#[derive(Debug)]
pub struct Hostile {
    endpoint: Endpoint,
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Thief {
    stolen: Arc<Stolen>,
    wish: Wish,
    /// Every document of the wish, by digest.
    shelf: BTreeMap<Digest, Vec<u8>>,
}

impl Hostile {
    pub fn start(stolen: &Arc<Stolen>, address: &str, wish: Wish) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls::server_config(Arc::new(
            tls::Shown::new(&stolen.tls)?,
        ))?)?;
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let address: SocketAddr = address.parse()?;
        let endpoint = {
            let _guard = runtime.enter();
            Endpoint::server(config, address).with_context(|| format!("the thief listens on {address}"))?
        };
        let offered = wish
            .rollout
            .iter()
            .flat_map(|r| [Some(&r.plan), Some(&r.release), r.gate.as_ref()]);
        let documents = wish.documents.iter().map(|(_, bytes)| bytes);
        let shelf = documents
            .chain(offered.flatten())
            .map(|bytes| (Digest::of(bytes), bytes.clone()))
            .collect();
        let thief = Arc::new(Thief {
            stolen: Arc::clone(stolen),
            wish,
            shelf,
        });
        runtime.spawn(accept(endpoint.clone(), thief));
        Ok(Self {
            endpoint,
            runtime: Some(runtime),
        })
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.endpoint.close(0_u8.into(), b"");
        if let Some(runtime) = self.runtime.take() {
            let endpoint = self.endpoint.clone();
            // The address must be free again for whoever comes next.
            runtime.block_on(async { endpoint.wait_idle().await });
            runtime.shutdown_timeout(std::time::Duration::from_secs(2));
        }
    }
}

async fn accept(endpoint: Endpoint, thief: Arc<Thief>) {
    while let Some(incoming) = endpoint.accept().await {
        let thief = Arc::clone(&thief);
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            let Some(device) = peer(&connection) else { return };
            while let Ok((send, recv)) = connection.accept_bi().await {
                let thief = Arc::clone(&thief);
                tokio::spawn(async move {
                    // A device that leaves is no trouble here.
                    let _ = thief.stream(device, send, recv).await;
                });
            }
        });
    }
}

impl Thief {
    /// The first frame tells a control stream from a fetching one. Reports are heard and never acknowledged.
    async fn stream(&self, device: DeviceId, mut send: SendStream, mut recv: RecvStream) -> Result<()> {
        let first = body(&mut recv).await?;
        if self.wish.manner == Manner::Silent {
            loop {
                body(&mut recv).await?;
            }
        }
        if let Ok(request) = frame::decode::<Request>(&first) {
            return self.give(request, &mut send).await;
        }
        if let Ok(FromDevice::Hello(hello)) = frame::decode::<FromDevice>(&first) {
            let welcome = frame::encode(&ToDevice::Welcome(self.welcome(device, &hello)?))?;
            send.write_all(&welcome).await?;
            let desired = frame::encode(&ToDevice::Desired(self.desired(device, &hello)?))?;
            send.write_all(&desired).await?;
            if self.wish.manner == Manner::Babbling {
                send.write_all(&u32::MAX.to_be_bytes()).await?;
                return without_end(&mut send).await;
            }
        }
        loop {
            body(&mut recv).await?;
        }
    }

    async fn give(&self, request: Request, send: &mut SendStream) -> Result<()> {
        let (Request::Documents { digests } | Request::Blobs { digests, .. }) = request;
        for digest in digests {
            let lie = self.wish.lies.get(&digest).cloned();
            let bytes = lie
                .or_else(|| self.shelf.get(&digest).cloned())
                .or_else(|| self.stolen.documents.get(&digest).cloned())
                .or_else(|| self.stolen.blob(&digest));
            match bytes {
                Some(bytes) => {
                    send.write_all(&u32::try_from(bytes.len())?.to_be_bytes()).await?;
                    match self.wish.manner {
                        Manner::Endless => return without_end(send).await,
                        Manner::Dripping => drip(send, &bytes).await?,
                        _ => send.write_all(&bytes).await?,
                    }
                }
                None => send.write_all(&ABSENT.to_be_bytes()).await?,
            }
        }
        send.finish()?;
        send.stopped().await?;
        Ok(())
    }

    fn welcome(&self, device: DeviceId, hello: &Hello) -> Result<Welcome> {
        let time = TimeAttestation {
            format: FORMAT,
            fleet: self.stolen.fleet,
            device,
            nonce: hello.nonce,
            time: unix_now() + self.wish.ahead_s,
        };
        Ok(Welcome {
            protocol: wire::PROTOCOL.1,
            device,
            name: "stolen".to_owned(),
            fleet: self.stolen.fleet,
            time: ByteBuf::from(statement::sign(&time, &[&self.stolen.timestamp], &self.stolen.fleet)?),
            interval_s: 60,
            labels: Labels::new(),
        })
    }

    fn desired(&self, device: DeviceId, hello: &Hello) -> Result<Desired> {
        let rollout = match &self.wish.rollout {
            Some(offer) => Some(DesiredRollout {
                plan: doc(DocKind::Plan, &offer.plan),
                release: doc(DocKind::Release, &offer.release),
                gate: offer.gate.as_ref().map(|gate| doc(DocKind::Gate, gate)),
                member: offer.member.clone(),
                lease: offer
                    .lease
                    .map(|change| self.lease(device, hello, offer, change))
                    .transpose()?,
            }),
            None => None,
        };
        Ok(Desired {
            generation: 1,
            documents: self
                .wish
                .documents
                .iter()
                .map(|(kind, bytes)| doc(*kind, bytes))
                .collect(),
            rollout,
        })
    }

    fn lease(&self, device: DeviceId, hello: &Hello, offer: &Offer, change: fn(&mut Lease)) -> Result<ByteBuf> {
        let mut lease = Lease {
            format: FORMAT,
            issued: unix_now(),
            plan: statement::open_unverified::<Plan>(&offer.plan)?.digest(),
            device,
            nonce: hello.nonce,
            ttl_s: 900,
        };
        change(&mut lease);
        let bytes = statement::sign(&lease, &[&self.stolen.timestamp], &self.stolen.fleet)?;
        Ok(ByteBuf::from(bytes))
    }
}

/// Until the device has enough of it.
async fn without_end(send: &mut SendStream) -> Result<()> {
    let chunk = vec![b'x'; 64 << 10];
    loop {
        send.write_all(&chunk).await?;
    }
}

async fn drip(send: &mut SendStream, bytes: &[u8]) -> Result<()> {
    for byte in bytes {
        send.write_all(&[*byte]).await?;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    Ok(())
}

fn doc(kind: DocKind, bytes: &[u8]) -> DocRef {
    DocRef {
        kind,
        digest: Digest::of(bytes),
        length: bytes.len() as u64,
    }
}

async fn body(recv: &mut RecvStream) -> Result<Vec<u8>> {
    let mut word = [0; LENGTH_BYTES];
    recv.read_exact(&mut word).await?;
    let mut body = vec![0; frame::body_length(word)?];
    recv.read_exact(&mut body).await?;
    Ok(body)
}

fn peer(connection: &Connection) -> Option<DeviceId> {
    let shown = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    let key = PublicKey::from_spki(shown.first()?).ok()?;
    Some(DeviceId::from(key.id()))
}
