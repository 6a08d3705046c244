//! What a client sends before batches: inputs, and where their columns are.

use sha2::{Digest, Sha256};

use super::{MOST, MOST_BYTES, TAG_BYTES};
use crate::{
    bfv::{DEVIATIONS, Factors, ciphertext_bytes},
    error::LatticeError,
    galois::levels,
    packing::{class, noise},
    parameters::ParameterSet,
};

/// Vectors of the client: `vectors` of them, of `columns` numbers each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    pub(super) vectors: usize,
    pub(super) columns: usize,
    /// How often a number is sent, the k-th time multiplied by `2^(k · digit_bits)`.
    pub(super) digits: usize,
    pub(super) digit_bits: u32,
}

impl Input {
    #[must_use]
    pub fn new(vectors: usize, columns: usize) -> Self {
        Self {
            vectors,
            columns,
            digits: 1,
            digit_bits: 64,
        }
    }

    /// An input whose products with a tall matrix of such factors are made by columns: each number
    /// is sent as often as digits that keep the noise low are in a factor. Masks and wide factors
    /// in wide rings take two or more: masks of 64 bits at one vector four, of 48 bits two. One is
    /// enough for products by rows.
    ///
    /// # Errors
    /// Where no digits have a noise that the set can hold.
    pub fn of_columns(
        set: ParameterSet,
        bits: u32,
        factors: Factors,
        [vectors, columns]: [usize; 2],
    ) -> Result<Self, LatticeError> {
        let width = factors.width(bits);
        let mut refused = LatticeError::Range {
            what: "the width of factors",
            allowed: "1 to 64 bits",
            got: width.into(),
        };
        for digits in 1..=8 {
            let input = Self {
                digits: digits as usize,
                digit_bits: width.div_ceil(digits),
                ..Self::new(vectors, columns)
            };
            let taken = Taken {
                columns: columns * digits as usize,
                width: input.widest(width),
            };
            match taken.flood(set, bits, factors, input.padded()) {
                Ok(_) => return Ok(input),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    #[must_use]
    pub fn vectors(&self) -> usize {
        self.vectors
    }

    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bits of the widest digit of factors of so many bits, signs included.
    pub(super) fn widest(self, width: u32) -> u32 {
        let before = self.digit_bits.saturating_mul(self.digits as u32 - 1);
        let last = width.saturating_sub(before);
        last.max(width.min(self.digit_bits)).max(1)
    }

    /// Vectors that room is taken for.
    pub(super) fn padded(self) -> usize {
        self.vectors.next_power_of_two()
    }
}

/// The public shape of vectors that are sent together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    pub(super) set: ParameterSet,
    pub(super) bits: u32,
    pub(super) inputs: Vec<Input>,
    /// The first slot of each input.
    first: Vec<usize>,
    pub(super) ciphertexts: usize,
    pub(super) tag: [u8; TAG_BYTES],
}

/// Where a column is: a class of places of a ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Column {
    pub(super) ciphertext: usize,
    pub(super) vectors: usize,
    /// The first of its slots.
    pub(super) first: usize,
}

impl Upload {
    /// Vectors of numbers modulo `2^bits`, packed without holes; those of most vectors first.
    ///
    /// # Errors
    /// Widths or sizes out of range, more than a gibibyte, `N4096` (it has no packing).
    pub fn new(set: ParameterSet, bits: u32, inputs: &[Input]) -> Result<Self, LatticeError> {
        let range = |what, allowed, got: u64| Err(LatticeError::Range { what, allowed, got });
        if set.special().is_none() {
            let n = set.n() as u64;
            return range("the ring of packed products", "that of N8192", n);
        }
        if !(1..=64).contains(&bits) {
            return range("the width of plaintexts", "1 to 64 bits", bits.into());
        }
        for input in inputs {
            if !(1..=set.n()).contains(&input.vectors) {
                let got = input.vectors as u64;
                return range("the vectors of an input", "1 to the ring's length", got);
            }
            if !(1..=MOST).contains(&input.columns) {
                return range("a side of a product", "1 to 131072", input.columns as u64);
            }
        }
        // Slots of a column are aligned when larger columns come before.
        let mut order: Vec<usize> = (0..inputs.len()).collect();
        order.sort_by_key(|at| std::cmp::Reverse(inputs[*at].padded()));
        let mut first = vec![0; inputs.len()];
        let mut slots = 0;
        for at in order {
            first[at] = slots;
            slots += inputs[at].padded() * inputs[at].columns * inputs[at].digits;
        }
        let ciphertexts = slots.div_ceil(set.n());
        let mut hash = Sha256::new_with_prefix(b"marill lattice upload 1");
        hash.update(set.digest());
        let sizes = inputs
            .iter()
            .flat_map(|i| [i.vectors, i.columns, i.digits, i.digit_bits as usize]);
        for number in [bits as usize, inputs.len()].into_iter().chain(sizes) {
            hash.update((number as u64).to_le_bytes());
        }
        let upload = Self {
            set,
            bits,
            inputs: inputs.to_vec(),
            first,
            ciphertexts,
            tag: *hash.finalize().first_chunk().expect("a digest is longer"),
        };
        if upload.request_bytes() > MOST_BYTES {
            let got = upload.request_bytes() as u64;
            return range("a message", "1 GiB at most", got);
        }
        Ok(upload)
    }

    /// Bytes from the client to the server.
    #[must_use]
    pub fn request_bytes(&self) -> usize {
        TAG_BYTES + self.ciphertexts * ciphertext_bytes(self.set)
    }

    /// Ciphertexts of the request.
    #[must_use]
    pub fn ciphertexts(&self) -> usize {
        self.ciphertexts
    }

    /// The inputs, in the order in which they were named.
    #[must_use]
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// Where a column of an input is, multiplied for this digit of its factors.
    pub(super) fn column(&self, input: usize, column: usize, digit: usize) -> Column {
        let n = self.set.n();
        let vectors = self.inputs[input].padded();
        let slot = self.first[input] + (column * self.inputs[input].digits + digit) * vectors;
        Column {
            ciphertext: slot / n,
            vectors,
            first: slot % n,
        }
    }
}

impl Column {
    pub(super) fn depth(self, n: usize) -> u32 {
        (n / self.vectors).ilog2()
    }

    pub(super) fn class(self, n: usize) -> usize {
        class(n, self.depth(n), self.first)
    }
}

/// What a product by columns takes out, once for each digit, and the widest digit of its factors.
pub(super) struct Taken {
    pub(super) columns: usize,
    pub(super) width: u32,
}

impl Taken {
    /// Bits of flooding above the noise by columns.
    pub(super) fn flood(
        &self,
        set: ParameterSet,
        bits: u32,
        factors: Factors,
        vectors: usize,
    ) -> Result<u32, LatticeError> {
        factors.flood_above(set, bits, self.noise(set, bits, factors, vectors))
    }

    /// The bound of the module, in units of `1/q`.
    pub(super) fn noise(
        &self,
        set: ParameterSet,
        bits: u32,
        factors: Factors,
        vectors: usize,
    ) -> f64 {
        let own = Factors::Signed(self.width).noise(set, bits, self.columns);
        let depth = levels(set, vectors);
        let rows = (set.n() / vectors) as f64;
        let magnitude = f64::from(self.width - 1).exp2();
        // With the signs that are worst.
        let worst = (rows / vectors as f64 + f64::from(depth) / 2.0 + 1.0).sqrt();
        let met = match factors {
            Factors::Signed(_) => worst * magnitude,
            // Around their mean, and that.
            Factors::Masks => magnitude + worst / 2.0,
        };
        own + DEVIATIONS * noise(set, depth) * (self.columns as f64).sqrt() * met
    }
}
