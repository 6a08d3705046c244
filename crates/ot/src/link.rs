//! The link between the two parties: messages of known length, counted and hashed.
//!
//! Both parties know from the protocol who sends how much in each step, so a message has no header,
//! and one of another length is an error. Bytes and rounds are counted by [`Phase`]; a hash over
//! all bytes of each direction lets [`Link::confirm`] notice a message that was changed, repeated,
//! dropped or moved.

use std::ops::{AddAssign, Sub};

use marill_net::Channel;
use sha2::{Digest, Sha256};

use crate::error::OtError;

/// One of the two evaluators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    E0 = 0,
    E1 = 1,
}

impl Party {
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::E0 => Self::E1,
            Self::E1 => Self::E0,
        }
    }
}

/// What bytes are sent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Base transfers and what expands them for a session.
    Setup,
    /// Making correlated transfers.
    Extension,
    /// Other material that depends on no input.
    Offline,
    /// What depends on inputs.
    Online,
}

/// Payload bytes and rounds of one phase. A round is a step of the chain of messages: a
/// simultaneous exchange is one, and so are messages in a row in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub sent: u64,
    pub received: u64,
    pub rounds: u64,
}

impl Traffic {
    /// Bytes in both directions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sent + self.received
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.rounds += other.rounds;
    }
}

impl Sub for Traffic {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            sent: self.sent - other.sent,
            received: self.received - other.received,
            rounds: self.rounds - other.rounds,
        }
    }
}

/// Messages longer than this travel in several frames: well below what a channel refuses.
const MAX_FRAME_BYTES: usize = 16 << 20;

/// Bytes of a transcript's digest that are compared: 128 bits.
const CONFIRM_BYTES: usize = 16;

/// What happened last, for counting rounds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Sent,
    Received,
    Both,
}

/// One party's end.
pub struct Link<C> {
    channel: C,
    party: Party,
    phase: Phase,
    traffic: [Traffic; 4],
    last: Last,
    sent: Sha256,
    received: Sha256,
}

impl<C: Channel> Link<C> {
    /// A peer's silence ends where the channel's limit says so.
    pub fn new(channel: C, party: Party) -> Self {
        Self {
            channel,
            party,
            phase: Phase::Setup,
            traffic: [Traffic::default(); 4],
            last: Last::Both,
            sent: Sha256::new(),
            received: Sha256::new(),
        }
    }

    pub fn party(&self) -> Party {
        self.party
    }

    pub fn traffic(&self, phase: Phase) -> Traffic {
        self.traffic[phase as usize]
    }

    /// Counts what follows for `phase`, whose first message is a round of its own; gives the phase
    /// before.
    pub fn enter(&mut self, phase: Phase) -> Phase {
        if phase != self.phase {
            self.last = Last::Both;
        }
        std::mem::replace(&mut self.phase, phase)
    }

    /// Counts the next message as a round of its own, also where it could travel with the last one.
    pub fn begin_round(&mut self) {
        self.last = Last::Both;
    }

    fn count(&mut self, happened: Last, sent: usize, received: usize) {
        let new_round = happened == Last::Both || happened != self.last;
        self.last = happened;
        self.traffic[self.phase as usize] += Traffic {
            sent: sent as u64,
            received: received as u64,
            rounds: u64::from(new_round),
        };
    }

    fn put(&mut self, step: &'static str, frame: &[u8]) -> Result<(), OtError> {
        self.sent.update(frame);
        let sent = self.channel.send(frame.to_vec());
        sent.map_err(|source| OtError::Peer { step, source })
    }

    /// Adds the next frame of a message of `length` bytes to what is there of it.
    fn get(
        &mut self,
        step: &'static str,
        length: usize,
        message: &mut Vec<u8>,
    ) -> Result<(), OtError> {
        let expected = (length - message.len()).min(MAX_FRAME_BYTES);
        let frame = self.channel.recv();
        let frame = frame.map_err(|source| OtError::Peer { step, source })?;
        if frame.len() != expected {
            let got = frame.len();
            return Err(OtError::Frame {
                step,
                expected,
                got,
            });
        }
        self.received.update(&frame);
        if message.is_empty() {
            *message = frame;
        } else {
            message.extend(frame);
        }
        Ok(())
    }

    /// Frames of both directions in turn, one of our own ahead: a channel holds few frames that
    /// nobody has taken yet, and two parties that only send would wait for each other.
    fn both(
        &mut self,
        step: &'static str,
        message: &[u8],
        length: usize,
    ) -> Result<Vec<u8>, OtError> {
        let mut own = message.chunks(MAX_FRAME_BYTES);
        let mut received = Vec::new();
        if let Some(frame) = own.next() {
            self.put(step, frame)?;
        }
        loop {
            let next = own.next();
            if let Some(frame) = next {
                self.put(step, frame)?;
            }
            if received.len() < length {
                self.get(step, length, &mut received)?;
            } else if next.is_none() {
                return Ok(received);
            }
        }
    }

    /// Sends one message to the peer, which waits for it.
    ///
    /// # Errors
    /// [`OtError::Peer`] when it is gone.
    pub fn send(&mut self, step: &'static str, message: &[u8]) -> Result<(), OtError> {
        if message.is_empty() {
            return Ok(());
        }
        self.count(Last::Sent, message.len(), 0);
        self.both(step, message, 0).map(drop)
    }

    /// Waits for a message of `length` bytes.
    ///
    /// # Errors
    /// [`OtError::Peer`] when the peer is gone or silent, [`OtError::Frame`] for another length.
    pub fn receive(&mut self, step: &'static str, length: usize) -> Result<Vec<u8>, OtError> {
        if length == 0 {
            return Ok(Vec::new());
        }
        self.count(Last::Received, 0, length);
        self.both(step, &[], length)
    }

    /// Both parties send at once, then receive. An empty message is not sent.
    ///
    /// # Errors
    /// As [`Self::send`] and [`Self::receive`].
    pub fn exchange(
        &mut self,
        step: &'static str,
        message: &[u8],
        length: usize,
    ) -> Result<Vec<u8>, OtError> {
        if message.is_empty() || length == 0 {
            self.send(step, message)?;
            return self.receive(step, length);
        }
        self.count(Last::Both, message.len(), length);
        self.both(step, message, length)
    }

    /// Compares what each party sent with what the other received, since the link began. To be
    /// called before a result is believed where the channel does not protect its messages.
    ///
    /// # Errors
    /// [`OtError::Transcript`] when they differ; as [`Self::exchange`].
    pub fn confirm(&mut self) -> Result<(), OtError> {
        let digest = |hash: &Sha256| -> [u8; CONFIRM_BYTES] {
            let whole = hash.clone().finalize();
            *whole.first_chunk().expect("SHA-256 has 32 bytes")
        };
        let sent = digest(&self.sent);
        let expected = digest(&self.received);
        let got = self.exchange("confirm", &sent, CONFIRM_BYTES)?;
        if got == expected {
            Ok(())
        } else {
            Err(OtError::Transcript)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use marill_net::NetError;

    use super::*;

    /// Holds two frames that nobody has taken, as a socket may; then sending waits.
    struct Narrow {
        sender: mpsc::SyncSender<Vec<u8>>,
        receiver: mpsc::Receiver<Vec<u8>>,
    }

    impl Channel for Narrow {
        fn send(&mut self, frame: Vec<u8>) -> Result<(), NetError> {
            let mut frame = frame;
            for _ in 0..3000 {
                match self.sender.try_send(frame) {
                    Ok(()) => return Ok(()),
                    Err(mpsc::TrySendError::Disconnected(_)) => return Err(NetError::Closed),
                    Err(mpsc::TrySendError::Full(back)) => frame = back,
                }
                thread::sleep(Duration::from_millis(10));
            }
            Err(NetError::TimedOut { seconds: 30 })
        }

        fn recv(&mut self) -> Result<Vec<u8>, NetError> {
            let limit = Duration::from_secs(60);
            let timed_out = |_| NetError::TimedOut { seconds: 60 };
            self.receiver.recv_timeout(limit).map_err(timed_out)
        }
    }

    #[test]
    fn long_messages_of_both_parties_do_not_wait_for_each_other() {
        let (to_second, from_first) = mpsc::sync_channel(2);
        let (to_first, from_second) = mpsc::sync_channel(2);
        let ends = [
            (Party::E0, to_second, from_second, 5 * MAX_FRAME_BYTES + 3),
            (Party::E1, to_first, from_first, 2 * MAX_FRAME_BYTES + 1),
        ];
        let lengths = [ends[0].3, ends[1].3];
        let run = |(party, sender, receiver, length): (Party, _, _, usize)| {
            thread::spawn(move || {
                let mut link = Link::new(Narrow { sender, receiver }, party);
                let other = lengths[party.other() as usize];
                let received = link.exchange("long", &vec![party as u8; length], other);
                let received = received.unwrap();
                assert_eq!(received.len(), other);
                assert!(received.iter().all(|&byte| byte == party.other() as u8));
            })
        };
        for end in ends.map(run) {
            end.join().unwrap();
        }
    }
}
