//! Messages that are no protocol's: openings, what one party tells the other, keys for packing.

use marill_net::Channel;
use marill_ot::{Link, Needs, Phase, Source};
use marill_two_party::{Cost, OtError, Party, Session};

use super::{Counted, Gates, Mode, masked};
use crate::{error::ProtocolResult, two_party::lattice::Keys};

/// The peer, and the keys of both.
pub(in crate::two_party) struct Packing<'a, C> {
    pub link: &'a mut Link<C>,
    pub label: &'static str,
    pub keys: &'a Keys,
}

impl<C: Channel, S: Source> Gates<C, S> {
    /// What makes products for steps to come, with packing keys exchanged.
    pub(in crate::two_party) fn packing(
        &mut self,
        vectors: usize,
    ) -> ProtocolResult<Packing<'_, C>> {
        let label = self.label;
        let Mode::Live(session, keys) = &mut self.mode else {
            unreachable!("products of steps to come are made with a peer")
        };
        if keys.is_none() {
            *keys = Some(Box::new(Keys::exchange(session, self.keeping.as_mut())?));
        }
        let keys = keys.as_mut().expect("just made");
        keys.exchange_packing(session, vectors)?;
        Ok(Packing {
            link: session.link(),
            label,
            keys,
        })
    }

    /// What follows is for this, if there is a peer; says what was before.
    pub(in crate::two_party) fn enter(&mut self, phase: Phase) -> Phase {
        match &mut self.mode {
            Mode::Live(session, _) => session.link().enter(phase),
            Mode::Count(_) => phase,
        }
    }

    /// How many steps are prepared now: E0 says it.
    pub(in crate::two_party) fn agree_on_steps(
        &mut self,
        wanted: usize,
        most: usize,
    ) -> ProtocolResult<usize> {
        let Mode::Live(session, _) = &mut self.mode else {
            return Ok(wanted);
        };
        let first = session.party() == Party::E0;
        let link = session.link();
        let phase = link.enter(Phase::Offline);
        let said = if first {
            let said = wanted.clamp(1, most) as u8;
            link.exchange(STEPS, &[said], 0).map(|_| said)
        } else {
            link.exchange(STEPS, &[], 1).map(|bytes| bytes[0])
        };
        link.enter(phase);
        let said = said?;
        if (1..=most).contains(&usize::from(said)) {
            return Ok(said.into());
        }
        Err(OtError::Parameters {
            what: "steps prepared at once",
            own: most as u64,
            peer: said.into(),
        }
        .into())
    }

    /// The sums of both parties' numbers, each list modulo `2^bits` of its own. One round.
    pub(in crate::two_party) fn open(
        &mut self,
        list: &[(u32, Vec<u64>)],
    ) -> ProtocolResult<Vec<Vec<u64>>> {
        let label = self.label;
        let mut cost = Cost::none();
        cost.exchange([packed_bits(list); 2]);
        self.run(
            || Counted::online(cost, Needs::none()),
            |session| {
                let theirs = exchanged(session, label, list, [true; 2])?.unwrap_or_default();
                let sums = list.iter().zip(theirs).map(|((bits, own), theirs)| {
                    let pairs = own.iter().zip(theirs);
                    let sum = pairs.map(|(a, b)| a.wrapping_add(b));
                    masked(&sum.collect::<Vec<_>>(), *bits)
                });
                Ok(sums.collect())
            },
            || list.iter().map(|(_, own)| vec![0; own.len()]).collect(),
        )
    }

    /// E0's numbers at E1. One round.
    pub(in crate::two_party) fn tell_server(
        &mut self,
        phase: Phase,
        list: &[(u32, Vec<u64>)],
    ) -> ProtocolResult<Option<Vec<Vec<u64>>>> {
        let label = self.label;
        let before = self.enter(phase);
        let mut cost = Cost::none();
        cost.exchange([packed_bits(list), 0]);
        let told = self.run(
            || Counted::online(cost, Needs::none()),
            |session| exchanged(session, label, list, [true, false]),
            || None,
        );
        self.enter(before);
        told
    }
}

/// How many steps are prepared.
const STEPS: &str = "steps to prepare";

fn packed_bits(list: &[(u32, Vec<u64>)]) -> usize {
    list.iter()
        .map(|(bits, own)| *bits as usize * own.len())
        .sum()
}

/// The peer's numbers, where it sends: `sends` says it of E0 and E1. Both know all lengths.
pub(super) fn exchanged<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    label: &'static str,
    list: &[(u32, Vec<u64>)],
    sends: [bool; 2],
) -> Result<Option<Vec<Vec<u64>>>, OtError> {
    let own = session.party() as usize;
    let mut message = marill_ot::BitWriter::new();
    if sends[own] {
        for (bits, values) in list {
            let mask = marill_numeric::fixed::low_mask(*bits);
            values.iter().for_each(|v| message.push(v & mask, *bits));
        }
    }
    let receives = sends[1 - own];
    let expected = if receives { packed_bits(list) } else { 0 };
    let mut received = marill_ot::transfer::exchange(session, label, message, expected)?;
    let mut take =
        |(bits, own): &(u32, Vec<u64>)| own.iter().map(|_| received.take(*bits)).collect();
    Ok(receives.then(|| list.iter().map(&mut take).collect()))
}
