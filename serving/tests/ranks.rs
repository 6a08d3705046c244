//! Updates whose ranks differ by module, through dealer, server and client, in every setting and
//! with every comparison: the twin's tokens at the tally's cost.

use marill_mpc::{
    Comparison, ProgramSpec, cost::Cost, masked::Masked, random_model::tiny_spec, tally::tally_on,
};
use marill_serving::terms::Setting;
use marill_testkit::parties::{World, model_of};

const BUCKET: usize = 16;

/// No two neighbors alike, and modules without an update: alone (`v`), and all that take one row
/// (`o`, and `down`).
fn specs() -> [ProgramSpec; 2] {
    let with = |ranks: [usize; 7]| tiny_spec().with_ranks(ranks.to_vec());
    [with([1, 4, 0, 2, 8, 3, 16]), with([2, 1, 3, 0, 5, 1, 0])]
}

#[test]
fn sessions_of_mixed_ranks_equal_the_twin_at_the_tallys_cost() {
    for spec in specs() {
        for setting in Setting::DEALT {
            let model = model_of(spec.clone(), setting);
            let folder = tempfile::tempdir().unwrap();
            let world = World::of(model, folder, false, false, |dealer| dealer);
            for comparison in [Comparison::OneHot, Comparison::Dcf] {
                let opener = world.opener_with(comparison);
                let (tokens, costs) = world.secure(&mut opener.open().unwrap(), 1, 11, 3);
                assert_eq!(tokens, world.twin(1, 11, 3), "{setting:?}, {comparison}");
                let places = tally_on(&spec, comparison, BUCKET, 1).unwrap();
                let declared = places
                    .into_iter()
                    .fold(Cost::default(), |sum, (_, cost)| sum + cost);
                // The step's own announcement is five bytes.
                let got = (
                    costs[1].rounds,
                    costs[1].bytes_sent,
                    costs[1].bytes_received,
                );
                let expected = (
                    declared.rounds,
                    declared.e0_to_e1_bytes + 5,
                    declared.e1_to_e0_bytes,
                );
                assert_eq!(got, expected, "{setting:?}, {comparison}");
            }
        }
    }
}

/// Two parties whose ranks differ refuse each other, though their factors have as many elements.
#[test]
fn a_client_with_other_ranks_is_refused() {
    let [spec, _] = specs();
    let swapped = tiny_spec().with_ranks(vec![1, 0, 4, 2, 3, 8, 16]);
    assert_eq!(
        marill_mpc::MaskedAdapter::bytes_of(&spec),
        marill_mpc::MaskedAdapter::bytes_of(&swapped),
        "k and v, gate and up have the same shape"
    );
    let (public, _) = marill_mpc::random_model::random_weights(&spec, 1);
    let (others, private) = marill_mpc::random_model::random_weights(&swapped, 1);
    assert_ne!(
        public.digest(),
        others.digest(),
        "the handshake compares it"
    );
    let (peer, _peer) = marill_net::memory_pair();
    let (dealer, _dealer) = marill_net::memory_pair();
    let seed = marill_mpc::Seed::from_bytes([1; 32]);
    let error = Masked::server(&spec, &private, &seed, Box::new(peer), Box::new(dealer))
        .err()
        .expect("factors of other shapes");
    assert!(
        matches!(error, marill_mpc::ProtocolError::AdapterMismatch),
        "{error}"
    );
}
