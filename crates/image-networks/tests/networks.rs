//! Tiny networks between two parties: every layer equals the twin's, declared costs are counted
//! ones, and what is broken on purpose is seen.

use marill_crypto::{Prg, Seed};
use marill_image_networks::{
    Format, Input, Network, NetworkError, Op, Plan, Size, Weights, densenet121, resnet50, run, twin,
};
use marill_numeric::fixed::low_mask;
use marill_ot::{
    BaseOts, Extension, LpnSet, OtError, Party, Phase, Session, Traffic,
    softspoken::GroupBits,
    world::{LIMIT, MemoryEnd, memory_ends, run_on},
};
use marill_two_party::Radix;

const FORMAT: Format = Format::CRYPTFLOW2;

/// Two channels and more.
const TINY: Size = Size {
    image: 32,
    classes: 5,
    width: 1.0 / 32.0,
    blocks: Some([2, 1, 1, 1]),
};

fn seed() -> Seed {
    Seed::from_bytes([9; 32])
}

/// Pixels between -2 and 2.
fn image(network: &Network) -> Vec<u64> {
    let format = network.format();
    let words = Prg::new(&seed(), "image").reduced(network.input_count(), format.scale + 2);
    let middle = 1u64 << (format.scale + 1);
    let signed = words.iter().map(|word| word.wrapping_sub(middle));
    signed.map(|x| x & low_mask(format.bits)).collect()
}

/// What a party saw of each layer, what it sent and received, and what it ended with.
struct Seen {
    shares: Vec<Vec<u64>>,
    traffic: Vec<Traffic>,
    setup: Traffic,
    online: Traffic,
    spent: bool,
    output: Result<Option<Vec<u64>>, NetworkError>,
}

fn party(
    mut link: marill_ot::Link<MemoryEnd>,
    plan: &Plan,
    input: &Input<'_>,
    extension: Extension,
) -> Result<Seen, OtError> {
    let base = BaseOts::establish(&mut link)?;
    let mut session = Session::begin(link, &base, extension)?;
    let before = session.traffic(Phase::Setup);
    let mut shares = Vec::new();
    let mut traffic = Vec::new();
    let output = run(&mut session, plan, input, |_, layer, session| {
        shares.push(layer.to_vec());
        traffic.push(session.traffic(Phase::Online));
        Ok(())
    });
    Ok(Seen {
        shares,
        traffic,
        setup: session.traffic(Phase::Setup) - before,
        online: session.traffic(Phase::Online),
        spent: session.is_spent(),
        output,
    })
}

/// Both parties, of plans of their own.
fn both(plans: [&Plan; 2], weights: &Weights, extension: Extension) -> [Seen; 2] {
    let pixels = image(plans[0].network());
    let (own, other) = memory_ends(LIMIT);
    let (client, server) = run_on(
        own,
        other,
        |link| party(link, plans[0], &Input::Client(&pixels), extension),
        |link| party(link, plans[1], &Input::Server(weights), extension),
    );
    [client.unwrap(), server.unwrap()]
}

/// Layers of the twin.
fn twin_layers(network: &Network, weights: &Weights) -> Vec<Vec<u64>> {
    let mut layers = Vec::new();
    let output = twin::run(network, weights, &image(network), |_, values| {
        layers.push(values.to_vec());
        Ok::<(), NetworkError>(())
    });
    assert_eq!(Some(&output.unwrap()), layers.last());
    layers
}

/// The first layer that differs from the twin's.
fn first_difference(network: &Network, seen: &[Seen; 2], twin: &[Vec<u64>]) -> Option<String> {
    let layers = network.layers().iter().enumerate();
    let differs = |at: usize| {
        let mask = low_mask(network.bits(at));
        let pairs = seen[0].shares[at].iter().zip(&seen[1].shares[at]);
        let sums = pairs.map(|(a, b)| a.wrapping_add(*b) & mask);
        sums.ne(twin[at].iter().copied())
    };
    let mut layers = layers.filter(|(at, _)| differs(*at));
    layers.next().map(|(_, layer)| layer.name.clone())
}

fn networks() -> [Network; 3] {
    // Average pools of three by three divide.
    let wide = Size {
        image: 96,
        blocks: Some([1, 1, 1, 1]),
        ..TINY
    };
    [
        resnet50(FORMAT, TINY).unwrap(),
        densenet121(FORMAT, TINY).unwrap(),
        resnet50(FORMAT, wide).unwrap(),
    ]
}

#[test]
fn every_layer_is_the_twins_at_the_declared_cost() {
    for (network, extension) in networks().into_iter().zip([
        Extension::SoftSpoken(GroupBits::Four),
        Extension::Silent(LpnSet::B10),
        Extension::SoftSpoken(GroupBits::Four),
    ]) {
        let weights = Weights::random(&network, &seed());
        // Small groups, so that most layers take several; one of them ends inside a channel.
        let plan = Plan::new(network.clone(), Radix::Four)
            .unwrap()
            .in_groups(50);
        let seen = both([&plan, &plan], &weights, extension);
        let twin = twin_layers(&network, &weights);
        let name = network.name();
        assert_eq!(first_difference(&network, &seen, &twin), None, "{name}");
        let class = seen[0].output.as_ref().unwrap().clone();
        assert_eq!(class.as_ref(), twin.last(), "{name}");
        assert_eq!(seen[1].output.as_ref().unwrap(), &None, "{name}");
        // Bytes by party and rounds, layer by layer and in all; no material is left.
        let mut before = Traffic::default();
        for (at, layer) in network.layers().iter().enumerate() {
            let counted = seen[0].traffic[at] - before;
            before = seen[0].traffic[at];
            let declared = plan.cost(at);
            assert_eq!(
                [counted.sent, counted.received],
                declared.sent,
                "{}",
                layer.name
            );
            assert_eq!(counted.rounds, declared.rounds, "{}", layer.name);
        }
        let total = plan.total_cost();
        assert_eq!(
            [seen[0].online.sent, seen[1].online.sent],
            total.sent,
            "{name}"
        );
        assert_eq!(seen[0].online.rounds, total.rounds, "{name}");
        assert!(seen.iter().all(|seen| seen.spent), "{name}");
        if let Extension::SoftSpoken(_) = extension {
            let declared = plan.setup_cost();
            assert_eq!(
                [seen[0].setup.sent, seen[1].setup.sent],
                declared.sent,
                "{name}"
            );
            assert_eq!(seen[0].setup.rounds, declared.rounds, "{name}");
        }
    }
}

#[test]
fn merged_convolutions_are_the_twins_too() {
    // Wide enough that several channels' results share a polynomial.
    let size = Size {
        width: 1.0 / 8.0,
        blocks: Some([1, 1, 0, 0]),
        ..TINY
    };
    let network = resnet50(FORMAT, size).unwrap();
    let weights = Weights::random(&network, &seed());
    let plan = Plan::with_levels(network.clone(), Radix::Four, 13).unwrap();
    assert!(plan.levels() > 0, "nothing is merged");
    let seen = both(
        [&plan, &plan],
        &weights,
        Extension::SoftSpoken(GroupBits::Four),
    );
    let twin = twin_layers(&network, &weights);
    assert_eq!(first_difference(&network, &seen, &twin), None);
    let total = plan.total_cost();
    assert_eq!([seen[0].online.sent, seen[1].online.sent], total.sent);
    assert_eq!(
        [seen[0].setup.sent, seen[1].setup.sent],
        plan.setup_cost().sent
    );
    // A party that merges and one that does not refuse each other.
    let other = Plan::with_levels(network, Radix::Four, 0).unwrap();
    let seen = both(
        [&plan, &other],
        &weights,
        Extension::SoftSpoken(GroupBits::Four),
    );
    assert!(
        seen.iter()
            .all(|seen| matches!(seen.output, Err(NetworkError::Networks)))
    );
}

/// Figures of `docs/reports/networks.md`: levels of packing keys, bytes of the client and of the
/// server for convolutions, without merging and with it.
#[test]
#[ignore = "searches layouts of 175 convolutions; takes seconds"]
fn published_networks_take_the_bytes_of_the_report() {
    let plain = |network| Plan::with_levels(network, Radix::Four, 0).unwrap();
    let merged = |network| Plan::new(network, Radix::Four).unwrap();
    let resnet = || resnet50(FORMAT, Size::PUBLISHED).unwrap();
    let densenet = || densenet121(FORMAT, Size::PUBLISHED).unwrap();
    for (plan, levels, bytes) in [
        (plain(resnet()), 0, [420_491_648, 367_830_248]),
        (merged(resnet()), 8, [238_437_728, 141_917_416]),
        (plain(densenet()), 0, [403_746_832, 338_155_288]),
        (merged(densenet()), 6, [318_941_968, 89_477_912]),
    ] {
        let layers = plan.network().layers().iter().enumerate();
        let convolutions = layers.filter(|(_, layer)| layer.op.kind() == "convolution");
        let sums = convolutions.fold([0; 2], |sum: [u64; 2], (at, _)| {
            let sent = plan.cost(at).sent;
            [sum[0] + sent[0], sum[1] + sent[1]]
        });
        assert_eq!(
            (plan.levels(), sums),
            (levels, bytes),
            "{}",
            plan.network().name()
        );
    }
}

#[test]
fn a_layer_that_is_broken_on_purpose_is_seen() {
    let network = densenet121(FORMAT, TINY).unwrap();
    let weights = Weights::random(&network, &seed());
    let twin = twin_layers(&network, &weights);
    let plan = Plan::new(network.clone(), Radix::Four).unwrap();
    let layers = network.layers().iter().enumerate();
    let middle = |op: fn(&Op) -> bool| {
        let mut found = layers.clone().filter(|(_, layer)| op(&layer.op));
        found.nth(2).map(|(at, _)| at).unwrap()
    };
    let convolution = middle(|op| matches!(op, Op::Convolution(_)));
    let relu = middle(|op| matches!(op, Op::SidedRelu { .. }));
    for at in [convolution, relu] {
        let mut broken = weights.clone();
        let layer = broken.layer_mut(at);
        match layer.sides.first_mut() {
            Some(side) => *side ^= 1,
            None => layer.weights[0] ^= 1,
        }
        let extension = Extension::SoftSpoken(GroupBits::Four);
        let seen = both([&plan, &plan], &broken, extension);
        let found = first_difference(&network, &seen, &twin);
        assert_eq!(found, Some(network.layers()[at].name.clone()));
    }
}

#[test]
fn parties_of_different_networks_refuse_each_other() {
    let [network, other, _] = networks();
    let weights = Weights::random(&other, &seed());
    let plans = [network, other].map(|network| Plan::new(network, Radix::Four).unwrap());
    let extension = Extension::SoftSpoken(GroupBits::Four);
    let seen = both([&plans[0], &plans[1]], &weights, extension);
    for seen in seen {
        assert!(matches!(seen.output, Err(NetworkError::Networks)));
    }
}

#[test]
fn values_that_leave_the_ring_are_named() {
    let network = resnet50(FORMAT, TINY).unwrap();
    let mut weights = Weights::random(&network, &seed());
    let at = network
        .layers()
        .iter()
        .position(|layer| layer.name == "layer1.1.conv2");
    let layer = weights.layer_mut(at.unwrap());
    layer.biases[0] = 1 << 36;
    let ran = twin::run(&network, &weights, &image(&network), |_, _| Ok(()));
    let text = ran
        .err()
        .map(|error: NetworkError| error.to_string())
        .unwrap();
    assert!(
        text.contains("`layer1.1.conv2`") && text.contains("37 bits"),
        "{text}"
    );
}

#[test]
#[should_panic(expected = "E0 is the client")]
fn a_party_with_the_others_input_is_stopped() {
    let network = resnet50(FORMAT, TINY).unwrap();
    let weights = Weights::random(&network, &seed());
    let plan = Plan::new(network, Radix::Four).unwrap();
    let (own, other) = memory_ends(LIMIT);
    let extension = Extension::SoftSpoken(GroupBits::Four);
    let begun = |link: marill_ot::Link<MemoryEnd>| {
        assert_eq!(link.party(), Party::E0);
        party(link, &plan, &Input::Server(&weights), extension).map(drop)
    };
    let _ = run_on(own, other, begun, |mut link| {
        let base = BaseOts::establish(&mut link)?;
        Session::begin(link, &base, extension).map(drop)
    });
}
