//! An end of a channel that keeps what it sends, and one of whose frames suffers a fault on its
//! way.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use marill_net::{Channel, NetError};

/// What happens to one frame on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One bit is another.
    Flip,
    /// The last byte is missing.
    Cut,
    /// There is a byte more.
    Lengthen,
    /// It comes twice.
    Repeat,
    /// It does not come.
    Drop,
    /// It comes after the one behind it.
    Move,
    /// Neither it nor any other comes.
    Silence,
}

impl Fault {
    pub const ALL: [Self; 7] = [
        Self::Flip,
        Self::Cut,
        Self::Lengthen,
        Self::Repeat,
        Self::Drop,
        Self::Move,
        Self::Silence,
    ];
}

/// The frames that an end sent, in order, as the peer should have got them.
#[derive(Clone, Default)]
pub struct Frames(Arc<Mutex<Vec<Vec<u8>>>>);

impl Frames {
    /// Those since the last time.
    #[must_use]
    pub fn take(&self) -> Vec<Vec<u8>> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, frame: &[u8]) {
        let mut frames = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        frames.push(frame.to_vec());
    }
}

/// An end whose `at`-th frame suffers a fault.
pub struct FaultyEnd<C> {
    inner: C,
    fault: Option<(usize, Fault)>,
    sent: usize,
    moved: Option<Vec<u8>>,
    frames: Frames,
}

impl<C: Channel> FaultyEnd<C> {
    #[must_use]
    pub fn new(inner: C, fault: Option<(usize, Fault)>) -> Self {
        Self {
            inner,
            fault,
            sent: 0,
            moved: None,
            frames: Frames::default(),
        }
    }

    /// What it sends.
    #[must_use]
    pub fn frames(&self) -> Frames {
        self.frames.clone()
    }
}

impl<C: Channel> Channel for FaultyEnd<C> {
    fn send(&mut self, mut frame: Vec<u8>) -> Result<(), NetError> {
        self.frames.push(&frame);
        let now = self.sent;
        self.sent += 1;
        match self.fault {
            Some((at, Fault::Silence)) if now >= at => return Ok(()),
            Some((at, fault)) if now == at => match fault {
                Fault::Flip => frame[0] ^= 1,
                Fault::Cut => {
                    frame.pop();
                }
                Fault::Lengthen => frame.push(0),
                Fault::Repeat => self.inner.send(frame.clone())?,
                Fault::Drop | Fault::Silence => return Ok(()),
                Fault::Move => {
                    self.moved = Some(frame);
                    return Ok(());
                }
            },
            _ => {}
        }
        self.inner.send(frame)?;
        self.moved
            .take()
            .map_or(Ok(()), |moved| self.inner.send(moved))
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        self.inner.recv()
    }
}
