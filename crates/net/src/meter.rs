//! Counting what a protocol sends, apart from what the layers below add.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{Channel, NetError};

/// Payload bytes and frames of one end of a channel.
#[derive(Debug, Default)]
pub struct Meter {
    frames_sent: AtomicU64,
    frames_received: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

impl Meter {
    pub fn frames_sent(&self) -> u64 {
        self.frames_sent.load(Ordering::Relaxed)
    }

    pub fn frames_received(&self) -> u64 {
        self.frames_received.load(Ordering::Relaxed)
    }

    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent.load(Ordering::Relaxed)
    }

    pub fn bytes_received(&self) -> u64 {
        self.bytes_received.load(Ordering::Relaxed)
    }
}

/// Counts the frames of the channel it wraps.
pub struct Metered<C> {
    inner: C,
    meter: Arc<Meter>,
}

impl<C: Channel> Metered<C> {
    pub fn new(inner: C, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }
}

impl<C: Channel> Channel for Metered<C> {
    fn send(&mut self, frame: Vec<u8>) -> Result<(), NetError> {
        self.meter.frames_sent.fetch_add(1, Ordering::Relaxed);
        self.meter
            .bytes_sent
            .fetch_add(frame.len() as u64, Ordering::Relaxed);
        self.inner.send(frame)
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        let frame = self.inner.recv()?;
        self.meter.frames_received.fetch_add(1, Ordering::Relaxed);
        self.meter
            .bytes_received
            .fetch_add(frame.len() as u64, Ordering::Relaxed);
        Ok(frame)
    }
}
