//! Messages, shapes and keys that are not those of a batch.

use super::*;

/// An upload, a batch of it, its request and its response.
fn messages(world: &World) -> (Upload, Batch, Vec<u8>, Vec<u8>) {
    let inputs = [Input::new(8, 20)];
    let upload = Upload::new(SET, 48, &inputs).unwrap();
    let batch = Batch::new(&[&upload], &[whole(0, inputs[0], 3, Factors::Signed(8))]).unwrap();
    let request = world.client.upload(&upload, &[&[7; 160]]);
    let kept = world.server.receive(&upload, &request).unwrap();
    let response = world
        .server
        .respond_batch(&batch, &world.keys, &[&kept], &[&[3; 60]]);
    (upload, batch, request, response.unwrap().0)
}

#[test]
fn messages_of_another_length_or_shape_are_refused() {
    let world = world(8);
    let (upload, batch, request, response) = messages(&world);
    for cut in [0, TAG_BYTES, request.len() - 1, request.len() + 1] {
        let mut changed = request.clone();
        changed.resize(cut, 0);
        let refused = world.server.receive(&upload, &changed).err();
        assert!(matches!(refused, Some(LatticeError::Length { .. })));
    }
    for cut in [0, TAG_BYTES, response.len() - 1, response.len() + 1] {
        let mut changed = response.clone();
        changed.resize(cut, 0);
        let refused = world.client.finish_batch(&batch, &changed).err();
        assert!(matches!(refused, Some(LatticeError::Length { .. })));
    }
    // Of equal lengths, so that only the tag tells them apart.
    let other = Upload::new(SET, 48, &[Input::new(8, 21)]).unwrap();
    let refused = world.server.receive(&other, &request).err();
    assert_eq!(refused, Some(LatticeError::Parameters { message: UPLOAD }));
    let product = whole(0, Input::new(8, 20), 3, Factors::Signed(9));
    let other = Batch::new(&[&upload], &[product]).unwrap();
    let refused = world.client.finish_batch(&other, &response).err();
    let message = RESPONSE;
    assert_eq!(refused, Some(LatticeError::Parameters { message }));
}

#[test]
fn residues_not_below_their_prime_are_refused() {
    let world = world(8);
    let (upload, _, mut request, _) = messages(&world);
    let last = request.len() - 7;
    request[last..].fill(0xff);
    let refused = world.server.receive(&upload, &request).err();
    assert!(matches!(refused, Some(LatticeError::Malformed { .. })));
}

#[test]
fn a_kept_upload_is_bound_to_its_key_and_shape() {
    let world = world(8);
    let (upload, batch, request, _) = messages(&world);
    let respond = |server: &Server, kept: &Received| {
        let refused = server.respond_batch(&batch, &world.keys, &[kept], &[&[3; 60]]);
        refused.err()
    };
    let kept = world.server.receive(&upload, &request).unwrap();
    assert_eq!(respond(&world.server, &kept), None);
    let message = UPLOAD;
    // A client that made a new key, and a shape of as many ciphertexts.
    let other = Server::new(SET, &world.client.public_key()).unwrap();
    let refused = respond(&other, &kept);
    assert_eq!(refused, Some(LatticeError::Parameters { message }));
    let other = Upload::new(SET, 48, &[Input::new(8, 21)]).unwrap();
    let kept = send(&world, &other, &values_of(&other));
    let refused = respond(&world.server, &kept);
    assert_eq!(refused, Some(LatticeError::Parameters { message }));
}

#[test]
fn packing_keys_of_too_few_levels_are_refused() {
    let world = world(16);
    let (upload, batch, request) = {
        let upload = Upload::new(SET, 48, &[Input::new(8, 20)]).unwrap();
        let product = whole(0, Input::new(8, 20), 3, Factors::Signed(8));
        let batch = Batch::new(&[&upload], &[product]).unwrap();
        let request = world.client.upload(&upload, &[&[7; 160]]);
        (upload, batch, request)
    };
    let kept = world.server.receive(&upload, &request).unwrap();
    let refused = world
        .server
        .respond_batch(&batch, &world.keys, &[&kept], &[&[3; 60]]);
    assert!(matches!(refused.err(), Some(LatticeError::Range { .. })));
}

#[test]
fn equal_batches_have_other_shares_and_responses() {
    let world = world(8);
    let (upload, batch, request, first) = messages(&world);
    let kept = world.server.receive(&upload, &request).unwrap();
    let again = world
        .server
        .respond_batch(&batch, &world.keys, &[&kept], &[&[3; 60]]);
    let (second, shares) = again.unwrap();
    assert_ne!(first, second);
    // 24 shares of 48 bits: two equal ones have probability 2^-39.
    let mut shares = shares[0].to_vec();
    shares.sort_unstable();
    shares.dedup();
    assert_eq!(shares.len(), 24);
}

#[test]
fn shapes_out_of_range_are_refused() {
    let upload = |bits, input| Upload::new(SET, bits, &[input]).err();
    for refused in [
        upload(0, Input::new(8, 8)),
        upload(65, Input::new(8, 8)),
        upload(48, Input::new(0, 8)),
        upload(48, Input::new(8193, 8)),
        upload(48, Input::new(8, 0)),
        upload(48, Input::new(8192, MOST)),
        Upload::new(ParameterSet::N4096, 37, &[]).err(),
    ] {
        assert!(matches!(refused, Some(LatticeError::Range { .. })));
    }
    let inputs = [Input::new(8, 20), Input::new(4, 20)];
    let shape = Upload::new(SET, 48, &inputs).unwrap();
    let refused = |change: fn(&mut BatchProduct)| {
        let mut product = whole(0, inputs[0], 3, Factors::Signed(8));
        change(&mut product);
        Batch::new(&[&shape], &[product]).err()
    };
    for refused in [
        refused(|p| p.rows = 0),
        refused(|p| p.rows = MOST + 1),
        refused(|p| p.factors = Factors::Signed(0)),
        refused(|p| p.factors = Factors::Signed(65)),
        refused(|p| p.terms.clear()),
        refused(|p| p.terms[0].upload = 1),
        refused(|p| p.terms[0].input = 2),
        refused(|p| p.terms[0].columns = 0..21),
        refused(|p| p.vectors = 3..3),
        refused(|p| p.vectors = 3..9),
        refused(|p| {
            p.terms.push(Term {
                upload: 0,
                input: 1,
                columns: 0..1,
            })
        }),
    ] {
        assert!(
            matches!(refused, Some(LatticeError::Range { .. })),
            "{refused:?}"
        );
    }
    let refused = refused(|p| p.factors = Factors::Signed(60));
    assert!(matches!(refused, Some(LatticeError::Noise { .. })));
}
