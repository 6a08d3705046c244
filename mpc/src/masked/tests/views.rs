//! For every other input there are masks under which a party's view is the same.

use super::*;

/// For any other input there are masks of E0 under which E1 receives the very same bytes, and E0
/// still learns the right token: E1's view is independent of the input.
#[test]
fn the_servers_view_fits_any_other_input_byte_for_byte() {
    view_fits_another_input(&Fixture::new(2));
    view_fits_another_input(&Fixture::gpt2(2));
    view_fits_another_input(&Fixture::full(2));
    view_fits_another_input(&Fixture::full_gpt2(2));
    view_fits_another_input(&Fixture::new(2).sampling(1.0, Some(5)));
    view_fits_another_input(&Fixture::stochastic(2));
    // Here with comparison functions that are ideal: E0's share is what completes the one that E1
    // computes from the recorded words. That these say nothing of a threshold is what
    // `crates/crypto/src/dcf.rs` argues and tests.
    view_fits_another_input(&Fixture::new(2).uses_dcf());
}

fn view_fits_another_input(fixture: &Fixture) {
    let run = fixture.record(&fixture.input(7, 9), None);
    let other = fixture.input(8, 14);
    assert_ne!(fixture.input(7, 9), other);

    let (masks_to_dealer, masks_from_client) = mpsc::channel();
    let (halves_to_client, halves_from_dealer) = mpsc::channel();
    let logs: [Log; 3] = Default::default();
    let client = fixture.client(Replay::new(run.server_frames.clone(), &logs[0]));
    let mut client = fixture.with_dcf_keys(client, Replay::new(Vec::new(), &logs[2]));
    if let Role::Evaluator(e) = &mut client.role {
        let sent = Transcript::new(run.client_frames.concat());
        let msbs = run.msbs.clone().into_iter();
        e.randomness = Box::new(ClientScript {
            sent,
            msbs,
            masks_to_dealer,
            halves_from_dealer,
        });
    }
    let dealer = fixture.dealer(Replay::new(Vec::new(), &logs[1]));
    let mut dealer = fixture.with_dcf_keys(dealer, Replay::new(Vec::new(), &logs[2]));
    if let Role::Dealer(s) = &mut dealer.role {
        let written = Transcript::new(run.corrections.concat());
        s.randomness = Box::new(DealerScript {
            streams: fixture.dealer_streams(),
            written,
            masks_from_client,
            halves_to_client,
        });
    }
    let tokens = thread::scope(|scope| {
        scope.spawn(|| fixture.steps(&mut dealer, None, 16));
        fixture.steps(&mut client, Some(&other), 16)
    });
    let stochastic = fixture.spec().numeric.rounding == Rounding::Stochastic;
    let randomness = stochastic.then(|| {
        sums([
            &Record::of(&mut client).randomness,
            &run.server_randomness,
            &Record::of(&mut dealer).randomness,
        ])
    });
    assert_eq!(
        tokens,
        fixture.twin_with(&other, randomness, run.noise.clone()).0
    );
    assert!(
        take(&logs[0]) == run.client_frames,
        "the messages to the server differ"
    );
    assert!(
        take(&logs[1]).concat() == run.corrections.concat(),
        "the corrections differ"
    );
}

/// Answers with bytes that depend on all that it was sent, of the sizes that belong there: a server
/// that does as it likes.
struct Adversary {
    sizes: std::vec::IntoIter<usize>,
    sent: Log,
}

impl Channel for Adversary {
    fn send(&mut self, frame: Vec<u8>) -> Result<(), NetError> {
        self.sent.lock().unwrap().push(frame);
        Ok(())
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        let size = self.sizes.next().ok_or(NetError::Closed)?;
        let seen = Sha256::digest(self.sent.lock().unwrap().concat());
        Ok(Prg::new(&Seed::from_bytes(seen.into()), "answer")
            .words(size)
            .into_iter()
            .map(|word| word as u8)
            .collect())
    }
}

/// Whatever a server sends, and however it chooses that by what it was sent, for any other input
/// there are masks of E0 under which E0's frames are the same byte for byte, and the corrections
/// too: while the dealer is honest, even a malicious server learns nothing of a prompt from frames.
#[test]
fn a_server_that_sends_anything_learns_nothing_from_frames() {
    for fixture in [
        Fixture::new(2),
        Fixture::gpt2(2),
        Fixture::full(2),
        Fixture::stochastic(2),
        Fixture::new(2).uses_dcf(),
    ] {
        frames_depend_on_nothing_secret(&fixture);
    }
}

fn frames_depend_on_nothing_secret(fixture: &Fixture) {
    let input = fixture.input(7, 9);
    let other = fixture.input(8, 14);
    let honest = fixture.record(&input, None);
    let adversary = |sent: &Log| {
        let sizes: Vec<usize> = honest.server_frames.iter().map(Vec::len).collect();
        Box::new(Adversary {
            sizes: sizes.into_iter(),
            sent: Arc::clone(sent),
        })
    };
    let logs: [Log; 4] = Default::default();
    let mut client = fixture.with_dcf_keys(
        fixture.client(adversary(&logs[0])),
        Replay::new(honest.dcf_keys.clone(), &logs[1]),
    );
    fixture.steps(&mut client, Some(&input), 16);
    let frames = take(&logs[0]);
    assert!(
        frames[1..] != honest.client_frames[1..],
        "the answers had an effect"
    );

    let (masks_to_dealer, masks_from_client) = mpsc::channel();
    let (halves_to_client, halves_from_dealer) = mpsc::channel();
    let mut second = fixture.with_dcf_keys(
        fixture.client(adversary(&logs[0])),
        Replay::new(Vec::new(), &logs[1]),
    );
    if let Role::Evaluator(e) = &mut second.role {
        let sent = Transcript::new(frames.concat());
        let msbs = Record::of(&mut client).msbs.into_iter();
        e.randomness = Box::new(ClientScript {
            sent,
            msbs,
            masks_to_dealer,
            halves_from_dealer,
        });
    }
    let mut dealer = fixture.with_dcf_keys(
        fixture.dealer(Replay::new(Vec::new(), &logs[2])),
        Replay::new(Vec::new(), &logs[3]),
    );
    if let Role::Dealer(s) = &mut dealer.role {
        let written = Transcript::new(honest.corrections.concat());
        s.randomness = Box::new(DealerScript {
            streams: fixture.dealer_streams(),
            written,
            masks_from_client,
            halves_to_client,
        });
    }
    thread::scope(|scope| {
        scope.spawn(|| fixture.steps(&mut dealer, None, 16));
        fixture.steps(&mut second, Some(&other), 16);
    });
    assert!(
        take(&logs[0]) == frames,
        "the messages to the server differ"
    );
    assert!(
        take(&logs[2]).concat() == honest.corrections.concat(),
        "the corrections differ"
    );
}

/// The mirror. For any other adapter there are masks of E1, and of the adapter, under which E0
/// holds the same masked adapter and receives the same bytes up to the share of each token, and
/// that share gives the other adapter's token: what E0 sees beside its tokens is independent of the
/// adapter.
#[test]
fn the_clients_view_fits_another_adapter_but_for_a_share() {
    let pairs: [fn(u64) -> Fixture; 4] = [
        Fixture::new,
        Fixture::gpt2,
        Fixture::full,
        Fixture::stochastic,
    ];
    for make in pairs {
        // A seed whose adapter gives other tokens, so that the last share has something to say.
        let fixture = make(2);
        let input = make(2).input(7, 9);
        let run = fixture.record(&input, None);
        let other = (3..40)
            .map(|seed| Fixture {
                private: make(seed).private,
                ..make(2)
            })
            .find(|other| other.twin(&input).0 != fixture.twin(&input).0);
        view_fits_another_adapter(
            &fixture,
            &other.expect("some adapter gives other tokens"),
            &input,
            &run,
        );
    }
}

fn view_fits_another_adapter(fixture: &Fixture, other: &Fixture, input: &Input, run: &Recording) {
    let spec = fixture.spec();
    let (masks_to_dealer, masks_from_server) = mpsc::channel();
    let (sink, stream) = memory_pair();
    let logs: [Log; 2] = Default::default();
    let mut server = other.server(
        Replay::new(run.client_frames.clone(), &logs[0]),
        Box::new(stream),
    );
    if let Role::Evaluator(e) = &mut server.role {
        e.randomness = Box::new(ServerScript {
            sent: Transcript::new(run.server_frames.concat()),
            masks_to_dealer,
        });
    }
    let mut dealer = dealer_of_another(fixture, other, Box::new(sink), masks_from_server);
    let randomness = thread::scope(|scope| {
        let dealt = scope.spawn(move || {
            fixture.steps(&mut dealer, None, 16);
            Record::of(&mut dealer).randomness
        });
        fixture.steps(&mut server, None, 16);
        dealt.join().unwrap()
    });
    // E0 is the recorded one: the same seed, and the same frames but for the last of each step.
    let mut client = fixture.client(Replay::new(run.server_frames.clone(), &logs[1]));
    assert_eq!(fixture.steps(&mut client, Some(input), 16), run.tokens);
    assert!(take(&logs[1]) == run.client_frames);
    let stochastic = spec.numeric.rounding == Rounding::Stochastic;
    let randomness = stochastic.then(|| {
        sums([
            &Record::of(&mut client).randomness,
            &Record::of(&mut server).randomness,
            &randomness,
        ])
    });
    let expected = other.twin_with(input, randomness, Vec::new()).0;
    only_token_shares_differ(run, &take(&logs[0]), &expected);
}

/// A dealer with the masks under which the other adapter looks like this one: its own ones, and
/// what the two differ by.
fn dealer_of_another(
    fixture: &Fixture,
    other: &Fixture,
    sink: Box<dyn Channel>,
    masks_from_server: mpsc::Receiver<Vec<u64>>,
) -> Masked {
    let spec = fixture.spec();
    let [masked, theirs] =
        [fixture, other].map(|fixture| fixture.private.mask(spec, &fixture.adapter_seed));
    let shift = |mask: &mut Vec<u64>, x: &[u64], y: &[u64]| {
        mask.iter_mut()
            .zip(x.iter().zip(y))
            .for_each(|(r, (x, y))| *r = r.wrapping_add(x.wrapping_sub(*y)));
    };
    let mut dealer = fixture.dealer(sink);
    if let Role::Dealer(s) = &mut dealer.role {
        s.randomness = Box::new(MirrorDealer {
            streams: fixture.dealer_streams(),
            masks_from_server,
        });
        for (map, mask) in s.adapter_masks.iter_mut().enumerate() {
            shift(&mut mask.a, &masked.lora[map].a, &theirs.lora[map].a);
            shift(&mut mask.b, &masked.lora[map].b, &theirs.lora[map].b);
        }
        let mut full = s.matrix_masks.0.to_vec();
        for (map, mask) in full.iter_mut().enumerate() {
            shift(mask, &masked.full[map], &theirs.full[map]);
        }
        s.matrix_masks = MatrixMasks(Arc::new(full));
    }
    dealer
}

/// What the client gets is what was recorded, but for the shares that make other tokens.
fn only_token_shares_differ(run: &Recording, frames: &[Vec<u8>], expected: &[Option<u32>]) {
    assert_eq!(frames.len(), run.server_frames.len());
    let share = |frame: &[u8]| crate::masked::unpack(frame, INDEX_BITS as usize / 8)[0];
    // The share of the second token is the last frame. That of the first is the only other one that
    // may differ.
    let last = frames.len() - 1;
    let differ: Vec<usize> = (0..last)
        .filter(|&i| frames[i] != run.server_frames[i])
        .collect();
    assert!(
        differ.len() <= 1,
        "messages to the client differ: {differ:?}"
    );
    let token = |step: usize, at: usize| {
        let own = u64::from(run.tokens[step].unwrap()).wrapping_sub(share(&run.server_frames[at]));
        Some((own.wrapping_add(share(&frames[at])) & low_mask(INDEX_BITS)) as u32)
    };
    let first = differ.first().map_or(run.tokens[0], |&at| token(0, at));
    let tokens = vec![first, token(1, last)];
    assert_eq!(tokens, expected);
    assert_ne!(tokens, run.tokens);
}
