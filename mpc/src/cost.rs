//! What a program costs: rounds and bytes, counted over shapes or measured at a party.

/// Messages of one evaluator, payload bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Steps of the longest chain of dependent messages; a simultaneous exchange is one.
    pub rounds: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// What the dealer sent to this evaluator.
    pub dealer_bytes: u64,
    /// What E0 sent to E1 before steps, to prepare them; in no other of these figures.
    pub offline_bytes: u64,
}

/// What a step costs, counted over shapes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    pub rounds: u64,
    pub e0_to_e1_bytes: u64,
    pub e1_to_e0_bytes: u64,
    pub dealer_to_e1_bytes: u64,
    /// DCF keys; one-hot comparisons send nothing to E0.
    pub dealer_to_e0_bytes: u64,
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rounds: self.rounds + other.rounds,
            e0_to_e1_bytes: self.e0_to_e1_bytes + other.e0_to_e1_bytes,
            e1_to_e0_bytes: self.e1_to_e0_bytes + other.e1_to_e0_bytes,
            dealer_to_e1_bytes: self.dealer_to_e1_bytes + other.dealer_to_e1_bytes,
            dealer_to_e0_bytes: self.dealer_to_e0_bytes + other.dealer_to_e0_bytes,
        }
    }
}

impl std::ops::Sub for Cost {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            rounds: self.rounds - other.rounds,
            e0_to_e1_bytes: self.e0_to_e1_bytes - other.e0_to_e1_bytes,
            e1_to_e0_bytes: self.e1_to_e0_bytes - other.e1_to_e0_bytes,
            dealer_to_e1_bytes: self.dealer_to_e1_bytes - other.dealer_to_e1_bytes,
            dealer_to_e0_bytes: self.dealer_to_e0_bytes - other.dealer_to_e0_bytes,
        }
    }
}
