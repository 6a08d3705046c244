//! What prompts begin with alike.

use std::collections::BTreeMap;

/// The longest beginning that at least two prompts and at least half of them all have: one that
/// lost its beginning does not spoil it for the others.
pub(super) fn common_beginning(prompts: &[&[u32]]) -> Vec<u32> {
    let mut alike = prompts.to_vec();
    let mut beginning = Vec::new();
    loop {
        let at = beginning.len();
        let mut counts = BTreeMap::new();
        for token in alike.iter().filter_map(|prompt| prompt.get(at)) {
            *counts.entry(*token).or_insert(0) += 1;
        }
        match counts.into_iter().max_by_key(|(_, count)| *count) {
            Some((token, count)) if count > 1 && 2 * count >= prompts.len() => {
                alike.retain(|prompt| prompt.get(at) == Some(&token));
                beginning.push(token);
            }
            _ => return beginning,
        }
    }
}

/// Number of tokens that both begin with.
pub(super) fn same_tokens(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_prompts_decide_what_is_common() {
        let prompts: [&[u32]; 5] = [
            &[1, 2, 3, 4],
            &[1, 2, 3, 5],
            &[9, 2],
            &[1, 2, 3],
            &[1, 7, 3],
        ];
        assert_eq!(common_beginning(&prompts), [1, 2, 3]);
        assert_eq!(
            common_beginning(&prompts[..1]),
            [0; 0],
            "one prompt has nothing in common"
        );
        assert_eq!(common_beginning(&[&[5, 6], &[5, 6]]), [5, 6]);
        assert_eq!(common_beginning(&[]), [0; 0]);
        assert_eq!(same_tokens(&[1, 2, 3], &[1, 2]), 2);
    }
}
