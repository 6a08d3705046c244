//! Functions of fixed-point numbers: equal to their integer programs, with material that is made
//! before, and at the declared cost.

mod curves;
mod division;
mod exponential;
mod octaves;

use marill_ot::{OtError, Phase, Session, SoftSpoken, world::MemoryEnd};
use marill_two_party::{Cost, Needs};

use crate::world::{World, sum};

/// What a function declares.
pub struct Declared {
    pub needs: Needs,
    pub offline: Cost,
    pub online: Cost,
}

/// Runs a function on `n` instances, checks what it sends before and after its inputs are there,
/// and adds its shares up.
pub fn outputs(
    world: &World,
    declared: &Declared,
    out_bits: u32,
    name: &str,
    function: impl Fn(&mut Session<MemoryEnd, SoftSpoken>) -> Result<Vec<u64>, OtError> + Sync,
) -> Vec<u64> {
    let outcome = world.run(&declared.needs, |session| {
        let shares = function(session)?;
        Ok((shares, session.traffic(Phase::Offline)))
    });
    let Declared {
        offline, online, ..
    } = declared;
    let before = [0, 1].map(|party: usize| outcome.shares[party].1);
    let sent = before.map(|traffic| traffic.sent);
    assert_eq!(sent, offline.sent, "{name}: bytes before");
    let rounds = before.map(|traffic| traffic.rounds);
    assert_eq!(rounds, [offline.rounds; 2], "{name}: rounds before");
    outcome.costs_after(offline.rounds, *online, name);
    let halves = outcome.shares.map(|(shares, _)| shares);
    sum(&halves, out_bits)
}

/// All values of 16 bits that are `step` apart, and those at the ends.
pub fn spread(step: usize) -> Vec<u64> {
    let ends = [
        0, 1, 2, 255, 256, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff,
    ];
    (0..1 << 16).step_by(step).chain(ends).collect()
}

/// Scales of argument and result for which the paper proves its errors.
pub fn scales() -> impl Iterator<Item = (u32, u32)> {
    (8..=14).flat_map(|scale| (8..=14).map(move |out_scale| (scale, out_scale)))
}
