//! A session lives on behind its answer: the next turn does not pay for the earlier ones.

use std::{ops::ControlFlow, path::Path};

use marill_mpc::{Comparison, Sampling, Twin, cost::Cost, random_model::tiny_spec};
use marill_net::http::HttpClient;
use marill_partition::{ExportOptions, Partition, export};
use marill_serving::{
    Endpoint, SetUpLimits,
    client::{
        Answer, Client, ClientOptions, ComparisonChoice, CorrelationPreference, Event, Finish,
        Request, SecureSession, SessionOpener,
    },
    local::{LocalServer, Parties},
    server::SecureModel,
    state::{FileState, Keys, Limits, key_digest},
    terms::Setting,
};
use marill_testkit::{
    models::{tiny_adapter, tiny_base, tiny_transforms},
    parties::{World, model_of, wait_until},
};

/// Rows of a prompt, of an answer's tokens behind the first, of a turn, of an answer, of a turn.
const STEPS: [usize; 6] = [9, 1, 1, 7, 1, 2];
/// Before these steps the session has waited.
const TURNS: [usize; 2] = [3, 5];

/// What the twin says behind each step, its rows one by one behind the prompt.
fn expected(world: &World) -> Vec<u32> {
    let width = world.spec.hidden_size;
    let mut twin = Twin::new(world.public.clone(), world.private.clone());
    let mut tokens = Vec::new();
    for (k, &n) in STEPS.iter().enumerate() {
        let rows = world.rows(k as u64, n);
        tokens.push(match k {
            0 => twin.prefill(&rows).unwrap(),
            _ => {
                let said = rows.chunks(width).map(|row| twin.decode(row).unwrap());
                said.last().unwrap()
            }
        });
    }
    tokens
}

/// `waiting` is called while the session waits.
fn converse(world: &World, session: &mut SecureSession, waiting: impl Fn()) -> Vec<u32> {
    let mut tokens = Vec::new();
    for (k, &n) in STEPS.iter().enumerate() {
        let rows = world.rows(k as u64, n);
        if TURNS.contains(&k) {
            assert!(session.can_wait());
            session.wait();
            waiting();
        }
        let step = match k {
            0 => session.prefill(&rows, n),
            _ if TURNS.contains(&k) => session.extend(&rows),
            _ => session.decode(&rows),
        };
        tokens.push(step.unwrap().0);
    }
    session.end();
    tokens
}

#[test]
fn turns_with_a_dealer_are_the_twins_and_hold_no_slot() {
    for setting in Setting::DEALT {
        let world = World::of(
            model_of(tiny_spec(), setting),
            tempfile::tempdir().unwrap(),
            false,
            false,
            |dealer| dealer,
        );
        let mut session = world.opener().open().unwrap();
        let tokens = converse(&world, &mut session, || {
            wait_until("the rest", || world.parties.kept() == [1, 1]);
            assert_eq!(world.parties.active(), [0, 0]);
        });
        assert_eq!(tokens, expected(&world), "{setting:?}");
        wait_until("the end", || world.parties.active() == [0, 0]);
        assert_eq!(world.parties.kept(), [0, 0]);
    }
}

/// Keys of DCF are written early, to a client that does not read them while it waits.
#[test]
fn a_session_with_dcf_does_not_wait() {
    let world = World::new();
    let session = world.opener_with(Comparison::Dcf).open().unwrap();
    assert!(!session.can_wait());
}

/// A server of the setting `2pc` with room for one session that runs and one that waits.
struct Alone {
    world: World,
    server: LocalServer,
    parameters: marill_serving::terms::SessionParameters,
}

impl Alone {
    fn new(prepare: impl FnOnce(&Path)) -> Self {
        let world = World::new();
        let model = model_of(tiny_spec(), Setting::TwoParties);
        let parameters = model.parameters.clone();
        let state = world.folder.path().join("alone");
        std::fs::create_dir_all(state.join("server")).unwrap();
        prepare(&state.join("server"));
        let server = LocalServer::start(model, &state, 1).unwrap();
        Self {
            world,
            server,
            parameters,
        }
    }

    fn opener(&self, key: Option<&str>) -> SessionOpener {
        SessionOpener {
            server: HttpClient::new(self.server.endpoint.clone(), key.map(Into::into)),
            parameters: self.parameters.clone(),
            ..self.world.opener_at(&self.server.endpoint, "client")
        }
    }
}

#[test]
fn turns_of_two_parties_are_the_twins() {
    let alone = Alone::new(|_| {});
    let mut session = alone.opener(None).open().unwrap();
    let tokens = converse(&alone.world, &mut session, || {
        wait_until("the rest", || alone.server.kept() == 1);
        assert_eq!(alone.server.active(), 0);
    });
    assert_eq!(tokens, expected(&alone.world));
}

/// One session waits at most: another that wants to wait ends it, and takes no place from those
/// that run.
#[test]
fn one_session_more_ends_the_one_that_waits_longest() {
    let alone = Alone::new(|_| {});
    let world = &alone.world;
    let wait = || {
        let mut session = alone.opener(None).open().unwrap();
        session.prefill(&world.rows(0, 4), 4).unwrap();
        session.wait();
        wait_until("the rest", || {
            (alone.server.active(), alone.server.kept()) == (0, 1)
        });
        session
    };
    let mut first = wait();
    let mut second = wait();
    assert!(first.extend(&world.rows(1, 2)).is_err());
    let mut twin = Twin::new(world.public.clone(), world.private.clone());
    let all = [world.rows(0, 4), world.rows(1, 2)].concat();
    let (token, _) = second.extend(&world.rows(1, 2)).unwrap();
    assert_eq!(token, twin.prefill(&all).unwrap());
}

/// Work that was asked for is paid for, whether its tokens come or not.
#[test]
fn preparations_are_charged_to_the_clients_budget() {
    let mut key = String::new();
    let alone = Alone::new(|folder| {
        let limits = Limits {
            tokens: Some(100),
            ..Limits::default()
        };
        key = Keys::add(&folder.join("keys"), "alice", limits).unwrap();
    });
    let used = || {
        let folder = alone.world.folder.path().join("alone/server");
        FileState::used(&folder, &key_digest(&key)).unwrap().0
    };
    let world = &alone.world;
    let mut session = alone.opener(Some(&key)).open().unwrap();
    let bucket = world.spec.bucket(4) as u64;
    session.prefill(&world.rows(0, 4), 4).unwrap();
    // What a preparation cannot be made for is asked for by nobody.
    if session.prepared().is_some() {
        assert_eq!(session.prepare(5).unwrap(), 5);
        for step in 0..2 {
            session.decode(&world.rows(step, 1)).unwrap();
        }
        session.end();
        wait_until("the end", || alone.server.active() == 0);
        assert_eq!(used(), bucket + 5);
    } else {
        panic!("the tiny model's products are made ahead");
    }
}

/// Between two turns nothing is charged, not even the token that is paid for early.
#[test]
fn a_session_that_waits_has_paid_for_what_it_used() {
    let mut key = String::new();
    let alone = Alone::new(|folder| {
        key = Keys::add(&folder.join("keys"), "alice", Limits::default()).unwrap();
    });
    let used = || {
        let folder = alone.world.folder.path().join("alone/server");
        FileState::used(&folder, &key_digest(&key)).unwrap().0
    };
    let world = &alone.world;
    let mut session = alone.opener(Some(&key)).open().unwrap();
    session.prefill(&world.rows(0, 4), 4).unwrap();
    session.wait();
    wait_until("the rest", || alone.server.kept() == 1);
    let bucket = world.spec.bucket(4) as u64;
    assert_eq!(used(), bucket);
    session.extend(&world.rows(1, 3)).unwrap();
    session.end();
    wait_until("the end", || alone.server.active() == 0);
    assert_eq!(used(), bucket + 3);
}

/// A partition of a tiny model, served, and its client.
struct Served {
    services: Services,
    client: Client,
    folder: tempfile::TempDir,
    server: Endpoint,
    dealer: Endpoint,
}

enum Services {
    Dealt(Box<Parties>),
    Alone(Box<LocalServer>),
}

impl Served {
    fn new(max_sessions: usize) -> Self {
        Self::with(Setting::Dealer, max_sessions)
    }

    fn with(setting: Setting, max_sessions: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let base = tiny_base(&at.join("base"), 1).unwrap();
        let transforms = tiny_transforms(&base.config, true);
        let adapter = tiny_adapter(&base.config, &transforms, 2).unwrap();
        let options = ExportOptions::default();
        export(&base, &transforms, &adapter, &at.join("out"), &options).unwrap();
        let partition = Partition::open(&at.join("out")).unwrap();
        let public = partition.public_weights().unwrap();
        let private = partition.private_weights(&public).unwrap();
        let spec = partition.program_spec().clone();
        let id = partition.partition_id();
        let model = SecureModel::new(id, spec, public, private, setting);
        let state = at.join("services");
        let services = match setting {
            Setting::TwoParties => {
                let server = LocalServer::start(model, &state, max_sessions);
                Services::Alone(Box::new(server.unwrap()))
            }
            _ => {
                let parties = Parties::start(model, &state, max_sessions);
                Services::Dealt(Box::new(parties.unwrap()))
            }
        };
        // Nobody listens there.
        let nobody: Endpoint = "http://127.0.0.1:1".parse().unwrap();
        let endpoints = match &services {
            Services::Dealt(parties) => [&parties.server, &parties.dealer],
            Services::Alone(server) => [&server.endpoint, &nobody],
        };
        let [server, dealer] = endpoints.map(Clone::clone);
        let comparison = ComparisonChoice::Open;
        let client = client(at, (&server, &dealer), (setting, comparison), max_sessions);
        Self {
            services,
            client,
            folder,
            server,
            dealer,
        }
    }
}

fn client(
    at: &Path,
    (server, dealer): (&Endpoint, &Endpoint),
    (setting, comparison): (Setting, ComparisonChoice),
    max_sessions: usize,
) -> Client {
    let options = ClientOptions {
        server: server.clone(),
        dealer: dealer.clone(),
        api_key: None,
        cache: at.join("cache"),
        state: at.join("client"),
        max_sessions,
        source: CorrelationPreference::Any,
        party: None,
        comparison,
        setting: Some(setting),
        private_products: None,
        set_ups: SetUpLimits::CLIENT,
    };
    let partition = Partition::open_public(&at.join("out")).unwrap();
    Client::with_partition(&partition, &options).unwrap()
}

fn ask(client: &Client, prompt: &[u32], keep: bool, sampling: Option<Sampling>) -> Answer {
    let request = Request {
        prompt: prompt.to_vec(),
        max_tokens: Some(3),
        ignore_eos: true,
        sampling,
        keep,
        ..Request::default()
    };
    let answer = client.generate(&request, &mut |_| ControlFlow::Continue(()));
    answer.unwrap()
}

/// Asks for the next turn behind an answer.
fn next(prompt: &[u32], answer: &Answer) -> Vec<u32> {
    [prompt, &answer.tokens, &[5, 6, 7]].concat()
}

#[test]
fn a_prompt_that_goes_on_is_evaluated_from_there() {
    let served = Served::new(2);
    let client = &served.client;
    let mut prompt = vec![1, 2, 3, 4];
    let mut seen = 0;
    for turn in 0..3 {
        let kept = ask(client, &prompt, true, None);
        assert_eq!(kept.cached_tokens, seen, "turn {turn}");
        let fresh = ask(client, &prompt, false, None);
        assert_eq!(
            (kept.tokens.clone(), 0),
            (fresh.tokens, fresh.cached_tokens)
        );
        // The last token of an answer was not seen yet.
        seen = prompt.len() + kept.tokens.len() - 1;
        prompt = next(&prompt, &kept);
    }
    assert_eq!(client.kept(), 1);
    client.end_kept();
    assert_eq!(client.kept(), 0);
}

#[test]
fn conversations_do_not_mix() {
    let served = Served::new(2);
    let client = &served.client;
    let prompts = [vec![1, 2, 3], vec![9, 8, 7, 6]];
    let answers = prompts
        .each_ref()
        .map(|prompt| ask(client, prompt, true, None));
    assert_eq!(client.kept(), 2);
    for (prompt, answer) in prompts.iter().zip(&answers).rev() {
        let further = next(prompt, answer);
        let kept = ask(client, &further, true, None);
        assert_eq!(kept.cached_tokens, prompt.len() + 2);
    }
    // Another one needs a place, which the one that waits longest gives up.
    let other = ask(client, &[4, 4], true, None);
    assert_eq!((other.cached_tokens, client.kept()), (0, 2));
    // The same words with another way to choose tokens are another conversation.
    let further = next(&[4, 4], &other);
    let sampling = Sampling::new(0.5, None).unwrap();
    assert!(sampling.is_some());
    assert_eq!(ask(client, &further, true, sampling).cached_tokens, 0);
}

#[test]
fn a_lost_session_starts_anew() {
    let served = Served::new(1);
    let prompt = [1, 2, 3];
    let answer = ask(&served.client, &prompt, true, None);
    // The server keeps one session, and another client's is newer.
    let services = (&served.server, &served.dealer);
    let form = (Setting::Dealer, ComparisonChoice::Open);
    let other = client(served.folder.path(), services, form, 1);
    ask(&other, &[7, 7], true, None);
    let further = next(&prompt, &answer);
    let kept = ask(&served.client, &further, true, None);
    assert_eq!(kept.cached_tokens, 0);
    assert_eq!(
        kept.tokens,
        ask(&served.client, &further, false, None).tokens
    );
}

/// Set-up, packing keys and the prompt were the first turn's.
#[test]
fn a_turn_of_two_parties_costs_its_own_rows() {
    let served = Served::with(Setting::TwoParties, 1);
    let Services::Alone(server) = &served.services else {
        unreachable!("two parties were asked for")
    };
    let prompt = [1, 2, 3];
    let answer = ask(&served.client, &prompt, true, None);
    wait_until("the rest", || (server.active(), server.kept()) == (0, 1));
    let further = next(&prompt, &answer);
    let kept = ask(&served.client, &further, true, None);
    assert_eq!(kept.cached_tokens, prompt.len() + 2);
    let [before, offline] = [&answer, &kept].map(|answer| answer.offline.unwrap());
    assert!(
        offline.bytes > 0 && offline.bytes < before.bytes,
        "{before:?}, {offline:?}"
    );
    let fresh = ask(&served.client, &further, false, None);
    assert_eq!(kept.tokens, fresh.tokens);
}

/// What a client that does not follow the rules may not do: rest for ever, or prepare for nothing.
#[test]
fn rests_and_preparations_without_steps_are_refused() {
    let alone = Alone::new(|_| {});
    let world = &alone.world;
    let open = || {
        let mut session = alone.opener(None).open().unwrap();
        session.prefill(&world.rows(0, 4), 4).unwrap();
        session
    };
    let mut session = open();
    session.wait();
    wait_until("the rest", || alone.server.kept() == 1);
    session.wait();
    wait_until("the end", || {
        (alone.server.active(), alone.server.kept()) == (0, 0)
    });
    assert!(session.decode(&world.rows(1, 1)).is_err());

    let mut session = open();
    let most = session.prepare(100).unwrap();
    assert_eq!(
        session.prepare(1).unwrap(),
        0,
        "there is no room, which both know"
    );
    assert!(most <= 32, "{most}");
    session.decode(&world.rows(1, 1)).unwrap();
}

/// As [`ask`], until `tokens` tokens are there.
fn stopped(client: &Client, prompt: &[u32], tokens: usize) -> Answer {
    let request = Request {
        prompt: prompt.to_vec(),
        max_tokens: Some(9),
        ignore_eos: true,
        keep: true,
        ..Request::default()
    };
    let mut seen = 0;
    let answer = client.generate(&request, &mut |event| {
        seen += usize::from(matches!(event, Event::Phase("token")));
        match seen == tokens {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    answer.unwrap()
}

#[test]
fn a_stopped_answer_leaves_a_session_to_go_on_in() {
    for setting in [Setting::Dealer, Setting::TwoParties] {
        let served = Served::with(setting, 2);
        let client = &served.client;
        let prompt = [1, 2, 3];
        let answer = stopped(client, &prompt, 4);
        assert_eq!((answer.finish, answer.tokens.len()), (Finish::Cancelled, 4));
        assert_eq!(client.kept(), 1);
        let further = next(&prompt, &answer);
        let kept = ask(client, &further, true, None);
        assert_eq!(kept.cached_tokens, prompt.len() + 3, "{setting:?}");
        assert_eq!(kept.tokens, ask(client, &further, false, None).tokens);
    }
}

/// Asks, and ends the connections in the nth event of this phase.
fn cut_in(client: &Client, prompt: &[u32], phase: &str, nth: usize) {
    let request = Request {
        prompt: prompt.to_vec(),
        max_tokens: Some(9),
        ignore_eos: true,
        keep: true,
        ..Request::default()
    };
    let mut seen = 0;
    let answer = client.generate(&request, &mut |event| {
        seen += usize::from(matches!(event, Event::Phase(now) if now == phase));
        if seen == nth {
            client.cutter().cut();
        }
        ControlFlow::Continue(())
    });
    assert!(answer.is_err(), "{phase} {nth}");
    assert_eq!(client.kept(), 0, "{phase} {nth}");
}

/// A step that was cut off may have opened rows under their masks: nothing goes on behind it.
#[test]
fn a_session_that_is_cut_off_is_never_gone_on_with() {
    let phases = [("session", 1), ("prefill", 1), ("token", 2)];
    // Two parties' sessions take seconds to open.
    for (setting, phases) in [
        (Setting::Dealer, &phases[..]),
        (Setting::TwoParties, &phases[2..]),
    ] {
        let served = Served::with(setting, 1);
        let client = &served.client;
        let prompt = [1, 2, 3];
        for &(phase, nth) in phases {
            cut_in(client, &prompt, phase, nth);
            let refused = client.generate(
                &Request {
                    prompt: prompt.to_vec(),
                    ..Request::default()
                },
                &mut |_| ControlFlow::Continue(()),
            );
            assert!(refused.is_err(), "until it is renewed");
            client.cutter().renew();
            let answer = ask(client, &prompt, true, None);
            assert_eq!(answer.cached_tokens, 0, "{setting:?} {phase} {nth}");
            // A further turn that is cut off takes its session with it, and begins no other.
            let further = next(&prompt, &answer);
            cut_in(client, &further, "prefill", 1);
            client.cutter().renew();
            let anew = ask(client, &further, false, None);
            assert_eq!(anew.cached_tokens, 0);
            client.end_kept();
        }
    }
}

/// An answer, the bytes of its prompt's step by the end of that step, and what they were to be.
fn followed(client: &Client, prompt: &[u32], sampling: Option<Sampling>) -> (Answer, u64, Cost) {
    let request = Request {
        prompt: prompt.to_vec(),
        max_tokens: Some(3),
        ignore_eos: true,
        sampling,
        keep: true,
        ..Request::default()
    };
    let mut step = None;
    let mut bytes = 0;
    let answer = client.generate(&request, &mut |event| {
        match event {
            Event::Step(progress) => {
                assert_eq!(progress.bytes(), 0);
                step = Some(progress);
            }
            Event::Phase("token") if bytes == 0 => bytes = step.as_ref().unwrap().bytes(),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    let counted = client.tallied(step.unwrap().shape).unwrap();
    (answer.unwrap(), bytes, counted.unwrap())
}

/// A step's own announcement to the server is not counted.
const ANNOUNCED: std::ops::Range<u64> = 1..65;

#[test]
fn a_prompts_bytes_are_known_before_it_is_computed() {
    let served = Served::new(2);
    let prompt = [1, 2, 3];
    for sampling in [
        None,
        Sampling::new(0.8, None).unwrap(),
        Sampling::new(0.8, Some(5)).unwrap(),
    ] {
        let (answer, bytes, counted) = followed(&served.client, &prompt, sampling);
        let total = counted.e0_to_e1_bytes + counted.e1_to_e0_bytes;
        assert!(ANNOUNCED.contains(&(bytes - total)), "{bytes}, {total}");
        assert_eq!(answer.prefill.rounds, counted.rounds);
        // A further turn begins behind what is cached.
        let further = next(&prompt, &answer);
        let (kept, bytes, counted) = followed(&served.client, &further, sampling);
        assert!(kept.cached_tokens > 0);
        let total = counted.e0_to_e1_bytes + counted.e1_to_e0_bytes;
        assert!(ANNOUNCED.contains(&(bytes - total)), "{bytes}, {total}");
        assert_eq!(kept.prefill.rounds, counted.rounds);
    }
}

#[test]
fn a_prompts_bytes_with_dcf_are_known_before() {
    let served = Served::new(1);
    let form = (Setting::Dealer, ComparisonChoice::Dcf);
    let at = served.folder.path();
    let client = client(at, (&served.server, &served.dealer), form, 1);
    let sampling = Sampling::new(0.8, None).unwrap();
    let (answer, bytes, counted) = followed(&client, &[1, 2, 3], sampling);
    let total = counted.e0_to_e1_bytes + counted.e1_to_e0_bytes;
    assert!(ANNOUNCED.contains(&(bytes - total)), "{bytes}, {total}");
    assert_eq!(answer.prefill.rounds, counted.rounds);
}

/// What sets a session up, and transfers that are made for later steps: 20 MiB at the most, which
/// is little beside the prompt of a model that is not tiny.
const NOT_COUNTED: std::ops::Range<u64> = 0..20 << 20;

#[test]
fn a_prompts_bytes_between_two_parties_are_estimated() {
    let served = Served::with(Setting::TwoParties, 1);
    for name in ["first", "second"] {
        let (_, bytes, counted) = followed(&served.client, &[1, 2, 3], None);
        let total = counted.e0_to_e1_bytes + counted.e1_to_e0_bytes;
        assert!(total > 1 << 20, "{name}: {total}");
        let more = bytes.checked_sub(total);
        assert!(
            more.is_some_and(|more| NOT_COUNTED.contains(&more)),
            "{name}: {bytes}, {total}"
        );
        served.client.end_kept();
    }
}
