//! What two parties without a dealer send each other.

use std::{
    sync::{Arc, LazyLock, Mutex},
    thread,
};

use marill_lattice::{
    Batch, BatchProduct, Client, Factors, Input, PackingKeys, ParameterSet, Product, PublicKey,
    Server, Term, Upload,
};
use marill_mpc::{
    ClientSession, PrivateWeights, ProtocolError, PublicWeights, ServerSession,
    random_model::{gaussian, random_weights},
    two_party::Products,
};
use marill_net::{Channel, memory_pair};
use marill_ot::{BaseId, BaseOts, Extension, Link, OtError, Party, keep, softspoken::GroupBits};

use crate::{
    corpus::smallest_spec,
    wire::{Recorder, Script, frames},
};

const EXTENSION: Extension = Extension::SoftSpoken(GroupBits::Four);

/// The smallest program and a prompt of one row; what a session draws is new each time.
struct Model {
    public: Arc<PublicWeights>,
    private: Arc<PrivateWeights>,
    prompt: Vec<u64>,
}

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let spec = smallest_spec();
    let (public, private) = random_weights(&spec, 7);
    let row = gaussian(7, "boundary", spec.hidden_size, 1.0);
    let prompt = spec.encode(&row).expect("normal numbers");
    Model {
        public,
        private,
        prompt,
    }
});

fn run_client(server: impl Channel + 'static) -> Result<u32, ProtocolError> {
    let public = MODEL.public.clone();
    ClientSession::without_dealer(public, Box::new(server), EXTENSION)?
        .with_products(Products::Transfers)
        .prefill(&MODEL.prompt)
}

/// E1's frames to an E0: length, frame, length, frame. E0 draws its own numbers, so what a recorded
/// session says means nothing to it; every frame is read all the same, up to the digests before the
/// token.
pub fn two_party_frames(bytes: &[u8]) {
    let came = run_client(Script(frames(bytes)));
    assert!(came.is_err(), "a token of frames that answer nobody");
}

/// What E1 says to that E0.
pub(crate) fn record() -> Vec<u8> {
    let (client_end, server_end) = memory_pair();
    let script = Arc::new(Mutex::new(Vec::new()));
    let recorder = Recorder {
        inner: client_end,
        script: script.clone(),
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let peer = Box::new(server_end);
            let (public, private) = (MODEL.public.clone(), MODEL.private.clone());
            let session = ServerSession::without_dealer(public, private, peer, EXTENSION);
            let session = session.expect("the client is there");
            let mut session = session.with_products(Products::Transfers);
            let bucket = MODEL.public.spec.bucket(1);
            session.prefill(bucket).expect("the client is there");
        });
        run_client(recorder).expect("a session between honest parties");
    });
    let script = script.lock().expect("no panic while it was held");
    script.clone()
}

const SET: ParameterSet = ParameterSet::N8192;
const BITS: u32 = 48;
/// Vectors of the packed product: so many that there is one level of packing keys.
const VECTORS: usize = 4096;

/// The owner of a key, and one that computes under it.
struct Lattice {
    client: Client,
    server: Server,
    keys: PackingKeys,
    product: Product,
    upload: Upload,
    batch: Batch,
}

static LATTICE: LazyLock<Lattice> = LazyLock::new(|| {
    let client = Client::new(SET);
    let server = Server::new(SET, &client.public_key()).expect("its own key");
    let keys = client.packing_keys(VECTORS).expect("this ring packs");
    let keys = PackingKeys::from_bytes(SET, VECTORS, &keys).expect("its own keys");
    let factors = Factors::Signed(8);
    let product = Product::new(SET, BITS, factors, [2, 3, 1]).expect("a small shape");
    let upload = Upload::new(SET, BITS, &[Input::new(VECTORS, 1)]).expect("a small shape");
    let whole = BatchProduct {
        terms: vec![Term {
            upload: 0,
            input: 0,
            columns: 0..1,
        }],
        rows: 1,
        factors,
        vectors: 0..VECTORS,
    };
    let batch = Batch::new(&[&upload], &[whole]).expect("a small shape");
    Lattice {
        client,
        server,
        keys,
        product,
        upload,
        batch,
    }
});

/// Messages of products by lattices: a public key, packing keys, the request and the response of
/// one product, an upload and the response of a batch, by the first byte. What is accepted has the
/// shape that both parties know.
pub fn lattice_messages(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else {
        return;
    };
    let Lattice {
        client,
        server,
        keys,
        product,
        upload,
        batch,
    } = &*LATTICE;
    match kind % 6 {
        0 => drop(PublicKey::from_bytes(SET, bytes)),
        1 => drop(PackingKeys::from_bytes(SET, VECTORS, bytes)),
        2 => {
            let matrix = marill_lattice::Matrix::new(server.key(), product, &[1, -2, 3, 0, 0, 100])
                .expect("factors of 8 bits");
            if let Ok((response, shares)) = server.respond(&matrix, bytes) {
                assert_eq!(
                    (response.len(), shares.len()),
                    (product.response_bytes(), 2)
                );
            }
        }
        3 => {
            if let Ok(shares) = client.finish(product, bytes) {
                assert_eq!(shares.len(), 2);
                assert!(shares.iter().all(|share| share >> BITS == 0));
            }
        }
        4 => {
            if let Ok(received) = server.receive(upload, bytes) {
                let (response, _) = server
                    .respond_batch(batch, keys, &[&received], &[&[3]])
                    .expect("an upload that was accepted");
                assert_eq!(response.len(), batch.response_bytes());
            }
        }
        _ => {
            if let Ok(shares) = client.finish_batch(batch, bytes) {
                assert_eq!(shares[0].len(), VECTORS);
            }
        }
    }
}

/// One of each, in the order of [`lattice_messages`].
pub(crate) fn messages() -> Vec<Vec<u8>> {
    let Lattice {
        client,
        server,
        keys,
        product,
        upload,
        batch,
    } = &*LATTICE;
    let factors = [1, -2, 3, 0, 0, 100];
    let matrix = marill_lattice::Matrix::new(server.key(), product, &factors);
    let request = client.request(product, &[10, 20, 30]);
    let (response, _) = server
        .respond(&matrix.expect("factors of 8 bits"), &request)
        .expect("an honest request");
    let numbers: Vec<u64> = (0..VECTORS as u64).collect();
    let uploaded = client.upload(upload, &[&numbers]);
    let received = server.receive(upload, &uploaded).expect("an honest upload");
    let (packed, _) = server
        .respond_batch(batch, keys, &[&received], &[&[3]])
        .expect("an honest upload");
    let all = [
        client.public_key(),
        client.packing_keys(VECTORS).expect("this ring packs"),
        request,
        response,
        uploaded,
        packed,
    ];
    let kinds = 0u8..;
    kinds
        .zip(all)
        .map(|(kind, bytes)| [&[kind][..], &bytes].concat())
        .collect()
}

/// Base transfers of one pair of parties, as both keep them.
static KEPT: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let (ours, theirs) = memory_pair();
    let make = |end, party| {
        let base = BaseOts::establish(&mut Link::new(end, party)).expect("two honest parties");
        base.to_bytes().to_vec()
    };
    thread::scope(|scope| {
        let other = scope.spawn(move || make(theirs, Party::E1));
        [
            make(ours, Party::E0),
            other.join().expect("it does not panic"),
        ]
    })
});

/// Kept base transfers: by the first byte a file of them, what the party says that answers an offer
/// of them, or what the party says that offers them. What a file gives is written as the same file.
pub fn kept_transfers(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else {
        return;
    };
    let kept = |party: Party| BaseOts::from_bytes(&KEPT[party as usize]);
    let all_new = |given: Result<(BaseOts, keep::Origin), OtError>| {
        if let Ok((_, origin)) = given {
            assert!(origin.is_new(), "a proof that nobody made is believed");
        }
    };
    match kind % 3 {
        0 => {
            if let Ok(base) = BaseOts::from_bytes(bytes) {
                assert_eq!(&base.to_bytes()[..], bytes);
            }
        }
        1 => {
            let mut link = Link::new(Script(frames(bytes)), Party::E0);
            all_new(keep::offer(&mut link, kept(Party::E0).ok()));
        }
        _ => {
            let mut link = Link::new(Script(frames(bytes)), Party::E1);
            all_new(keep::answer(&mut link, |_: &BaseId| kept(Party::E1).ok()));
        }
    }
}

/// A file, and both sides of a meeting at which they are used again.
pub(crate) fn kept() -> Vec<Vec<u8>> {
    let (ours, theirs) = memory_pair();
    let scripts = [(); 2].map(|()| Arc::new(Mutex::new(Vec::new())));
    let [ours, theirs] = [
        Recorder {
            inner: ours,
            script: scripts[0].clone(),
        },
        Recorder {
            inner: theirs,
            script: scripts[1].clone(),
        },
    ];
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut link = Link::new(theirs, Party::E1);
            let found = |_: &BaseId| BaseOts::from_bytes(&KEPT[1]).ok();
            keep::answer(&mut link, found).expect("two honest parties");
        });
        let mut link = Link::new(ours, Party::E0);
        let saved = BaseOts::from_bytes(&KEPT[0]).ok();
        keep::offer(&mut link, saved).expect("two honest parties");
    });
    let heard = |n: usize| {
        scripts[n]
            .lock()
            .expect("no panic while it was held")
            .clone()
    };
    vec![
        [&[0], &KEPT[0][..]].concat(),
        [&[1], &heard(0)[..]].concat(),
        [&[2], &heard(1)[..]].concat(),
    ]
}
