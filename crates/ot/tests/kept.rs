//! Base transfers that are kept: used again where both parties have their half, made anew where
//! one has another, and no pads or choices twice whatever comes back from a backup.

use std::time::Duration;

use marill_ot::{
    BaseOts, Link, LpnSet, OtError, Plan, Session,
    keep::{self, Origin, Why},
    softspoken::GroupBits,
    world::{MemoryEnd, memory_ends, run, run_on},
};

/// What both parties hold after a session, and where it came from.
type Held = (Vec<u8>, Origin);

fn held(made: Result<(BaseOts, Origin), OtError>) -> Held {
    let (base, origin) = made.unwrap();
    (base.to_bytes().to_vec(), origin)
}

fn read(saved: Option<&[u8]>) -> Option<BaseOts> {
    saved.map(|bytes| BaseOts::from_bytes(bytes).unwrap())
}

/// A handshake in which each party kept these.
fn meet(offered: Option<&[u8]>, known: Option<&[u8]>) -> [Held; 2] {
    let (a, b) = run(
        |mut link| held(keep::offer(&mut link, read(offered))),
        |mut link| held(keep::answer(&mut link, |_| read(known))),
    );
    [a, b]
}

#[test]
fn what_both_kept_is_used_again() {
    let [first, second] = meet(None, None);
    assert_eq!(first.1, Origin::Made(Why::NothingOffered));
    assert_eq!(first.1, second.1);
    let again = meet(Some(&first.0), Some(&second.0));
    assert_eq!(again, [first.0, second.0].map(|held| (held, Origin::Kept)));
}

#[test]
fn a_party_without_them_makes_new_ones_and_says_why() {
    let [first, second] = meet(None, None);
    let lost = meet(Some(&first.0), None);
    assert_eq!(lost[0].1, Origin::Made(Why::Unknown));
    assert_eq!(lost[1].1, lost[0].1);
    assert_ne!(lost[0].0, first.0);
    let forgot = meet(None, Some(&second.0));
    assert_eq!(forgot[0].1, Origin::Made(Why::NothingOffered));
    let said = forgot[0].1.to_string();
    assert_eq!(
        said,
        "new base transfers: none were kept by the party that offers them"
    );
}

/// One party comes back from a backup that is older than the other's newest.
#[test]
fn a_backup_of_one_party_is_noticed() {
    let old = meet(None, None);
    let new = meet(None, None);
    for (offered, known) in [(&old[0].0, &new[1].0), (&new[0].0, &old[1].0)] {
        let met = meet(Some(offered), Some(known));
        assert_eq!(met[0].1, Origin::Made(Why::Unknown));
        assert_eq!(met[1].1, Origin::Made(Why::Unknown));
        works(&met);
    }
}

/// A file of this name and another content, with a checksum that fits.
#[test]
fn a_half_that_does_not_fit_is_not_used() {
    let [first, second] = meet(None, None);
    let [other, _] = meet(None, None);
    // Another pair's half under the first one's name: the name begins behind 17 bytes.
    let mut forged = other.0[..other.0.len() - 16].to_vec();
    forged[17..33].copy_from_slice(&first.0[17..33]);
    let forged = with_sum(forged);
    let met = meet(Some(&forged), Some(&second.0));
    assert_eq!(met[0].1, Origin::Made(Why::Unproven));
    assert_eq!(met[1].1, Origin::Made(Why::Unproven));
    works(&met);
}

fn with_sum(mut body: Vec<u8>) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let digest = Sha256::new()
        .chain_update(b"marill checksum of base OTs")
        .chain_update(&body)
        .finalize();
    body.extend(&digest[..16]);
    body
}

/// A session on these gives the correlation.
fn works(held: &[Held; 2]) {
    let [sent, chosen] = pads(held, GroupBits::Four);
    for i in 0..N {
        let bit = chosen.1 >> i & 1;
        assert_eq!(chosen.0[i], sent.0[2 * i + bit as usize]);
    }
}

const N: usize = 60;

/// Pads of a session, pairwise at the sender, and the bits that the chooser chose.
fn pads(held: &[Held; 2], plan: impl Plan + Send + Sync) -> [(Vec<u64>, u64); 2] {
    let begin = |link: Link<MemoryEnd>, held: &Held| {
        let base = BaseOts::from_bytes(&held.0).unwrap();
        Session::begin(link, &base, plan).unwrap()
    };
    let (sent, chosen) = run(
        |link| {
            let words = begin(link, &held[0]).sent_words(1, N).unwrap();
            let pairs = words.zero.iter().zip(&words.one);
            pairs.flat_map(|(zero, one)| [*zero, *one]).collect()
        },
        |link| {
            let words = begin(link, &held[1]).chosen_words(1, N).unwrap();
            (words.pads.clone(), words.choice.words()[0] & ((1 << N) - 1))
        },
    );
    [(sent, 0), chosen]
}

/// Both parties come back from the backup of one day, twice: as a file each.
#[test]
fn a_backup_of_both_parties_repeats_nothing() {
    let made = meet(None, None);
    let backup = [made[0].0.clone(), made[1].0.clone()];
    let mut all = Vec::new();
    let mut choices = Vec::new();
    for restored in 0..3 {
        let met = meet(Some(&backup[0]), Some(&backup[1]));
        assert_eq!(met[0].1, Origin::Kept, "restored for the {restored}. time");
        let silent = pads(&met, LpnSet::B10);
        for [sent, chosen] in [pads(&met, GroupBits::Four), silent] {
            all.extend(sent.0);
            choices.push(chosen.1);
        }
    }
    let made = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), made, "a pad came twice");
    choices.sort_unstable();
    choices.dedup();
    assert_eq!(choices.len(), 6, "choices came twice");
}

#[test]
fn a_handshake_costs_what_it_says() {
    let made = meet(None, None);
    let (a, _) = run(
        |mut link| {
            keep::offer(&mut link, read(Some(&made[0].0))).unwrap();
            link.traffic(marill_ot::Phase::Setup)
        },
        |mut link| {
            keep::answer(&mut link, |_| read(Some(&made[1].0)))
                .unwrap()
                .1
        },
    );
    assert_eq!((a.sent, a.received, a.rounds), (50 + 17, 49, 3));
}

#[test]
fn a_name_that_is_not_a_proof_is_refused() {
    let [first, second] = meet(None, None);
    let (own, other) = memory_ends(Duration::from_secs(30));
    let name = &first.0[17..33];
    let (_, refused) = run_on(
        own,
        other,
        |mut link| {
            let offer = [&[1, 1], name, &[7; 32]].concat();
            link.send("offer", &offer)?;
            link.receive("answer", 49)?;
            // Claims to have checked the answer, without a proof of its own.
            link.send("close", &[0; 17])
        },
        |mut link| keep::answer(&mut link, |_| read(Some(&second.0))).err(),
    );
    let refused = refused.unwrap().to_string();
    assert!(
        refused.contains("a proof of kept base transfers that is wrong"),
        "{refused}"
    );
}
