//! One function per parser of bytes that come from elsewhere: from a peer, a file, a request.
//!
//! Each takes any bytes and returns. What it must never do is panic, hang, or allocate beyond
//! [`Target::limit`]; some also check what must hold of bytes that were accepted. Two drivers feed
//! them: `tests/seeded.rs`, a mutator with a printed seed that runs with all other tests on stable
//! Rust, and `fuzz_targets/`, one libFuzzer binary each for `cargo fuzz run NAME --features
//! libfuzzer`.

use marill_net::MAX_FRAME_BYTES;

pub mod corpus;
mod files;
mod messages;
pub mod mutate;
mod reports;
mod two_party;
mod wire;

pub use files::{
    adapter_config, checkpoint_config, data_rows, gguf, manifest, recipe, safetensors, sealed_file,
};
pub use messages::{endpoint, handshake, masked_adapter, step, ticket};
pub use reports::{calibration, curve, key_file, network_weights, scores};
pub use two_party::{kept_transfers, lattice_messages, two_party_frames};
pub use wire::{http_head, protocol_frames, websocket, websocket_handshake};

/// A parser as the drivers see it.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Small valid inputs to begin with.
    pub corpus: fn() -> Vec<Vec<u8>>,
    /// Bytes that one call may have allocated at a time, beside a multiple of the input's own.
    pub limit: usize,
}

const MIB: usize = 1 << 20;

/// Every parser. The limits leave room for buffers of fixed size (a socket's, a model's shapes);
/// but for the frames of a peer that is known, none grows with a number that the input merely
/// names.
pub const TARGETS: &[Target] = &[
    Target {
        name: "step",
        run: step,
        corpus: corpus::steps,
        limit: MIB,
    },
    Target {
        name: "handshake",
        run: handshake,
        corpus: corpus::handshakes,
        limit: 4 * MIB,
    },
    Target {
        name: "ticket",
        run: ticket,
        corpus: corpus::tickets,
        limit: MIB,
    },
    Target {
        name: "endpoint",
        run: endpoint,
        corpus: corpus::endpoints,
        limit: MIB,
    },
    Target {
        name: "masked_adapter",
        run: masked_adapter,
        corpus: corpus::masked_adapters,
        limit: 4 * MIB,
    },
    Target {
        name: "protocol_frames",
        run: protocol_frames,
        corpus: corpus::transcripts,
        limit: 16 * MIB,
    },
    Target {
        name: "websocket",
        run: websocket,
        corpus: corpus::websockets,
        // The codec makes room for the frame that a head announces, and again when it grows.
        limit: 2 * MAX_FRAME_BYTES + 4 * MIB,
    },
    Target {
        name: "websocket_handshake",
        run: websocket_handshake,
        corpus: corpus::websockets,
        limit: 4 * MIB,
    },
    Target {
        name: "http_head",
        run: http_head,
        corpus: corpus::http_heads,
        limit: 4 * MIB,
    },
    Target {
        name: "sealed_file",
        run: sealed_file,
        corpus: corpus::sealed_files,
        limit: 8 * MIB,
    },
    Target {
        name: "manifest",
        run: manifest,
        corpus: corpus::manifests,
        limit: 8 * MIB,
    },
    Target {
        name: "gguf",
        run: gguf,
        corpus: corpus::ggufs,
        limit: 32 * MIB,
    },
    Target {
        name: "safetensors",
        run: safetensors,
        corpus: corpus::safetensors,
        limit: 32 * MIB,
    },
    Target {
        name: "checkpoint_config",
        run: checkpoint_config,
        corpus: corpus::checkpoint_configs,
        limit: 32 * MIB,
    },
    Target {
        name: "adapter_config",
        run: adapter_config,
        corpus: corpus::adapter_configs,
        limit: 32 * MIB,
    },
    Target {
        name: "recipe",
        run: recipe,
        corpus: corpus::recipes,
        limit: 16 * MIB,
    },
    Target {
        name: "data_rows",
        run: data_rows,
        corpus: corpus::data_rows,
        // The largest window of a Zstandard frame, and what it grows by.
        limit: 512 * MIB,
    },
    Target {
        name: "two_party_frames",
        run: two_party_frames,
        corpus: corpus::two_party_transcripts,
        limit: 64 * MIB,
    },
    Target {
        name: "lattice_messages",
        run: lattice_messages,
        corpus: two_party::messages,
        limit: 64 * MIB,
    },
    Target {
        name: "kept_transfers",
        run: kept_transfers,
        corpus: two_party::kept,
        limit: MIB,
    },
    Target {
        name: "calibration",
        run: calibration,
        corpus: reports::calibrations,
        limit: MIB,
    },
    Target {
        name: "curve",
        run: curve,
        corpus: reports::curves,
        limit: MIB,
    },
    Target {
        name: "scores",
        run: scores,
        corpus: reports::score_files,
        limit: 4 * MIB,
    },
    Target {
        name: "key_file",
        run: key_file,
        corpus: reports::key_files,
        limit: MIB,
    },
    Target {
        name: "network_weights",
        run: network_weights,
        corpus: reports::networks,
        limit: 8 * MIB,
    },
];
