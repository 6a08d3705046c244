//! Spellings of the version before, which are still read. Flags, their values and commands have
//! hidden aliases where they are declared.

/// Environment variables: the name in the version before, and the name now.
const VARIABLES: [(&str, &str); 3] = [
    ("MARILL_EVALUATOR", "MARILL_PARTY"),
    ("MARILL_EVALUATOR_PORT", "MARILL_PARTY_PORT"),
    ("MARILL_MATERIAL", "MARILL_COMPARISON"),
];

/// Gives variables that are set under their former name only their new one. Before the first
/// thread.
pub fn read_former_variables() {
    for (former, now) in VARIABLES {
        if let Some(value) = std::env::var_os(former)
            && std::env::var_os(now).is_none()
        {
            // SAFETY: `main` has started no thread yet, so nothing reads the environment meanwhile.
            unsafe { std::env::set_var(now, value) };
        }
    }
}
