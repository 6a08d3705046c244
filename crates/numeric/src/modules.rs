//! Names that recipes, checkpoints and partitions share. They are here because nothing else lies
//! below all three.

/// The linear layers of a LLaMA block, in the order of the checkpoint.
pub const MODULES: [&str; 7] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];
