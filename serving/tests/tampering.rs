//! A man in the middle spoils one frame of each kind: every session ends with an error, none hangs,
//! no service is hurt.

use std::thread;

use marill_testkit::{
    parties::{World, wait_until},
    tampering_proxy::{FAULTS, Fault, From, TamperingProxy},
};

/// Which connection, who sends, the number of the frame, what it is.
const KINDS: [(Link, From, usize, &str); 12] = [
    (Link::Client, From::Opener, 0, "the client's handshake"),
    (
        Link::Client,
        From::Opener,
        1,
        "the announcement of the prompt",
    ),
    (Link::Client, From::Opener, 2, "the client's input"),
    (
        Link::Client,
        From::Opener,
        9,
        "the client's message in a round",
    ),
    (Link::Client, From::Service, 0, "the server's handshake"),
    (Link::Client, From::Service, 1, "the masked adapter"),
    (
        Link::Client,
        From::Service,
        5,
        "the server's message in a round",
    ),
    (
        Link::Dealer,
        From::Opener,
        0,
        "the server's handshake with the dealer",
    ),
    (
        Link::Dealer,
        From::Opener,
        1,
        "the announcement to the dealer",
    ),
    (Link::Dealer, From::Service, 0, "the dealer's handshake"),
    (Link::Dealer, From::Service, 1, "the seeds"),
    (Link::Dealer, From::Service, 2, "corrections"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Between client and server.
    Client,
    /// Between server and dealer.
    Dealer,
}

struct Field {
    world: World,
    client: (TamperingProxy, marill_serving::Endpoint),
    dealer: TamperingProxy,
    clients: usize,
}

impl Field {
    fn new() -> Self {
        let mut dealer = None;
        let world = World::routed(false, |endpoint| {
            let (proxy, endpoint) = TamperingProxy::start(&endpoint);
            dealer = Some(proxy);
            endpoint
        });
        let client = TamperingProxy::start(&world.parties.server);
        Self {
            world,
            client,
            dealer: dealer.unwrap(),
            clients: 0,
        }
    }

    /// A client without the adapter, so that it travels too; four steps.
    fn session(&mut self) -> Result<Vec<u32>, marill_serving::ServingError> {
        self.clients += 1;
        let opener = self
            .world
            .opener_at(&self.client.1, &format!("client{}", self.clients));
        self.world.short_session(&opener)
    }

    fn case(&mut self, (line, from, number, what): (Link, From, usize, &str), fault: Fault) {
        let proxy = if line == Link::Client {
            self.client.0.clone()
        } else {
            self.dealer.clone()
        };
        proxy.spoil((from, number, fault), what, || self.session());
        let world = &self.world;
        wait_until("all giving the session up", || {
            world.parties.active() == [0, 0]
        });
    }
}

/// Each on its own parties: several thirds of the table run side by side.
fn run_table(table: &[((Link, From, usize, &str), Fault)]) {
    const FIELDS: usize = 4;
    thread::scope(|scope| {
        for part in 0..FIELDS {
            scope.spawn(move || {
                let mut field = Field::new();
                for (kind, fault) in table.iter().skip(part).step_by(FIELDS) {
                    field.case(*kind, *fault);
                }
                assert_eq!(
                    field.session().unwrap(),
                    field.world.twin(5, 4, 3),
                    "the services are unharmed"
                );
            });
        }
    });
}

#[test]
fn a_damaged_frame_of_any_kind_ends_its_session_with_an_error() {
    let table: Vec<_> = KINDS
        .iter()
        .flat_map(|kind| FAULTS.map(|fault| (*kind, fault)))
        .collect();
    run_table(&table);
}

/// Where a direction has two frames in a row; elsewhere the follower waits for an answer to the
/// frame itself.
#[test]
fn a_frame_out_of_order_or_lost_ends_its_session() {
    let table: Vec<_> = [
        (
            Link::Client,
            From::Opener,
            1,
            "the announcement of the prompt",
        ),
        (
            Link::Client,
            From::Service,
            0,
            "the server's handshake before the adapter",
        ),
        (
            Link::Dealer,
            From::Service,
            0,
            "the dealer's handshake before the seeds",
        ),
        (Link::Dealer, From::Service, 2, "corrections"),
    ]
    .iter()
    .flat_map(|kind| [Fault::Swap, Fault::Drop].map(|fault| (*kind, fault)))
    .collect();
    run_table(&table);
}
