use ensign_crypto::SecretKey;

use super::super::controller::Up;
use super::super::fake::{Fake, Script};
use super::super::fetch::FetchError;
use super::super::session::{self, FrameError};
use super::*;

/// An engine that drives nothing by itself, and a session over a real connection.
struct Bench {
    engine: Engine,
    _fake: Fake,
    _dir: tempfile::TempDir,
}

impl Bench {
    /// A session with `streams` of them in use.
    async fn with_streams(streams: usize) -> (Self, usize) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let (events, _) = mpsc::unbounded_channel();
        let (state, _) = watch::channel(None);
        let (status, _) = watch::channel(LinkStatus::new(None));
        let mut engine = Engine::new(config::Config::default().link, cache, events, state, status);
        let fake = Fake::start(5, Script::default());
        let key = SecretKey::from_seed([1; 32]);
        let connected = session::connect(&fake.target(), &key, ensign_bundle::wire::ALPN)
            .await
            .unwrap();
        let connection = connected.connection.stable_id();
        engine.take(Event::ControllerUp(Box::new(Up {
            connection: connected.connection.clone(),
            address: connected.address.clone(),
            welcome: super::super::fake::welcome(b""),
            nonce: ensign_bundle::digest::Nonce([1; 32]),
            reports: watch::channel(None).0,
        })));
        engine.session.as_mut().unwrap().streams = streams;
        let bench = Self {
            engine,
            _fake: fake,
            _dir: dir,
        };
        (bench, connection)
    }

    fn ended(&mut self, connection: usize, left: Digest) {
        let error = Some(FetchError::Frame(FrameError::Lost("gone".to_owned())));
        let left = vec![left];
        self.engine.in_flight.extend(&left);
        self.engine.take(Event::StreamEnded {
            connection,
            left,
            received: 0,
            error,
        });
    }
}

/// Streams of a connection that is gone end late, often after the next session has begun: they are none of it.
#[tokio::test]
async fn the_end_of_a_stream_counts_in_its_own_session_alone() {
    let (mut bench, connection) = Bench::with_streams(2).await;
    let blob = Digest([3; 32]);
    for _ in 0..2 {
        bench.ended(connection + 1, blob);
    }
    let streams = |bench: &Bench| bench.engine.session.as_ref().unwrap().streams;
    assert_eq!(streams(&bench), 2);
    // What was asked for there is asked for here at once.
    assert!(bench.engine.in_flight.is_empty() && bench.engine.delayed.is_empty());
    bench.ended(connection, blob);
    assert_eq!(streams(&bench), 1);
    assert!(
        bench.engine.delayed.contains_key(&blob),
        "this connection is left alone for a while"
    );
}

#[test]
fn a_controller_sets_the_interval_within_a_second_and_a_day() {
    let day = 24 * 3600;
    for (asked, taken) in [(0, 1), (1, 1), (300, 300), (day, day), (day + 1, day), (u64::MAX, day)] {
        assert_eq!(interval(asked), Duration::from_secs(taken), "{asked} s");
    }
}
