//! Bodies of requests, which have to come in time, and of answers, which keep their connection at
//! work.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::connections::places::{Busy, Slot};

/// The longest pause within a request's body, and the time for all of it.
const BODY_PAUSE: Duration = Duration::from_secs(10);

const BODY_LIMIT: Duration = Duration::from_secs(60);

/// A request's body that has to come in time.
pub(super) struct Unhurried {
    body: Incoming,
    end: Instant,
    timer: Pin<Box<Sleep>>,
    slot: Arc<Slot>,
}

impl Unhurried {
    pub(super) fn new(body: Incoming, slot: Arc<Slot>) -> Self {
        let now = Instant::now();
        Self {
            body,
            end: now + BODY_LIMIT,
            timer: Box::pin(sleep_until(now + BODY_PAUSE)),
            slot,
        }
    }
}

impl HttpBody for Unhurried {
    type Data = <Incoming as HttpBody>::Data;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let next = (Instant::now() + BODY_PAUSE).min(self.end);
            self.timer.as_mut().reset(next);
            return Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::new)));
        }
        self.timer.as_mut().poll(cx).map(|()| {
            self.slot.give_up();
            Some(Err(axum::Error::new(io::Error::new(
                io::ErrorKind::TimedOut,
                "the body is missing",
            ))))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body; while it lasts, its connection is at work.
pub(super) struct Answering {
    pub(super) body: Body,
    pub(super) _busy: Busy,
}

impl HttpBody for Answering {
    type Data = <Body as HttpBody>::Data;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
