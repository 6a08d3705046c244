//! Layers with heads of their own, through dealer, server and client, in every setting and with
//! every comparison: the twin's tokens at the tally's cost.

use marill_mpc::{
    Comparison,
    cost::Cost,
    random_model::{tiny_spec, with_mixed_heads},
    tally::tally_on,
};
use marill_serving::terms::Setting;
use marill_testkit::parties::{World, model_of};

const BUCKET: usize = 16;

#[test]
fn sessions_of_mixed_heads_equal_the_twin_at_the_tallys_cost() {
    let spec = with_mixed_heads(tiny_spec());
    for setting in Setting::DEALT {
        let model = model_of(spec.clone(), setting);
        let folder = tempfile::tempdir().unwrap();
        let world = World::of(model, folder, false, false, |dealer| dealer);
        for comparison in [Comparison::OneHot, Comparison::Dcf] {
            let opener = world.opener_with(comparison);
            let (tokens, costs) = world.secure(&mut opener.open().unwrap(), 1, 11, 3);
            assert_eq!(tokens, world.twin(1, 11, 3), "{setting:?}, {comparison}");
            let places = tally_on(&spec, comparison, BUCKET, 1).unwrap();
            let declared = places.into_iter().map(|(_, cost)| cost);
            let declared = declared.fold(Cost::default(), |sum, cost| sum + cost);
            assert_eq!(
                costs[1].rounds, declared.rounds,
                "{setting:?}, {comparison}"
            );
            // The step's own announcement is five bytes.
            let expected = declared.e0_to_e1_bytes + 5;
            assert_eq!(costs[1].bytes_sent, expected, "{setting:?}, {comparison}");
            let expected = declared.e1_to_e0_bytes;
            assert_eq!(
                costs[1].bytes_received, expected,
                "{setting:?}, {comparison}"
            );
        }
    }
}
