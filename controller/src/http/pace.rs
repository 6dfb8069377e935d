//! A body must come: at least so many bytes in each stretch of time, and all of it within a time that follows from its size.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// The least that is asked of who sends a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Bytes per second. Default 1 KiB/s, as for devices.
    pub least: u64,
    /// ... judged over this time. Default 60 s: a mobile network may be gone for so long and no longer.
    pub over: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            least: 1 << 10,
            over: Duration::from_secs(60),
        }
    }
}

impl Pace {
    /// Bytes that must come in each stretch.
    fn stretch(self) -> u64 {
        self.least.saturating_mul(self.over.as_secs().max(1))
    }

    /// Time for a body of so many bytes.
    fn whole(self, bytes: u64) -> Duration {
        self.over + Duration::from_secs(bytes / self.least.max(1))
    }
}

/// The body did not come fast enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooSlow {
    #[error("{got} bytes of the body came in {} s, at least {least} B/s are asked for", over.as_secs())]
    Stretch { got: u64, least: u64, over: Duration },
    #[error("{got} of {size} bytes of the body came in {} s", within.as_secs())]
    Whole { got: u64, size: u64, within: Duration },
}

/// A body that is given up when it comes too slowly. Time counts from its first poll: before that nobody waits for it.
pub struct Paced<B> {
    body: B,
    pace: Pace,
    size: Option<u64>,
    started: Option<Started>,
}

struct Started {
    /// In all.
    got: u64,
    /// In this stretch.
    fresh: u64,
    stretch: Pin<Box<Sleep>>,
    whole: Option<Pin<Box<Sleep>>>,
}

impl<B> fmt::Debug for Paced<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paced")
            .field("pace", &self.pace)
            .finish_non_exhaustive()
    }
}

impl<B: HttpBody> Paced<B> {
    pub fn new(body: B, pace: Pace) -> Self {
        let size = body.size_hint().exact();
        Self {
            body,
            pace,
            size,
            started: None,
        }
    }
}

impl Started {
    fn new(pace: Pace, size: Option<u64>) -> Self {
        let sleep = |time| Box::pin(tokio::time::sleep(time));
        Self {
            got: 0,
            fresh: 0,
            stretch: sleep(pace.over),
            whole: size.map(|bytes| sleep(pace.whole(bytes))),
        }
    }

    fn took(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.got = self.got.saturating_add(bytes);
        self.fresh = self.fresh.saturating_add(bytes);
    }

    /// Ready when the sender is too slow.
    fn poll_slow(&mut self, pace: Pace, size: Option<u64>, cx: &mut Context<'_>) -> Poll<TooSlow> {
        if let (Some(whole), Some(size)) = (&mut self.whole, size)
            && whole.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(TooSlow::Whole {
                got: self.got,
                size,
                within: pace.whole(size),
            });
        }
        loop {
            ready!(self.stretch.as_mut().poll(cx));
            if self.fresh < pace.stretch() {
                return Poll::Ready(TooSlow::Stretch {
                    got: self.fresh,
                    least: pace.least,
                    over: pace.over,
                });
            }
            self.fresh = 0;
            self.stretch.as_mut().reset(Instant::now() + pace.over);
        }
    }
}

impl<B> HttpBody for Paced<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let started = this.started.get_or_insert_with(|| Started::new(this.pace, this.size));
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                started.took(frame.data_ref().map_or(0, Bytes::len));
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(end) => Poll::Ready(end.map(|frame| frame.map_err(Into::into))),
            Poll::Pending => {
                let slow = ready!(started.poll_slow(this.pace, this.size, cx));
                Poll::Ready(Some(Err(slow.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::BodyExt as _;
    use tokio::sync::mpsc;

    use super::*;

    /// What a test sends, chunk by chunk.
    struct Sent {
        chunks: mpsc::UnboundedReceiver<usize>,
        size: Option<u64>,
    }

    impl HttpBody for Sent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let chunk = ready!(self.chunks.poll_recv(cx));
            Poll::Ready(chunk.map(|bytes| Ok(Frame::data(Bytes::from(vec![0; bytes])))))
        }

        fn size_hint(&self) -> SizeHint {
            self.size.map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    fn body(size: Option<u64>) -> (mpsc::UnboundedSender<usize>, Paced<Sent>) {
        let (send, chunks) = mpsc::unbounded_channel();
        (send, Paced::new(Sent { chunks, size }, Pace::default()))
    }

    fn slow(error: Box<dyn std::error::Error + Send + Sync>) -> TooSlow {
        *error.downcast().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_is_given_up_after_a_stretch() {
        let (send, body) = body(None);
        send.send(5000).unwrap();
        let began = Instant::now();
        let error = slow(body.collect().await.unwrap_err());
        assert_eq!(began.elapsed().as_secs(), 60);
        assert!(matches!(error, TooSlow::Stretch { got: 5000, .. }), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_at_the_least_speed_arrives() {
        let (send, body) = body(Some(300 << 10));
        tokio::spawn(async move {
            for _ in 0..300 {
                tokio::time::sleep(Duration::from_millis(999)).await;
                send.send(1 << 10).unwrap();
            }
        });
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 300 << 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_must_be_whole_within_the_time_of_its_size() {
        // Of more bytes than announced hyper itself makes an error; here they only keep each stretch going.
        let (send, body) = body(Some(10 << 10));
        tokio::spawn(async move {
            while send.send(100).is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let began = Instant::now();
        let error = slow(body.collect().await.unwrap_err());
        assert_eq!(began.elapsed().as_secs(), 70);
        assert!(matches!(error, TooSlow::Whole { size: 10240, .. }), "{error}");
    }
}
