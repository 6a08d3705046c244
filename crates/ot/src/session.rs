//! A session of the two parties: a link, a source of transfers, and a stock of material.

use marill_crypto::Seed;
use marill_net::Channel;

use crate::{
    base::{BaseOts, ID_BYTES},
    error::OtError,
    hash::{PadHash, public_key},
    link::{Link, Party, Phase, Traffic},
    plan::{Extension, Plan},
    source::{Segments, Source},
    stock::{ChosenPads, ChosenWords, Filling, Kind, Needs, SentPads, SentWords, Stock},
};

/// Version of the messages of a session.
const VERSION: u64 = 1;

const STEP: &str = "session";
const NONCE_BYTES: usize = 32;
const HELLO_BYTES: usize = 3 + ID_BYTES + NONCE_BYTES;

/// Most correlated transfers that one message extends: 31 bits each stay below 64 MiB.
const MAX_COTS: usize = 1 << 24;

/// What a party needs for protocols with its peer.
pub struct Session<C, S> {
    link: Link<C>,
    source: S,
    stock: Stock,
    /// Whether each party plays the other's part.
    exchanged: bool,
}

/// Whether the peer makes transfers in the same way.
fn same_extension(own: Extension, peer: u8) -> Result<(), OtError> {
    if own.code() == peer {
        return Ok(());
    }
    match (own, Extension::of_code(peer)) {
        (Extension::SoftSpoken(k), Some(Extension::SoftSpoken(_))) => Err(OtError::Parameters {
            what: "the bits of a seed tree",
            own: k as u64,
            peer: peer.into(),
        }),
        (own, other) => Err(OtError::Sources {
            own: own.to_string(),
            peer: other.map_or_else(|| format!("number {peer}, unknown here"), |x| x.to_string()),
        }),
    }
}

impl<C: Channel, S: Source> Session<C, S> {
    /// Begins a session on base transfers: both parties add a nonce, so that no session repeats
    /// another's pads. Two rounds. `plan` says how transfers are made: bits of a seed tree
    /// ([`crate::softspoken::GroupBits`]), a set of LPN ([`crate::LpnSet`]), or one of these that
    /// is known when the program runs ([`Extension`]).
    ///
    /// # Errors
    /// [`OtError::Parameters`] when versions, `k` or the parties' roles do not fit,
    /// [`OtError::Sources`] when the peer makes transfers in another way, [`OtError::Saved`] when
    /// its base transfers are not the other half of these; as [`Link::exchange`].
    pub fn begin<P: Plan<Source = S>>(
        mut link: Link<C>,
        base: &BaseOts,
        plan: P,
    ) -> Result<Self, OtError> {
        let party = link.party();
        if base.party() != party {
            return Err(OtError::Parameters {
                what: "whose base transfers these are",
                own: party as u64,
                peer: base.party() as u64,
            });
        }
        let nonce = Seed::random().to_bytes();
        let mut hello = vec![VERSION as u8, plan.extension().code(), party as u8];
        hello.extend(base.id());
        hello.extend(nonce);
        let peer = link.exchange(STEP, &hello, HELLO_BYTES)?;
        let other = party.other() as u64;
        let agree = [
            ("the version of the protocol", VERSION, peer[0]),
            ("which party is which", other, peer[2]),
        ];
        for (what, own, peer) in agree {
            if own != u64::from(peer) {
                let peer = u64::from(peer);
                return Err(OtError::Parameters { what, own, peer });
            }
        }
        same_extension(plan.extension(), peer[1])?;
        if peer[3..3 + ID_BYTES] != *base.id() {
            return Err(OtError::Saved("the peer has others"));
        }
        let mut nonces = [nonce, *peer.last_chunk().expect("a nonce is there")];
        if party == Party::E1 {
            nonces.swap(0, 1);
        }
        let nonces = nonces.as_flattened();
        let source = plan.expand(&mut link, &base.for_session(nonces), nonces)?;
        Ok(Self::new(link, source, &public_key("pads", nonces)))
    }
}

impl<C: Channel, S: Source> Session<C, S> {
    /// A session on a source of its own; `hash_key` is public and new for each session.
    pub fn new(mut link: Link<C>, source: S, hash_key: &[u8; 16]) -> Self {
        link.enter(Phase::Online);
        let stock = Stock::new(link.party(), PadHash::new(hash_key));
        Self {
            link,
            source,
            stock,
            exchanged: false,
        }
    }

    /// Which part this party plays.
    pub fn party(&self) -> Party {
        self.at_link(self.link.party())
    }

    /// Lets each party play the other's part in what follows, or its own again. A protocol on
    /// shares gives the same sums either way, and what the parts send changes sides; one on the
    /// parties' own values compares the other's. Both parties do it between the same protocols.
    pub fn exchange_parts(&mut self, exchanged: bool) {
        self.exchanged = exchanged;
    }

    /// The party of the link that plays a part, and the other way round.
    fn at_link(&self, part: Party) -> Party {
        match self.exchanged {
            true => part.other(),
            false => part,
        }
    }

    /// What the parties of the link need where their parts need this.
    fn needs_at_link(&self, needs: &Needs) -> Needs {
        match self.exchanged {
            true => needs.exchanged(),
            false => needs.clone(),
        }
    }

    pub fn link(&mut self) -> &mut Link<C> {
        &mut self.link
    }

    pub fn traffic(&self, phase: Phase) -> Traffic {
        self.link.traffic(phase)
    }

    /// Whether everything that was made was used.
    pub fn is_spent(&self) -> bool {
        self.stock.is_empty()
    }

    /// Makes what the source needs once before it makes this, and no material. Whatever makes
    /// material does it by itself.
    ///
    /// # Errors
    /// Those of [`Link`].
    pub fn set_up(&mut self, needs: &Needs) -> Result<(), OtError> {
        let cots = self.needs_at_link(needs).cots();
        let party = self.link.party();
        let directions = [party, party.other()].map(|sender| cots[sender as usize] > 0);
        self.source.set_up(&mut self.link, directions)
    }

    /// Makes material, in one round: more where there is a lot of it, and two or three of set-up
    /// before the first silent transfers of a direction. Both parties ask for the same.
    ///
    /// # Errors
    /// Those of [`Link`].
    pub fn prepare(&mut self, needs: &Needs) -> Result<(), OtError> {
        self.make(&self.needs_at_link(needs))
    }

    fn make(&mut self, needs: &Needs) -> Result<(), OtError> {
        let mut batch = Needs::none();
        let mut cots = [0; 2];
        for (kind, sender, n) in needs.iter() {
            let mut left = n;
            while left > 0 {
                let room = (MAX_COTS - cots[sender as usize]) / kind.cots();
                let now = left.min(room);
                batch.add(kind, sender, now);
                cots[sender as usize] += now * kind.cots();
                left -= now;
                if left > 0 {
                    self.extend(&std::mem::take(&mut batch))?;
                    cots = [0; 2];
                }
            }
        }
        self.extend(&batch)
    }

    fn extend(&mut self, needs: &Needs) -> Result<(), OtError> {
        let party = self.link.party();
        let mut segments = Segments::default();
        let mut sent = Vec::new();
        let mut chosen = Vec::new();
        for (kind, sender, n) in needs.iter().filter(|(_, _, n)| *n > 0) {
            if sender == party {
                sent.push(kind);
                segments.send.push(n * kind.cots());
            } else {
                chosen.push(kind);
                segments.choose.push(n * kind.cots());
            }
        }
        let mut filling = Filling {
            stock: &mut self.stock,
            sent,
            chosen,
        };
        let phase = self.link.enter(Phase::Extension);
        let made = self.source.extend(&mut self.link, &segments, &mut filling);
        self.link.enter(phase);
        made
    }

    /// Makes what is missing of this, if anything is, in one round. Every operation begins with it,
    /// so that a session never ends for want of material.
    ///
    /// # Errors
    /// Those of [`Link`].
    pub fn ensure(&mut self, needs: &Needs) -> Result<(), OtError> {
        let mut missing = Needs::none();
        for (kind, sender, n) in self.needs_at_link(needs).iter() {
            missing.add(
                kind,
                sender,
                n.saturating_sub(self.stock.left(kind, sender)),
            );
        }
        self.make(&missing)
    }

    /// Takes pads that this party sends.
    ///
    /// # Errors
    /// Those of [`Self::prepare`].
    pub fn sent(&mut self, kind: Kind, n: usize) -> Result<SentPads, OtError> {
        self.ensure(&Needs::of(kind, self.party(), n))?;
        Ok(self.stock.sent(kind, n))
    }

    /// Takes pads that this party chooses.
    ///
    /// # Errors
    /// Those of [`Self::prepare`].
    pub fn chosen(&mut self, kind: Kind, n: usize) -> Result<ChosenPads, OtError> {
        self.ensure(&Needs::of(kind, self.party().other(), n))?;
        Ok(self.stock.chosen(kind, n))
    }

    /// Takes pads of words that this party sends.
    ///
    /// # Errors
    /// Those of [`Self::prepare`].
    pub fn sent_words(&mut self, words: u8, n: usize) -> Result<SentWords, OtError> {
        self.ensure(&Needs::of(Kind::Pads { words }, self.party(), n))?;
        Ok(self.stock.sent_words(words, n))
    }

    /// Takes pads of words that this party chooses.
    ///
    /// # Errors
    /// Those of [`Self::prepare`].
    pub fn chosen_words(&mut self, words: u8, n: usize) -> Result<ChosenWords, OtError> {
        self.ensure(&Needs::of(Kind::Pads { words }, self.party().other(), n))?;
        Ok(self.stock.chosen_words(words, n))
    }

    /// Bytes in both directions that the source sends to make this now.
    pub fn extension_bytes(&self, needs: &Needs) -> u64 {
        let mut segments = Segments::default();
        for (kind, sender, n) in self.needs_at_link(needs).iter() {
            if sender == self.link.party() {
                segments.send.push(n * kind.cots());
            } else {
                segments.choose.push(n * kind.cots());
            }
        }
        self.source.bytes(&segments)
    }

    /// Compares what was sent with what was received, see [`Link::confirm`].
    ///
    /// # Errors
    /// [`OtError::Transcript`].
    pub fn confirm(&mut self) -> Result<(), OtError> {
        self.link.confirm()
    }
}
