//! One connection used for a protocol's frames and, between its steps, for control frames.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Channel, NetError};

/// A handle to a channel; the handles of one channel belong to one thread and take turns.
pub struct SharedChannel<C>(Arc<Mutex<C>>);

impl<C> SharedChannel<C> {
    pub fn new(channel: C) -> Self {
        Self(Arc::new(Mutex::new(channel)))
    }

    /// The channel itself, for what [`Channel`] does not offer.
    pub fn lock(&self) -> MutexGuard<'_, C> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Clone for SharedChannel<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C: Channel> Channel for SharedChannel<C> {
    fn send(&mut self, frame: Vec<u8>) -> Result<(), NetError> {
        self.lock().send(frame)
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        self.lock().recv()
    }
}
